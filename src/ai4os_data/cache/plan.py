"""What is known of coming uses: which entry is needed when, and so which goes first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from numpy.typing import NDArray

    Numbers = Sequence[int] | NDArray[np.integer]

Turns = Sequence[Sequence[str]]


class Uses(NamedTuple):
    """The uses of this epoch and of the next one, where each turn uses one entry.

    Attributes:
        names: digests of entries.
        this_epoch: which of them each turn uses, by its number.
        next_epoch: the same, of the next epoch.
    """

    names: Sequence[str]
    this_epoch: Numbers
    next_epoch: Numbers


class Plan:
    """The uses of entries in this epoch and in the next one, and how far the first is gone through.

    Entries are used in turns, some at once. The first turn of this epoch has the position 0, those of the next epoch
    follow upon those of this one. The best entry to do without is the one whose next use is furthest away
    (`Belady 1966`_).

    .. _Belady 1966: https://doi.org/10.1147/sj.52.0078

    Args:
        find: gives the uses: as `Uses`, or the digests of the entries that each turn uses,
            of this epoch and of the next one. It is asked for only when something has to be evicted.
    """

    def __init__(self, find: Callable[[], Uses | tuple[Turns, Turns]]) -> None:
        self._find = find
        self._position = 0
        self._looked_up_to = 0
        self._table: _Table | None = None
        self._furthest: list[int] = []  # a heap, the one with the furthest next use first; see `_Table.ranked`

    @property
    def position(self) -> int:
        """The position of the next turn."""
        return self._position

    def advance(self, position: int) -> None:
        """Record that all turns before a position are past. It never goes back."""
        self._position = max(self._position, position)

    @property
    def is_made(self) -> bool:
        """Whether the uses have been found and sorted."""
        return self._table is not None

    def make(self) -> None:
        """Find the uses and sort them, unless that is done: it takes some tenths of a second for a million."""
        if self._table is None:
            position = self._position
            table = _Table(self._find())
            self._furthest = table.ranked(np.arange(table.count), position)
            heapq.heapify(self._furthest)
            self._looked_up_to = position
            self._table = table

    def next_use(self, name: str) -> int | None:
        """The position of an entry's next use; behind all others if it has had its last; None if it has none."""
        table = self._made()
        number = table.number(name)
        return None if number is None else table.next_use(number, self._position)

    def victims(self, held: Container[str], room_for: str) -> Iterator[str]:
        """Which held entries to evict, the one whose next use is furthest away first, and each once.

        What is still to be used in this epoch stays: to fetch it again would cost as much as to have no room for
        another. So an epoch fetches no more than what was not held when it began.

        Args:
            held: the digests of the entries that may be there.
            room_for: the digest of the entry that needs the room: what is used before it stays, and if it has no
                use in the plan, everything.
        """
        if (after := self.next_use(room_for)) is None:
            return
        table = self._made()
        self._catch_up(table)
        furthest = self._furthest
        before = 1
        while furthest and -furthest[0] // table.count > after:
            found = heapq.heappop(furthest)
            next_use, number = divmod(-found, table.count)
            if found != before and table.next_use(number, self._position) == next_use:
                name = table.name(number)
                if name != room_for and name in held:
                    yield name
            before = found

    def keep(self, name: str) -> None:
        """Record that a victim could not be evicted."""
        if self._table is not None and (number := self._table.number(name)) is not None:
            self._push(self._table.ranked(np.array([number]), self._position))

    def _made(self) -> _Table:
        self.make()
        assert self._table is not None
        return self._table

    def _catch_up(self, table: _Table) -> None:
        """Those that have been used since have another next use."""
        position = self._position
        if position > self._looked_up_to:
            used = table.used_in(self._looked_up_to, position)
            self._looked_up_to = position
            self._push(table.ranked(used, position))

    def _push(self, ranked: list[int]) -> None:
        if len(ranked) > len(self._furthest) // 8:
            self._furthest += ranked
            heapq.heapify(self._furthest)
        else:
            for rank in ranked:
                heapq.heappush(self._furthest, rank)


