"""The lock of a cache: who has it has the ledger. A mark in its file says that somebody has died with it."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.cache import placement
from ai4os_data.machine import is_at, locks, no_fork, ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLEAN, _DIRTY = b"-", b"*"


class LedgerLock:
    """One process's hand on the lock.

    Args:
        directory: the cache's; it is made if it is missing.

    Attributes:
        descriptor: of the lock file.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = f"{directory}/lock"
        self.descriptor = -1
        self._threads = threading.Lock()  # a file lock does not keep the threads of one process apart
        self._open()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Keep none of the parent's locks alive in a child."""
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
        """Hold the ledger alone: whether the last holder left it in order; None if another one has it now.

        This process does not fork meanwhile, but does so while it waits for another one's hold to end.
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
            if wait:
                locks.lock(self.descriptor)
            elif not locks.try_lock(self.descriptor):
                return False
            if is_at(self.descriptor, self._path):
                return True
            # Somebody has removed the directory, or the lock in it: ours would exclude nobody.
            self.close()
            self._open()

    def _open(self) -> None:
        placement.make(self._directory)
        self.descriptor = ownership.open_file(self._path, os.O_CREAT | os.O_RDWR)
