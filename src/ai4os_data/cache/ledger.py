"""What the cache holds and how much room is left, agreed between all processes.

One process at a time has the ledger, for a batch of changes. Room is given out in leases: how much a process may still
write without asking. So at every moment

    counted entries + leases + bookkeeping <= limit

and a process that dies leaves a lease whose lock is free: the process that finds it counts its files in. Eviction has
two steps: with the ledger, the rows are removed and their room is leased; the files are removed without it.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.cache import listings
from ai4os_data.cache.balance import Balance
from ai4os_data.cache.eviction import Eviction
from ai4os_data.cache.leases import Lease
from ai4os_data.cache.ledger_lock import LedgerLock
from ai4os_data.cache.mending import Mending
from ai4os_data.cache.record import CEDED_FOR_S
from ai4os_data.cache.rows import Rows, space_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.eviction import Plans, Protected
    from ai4os_data.cache.objects import Objects
    from ai4os_data.cache.plan import Plan
    from ai4os_data.cache.staged import Spares

_LEASE_PART = 100
_LARGEST_LEASE_BYTES = 16 * 1024 * 1024  # the lock costs little, and little is evicted in advance
_TRIES = 8
_NAME_BYTES = 64
_NAMES_BYTES = 64 * 1024  # of names of evicted entries that may always stay; more in a large cache
_MOST_NAMES_BYTES = 2 * 1024 * 1024  # each process reads them once


class Ledger:
    """The ledger of a cache directory, as one process uses it.

    Args:
        directory: the cache's.
        limit: gives what the directory may take in all.
        objects: the files, as this process knows them.
        protected: gives the digests that must not be evicted to make room (policy ``"auto"``); None evicts by last
            use alone.
        plans: say which protected entries will not be needed for longest.
        spares: take what is evicted to make room for this process.
    """

    def __init__(
        self,
        directory: str,
        limit: Callable[[], int],
        *,
        objects: Objects,
        protected: Protected | None,
        plans: Plans,
        spares: Spares,
    ) -> None:
        self._directory = directory
        self._limit = limit
        self._objects = objects
        self._spares = spares
        self._lock = LedgerLock(directory)
        self._lease = Lease(directory)
        self._rows = Rows(directory, limit())
        self._mending = Mending(directory, limit, objects, self._rows)
        self._balance = Balance(limit, lock=self._lock, lease=self._lease, rows=self._rows, mending=self._mending)
        self._eviction = Eviction(self._rows, objects, protected, plans)

    def grant(
        self,
        need_bytes: int,
        left_bytes: int,
        stored: Sequence[Held],
        used: Sequence[str],
        *,
        room_for: str = "",
    ) -> int:
        """Count in what was stored, note what was used, and lease more room.

        Args:
            need_bytes: how much is needed at least; 0 for none.
            left_bytes: how much of the lease was not used yet.
            stored: since the last call.
            used: digests that were read since the last call.
            room_for: the digest of the entry that needs the room.

        Returns:
            How much more may be written: nothing, or at least ``need_bytes``.
        """
        granted = 0
        unmade: list[Plan] = []
        for attempt in range(_TRIES + 1):
            for plan in unmade:  # here, without the ledger: nobody has to wait
                plan.make()
            need = max(0, need_bytes - granted) if attempt < _TRIES else 0
            with self._held():
                found = self._mending.mended(
                    partial(self._grant, need, left_bytes + granted, stored, used, room_for=room_for)
                )
            granted, unmade = granted + found.size_bytes, found.unmade
            stored, used = self._remove(found.evicted, self._spares), ()
            if not stored and (granted >= need_bytes or not unmade):
                break
            granted -= space_of(stored)  # these are in use, and counted in again
        granted = granted if granted >= need_bytes else 0
        if self._lease.size_bytes != left_bytes + granted:
            with self._held():
                self._lease.write(left_bytes + granted)
        return granted

    def note_use(self, used: list[str]) -> bool:
        """Enter the digests that were read, unless another process has the ledger now."""
        with self._held(wait=False) as is_held:
            if is_held:
                self._mending.mended(lambda: self._mending.opened().enter([], used))
            return is_held

    def close(self) -> None:
        """Give the lease back. The next use opens everything again."""
        if self._lock.descriptor < 0:  # it was never used
            return
        with self._held():
            self._lease.drop()
            self._rows.close()
        self._lock.close()

    def shrink(self) -> None:
        """Evict what is above the limit."""
        self._evict_now(self._shrink)

    def cede(self, size_bytes: int) -> None:
        """Take so many bytes less of the disk than now, in all processes, for an hour."""
        self._evict_now(partial(self._cede, size_bytes))

    def clear(self) -> None:
        """Remove every entry that nobody uses."""
        with self._held(reconciles=False):  # clearing does so itself, once a full disk has room for the index
            self._mending.mended(self._clear)

    def forget(self, names: list[str]) -> None:
        """Take digests out of the index whose files are gone."""
        with self._held():
            self._mending.mended(lambda: self._mending.opened().forget(names))

    def usage(self) -> tuple[int, int]:
        """How many entries are indexed, and the bytes that the directory takes, leases included."""
        with self._held():
            return self._mending.mended(self._usage)

    @contextmanager
    def _held(self, *, wait: bool = True, reconciles: bool = True) -> Iterator[bool]:
        """Hold the ledger alone, mended if its last holder died; False if another one has it and `wait` is False."""
        with self._lock.held(wait=wait) as was_clean:
            if reconciles and was_clean is False:  # its last holder died
                self._mending.mended(self._mending.reconcile)
            yield was_clean is not None

    def _usage(self) -> tuple[int, int]:
        return len(self._mending.opened()), self._balance.used_bytes() - self._balance.margin_bytes()

    # --- evicting

    def _evict_now(self, work: Callable[[], list[Held]]) -> None:
        """Evict without leasing the room."""
        with self._held():
            evicted = self._mending.mended(work)
        if in_use := self._remove(evicted):
            with self._held():
                self._mending.mended(lambda: self._mending.opened().enter(in_use, []))

    def _remove(self, evicted: list[Held], spares: Spares | None = None) -> list[Held]:
        """Remove evicted files, or keep them as spares; returns the files that are in use, and stay."""
        in_use, has_missed = [], False
        for held in evicted:
            try:
                if not self._objects.evict(held, spares):
                    in_use.append(held)
            except FileNotFoundError:
                has_missed = True
        if has_missed:  # the name may be damaged, and its file still be there
            with self._held():
                self._mending.mended(self._mending.reconcile)
        self._eviction.keep(in_use)
        return in_use

    def _clear(self) -> None:
        for held in self._objects.scan_all().values():  # without the index, which cannot be changed on a full disk
            with suppress(FileNotFoundError):
                self._objects.evict(held)
        for listing in listings.kept_in(self._directory):
            os.unlink(listing.path)
        self._mending.reconcile()

    def _shrink(self) -> list[Held]:
        rows = self._mending.opened()
        self._balance.note_limit()
        return rows.evict(-self._balance.free_bytes())

    def _cede(self, size_bytes: int) -> list[Held]:
        now = time.time()
        rows = self._mending.opened()
        free = self._balance.free_bytes()
        size_bytes += self._balance.margin_bytes()  # taking rows out makes the database grow
        record = self._balance.record()
        ceded = record.ceded_at(now) + size_bytes + max(0, free)
        record._replace(ceded_until=now + CEDED_FOR_S, ceded_bytes=ceded).write(self._lock.descriptor)
        return rows.evict(size_bytes + max(0, -free))

    # --- leasing

    def _grant(
        self, need_bytes: int, left_bytes: int, stored: Sequence[Held], used: Sequence[str], *, room_for: str
    ) -> _Grant:
        if need_bytes > 0:
            self._balance.check_now_and_then()
        rows = self._mending.opened()
        with rows.transact():
            replaced = rows.enter(stored, used)
            self._lease.write(left_bytes)
            if need_bytes <= 0:
                return _Grant(0, replaced, [])
            return self._leased(need_bytes, left_bytes, replaced, room_for)

    def _leased(self, need_bytes: int, left_bytes: int, evicted: list[Held], room_for: str) -> _Grant:
        wanted = max(need_bytes, min(self._limit() // _LEASE_PART, _LARGEST_LEASE_BYTES))
        free = self._balance.free_bytes()
        over = -(free + self._balance.margin_bytes())  # the margin is room to grow into
        self._forget_names(-over)
        if over > 0:  # the limit was higher once
            surplus = self._rows.evict(over)
            free, evicted = free + space_of(surplus), evicted + surplus
        unmade: list[Plan] = []
        if free < wanted:
            found, unmade = self._eviction.make_room(need_bytes, wanted, free, room_for)
            free, evicted = free + space_of(found), evicted + found
        evicted_bytes = space_of(evicted)
        granted = min(free, max(wanted, evicted_bytes)) if free >= need_bytes else 0
        self._lease.write(left_bytes + max(granted, evicted_bytes))  # the room of evicted files, until they are removed
        return _Grant(granted, evicted, unmade)

    def _forget_names(self, room_bytes: int) -> None:
        """Write the file of names anew without those of evicted entries, if they are many."""
        of_entries = _NAME_BYTES * len(self._rows)
        of_evicted = max(_NAMES_BYTES, min(_MOST_NAMES_BYTES, self._limit() // 2048))
        if self._objects.known.names.size_bytes > 2 * of_entries + of_evicted and room_bytes > of_entries:
            self._objects.rewrite_names()


class _Grant(NamedTuple):
    """What was leased, the files whose rows were taken out for it, and the plans that were not made and asked."""

    size_bytes: int
    evicted: list[Held]
    unmade: list[Plan]
