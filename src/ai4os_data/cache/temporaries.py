"""Files for paths that the cache has no room for. Each goes with its last user, or soon after its death."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from contextlib import suppress

from ai4os_data.cache.objects import suffix_of

_NAME = re.compile(r"ai4os-data-path-(\d+)-.*")
_SWEEP_EVERY_S = 60.0
_UNTOUCHED_S = 60.0

_next_sweep = 0.0


def write_temporary(data: bytes, key: str) -> str:
    """A new file with these bytes, for the receiver to remove."""
    _sweep_now_and_then()
    descriptor, path = tempfile.mkstemp(prefix=f"ai4os-data-path-{os.getpid()}-", suffix=suffix_of(key))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException:
        os.unlink(path)
        raise
    return path


def _sweep_now_and_then() -> None:
    """Remove what was on its way to a process that never took it, such as a loader that was left in mid-epoch."""
    global _next_sweep  # noqa: PLW0603  once a minute in each process
    if time.monotonic() < _next_sweep:
        return
    _next_sweep = time.monotonic() + _SWEEP_EVERY_S
    folder = tempfile.gettempdir()
    for name in os.listdir(folder):
        match = _NAME.fullmatch(name)
        if match is not None and not os.path.exists(f"/proc/{match[1]}"):
            with suppress(OSError):
                _remove_unless_used(os.path.join(folder, name))


def _remove_unless_used(path: str) -> None:
    if time.time() - os.stat(path).st_mtime < _UNTOUCHED_S:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(descriptor)
