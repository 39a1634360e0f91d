"""The listings that a cache keeps: the newest ones, within a part of its limit, each whole or absent."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from ai4os_data.cache.staged import allocated
from ai4os_data.machine import replace_whole

_NAME = re.compile(r"[0-9a-f]{32}(\.\d+)?")
_MOST = 32
_PARTS = 4  # a quarter of the limit at most


def kept_in(directory: str) -> list[os.DirEntry[str]]:
    """The listings in a cache, those that are being written among them."""
    with suppress(FileNotFoundError), os.scandir(f"{directory}/listings") as items:
        return [item for item in items if _NAME.fullmatch(item.name)]
    return []


def fits(size_bytes: int, limit_bytes: int) -> bool:
    """Whether a cache with this limit keeps a listing of this size."""
    return size_bytes * _PARTS <= limit_bytes


def read(directory: str, name: str) -> bytes | None:
    """A listing that was kept."""
    with suppress(OSError), open(f"{directory}/listings/{name}", "rb") as file:
        return file.read()
    return None


def write(directory: str, name: str, data: bytes, limit_bytes: int) -> None:
    """Keep a listing, and remove the oldest ones until all are within the limit.

    Raises:
        OSError: it cannot be written.
    """
    folder = f"{directory}/listings"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    replace_whole(f"{folder}/{name}", f"{folder}/{name}.{os.getpid()}", data, mode=0o600)
    kept = []
    for item in kept_in(directory):
        with suppress(FileNotFoundError):  # removed by another process
            kept.append((item.stat().st_mtime_ns, item.stat().st_size, item.path))
    total = 0
    for number, (_, size_bytes, path) in enumerate(sorted(kept, reverse=True)):
        total += allocated(size_bytes)
        if number >= _MOST or not fits(total, limit_bytes):
            with suppress(FileNotFoundError):
                os.unlink(path)
