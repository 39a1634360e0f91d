"""What is known of coming uses: which entry is needed when, and so which can go first."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NO_PLACE: tuple[int, ...] = ()


class Plan:
    """The uses of entries in this epoch and in the next one, and how far the first is gone through.

    A use has a place: the first of this epoch has 0, those of the next epoch follow upon those of this one. The best
    entry to do without is the one whose next use is furthest away (Belady, IBM Systems Journal 5, 1966).

    Args:
        this_epoch: the digests of entries in the order of their uses; one may come more than once.
        next_epoch: those of the epoch after it.
    """

    def __init__(self, this_epoch: Sequence[str], next_epoch: Sequence[str] = ()) -> None:
        self._uses: dict[str, tuple[int, ...]] = {}
        self._length = len(this_epoch) + len(next_epoch)
        self._position = 0
        for epoch, begin in ((this_epoch, 0), (next_epoch, len(this_epoch))):
            for place, name in enumerate(epoch, begin):
                self._uses[name] = (*self._uses.get(name, _NO_PLACE), place)

    def __contains__(self, name: str) -> bool:
        """Whether an entry has a use in one of the epochs, past or to come."""
        return name in self._uses

    def __len__(self) -> int:
        """How many uses there are in both epochs."""
        return self._length

    @property
    def position(self) -> int:
        """The place of the next use."""
        return self._position

    def advance(self, position: int) -> None:
        """Take in that all uses before a place are past. It never goes back."""
        self._position = max(self._position, position)

    def next_use(self, name: str) -> int | None:
        """The place of an entry's next use; None where there is none as far as is known."""
        for place in self._uses.get(name, _NO_PLACE):
            if place >= self._position:
                return place
        return None

    def victims(self, held: Iterable[str], number: int | None = None, *, after: int = -1) -> list[str]:
        """Which of the held entries to evict: the one whose next use is furthest away first.

        What has no use in the plan, or none any more, comes before all others, in the order in which it was held.

        Args:
            held: digests of the entries that can be evicted.
            number: how many are wanted at most; by default all of them.
            after: the place for which room is made: an entry that is used there or before stays.
        """
        beyond = self._length
        ranked = []
        for order, name in enumerate(held):
            place = self.next_use(name)
            if place is None:
                ranked.append((beyond, -order, name))
            elif place > after:
                ranked.append((place, 0, name))
        found = sorted(ranked, reverse=True) if number is None else heapq.nlargest(number, ranked)
        return [name for _, _, name in found]
