"""A cache as one process uses it: it finds entries, and fills each of them under a claim."""

from __future__ import annotations

import atexit
import os
import weakref
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING

from ai4os_data.cache import listings, placement
from ai4os_data.cache.budget import Budget
from ai4os_data.cache.claims import Claim, Claims
from ai4os_data.cache.entries import intact
from ai4os_data.cache.ledger import Ledger
from ai4os_data.cache.objects import Objects
from ai4os_data.cache.staged import BLOCK_BYTES, Spares, allocated
from ai4os_data.cache.waiting import Waiting
from ai4os_data.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.eviction import Plans, Protected

_LONGEST_WAIT_S = 900.0


class Session:
    """What one process holds open of a cache. A forked child makes a session of its own.

    Args:
        directory: the cache's.
        limit: gives what it may take in all.
        protected: gives the digests that must not evict each other; None for the policy ``"lru"``.
        plans: say which entries will be used, and when.

    Attributes:
        objects: the files.
        known: the entries that this process knows of.
        budget: how much it may still write.
    """

    def __init__(self, directory: str, limit: Callable[[], int], protected: Protected | None, plans: Plans) -> None:
        self._directory = directory
        self._limit = limit
        self.objects = Objects(directory)
        self.known = self.objects.known
        spares = Spares()
        ledger = Ledger(directory, limit, objects=self.objects, protected=protected, plans=plans, spares=spares)
        self.budget = Budget(directory, ledger, self.objects, plans, spares)
        self._claims = Claims(f"{directory}/lock")
        # Children of multiprocessing end without atexit, and others without multiprocessing's finalizers.
        reference = weakref.ref(self)
        self._finalizer = Finalize(self, _close, (reference, os.getpid()), exitpriority=10)
        atexit.register(_close, reference, os.getpid())

    # --- entries

    def read(self, held: Held) -> bytes | None:
        """The bytes of a cached file, checked; None if it is damaged: then it is removed.

        Raises:
            FileNotFoundError: it was evicted.
        """
        data = self.objects.load(held)
        if data is not None:
            self.budget.note_use(held.name)
        return data

    def claim(self, name: str) -> Claim | Held | None:
        """The right to fill an entry, or the entry if it is there by now; None if another process is filling it.

        Raises:
            OSError: the directory cannot be written.
        """
        if (held := self._there(name)) is not None:
            return held
        try:
            is_ours = self._claims.take(name)
        except FileNotFoundError:  # somebody has removed the directory
            placement.make(self._directory)
            is_ours = self._claims.take(name)
        if not is_ours:
            return None
        try:
            held = self._there(name)
        except BaseException:  # a claim that nobody ends would make every later read wait
            self._claims.release(name)
            raise
        if held is not None:  # it is there, and nobody is filling it
            self._claims.release(name)
            return held
        return Claim(name, self._claims.release, self.objects.stage, self.budget.reserve)

    def _there(self, name: str) -> Held | None:
        held = self.known.find(name)
        return held if held is not None and self.objects.is_there(held) else None

    def wait(self, name: str) -> Claim | Held | None:
        """As `claim`, after the process that is filling it has finished; None if that takes too long."""
        waiting = Waiting(_LONGEST_WAIT_S)
        while (found := self.claim(name)) is None:
            if not waiting.pause():
                return None
        return found

    def store(self, claim: Claim, key: str) -> Held | None:
        """Publish the filled entry of a claim; None if there is too little room: then nothing stays."""
        is_larger = allocated(claim.length) + BLOCK_BYTES > claim.reserved_bytes  # larger than it was listed
        if (is_larger and not self.budget.reserve(claim, claim.length)) or not claim.is_ours:
            self.give_up(claim)
            return None
        try:
            held = self.objects.publish(claim.name, claim.file(), claim.length, claim.checksum, key)
        except FileNotFoundError:  # somebody has removed the whole directory
            self.give_up(claim)
            return None
        claim.let_go()
        self.budget.give_back(claim, held)
        return held

    def give_up(self, claim: Claim) -> None:
        """End a claim with nothing stored."""
        claim.give_up()
        self.budget.give_back(claim)

    # --- listings

    def keep_listing(self, name: str, data: bytes) -> None:
        """Keep a listing, inside the limit, as far as there is room."""
        need, limit = allocated(len(data)) + BLOCK_BYTES, self._limit()
        with self.budget.guarded():
            if listings.fits(need, limit) and self.budget.take(need):
                listings.write(self._directory, name, data, limit)

    def kept_listing(self, name: str) -> bytes | None:
        """A listing that was kept."""
        return listings.read(self._directory, name)

    # --- the whole directory

    def usage(self) -> tuple[int, int]:
        """How many entries there are, and the bytes that the directory takes, leases included."""
        self.budget.flush()
        return self.budget.ledger.usage()

    def verify(self) -> tuple[int, int]:
        """Read every entry, and remove those that are damaged; how many were read, and how many damaged."""
        self.budget.flush()
        read = 0
        damaged = []
        for held in self.objects.files():
            is_whole = intact(held) or intact(held)  # between the two it may have been evicted, and fetched again
            if is_whole or os.path.lexists(held.path):
                read += 1
                if not is_whole:
                    damaged.append(held.name)
                    self.objects.discard(held)
        with self.budget.guarded():
            self.budget.ledger.forget(damaged)
        return read, len(damaged)

    def clear(self) -> None:
        """Remove every entry that nobody uses."""
        self.budget.flush(drops_spares=True)
        self.budget.ledger.clear()

    def give_way(self, size_bytes: int) -> None:
        """Free some bytes of the disk."""
        self.budget.flush(drops_spares=True)
        with self.budget.guarded():
            try:
                self.budget.ledger.cede(size_bytes)
            except (CacheError, OSError):  # on a full disk the index cannot be changed
                self.budget.ledger.clear()

    def shrink(self) -> None:
        """Evict what is above the limit."""
        with self.budget.guarded():
            self.budget.ledger.shrink()


def _close(reference: weakref.ref[Session], owner: int) -> None:
    session = reference()
    if session is not None and os.getpid() == owner:
        session.budget.close()
