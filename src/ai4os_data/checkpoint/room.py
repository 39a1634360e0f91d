"""Makes room on the spool's disk: first from checkpoints that are on the store already, then from caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ai4os_data import errors
from ai4os_data.cache import DiskCache, caches_on_disk_of, take_from
from ai4os_data.checkpoint import leftovers
from ai4os_data.stores import nearest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.checkpoint.spool import Spool


class Room:
    """Makes room on a disk.

    Args:
        spool: needs the room.
        cache: shrinks if necessary: ``"auto"`` is each cache of this process on the spool's disk; a cache, or None for
            none.
    """

    def __init__(self, spool: Spool, cache: DiskCache | Literal["auto"] | None) -> None:
        self._spool = spool
        self._cache = cache

    def make(self, size_bytes: int, check: Callable[[int], None] | None = None) -> None:
        """Make room until a checkpoint can be written.

        Args:
            size_bytes: of the checkpoint.
            check: says whether there is room; by default for what stays in the spool.

        Raises:
            OutOfSpaceError: there is too little.
        """
        check = check or self._spool.space.check
        try:
            check(size_bytes)
        except errors.OutOfSpaceError:
            self._spool.drop_sent()
            leftovers.drop_all(self._spool.directory, self._spool.folder)
            self.take_from_caches(size_bytes)
            check(size_bytes)

    def take_from_caches(self, size_bytes: int) -> None:
        """Let caches give up the room that so many bytes still need."""
        if self._cache == "auto":
            caches = caches_on_disk_of(nearest(str(self._spool.folder)))  # somebody may have removed it
        else:
            caches = [self._cache] if self._cache is not None else []
        take_from(caches, lambda: self._spool.space.lacking_on_disk(size_bytes), "the spool")

    def for_download(self, size_bytes: int) -> Path:
        """A new folder in the spool for a download of this size; the next start removes it if this process dies.

        Raises:
            OutOfSpaceError: there is no room.
        """
        self.make(size_bytes, self._spool.space.check_disk)
        return self._spool.scratch()
