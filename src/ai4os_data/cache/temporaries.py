"""Temporary files, for paths that the cache has no room for: removed with the last user, or soon after it has died."""

from __future__ import annotations

import os
import re
import tempfile
import time
import weakref
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from ai4os_data.cache.entries import suffix_of
from ai4os_data.cache.staged import remove_if_abandoned
from ai4os_data.machine import mounts, ownership, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX = "ai4os-data-path-"
_NAME = re.compile(_PREFIX + r"(\d+)-.*")
_ON_DISK = "/var/tmp"  # noqa: S108  the file in it has a random name
_SWEEP_EVERY_S = 60.0
_UNTOUCHED_S = 60.0

_next_sweep = 0.0


class TemporaryBody:
    """The bytes of an answer in a new file outside of the cache, for the receiver to remove.

    Args:
        key: gives the file its suffix.

    Attributes:
        length: how many bytes there are.
    """

    def __init__(self, key: str) -> None:
        _sweep_now_and_then()
        self.length = 0
        self._error: OSError | None = None
        descriptor, self._path = tempfile.mkstemp(
            prefix=f"{_PREFIX}{os.getpid()}-", suffix=suffix_of(key), dir=temporary_folder()
        )
        self._file = open(descriptor, "wb", buffering=0)  # noqa: SIM115  closed when it is taken
        self._remove = weakref.finalize(self, _unlink, self._path, os.getpid())

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; what the disk says is raised later, since curl's callbacks cannot raise."""
        if self._error is None:
            try:
                write_all(self._file.fileno(), chunk)
            except OSError as error:
                self._error = error
        self.length += len(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        self._file.seek(0)
        self._file.truncate()
        self._error = None
        self.length = 0

    def take(self) -> str:
        """The path of the whole file, which is the caller's from now on.

        Raises:
            OSError: the disk could not take it all.
        """
        self._file.close()
        if self._error is not None:
            self._remove()
            number = self._error.errno or 0
            message = f"{os.strerror(number)} ({self.length:,} bytes for a path; TMPDIR names another folder for them)"
            raise OSError(number, message, os.path.dirname(self._path)) from self._error
        self._remove.detach()
        return self._path


def write_temporary(pieces: Iterable[bytes], key: str) -> str:
    """A new file with these bytes, for the receiver to remove."""
    body = TemporaryBody(key)
    for piece in pieces:
        body.write(piece)
    return body.take()


def temporary_folder() -> str:
    """The folder for temporary files: on a disk if there is one, unless the user has chosen the folder."""
    folder = tempfile.gettempdir()
    return folder if os.environ.get("TMPDIR") else _instead_of(folder)


@lru_cache
def _instead_of(folder: str) -> str:
    is_memory = [mount is not None and mount.is_memory for mount in map(mounts.mount_of, (folder, _ON_DISK))]
    return _ON_DISK if is_memory == [True, False] and os.access(_ON_DISK, os.W_OK) else folder


def _unlink(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with suppress(OSError):
            os.unlink(path)


def _sweep_now_and_then() -> None:
    """Remove files that were sent to a process which never took them, such as those of a loader left in mid-epoch."""
    global _next_sweep  # noqa: PLW0603  once a minute in each process
    if time.monotonic() < _next_sweep:
        return
    _next_sweep = time.monotonic() + _SWEEP_EVERY_S
    folder = temporary_folder()
    for name in os.listdir(folder):
        match = _NAME.fullmatch(name)
        if match is not None and not os.path.exists(f"/proc/{match[1]}"):
            _remove_unless_used(os.path.join(folder, name))


def _remove_unless_used(path: str) -> None:
    found = ownership.own_file(path)  # anybody may have put a file of that name there
    if found is not None and time.time() - found.st_mtime >= _UNTOUCHED_S:
        remove_if_abandoned(path)
