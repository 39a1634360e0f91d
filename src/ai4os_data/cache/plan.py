"""What is known of coming uses: which entry is needed when, and so which goes first."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    Turns = Sequence[Sequence[str]]


class Plan:
    """The uses of entries in this epoch and in the next one, and how far the first is gone through.

    Entries are used in turns, some at once. The first turn of this epoch has the place 0, those of the next epoch
    follow upon those of this one. The best entry to do without is the one whose next use is furthest away
    (`Belady 1966`_).

    .. _Belady 1966: https://doi.org/10.1147/sj.52.0078

    Args:
        turns: gives the digests of the entries that each turn uses, of this epoch and of the next one. It is asked for
            only when something has to be evicted.
    """

    def __init__(self, turns: Callable[[], tuple[Turns, Turns]]) -> None:
        self._find_turns = turns
        self._epoch_end = 0
        self._position = 0
        self._looked_up_to = 0
        self._turns: Turns = ()
        self._places: dict[str, list[int]] | None = None
        self._furthest: list[tuple[int, str]] = []  # a heap, by the place of the next use, the last first

    @property
    def position(self) -> int:
        """The place of the next turn."""
        return self._position

    def advance(self, position: int) -> None:
        """Take in that all turns before a place are past. It never goes back."""
        self._position = max(self._position, position)

    def next_use(self, name: str) -> int | None:
        """The place of an entry's next use; behind all others where it has had its last; None where it has none."""
        places = self._uses().get(name)
        if places is None:
            return None
        found = bisect_left(places, self._position)
        return places[found] if found < len(places) else len(self._turns)

    def victims(self, held: Container[str], room_for: str) -> Iterator[str]:
        """Which held entries to evict, the one whose next use is furthest away first, and each once.

        What is still to be used in this epoch stays: to fetch it again would cost as much as to have no room for
        another. So an epoch fetches no more than what was not held when it began.

        Args:
            held: the digests of the entries that may be there.
            room_for: the digest of the entry that needs the room: what is used before it stays, and where it has no
                use in the plan, everything.
        """
        if (after := self.next_use(room_for)) is None:
            return
        self._catch_up()
        furthest = self._furthest
        before = (0, "")
        while furthest and -furthest[0][0] > max(after, self._epoch_end - 1):
            found = heapq.heappop(furthest)
            place, name = found
            if found != before and self.next_use(name) == -place and name != room_for and name in held:
                yield name
            before = found

    def keep(self, name: str) -> None:
        """Take in that a victim could not be evicted."""
        if (place := self.next_use(name)) is not None:
            heapq.heappush(self._furthest, (-place, name))

    def _uses(self) -> dict[str, list[int]]:
        if self._places is None:
            this_epoch, next_epoch = self._find_turns()
            self._turns, self._epoch_end = [*this_epoch, *next_epoch], len(this_epoch)
            places: dict[str, list[int]] = {}
            for place, names in enumerate(self._turns):
                for name in names:
                    places.setdefault(name, []).append(place)
            self._places = places
            self._looked_up_to = self._position
            for name in places:
                self.keep(name)
        return self._places

    def _catch_up(self) -> None:
        """Those that have been used since have another next use."""
        for names in self._turns[self._looked_up_to : self._position]:
            for name in names:
                self.keep(name)
        self._looked_up_to = self._position
