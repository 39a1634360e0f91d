"""Long lists in a few buffers, which forked workers read without copying them.

A list has one object per item. Reading an object changes its reference count, and so copies its memory page into each
worker that reads it. Here an item is made on access, and dropped after use.
"""

from __future__ import annotations

import calendar
import operator
import re
from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import formatdate, parsedate_tz
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np

T = TypeVar("T")

Positions = range | array  # type: ignore[type-arg]  # of integers
_TYPES, _SIGNED = ("B", "H", "I", "Q"), ("b", "h", "i", "q")
_LONGEST_REPR = 100
_SHOWN = 3
_FEW = 8  # a table is worth it if each value occurs this often on average
_HEX = re.compile(r"[0-9a-f]*")
_DATE = re.compile(r"([A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4}) ([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]) GMT")
_DAY_S = 86_400
_NO_DATE = (1 << 32) - 1


class PackedList(Sequence[T]):
    """A list that can only be read; it equals a list of the same items, and its slices are lists."""

    @abstractmethod
    def at(self, position: int) -> T:
        """The item at a position, which is 0 or more; it is not checked."""

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        """An item, or a list of some."""
        if isinstance(index, slice):
            return [self.at(position) for position in range(*index.indices(len(self)))]
        length = len(self)
        position = operator.index(index)
        position += length if position < 0 else 0
        if not 0 <= position < length:
            raise IndexError(f"index {index} is out of range for {length} items")
        return self.at(position)

    def __iter__(self) -> Iterator[T]:
        """Each item."""
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether another list has the same items."""
        if not isinstance(other, (list, PackedList)):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as that of a list

    def __add__(self, other: Iterable[T]) -> list[T]:
        """Both, as a list."""
        return [*self, *other]

    def __radd__(self, other: Iterable[T]) -> list[T]:
        """Both, as a list."""
        return [*other, *self]

    def __repr__(self) -> str:
        """A short description for people: as that of a list, if it is not too long."""
        if len(self) <= _LONGEST_REPR:
            return repr(list(self))
        return f"[{', '.join(map(repr, islice(self, _SHOWN)))}, … {len(self):,} in all]"

    def copy(self) -> list[T]:
        """The items as a list."""
        return list(self)

    tolist = copy


class Numbers(PackedList[Any]):
    """Numbers, each in as few bytes as the largest one takes."""

    def __init__(self, values: array[Any]) -> None:
        self._values = values

    @classmethod
    def of(cls, values: Sequence[int]) -> Numbers:
        """Pack integers.

        Raises:
            ValueError: one has more than 64 bits.
        """
        return cls(array(_typecode(min(values, default=0), max(values, default=0)), values))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        """Each of them."""
        return iter(self._values)

    def at(self, position: int) -> Any:
        """One of them."""
        return self._values[position]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:  # noqa: FBT001  numpy's protocol
        """The numbers as numpy reads a list of them."""
        is_float = self._values.typecode == "d"
        return np.array(self._values, dtype=dtype or (np.float64 if is_float else np.int64))


class Same(PackedList[T]):
    """One value, many times."""

    def __init__(self, value: T, length: int) -> None:
        self._value = value
        self._length = length

    def __len__(self) -> int:
        """How many times."""
        return self._length

    def at(self, position: int) -> T:  # noqa: ARG002
        """The value."""
        return self._value


class Table(PackedList[T]):
    """A few distinct values, each of which occurs many times."""

    def __init__(self, values: Sequence[T], numbers: Numbers) -> None:
        self._values = values
        self._numbers = numbers

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._numbers)

    def at(self, position: int) -> T:
        """One of them."""
        number: int = self._numbers.at(position)
        return self._values[number]


class Texts(PackedList[str]):
    """Texts, one after the other in one buffer.

    Sorting their bytes sorts the texts: UTF-8 keeps the order of code points, also in names that are no UTF-8.
    """

    def __init__(self, data: bytes, offsets: Positions) -> None:
        self._data = data
        self._offsets = offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Pack them."""
        data = _encoded("".join(texts))
        lengths = map(len, texts) if data.isascii() else map(len, map(_encoded, texts))
        return cls(data, _offsets(lengths, len(texts)))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._offsets) - 1

    def at(self, position: int) -> str:
        """One of them."""
        offsets = self._offsets
        return self._data[offsets[position] : offsets[position + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        """Each of them."""
        data = self._data
        if data.isascii():
            whole = data.decode("ascii")
            return (whole[begin:end] for begin, end in pairwise(self._offsets))
        return (data[begin:end].decode("utf-8", "surrogatepass") for begin, end in pairwise(self._offsets))

    def find(self, text: str) -> int | None:
        """The position of a text among sorted ones; the last one if it occurs more than once."""
        wanted, data, offsets = _encoded(text), self._data, self._offsets
        low, high = 0, len(offsets) - 1
        while low < high:
            middle = (low + high) >> 1
            if data[offsets[middle] : offsets[middle + 1]] <= wanted:
                low = middle + 1
            else:
                high = middle
        return low - 1 if low and data[offsets[low - 1] : offsets[low]] == wanted else None


class HexTexts(PackedList[str]):
    """Texts of hexadecimal digits, such as digests, two digits a byte."""

    def __init__(self, data: bytes, offsets: Positions) -> None:
        self._data = data
        self._offsets = offsets  # of digits

    @classmethod
    def of(cls, texts: Sequence[str]) -> HexTexts | None:
        """Pack them; None if they have other characters."""
        joined = "".join(texts)
        if not _HEX.fullmatch(joined):
            return None
        return cls(bytes.fromhex(joined + "0" * (len(joined) & 1)), _offsets(map(len, texts), len(texts)))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._offsets) - 1

    def at(self, position: int) -> str:
        """One of them."""
        begin, end = self._offsets[position], self._offsets[position + 1]
        odd = begin & 1
        digits = self._data[begin >> 1 : (end + 1) >> 1].hex()
        return digits[odd : odd + end - begin]


class Dates(PackedList[str]):
    """Dates as HTTP writes them, such as ``Tue, 24 Nov 2026 10:00:00 GMT``, or empty texts; kept as seconds."""

    def __init__(self, seconds: Numbers) -> None:
        self._seconds = seconds

    @classmethod
    def of(cls, texts: Sequence[str]) -> Dates | None:
        """Pack them; None if one is written in another way."""
        seconds = {text: _seconds(text) for text in dict.fromkeys(texts)}
        if None in seconds.values():
            return None
        return cls(Numbers(array("I", [cast("int", seconds[text]) for text in texts])))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._seconds)

    def at(self, position: int) -> str:
        """One of them."""
        return _date(self._seconds.at(position))


