"""What one process has yet to enter in the ledger: room that it has leased, and entries that it has stored and used.

Reading continues when the cache's disk fails: nothing is stored for a while, which is logged once.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.cache.staged import BLOCK_BYTES, allocated
from ai4os_data.errors import CacheError
from ai4os_data.machine import exhausted
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.cache.claims import Claim
    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.eviction import Plans
    from ai4os_data.cache.ledger import Ledger
    from ai4os_data.cache.objects import Objects
    from ai4os_data.cache.staged import Spares

_NOTE_USE_EVERY_S = 60.0
_MOST_USED = 50_000  # uses that are not in the index yet, of 200 bytes each, in every process
_FULL_AGAIN_S = 1.0
_PLANNED_AGAIN_S = 0.02  # after this time another used batch may have freed room
_BROKEN_AGAIN_S = 30.0
_NAMED_BYTES = 512  # what an entry takes in its folder, in the file of names and in the index, at most


class Budget:
    """The room of one process, and the entries that it stored and used but has not entered in the ledger yet.

    Args:
        directory: the cache's.
        ledger: its account.
        objects: its files.
        plans: as for `Ledger`.
        spares: as for `Ledger`.
    """

    def __init__(self, directory: str, ledger: Ledger, objects: Objects, plans: Plans, spares: Spares) -> None:
        self.directory = directory
        self._objects = objects
        self._plans = plans
        self._spares = spares
        self.ledger = ledger
        self._lock = threading.RLock()
        self._free = 0  # leased, and not set aside
        self._reserved = 0  # leased, and set aside for claims
        self._stored: list[Held] = []
        self._used: dict[str, None] = {}
        self._most_used = _MOST_USED
        self._note_use_at = time.monotonic() + _NOTE_USE_EVERY_S
        self._not_before = 0.0
        self._refused_bytes = 0

    # --- room

    def reserve(self, claim: Claim, size_bytes: int) -> bool:
        """Set room aside for an entry, before it is fetched; False if there is none."""
        need = allocated(size_bytes) + BLOCK_BYTES  # a block for the folder, which may grow
        with self._lock:
            try:
                if self._is_broken() or (self._free < need and not self._lease(need, claim.name)):
                    return False
            except (CacheError, OSError) as error:
                self.trouble(error)
                return False
            self._free -= need
            self._reserved += need
            claim.reserved_bytes += need
            if claim.staged is None:
                claim.staged = self._spares.take(size_bytes, self._free)
            else:
                self._spares.keep_within(self._free)
            return True

    def take(self, size_bytes: int) -> bool:
        """Take room for a bookkeeping file, whose size is measured from then on; False if there is none."""
        with self._lock:
            if self._free < size_bytes and not self._lease(size_bytes):
                return False
            self._free -= size_bytes
            self._spares.keep_within(self._free)
            return True

    def give_back(self, claim: Claim, stored: Held | None = None) -> None:
        """Return the room that was set aside for a claim.

        Args:
            claim: which has ended.
            stored: its entry, if it was stored: that part of the room is used up.
        """
        with self._lock:
            self._reserved -= claim.reserved_bytes
            self._free += claim.reserved_bytes
            claim.reserved_bytes = 0
            if stored is not None:
                self._free -= allocated(stored.size_bytes) + _NAMED_BYTES
                self._stored.append(stored)

    def _is_broken(self) -> bool:
        return not self._refused_bytes and time.monotonic() < self._not_before

    def _lease(self, need: int, room_for: str = "") -> bool:
        now = time.monotonic()
        if now < self._not_before and need >= self._refused_bytes:
            return False
        granted = self._settle(need - self._free, room_for)
        if not granted:
            pause_s = _FULL_AGAIN_S if not self._plans() else _PLANNED_AGAIN_S
            self._not_before, self._refused_bytes = now + pause_s, need
        return granted > 0

    # --- a disk that fails

    def trouble(self, error: CacheError | OSError) -> None:
        """Store nothing for a while, and log once why."""
        number = error.errno if isinstance(error, OSError) else None
        reason = str((isinstance(error, OSError) and error.strerror) or error)
        if number in {errno.ENOSPC, errno.EDQUOT}:
            reason = "the disk is full"
        if number in {errno.EMFILE, errno.ENFILE}:
            reason = str(exhausted(error))
        tell_once(f"{self.directory}: {reason}: reading goes on without storing more in the cache")
        self._not_before, self._refused_bytes = time.monotonic() + _BROKEN_AGAIN_S, 0

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Log a failing disk once instead of raising; the rest of the block is skipped."""
        try:
            yield
        except (CacheError, OSError) as error:
            self.trouble(error)

    # --- the ledger

    def note_use(self, name: str) -> None:
        """Remember that an entry was used. It reaches the index with others, some time later."""
        self._used.pop(name, None)  # to the end of the order
        self._used[name] = None
        if time.monotonic() > self._note_use_at or len(self._used) > self._most_used:
            self._note_use_at = time.monotonic() + _NOTE_USE_EVERY_S
            with self.guarded():
                self._note_used()

    def _note_used(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                used, self._used = self._used, {}
                if not self.ledger.note_use(list(used)):
                    self._used.update(used)
                self._most_used = len(self._used) + _MOST_USED
            finally:
                self._lock.release()

    def flush(self, *, drops_spares: bool = False) -> None:
        """Write what was stored and used into the ledger.

        Args:
            drops_spares: whether to remove the evicted files that wait to be overwritten.
        """
        with self._lock, self.guarded():
            if drops_spares:
                self._spares.keep_within(0)
            self._settle(0)

    def _settle(self, need: int, room_for: str = "") -> int:
        """Write what was stored and used into the ledger, and lease room. After an error it is kept for the next time.

        Returns:
            How much more may be written now.
        """
        removed = self._objects.removed
        stored = [held for held in self._stored if held.name not in removed]
        used, self._stored, self._used = self._used, [], {}
        removed.clear()
        try:
            granted = self.ledger.grant(need, self._free + self._reserved, stored, list(used), room_for=room_for)
        except BaseException:
            self._stored = stored + self._stored
            self._used = {**used, **self._used}
            raise
        self._free += granted
        self._spares.keep_within(self._free)
        return granted

    def close(self) -> None:
        """Write down what was stored and used, and give the lease back."""
        with self._lock, suppress(CacheError, OSError):
            self._spares.keep_within(0)
            if not os.path.isdir(self.directory):  # removed by its user: do not make it again
                return
            if self._reserved or self._stored or self._used:
                self._settle(0)
            if not self._reserved:  # otherwise another thread is filling: the lease ends with the process
                self.ledger.close()
                self._free = 0
