"""What one process still settles with the ledger: room that it has leased, and entries that it has stored and used.

A disk that fails ends no reading: for a while nothing more is stored, and that is logged once.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.cache.ledger import Ledger
from ai4os_data.cache.staged import BLOCK_BYTES, Spares, allocated
from ai4os_data.errors import CacheError
from ai4os_data.machine import exhausted
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai4os_data.cache.claims import Claim
    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.eviction import Plans, Protected
    from ai4os_data.cache.objects import Objects

_NOTE_USE_EVERY_S = 60.0
_MOST_USED = 50_000  # to be noted: each takes 200 bytes, in every process
_FULL_AGAIN_S = 1.0
_PLANNED_AGAIN_S = 0.02  # with every batch that is used, something can go
_BROKEN_AGAIN_S = 30.0
_NAMED_BYTES = 512  # what an entry takes in its folder, in the file of names and in the index, at most


class Budget:
    """The room of one process, and what the ledger does not know yet.

    Args:
        directory: the cache's.
        limit: gives what it may take in all.
        objects: its files.
        protected: as for `Ledger`.
        plans: as for `Ledger`.
    """

    def __init__(
        self,
        directory: str,
        limit: Callable[[], int],
        objects: Objects,
        protected: Protected | None,
        plans: Plans,
    ) -> None:
        self.directory = directory
        self.limit_bytes = limit
        self._objects = objects
        self._protected = protected
        self._plans = plans
        self._ledger: Ledger | None = None
        self._spares = Spares()
        self._lock = threading.RLock()
        self._free = 0  # leased, and not set aside
        self._reserved = 0  # leased, and set aside for claims
        self._stored: list[Held] = []
        self._used: dict[str, None] = {}
        self._most_used = _MOST_USED
        self._note_use_at = time.monotonic() + _NOTE_USE_EVERY_S
        self._not_before = 0.0
        self._refused_bytes = 0

    def opened(self) -> Ledger:
        """The ledger, opened on first use: reading alone does not need it.

        Raises:
            CacheError: it cannot be opened.
        """
        if self._ledger is None:
            try:
                self._ledger = Ledger(
                    self.directory,
                    self.limit_bytes,
                    objects=self._objects,
                    protected=self._protected,
                    plans=self._plans,
                    spares=self._spares,
                )
            except OSError as error:
                message = f"{self.directory}: {error.strerror}"
                raise CacheError(message) from error
        return self._ledger

    # --- room

    def reserve(self, claim: Claim, size_bytes: int) -> bool:
        """Set room for an entry aside, before it is fetched; False if there is none."""
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
        """Take room for bookkeeping, which is measured from now on; False if there is none."""
        with self._lock:
            if self._free < size_bytes and not self._lease(size_bytes):
                return False
            self._free -= size_bytes
            self._spares.keep_within(self._free)
            return True

    def give_back(self, claim: Claim, stored: Held | None = None) -> None:
        """End what was set aside for a claim.

        Args:
            claim: which has ended.
            stored: its entry, if there is one now, which has taken its part.
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
        """Turn a failing disk into trouble that is logged once; what was to be done meanwhile is left out."""
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
                if not self.opened().note_use(list(used)):
                    self._used.update(used)
                self._most_used = len(self._used) + _MOST_USED
            finally:
                self._lock.release()

    def flush(self, *, drops_spares: bool = False) -> None:
        """Let the ledger know of everything.

        Args:
            drops_spares: whether to remove what waits to be written over.
        """
        with self._lock, self.guarded():
            if drops_spares:
                self._spares.keep_within(0)
            self._settle(0)

    def _settle(self, need: int, room_for: str = "") -> int:
        """Let the ledger know what was stored and used, and ask for room; what it cannot take stays to be settled.

        Returns:
            How much more may be written now.
        """
        removed = self._objects.removed
        stored = [held for held in self._stored if held.name not in removed]
        used, self._stored, self._used = self._used, [], {}
        removed.clear()
        try:
            granted = self.opened().grant(need, self._free + self._reserved, stored, list(used), room_for=room_for)
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
            if not os.path.isdir(self.directory):  # removed by its user: it is not to come back
                return
            if self._reserved:  # another thread is filling: the lease goes when the process does
                self._settle(0)
            elif self._ledger is not None or self._stored or self._used:
                stored, self._stored = self._stored, []
                used, self._used = self._used, {}
                self.opened().close(stored, list(used))
                self._ledger = None
                self._free = 0
