"""The entries of a listing, packed: made one by one as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ai4os_data.machine import Chosen, ChosenTexts, Numbers, PackedList, Texts, packed_texts, positions
from ai4os_data.stores.base import Entry


class PackedEntries(PackedList[Entry]):
    """Entries, ordered by key in the order of code points, as Python compares texts.

    Attributes:
        keys: their keys.
    """

    def __init__(self, keys: Texts, sizes: PackedList[int], etags: PackedList[str], modified: PackedList[str]) -> None:
        self.keys = keys
        self._sizes = sizes
        self._etags = etags
        self._modified = modified

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> PackedEntries:
        """Pack them."""
        if isinstance(entries, PackedEntries):
            return entries
        return cls.of_columns(*(zip(*entries, strict=True) if (entries := list(entries)) else ((), (), (), ())))

    @classmethod
    def of_columns(
        cls,
        keys: Sequence[str],
        sizes: Sequence[int],
        etags: Sequence[str | None],
        modified: Sequence[str | None],
    ) -> PackedEntries:
        """Pack entries whose parts are in columns."""
        columns: list[Sequence[Any]] = [keys, sizes, etags, modified]
        if any(one > other for one, other in pairwise(keys)):
            order = sorted(range(len(keys)), key=keys.__getitem__)
            columns = [[column[number] for number in order] for column in columns]
        keys, sizes, etags, modified = columns
        texts = (packed_texts([text or "" for text in column]) for column in (etags, modified))
        return cls(Texts.of(keys), Numbers.of(sizes), *texts)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.keys)

    def at(self, position: int) -> Entry:
        """The entry at a position."""
        etag, modified = self._etags.at(position) or None, self._modified.at(position) or None
        return Entry(self.keys.at(position), self._sizes.at(position), etag, modified)

    def __iter__(self) -> Iterator[Entry]:
        """Each of them."""
        for key, size, etag, modified in zip(self.keys, self._sizes, self._etags, self._modified, strict=True):
            yield Entry(key, size, etag or None, modified or None)

    def columns(self) -> tuple[list[str], list[int], list[str | None], list[str | None]]:
        """Their parts, one list each."""
        etags, modified = ([text or None for text in column] for column in (self._etags, self._modified))
        return list(self.keys), list(self._sizes), etags, modified

    def positions_of(self, keys: Sequence[str]) -> list[int | None]:
        """The position of each of some keys; None for one that is not among them."""
        if len(keys) < _FEW:
            return [self.keys.find(key) for key in keys]
        positions_by_key = {key: position for position, key in enumerate(self.keys)}
        return list(map(positions_by_key.get, keys))


_FEW = 1000  # keys are looked up one by one


class ChosenEntries(Chosen[Entry]):
    """Those entries of a listing that a dataset has, in its order.

    Attributes:
        keys: their keys.
    """

    items: PackedEntries

    @classmethod
    def at_positions(cls, items: PackedEntries, numbers: Sequence[int]) -> ChosenEntries:
        """Those at some positions of the listing."""
        return cls(items, positions(numbers, len(items)))

    @property
    def keys(self) -> ChosenTexts:
        """Their keys, in the same order."""
        return ChosenTexts(self.items.keys, self.positions)


class ByKey(Mapping[str, Entry]):
    """The entries of a listing, to look up by key."""

    def __init__(self, entries: PackedEntries) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> Entry:
        """The entry of a key."""
        position = self._entries.keys.find(key)
        if position is None:
            raise KeyError(key)
        return self._entries.at(position)

    def __contains__(self, key: object) -> bool:
        """Whether there is an entry of a key."""
        return isinstance(key, str) and self._entries.keys.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Each key."""
        return iter(self._entries.keys)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)
