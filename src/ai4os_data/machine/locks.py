"""The kernel frees the lock on an open file when its process ends: a free lock means that its holder is gone.

A lock is on a whole file or folder (flock(2)), or on some bytes of it (`F_OFD_SETLK`_ of fcntl(2)); the two kinds do
not see each other. Both belong to the open file, and so exclude each other within one process too.

.. _F_OFD_SETLK: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.machine import ownership

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES = struct.Struct("hhqqi4x")  # struct flock of fcntl(2), on 64-bit Linux


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock a file or folder without waiting; False if another open file has it locked."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int) -> None:
    """Lock a file or folder, after waiting for whoever has it locked now."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def unlock(descriptor: int) -> None:
    """Unlock a file that stays open, even if a forked child has a copy of the descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Keep a file locked during a block, after waiting for whoever has it locked now."""
    lock(descriptor)
    try:
        yield
    finally:
        unlock(descriptor)


def release(descriptor: int) -> None:
    """Unlock a file and close it: a forked child may hold a copy of the descriptor, and with it the lock."""
    with suppress(OSError):
        unlock(descriptor)
    with suppress(OSError):
        os.close(descriptor)


def lock_of_the_dead(path: str | os.PathLike[str], *, is_folder: bool = False) -> int | None:
    """The lock that a dead process had on a file, taken over; None if its holder lives, or there is no such file.

    Args:
        path: the file.
        is_folder: whether it is a folder.
    """
    try:
        descriptor = ownership.open_folder(path) if is_folder else ownership.open_file(path, os.O_RDWR)
    except OSError:
        return None
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether the holder of a file's lock lives; nothing is changed."""
    try:
        descriptor = ownership.open_file(path, os.O_RDONLY)
    except OSError:  # gone by now
        return False
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def lock_bytes(descriptor: int, first: int, count: int = 1, *, shared: bool = False) -> bool:
    """Lock some bytes of a file without waiting; False if another open file has one of them."""
    try:
        _set_bytes(descriptor, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, first, count)
    except BlockingIOError:
        return False
    return True


def unlock_bytes(descriptor: int, first: int, count: int = 1) -> None:
    """Unlock some bytes of a file."""
    _set_bytes(descriptor, fcntl.F_UNLCK, first, count)


def locked_bytes(descriptor: int, first: int, count: int = 1) -> range:
    """The first stretch of some bytes that other open files have locked; empty if none is locked."""
    asked = _BYTES.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    kind, _, start, length, _ = _BYTES.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return range(0) if kind == fcntl.F_UNLCK else range(start, start + length)


def _set_bytes(descriptor: int, kind: int, first: int, count: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _BYTES.pack(kind, os.SEEK_SET, first, count, 0))