class _Table:
    """The positions of all uses, by the numbers that entries have here.

    Attributes:
        count: how many entries there are.
    """

    def __init__(self, found: Uses | tuple[Turns, Turns]) -> None:
        uses, turns, self._total = _flattened(found)
        self._names = uses.names
        # An entry goes by the hash of its digest: a dictionary of all would take ten times the room.
        hashes = np.fromiter(map(hash, uses.names), np.int64, len(uses.names))
        self._hashes, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
        self._first_name = first.astype(np.int32)
        self.count = len(self._hashes)
        numbers = numbers.astype(np.int32)
        this, following = (numbers[np.asarray(some, np.int64)] for some in (uses.this_epoch, uses.next_epoch))
        self._used: NDArray[np.integer] = np.concatenate([this, following])
        self._turns = turns
        self._this = _Span(this, turns[: len(this)], self.count)
        self._next = _Span(following, turns[len(this) :], self.count)
        self._has_use = (self._this.last >= 0) | (self._next.last >= 0)

    def number(self, name: str) -> int | None:
        """The number of an entry; None if it has no use."""
        wanted = hash(name)
        number = int(np.searchsorted(self._hashes, wanted))
        is_known = number < self.count and self._hashes[number] == wanted
        return number if is_known and self._has_use[number] else None

    def name(self, number: int) -> str:
        """The digest of an entry."""
        return self._names[int(self._first_name[number])]

    def next_use(self, number: int, position: int) -> int:
        """The position of an entry's next use, from a position on."""
        for span in (self._this, self._next):
            first, last = int(span.first[number]), int(span.last[number])
            if position <= first and last >= 0:
                return first
            if position <= last:  # between several uses
                begin, end = np.searchsorted(self._turns, [position, last + 1])
                return int(self._turns[begin + np.argmax(self._used[begin:end] == number)])
        return self._total

    def used_in(self, begin: int, end: int) -> NDArray[np.integer]:
        """The entries that are used from one position on and before another."""
        begin, end = np.searchsorted(self._turns, [begin, end])
        return self._used[begin:end]

    def ranked(self, numbers: NDArray[np.integer], position: int) -> list[int]:
        """Those of some entries that this epoch needs no more, each with its next use in one number.

        The least goes first. What is in neither epoch is another loader's.
        """
        is_idle = (self._this.last[numbers] < position) & self._has_use[numbers]
        numbers = numbers[is_idle].astype(np.int64)
        uses = self._next.first[numbers].astype(np.int64)
        is_past = (uses < position) | (self._next.last[numbers] < 0)
        uses[is_past] = self._total
        numbers, uses = (some[~is_past | (self._next.last[numbers] < position)] for some in (numbers, uses))
        ranked: list[int] = (-(uses * self.count + numbers)).tolist()
        return ranked


class _Span:
    """The positions at which each entry is used first and last in one epoch; the last is -1 if it is not."""

    def __init__(self, used: NDArray[np.integer], turns: NDArray[np.integer], count: int) -> None:
        self.first = np.full(count, -1, np.int32)
        self.last = np.full(count, -1, np.int32)
        self.last[used] = turns  # of several, the one assigned last stays
        self.first[used[::-1]] = turns[::-1]


def _flattened(found: Uses | tuple[Turns, Turns]) -> tuple[Uses, NDArray[np.int32], int]:
    """The uses one by one, the position of each, and how many turns there are."""
    if isinstance(found, Uses):
        total = len(found.this_epoch) + len(found.next_epoch)
        return found, np.arange(total, dtype=np.int32), total
    this_epoch, next_epoch = found
    turns = [*this_epoch, *next_epoch]
    names = [name for turn in turns for name in turn]
    in_this_epoch = sum(map(len, this_epoch))
    lengths = np.fromiter(map(len, turns), np.int64, len(turns))
    positions = np.repeat(np.arange(len(turns), dtype=np.int32), lengths)
    uses = Uses(names, np.arange(in_this_epoch), np.arange(in_this_epoch, len(names)))
    return uses, positions, len(turns)
