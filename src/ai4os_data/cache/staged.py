"""Staged files: files that are being written, until they appear whole by one rename.

An evicted file becomes a staged one and is overwritten: a new file would cost memory pages again, and on ext4 a new
inode.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from itertools import count

from ai4os_data.machine import PerProcess, locks, tell_after_fork

BLOCK_BYTES = 4096
STAGED_SUFFIX = ".fill"

_NAME = re.compile(r"[0-9a-f]{32}\.fill")
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
_MOST_SPARES = 128  # each is an open file
_SMALLEST_SPARE_BYTES = 4 * BLOCK_BYTES


def allocated(size_bytes: int) -> int:
    """The disk space that a file of this size takes, in whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def is_staged(name: str) -> bool:
    """Whether a file of this name is being written, or was when its process died."""
    return _NAME.fullmatch(name) is not None


def read_whole(descriptor: int) -> bytes:
    """All bytes of an open file, in one piece of memory, whereas one read(2) ends at 2 GiB."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return file.readall()


class Staged:
    """A file that is being written; a lock on it shows that its process lives.

    Attributes:
        path: where it is.
        descriptor: open for reading and writing; -1 once it was let go.
        size_bytes: how long it was at first.
    """

    __slots__ = ("descriptor", "path", "size_bytes")

    def __init__(self, path: str, descriptor: int, size_bytes: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size_bytes = size_bytes

    @classmethod
    def create(cls, folder: str) -> Staged:
        """A new one.

        Raises:
            FileNotFoundError: there is no such folder.
            OSError: it cannot be written.
        """
        while True:
            path = _new_path(folder)
            descriptor = os.open(path, _NEW, 0o600)
            locks.lock(descriptor)
            if os.fstat(descriptor).st_nlink:
                return cls(path, descriptor, 0)
            os.close(descriptor)  # another process took it for abandoned before it was locked

    @classmethod
    def retire(cls, path: str, descriptor: int, size_bytes: int) -> Staged:
        """Make a staged file of a finished one, whose lock is held."""
        staged_path = _new_path(os.path.dirname(path))
        os.rename(path, staged_path)
        return cls(staged_path, descriptor, size_bytes)

    def cut(self, size_bytes: int) -> None:
        """Give back what is longer than this."""
        if self.size_bytes > size_bytes:
            os.ftruncate(self.descriptor, size_bytes)
            self.size_bytes = size_bytes

    def let_go(self) -> None:
        """Unlock and close it."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            locks.release(descriptor)

    def drop(self) -> None:
        """Remove it."""
        with suppress(OSError):
            os.unlink(self.path)
        if self.descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self.descriptor, 0)  # who is reading it just now would keep its blocks
            self.let_go()

    def __del__(self) -> None:
        """Unlock it, so that a file that was forgotten is seen to be abandoned."""
        self.let_go()

    def after_fork(self) -> None:
        """Leave it to the parent."""
        descriptor, self.descriptor = self.descriptor, -1
        self.path = ""
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


# The beginning of all names that this process gives, which no other process uses; and their numbers.
_names = PerProcess(lambda: (secrets.token_hex(10), count()))


def _new_path(folder: str) -> str:
    process, numbers = _names.get()
    return f"{folder}/{process}{next(numbers):012x}{STAGED_SUFFIX}"


def remove_if_abandoned(path: str) -> None:
    """Remove a file whose lock shows that it belongs to no living process."""
    if (lock := locks.lock_of_the_dead(path)) is not None:
        with suppress(OSError):
            os.unlink(path)
        os.close(lock)


class Spares:
    """Evicted files of one process, waiting to be overwritten. Their room is part of its lease."""

    def __init__(self) -> None:
        self._waiting: list[Staged] = []
        self._bytes = 0
        tell_after_fork(self)

    def wants(self, size_bytes: int) -> bool:
        """Whether a file of this size may wait: a small one is not worth an open file."""
        return size_bytes >= _SMALLEST_SPARE_BYTES and len(self._waiting) < _MOST_SPARES

    def add(self, staged: Staged) -> None:
        """Keep one."""
        self._waiting.append(staged)
        self._bytes += allocated(staged.size_bytes)

    def take(self, size_bytes: int, free_bytes: int) -> Staged | None:
        """A spare to write this many bytes into, provided that the others fit into what is free then."""
        if not self._waiting:
            return None
        staged = self._waiting.pop()
        self._bytes -= allocated(staged.size_bytes)
        staged.cut(size_bytes)
        self.keep_within(free_bytes)
        return staged

    def keep_within(self, bytes_: int) -> None:
        """Remove spares until the others take no more than this."""
        while self._bytes > bytes_ and self._waiting:
            staged = self._waiting.pop()
            self._bytes -= allocated(staged.size_bytes)
            staged.drop()

    def after_fork(self) -> None:
        """Leave them to the parent."""
        for staged in self._waiting:
            staged.after_fork()
        self._waiting.clear()
        self._bytes = 0
