"""The plan of an epoch: entries that it still needs stay in the cache, and those that it has used are evicted first."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from numpy.typing import NDArray


class Uses(NamedTuple):
    """The entries that an epoch uses.

    Attributes:
        names: digests of entries.
        numbers: which of them are used, in this order.
        turns: the turn of each use; by default each turn uses one entry.
    """

    names: Sequence[str]
    numbers: Sequence[int] | NDArray[np.integer]
    turns: NDArray[np.integer] | None = None

    @classmethod
    def of_turns(cls, turns: Sequence[Sequence[str]]) -> Uses:
        """The uses of turns that may each use several entries, given by their digests."""
        names = list(chain.from_iterable(turns))
        return cls(names, range(len(names)), np.repeat(np.arange(len(turns)), list(map(len, turns))))


class Plan:
    """The entries that an epoch uses, turn by turn, and how far it has come.

    An entry that the epoch still needs is never evicted: fetching it again would cost as much as having no room for
    another. Of the used ones, the one used first is evicted first. So an epoch fetches only entries that were not in
    the cache when it began, which no policy can improve.

    Args:
        find: gives the uses. It is called only when something has to be evicted.
    """

    def __init__(self, find: Callable[[], Uses]) -> None:
        self._find = find
        self._position = 0
        self._sorted: _Sorted | None = None
        self._looked = 0  # how many uses were searched for victims
        self._kept: set[str] = set()  # victims among these that could not be evicted

    @property
    def position(self) -> int:
        """The next turn."""
        return self._position

    def advance(self, position: int) -> None:
        """Record that all turns before this one are past. It never goes back."""
        self._position = max(self._position, position)

    @property
    def is_made(self) -> bool:
        """Whether `make` was called."""
        return self._sorted is not None

    def make(self) -> _Sorted:
        """Find and sort the uses, once: it takes some tenths of a second for a million."""
        if self._sorted is None:
            self._sorted = _Sorted(self._find())
        return self._sorted

    def is_needed(self, name: str) -> bool:
        """Whether the rest of the epoch uses an entry."""
        return self.make().last_turn(name) >= self._position

    def victims(self, held: Container[str], room_for: str) -> Iterator[str]:
        """Which held entries to evict: each once, the one that was used first before the others.

        Args:
            held: the digests of the entries that may be there.
            room_for: the digest of the entry that needs the room: if the rest of the epoch does not use it, nothing is
                evicted.
        """
        if not self.is_needed(room_for):
            return
        while self._kept:
            if (name := self._kept.pop()) in held:
                yield name
        uses = self.make()
        while self._looked < len(uses.turns) and uses.turns[self._looked] < self._position:
            self._looked += 1
            if (used := uses.used_last(self._looked - 1)) is not None and used in held:
                yield used

    def keep(self, name: str) -> None:
        """Record that a victim could not be evicted."""
        if self._sorted is not None and 0 <= self._sorted.last_use(name) < self._looked:
            self._kept.add(name)


class _Sorted:
    """Uses as numbers of entries; equal digests are one entry.

    Attributes:
        turns: the turn of each use.
    """

    def __init__(self, uses: Uses) -> None:
        # Entries are found by the hash of their digest: a dictionary would take ten times the memory.
        hashes = np.fromiter(map(hash, uses.names), np.int64, len(uses.names))
        self._hashes, numbers = np.unique(hashes, return_inverse=True)
        self._names = uses.names
        self._numbers = np.asarray(uses.numbers, np.int32)  # as they are given
        self._used = numbers.astype(np.int32)[self._numbers]
        count = len(self._used)
        self.turns = np.arange(count, dtype=np.int32) if uses.turns is None else uses.turns
        self._last_use = np.full(len(self._hashes), -1, np.int32)
        self._last_use[self._used] = np.arange(count, dtype=np.int32)  # of several, the one assigned last stays

    def last_use(self, name: str) -> int:
        """The last use of an entry, by its number; -1 if there is none."""
        wanted = hash(name)
        number = int(np.searchsorted(self._hashes, wanted))
        is_known = number < len(self._hashes) and self._hashes[number] == wanted
        return int(self._last_use[number]) if is_known else -1

    def last_turn(self, name: str) -> int:
        """The last turn that uses an entry; -1 if none does."""
        use = self.last_use(name)
        return int(self.turns[use]) if use >= 0 else -1

    def used_last(self, use: int) -> str | None:
        """The digest of the entry of a use, if no other use follows."""
        is_last = self._last_use[self._used[use]] == use
        return self._names[int(self._numbers[use])] if is_last else None
