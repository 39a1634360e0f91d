"""The lock of a cache: its holder has the ledger. A mark in its file shows that a holder died."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.cache import placement
from ai4os_data.errors import CacheError
from ai4os_data.machine import is_at, locks, no_fork, ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLEAN, _DIRTY = b"-", b"*"


class LedgerLock:
    """The lock, as one process uses it.

    Args:
        directory: the cache's; it is made if it is missing, when the lock is taken.

    Attributes:
        descriptor: of the lock file; -1 before the lock is taken for the first time, and once it was closed.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = f"{directory}/lock"
        self.descriptor = -1
        self._threads = threading.Lock()  # a file lock does not keep the threads of one process apart
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Close the child's copy of the parent's lock."""
        self._threads = threading.Lock()
        self.close()

    def __del__(self) -> None:
        """Leave no descriptor open."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    @contextmanager
    def held(self, *, wait: bool = True) -> Iterator[bool | None]:
        """Hold the ledger alone. Gives whether the last holder left it in order; None if another process has it now.

        This process does not fork while it holds the ledger, but may fork while it waits for another process.

        Raises:
            CacheError: the lock file cannot be opened.
        """
        threads = self._threads
        if not threads.acquire(blocking=wait):
            yield None
            return
        try:
            if not self._take(wait=wait):
                yield None
                return
            lock = self.descriptor
            try:
                with no_fork():
                    was_clean = os.pread(lock, 1, 0) == _CLEAN
                    os.pwrite(lock, _DIRTY, 0)
                    yield was_clean
                    os.pwrite(lock, _CLEAN, 0)
            finally:
                locks.unlock(lock)
        finally:
            threads.release()

    def _take(self, *, wait: bool) -> bool:
        while True:
            if self.descriptor < 0:
                self._open()
            if wait:
                locks.lock(self.descriptor)
            elif not locks.try_lock(self.descriptor):
                return False
            if is_at(self.descriptor, self._path):
                return True
            # Somebody has removed the directory, or the lock file in it: locking ours would exclude nobody.
            self.close()

    def _open(self) -> None:
        try:
            placement.make(self._directory)
            self.descriptor = ownership.open_file(self._path, os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise CacheError(f"{self._directory}: {error.strerror}") from error
