"""Which entries are evicted: those used longest ago, but never those that a live dataset or this epoch still needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ai4os_data.cache.balance import TIMES_ITS_COST
from ai4os_data.cache.plan import Plan
from ai4os_data.cache.rows import space_of

if TYPE_CHECKING:
    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.objects import Objects
    from ai4os_data.cache.rows import Rows

Protected = Callable[[], Iterable[str]]
Plans = Callable[[], Iterable[Plan]]

_PLANNED_PART = 16  # a plan evicts less at once, so that less room is idle in leases


class Eviction:
    """Takes rows out to make room. The caller has the ledger, and removes the files.

    Args:
        rows: the entries.
        objects: their files.
        protected: gives the digests that must not evict each other (policy ``"auto"``); None evicts by last use alone.
        plans: say which protected entries will not be needed for longest.
    """

    def __init__(self, rows: Rows, objects: Objects, protected: Protected | None, plans: Plans) -> None:
        self._rows = rows
        self._objects = objects
        self._protected = protected
        self._plans = plans
        self._protect_at = 0.0
        self._all_protected_until = 0.0

    def make_room(
        self, need_bytes: int, wanted_bytes: int, free_bytes: int, room_for: str
    ) -> tuple[list[Held], list[Plan]]:
        """Evict until the wanted room is free, or at least the needed; nothing if even that is impossible.

        Args:
            need_bytes: how much must be free.
            wanted_bytes: how much is better.
            free_bytes: how much is free now.
            room_for: the digest of the entry that needs the room.

        Returns:
            The files whose rows were taken out, and the plans that named nothing because they were not made yet.
        """
        if self._protected is None:
            return self._unprotected(need_bytes, wanted_bytes - free_bytes, free_bytes, 0), []
        evicted: list[Held] = []
        begun = time.monotonic()
        if begun > self._all_protected_until or not self._plans():
            evicted = self._unprotected(need_bytes, wanted_bytes - free_bytes, free_bytes, self._protected_bytes())
            free_bytes += space_of(evicted)
            ended = time.monotonic()
            if free_bytes < wanted_bytes:
                self._all_protected_until = ended + TIMES_ITS_COST * (ended - begun)
        planned, unmade = self._planned(max(need_bytes, wanted_bytes // _PLANNED_PART) - free_bytes, room_for)
        return evicted + planned, unmade

    def _unprotected(self, need_bytes: int, lacking_bytes: int, free_bytes: int, floor_bytes: int) -> list[Held]:
        evictable = self._rows.entries_bytes() - floor_bytes
        if lacking_bytes <= 0 or free_bytes + evictable < need_bytes:
            return []
        return self._rows.evict(min(lacking_bytes, evictable), floor_bytes)

    def _planned(self, lacking_bytes: int, room_for: str) -> tuple[list[Held], list[Plan]]:
        """Take out entries that the epochs of living loaders have used and no longer need."""
        evicted: list[Held] = []
        unmade: list[Plan] = []
        for plan in self._plans() if room_for else ():
            if lacking_bytes > 0 and not plan.is_made:
                unmade.append(plan)
            elif lacking_bytes > 0:
                found = self._rows.evict_those(plan.victims(self._objects.known, room_for), lacking_bytes)
                lacking_bytes -= space_of(found)
                evicted += found
        return evicted, unmade

    def keep(self, in_use: list[Held]) -> None:
        """Record that some files could not be evicted."""
        for plan in self._plans() if in_use else ():
            for held in in_use:
                plan.keep(held.name)

    def _protected_bytes(self) -> int:
        """Mark the protected entries as used just now; returns the disk space that they take."""
        assert self._protected is not None
        here = self._objects.scan_all()
        mine = [here[name] for name in set(self._protected()) if name in here]
        begun = time.monotonic()
        if begun > self._protect_at:
            self._rows.enter([], [held.name for held in mine])
            ended = time.monotonic()
            self._protect_at = ended + TIMES_ITS_COST * (ended - begun)
        return space_of(mine)