class Chosen(PackedList[T], Generic[T]):
    """Some items of another list, in an order of their own."""

    def __init__(self, items: PackedList[T], positions: Positions) -> None:
        self.items = items
        self.positions = positions

    def __len__(self) -> int:
        """How many there are."""
        return len(self.positions)

    def at(self, position: int) -> T:
        """One of them."""
        return self.items.at(self.positions[position])

    def __iter__(self) -> Iterator[T]:
        """Each of them."""
        if self.positions == range(len(self.items)):
            return iter(self.items)
        return map(self.items.at, self.positions)


class ChosenTexts(Chosen[str]):
    """Some of many sorted texts."""

    items: Texts

    def __init__(self, items: Texts, positions: Positions) -> None:
        super().__init__(items, positions)

    def __contains__(self, text: object) -> bool:
        """Whether a text is one of them."""
        found = self.items.find(text) if isinstance(text, str) else None
        return found is not None and self._is_chosen(found)

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The first position of a text, without a look at all of them.

        Raises:
            ValueError: it is not among them.
        """
        found = self.items.find(value) if isinstance(value, str) else None
        begin, end, _ = slice(start, stop).indices(len(self))
        with suppress(ValueError):
            if found is not None:
                return begin + self.positions[begin:end].index(found)
        raise ValueError(f"{value!r} is not in the list")

    def _is_chosen(self, found: int) -> bool:
        positions = self.positions
        if isinstance(positions, range):
            return found in positions
        position = bisect_left(positions, found)
        is_found = position < len(positions) and positions[position] == found
        return is_found or found in positions  # they are not sorted if the user has given the keys

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what was chosen, and no more."""
        if 2 * len(self) < len(self.items):
            chosen = sorted(set(self.positions))
            new_of = {old: new for new, old in enumerate(chosen)}
            texts = Texts.of([self.items.at(position) for position in chosen])  # sorted, as they are searched
            return ChosenTexts, (texts, positions([new_of[position] for position in self.positions], len(chosen)))
        return ChosenTexts, (self.items, self.positions)


