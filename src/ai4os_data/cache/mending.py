"""Makes the index agree with the files again: after a process died, after damage, after files were removed by hand."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ai4os_data.cache.index import Damage
from ai4os_data.cache.rows import space_of
from ai4os_data.cache.staged import allocated, remove_if_abandoned
from ai4os_data.cache.waiting import FULL_FOR_S, Waiting
from ai4os_data.errors import CacheError
from ai4os_data.machine import disk_bytes
from ai4os_data.telemetry import log, tell_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.objects import Objects
    from ai4os_data.cache.rows import Rows

R = TypeVar("R")

_FULL_DISK_BYTES = 32 * 1024
_TOO_FULL_BYTES = 64 * 1024  # less than this is too little for a new index


class Mending:
    """Opens the index, and makes it anew from the names of the files if it has to be. The caller has the ledger.

    Args:
        directory: the cache's.
        limit: gives what it may take in all.
        objects: the files.
        rows: the index.
    """

    def __init__(self, directory: str, limit: Callable[[], int], objects: Objects, rows: Rows) -> None:
        self._directory = directory
        self._limit = limit
        self._objects = objects
        self._rows = rows

    def opened(self, *, is_logged: bool = True) -> Rows:
        """The rows of an index that is open.

        Raises:
            Damage: it cannot be opened.
        """
        if self._rows.open() and self.reconcile()[1] and is_logged:
            self.log_new_index("was gone")
        return self._rows

    def mended(self, work: Callable[[], R]) -> R:
        """The result of some work; a damaged index is made anew from the files, and the work done again.

        Raises:
            OSError: the disk is full, or cannot be written, or the index is locked by a foreign program.
            CacheError: a new index does not work either.
        """
        try:
            return self._tried(work)
        except Damage as error:
            if self._shrink_to_limit():
                self.log_new_index("had no room on the full disk")
            else:
                self._raise_disk_error(error, _FULL_DISK_BYTES)
                self.log_new_index(f"was damaged ({error})")
        try:
            self.rebuild()
            return work()
        except Damage as error:
            self._raise_disk_error(error, _TOO_FULL_BYTES)
            raise CacheError(f"{self._directory}: the cache's index cannot be made anew: {error}") from error

    def _tried(self, work: Callable[[], R]) -> R:
        """The result of some work, repeated for a moment if the disk is full."""
        waiting = Waiting(FULL_FOR_S)
        while True:
            begun = time.monotonic()
            try:
                return work()
            except Damage as error:
                if error.is_locked(time.monotonic() - begun):
                    message = "another program holds the cache's index locked"
                    raise OSError(errno.EBUSY, message, self._directory) from error
                if not self._is_full(error, _FULL_DISK_BYTES) or not waiting.pause():
                    raise

    def _is_full(self, error: Damage, too_little_bytes: int) -> bool:
        disk = os.statvfs(self._directory)
        return error.is_full or disk.f_bavail * disk.f_frsize < too_little_bytes

    def _raise_disk_error(self, error: Damage, too_little_bytes: int) -> None:
        """Raise an error of the disk, if that explains the error of the index."""
        if os.statvfs(self._directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._directory) from error
        if self._is_full(error, too_little_bytes):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._directory) from error

    def log_new_index(self, reason: str) -> None:
        """Log once why the index is made anew."""
        tell_once(f"{self._directory}: the cache's index {reason}; it is made anew")

    def rebuild(self) -> None:
        """Make a new index, from the names of the files."""
        self._rows.close()
        self._rows.remove()
        self.opened(is_logged=False)

    def reconcile(self, *, count_in: bool = True) -> tuple[dict[str, Held], int]:
        """Count in the files that dead processes stored, and remove those that they had only begun.

        Args:
            count_in: whether to count in what is not indexed. While others have leases, such a file may be theirs, not
                entered yet. Their leases include its room; counting it twice would evict as much.

        Returns:
            The files that are counted, and how many were missing in the index.
        """
        rows = self.opened()
        for path in self._objects.staged():
            remove_if_abandoned(path)
        here: dict[str, Held] = {}
        for held in self._objects.files():
            if here.setdefault(held.name, held) is not held:  # it was fetched twice, with different bytes
                with suppress(FileNotFoundError):
                    self._objects.evict(held)
        if not self._objects.known.names.may_hold(len(here)):
            self._objects.rewrite_names()
        missing, gone = rows.unlike(here)
        if count_in:
            rows.enter(missing, [])
        else:
            for held in missing:
                del here[held.name]
        rows.forget(gone)
        log.debug("%s: %d files were not indexed", self._directory, len(missing))
        return here, len(missing)

    def bookkeeping_bytes(self) -> int:
        """The disk space that the cache takes beside its entries and the database itself."""
        names = self._objects.known.names
        files = [f"{self._directory}/lock", names.path, names.beside]
        for folder in (f"{self._directory}/leases", f"{self._directory}/listings"):
            with suppress(FileNotFoundError), os.scandir(folder) as items:
                files += [folder, *(item.path for item in items)]
        return sum(map(disk_bytes, files)) + self._rows.others_bytes() + self._objects.folders_bytes()

    def _shrink_to_limit(self) -> bool:
        """Remove the files stored longest ago, without the index; False if all are inside the limit."""
        found = []
        for held in self._objects.scan_all().values():
            with suppress(FileNotFoundError):
                found.append((os.stat(held.path).st_mtime_ns, held))
        surplus = space_of(held for _, held in found) + self.bookkeeping_bytes() - self._limit()
        if surplus <= 0:
            return False
        for _, held in sorted(found):
            with suppress(FileNotFoundError):
                if surplus > 0 and self._objects.evict(held):
                    surplus -= allocated(held.size_bytes)
        return True