class Grouped(PackedList[list[T]]):
    """Groups of items of another list, such as the siblings of each sample."""

    def __init__(self, items: PackedList[T], groups: Iterable[Sequence[int]]) -> None:
        self._items = items
        self._numbers, self._ends = array("I"), array("I")
        for numbers in groups:
            self._numbers.extend(numbers)
            self._ends.append(len(self._numbers))

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self._ends)

    def at(self, position: int) -> list[T]:
        """One of them."""
        begin = self._ends[position - 1] if position else 0
        return [self._items.at(number) for number in self._numbers[begin : self._ends[position]]]


def positions(chosen: Sequence[int], among: int) -> Positions:
    """Positions among a number of items, packed."""
    if len(chosen) == among and all(number == position for number, position in enumerate(chosen)):
        return range(among)
    return array(_typecode(0, among), chosen)


def packed_texts(texts: Sequence[str]) -> PackedList[str]:
    """Texts in the most compact form that fits them: one value, hexadecimal, dates, a table, or one buffer."""
    if not texts or texts.count(texts[0]) == len(texts):
        return Same(texts[0] if texts else "", len(texts))
    return HexTexts.of(texts) or Dates.of(texts) or _in_table(texts) or Texts.of(texts)


def packed_values(values: Sequence[Any]) -> Sequence[Any]:
    """Values, packed if all are integers, floats or texts; else a list of them."""
    kinds = set(map(type, values))
    if kinds == {int}:
        try:
            return Numbers.of(values)
        except ValueError:
            return list(values)
    if kinds == {float}:
        return Numbers(array("d", values))
    return packed_texts(values) if kinds == {str} else list(values)


def _in_table(texts: Sequence[str]) -> Table[str] | None:
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    if len(numbers) * _FEW > len(texts):
        return None
    return Table(tuple(numbers), Numbers.of([numbers[text] for text in texts]))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _offsets(lengths: Iterable[int], count: int) -> Positions:
    """Where each of some pieces begins, and where the last one ends."""
    of_each = np.fromiter(lengths, np.int64, count)
    length = int(of_each[0]) if count else 0
    if length and (of_each == length).all():
        return range(0, count * length + 1, length)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(of_each)])
    code = "I" if ends[-1] < 1 << 32 else "Q"
    offsets = array(code)
    offsets.frombytes(ends.astype(code).tobytes())
    return offsets


def _typecode(least: int, most: int) -> str:
    for code in _TYPES if least >= 0 else _SIGNED:
        bits = 8 * array(code).itemsize - (least < 0)
        if most < 1 << bits and least >= -1 << bits:
            return code
    raise ValueError(f"{most if most >= 1 << 63 else least} has more than 64 bits")


def _seconds(text: str) -> int | None:
    """A date in seconds; None if the seconds would not give the same text again."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None if text else _NO_DATE
    day = _day_seconds(match[1])
    return None if day is None else day + 3600 * int(match[2]) + 60 * int(match[3]) + int(match[4])


@lru_cache(maxsize=4096)
def _day_seconds(text: str) -> int | None:
    """When a day began, in seconds; None if the seconds would not give the same text again."""
    parsed = parsedate_tz(f"{text} 00:00:00")
    seconds = calendar.timegm(parsed[:6]) if parsed else -1
    return seconds if 0 <= seconds < _NO_DATE - _DAY_S and _day(seconds // _DAY_S) == text else None


@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return formatdate(number * _DAY_S, usegmt=True)[: len("Thu, 01 Jan 1970")]


def _date(seconds: int) -> str:
    if seconds == _NO_DATE:
        return ""
    day, rest = divmod(seconds, _DAY_S)
    return f"{_day(day)} {rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d} GMT"
