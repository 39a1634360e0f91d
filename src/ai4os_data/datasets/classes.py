"""Names and numbers of classes follow from what a user wrote, never from what happened to be listed."""

from __future__ import annotations

import operator
import posixpath
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from ai4os_data.datasets.index import enumerated
from ai4os_data.errors import EmptyClassError, LocationError
from ai4os_data.telemetry import tell_once

Where = Callable[[int], str]
"""Gives the words by which an error says where the label of a sample is written."""


class Classes:
    """Names of classes, each with its number.

    Attributes:
        names: in the order of the numbers.
        numbers: from the name to the number; from 0 on without gaps, unless the user's own have some.
    """

    def __init__(self, names: Iterable[str], numbers: Iterable[int] | None = None) -> None:
        self.names = list(names)
        self.numbers = dict(zip(self.names, count() if numbers is None else numbers))  # noqa: B905  count has no end
        composed = Counter(map(_composed, self.names))
        self._spelling = {_composed(name): name for name in self.names if composed[_composed(name)] == 1}

    def spelt(self, name: str) -> str:
        """A name as it is spelt here: its accents may be composed, or decomposed as on a Mac. Others do not change."""
        return name if name in self.numbers else self._spelling.get(_composed(name), name)

    @classmethod
    def given(cls, classes: Any, class_to_idx: Any) -> Classes | None:
        """The classes that the arguments ``classes=`` and ``class_to_idx=`` mean; None without these.

        Raises:
            TypeError: one of them is something else.
            ValueError: a name or a number comes twice, a number is none, or the two disagree.
        """
        listed = None if classes is None else cls(_names(classes))
        if class_to_idx is None:
            return listed
        by_number = _names_by_number(class_to_idx)
        numbered = cls(by_number.values(), by_number)
        if listed is not None and listed.names != numbered.names:
            raise ValueError(f"classes={listed.names!r} and class_to_idx={class_to_idx!r} disagree; give one of them")
        return numbered

    def __repr__(self) -> str:
        """Show the first few."""
        return f"[{enumerated(map(repr, self.names))}]"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _names(classes: Any) -> list[str]:
    if isinstance(classes, (str, bytes, Mapping, set, frozenset)) or not isinstance(classes, Iterable):
        why = "; a set has no order, sorted(…) gives it one" if isinstance(classes, (set, frozenset)) else ""
        raise TypeError(f"classes is a list of names, not {classes!r}{why}")
    names = list(classes)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"classes is a list of names, and {enumerated(map(repr, wrong))} is none")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        raise ValueError(f"classes has {enumerated(map(repr, twice))} twice" if twice else "classes has no name in it")
    return names


def _names_by_number(class_to_idx: Any) -> dict[int, str]:
    """The names, in the order of their numbers."""
    if not isinstance(class_to_idx, Mapping):
        raise TypeError(f"class_to_idx is a mapping from name to number, not {class_to_idx!r}")
    numbers: dict[int, str] = {}
    for name in _names(list(class_to_idx)):
        number = _whole(class_to_idx[name])
        if number is None or number < 0:
            raise ValueError(
                f"class_to_idx[{name!r}] is {class_to_idx[name]!r}, which is not the number of a class: 0, 1, 2, …"
            )
        if number in numbers:
            raise ValueError(
                f"class_to_idx gives {name!r} and {numbers[number]!r} the same number; to join classes, let target= be "
                "a function of a Sample"
            )
        numbers[number] = name
    return dict(sorted(numbers.items()))


def _whole(number: Any) -> int | None:
    """A whole number as an int; True and False are none."""
    if isinstance(number, bool):
        return None
    try:
        return operator.index(number)
    except TypeError:
        return None


class GivenClasses(NamedTuple):
    """What a user says of the classes.

    Attributes:
        location: what the samples are of.
        classes: those that the user gave; None if names are numbered in sorted order.
        allow_empty: whether one may be without a sample.
    """

    location: str
    classes: Classes | None = None
    allow_empty: bool = False

    def numbered(self, names: Sequence[str], where: Where) -> tuple[list[int], Classes]:
        """The number of each name.

        Args:
            names: a class for each sample.
            where: gives the words by which an error says where the name of a sample is written.

        Raises:
            LocationError: a name is none of the given classes.
            EmptyClassError: a given class has no sample.
        """
        if self.classes is None:
            classes = Classes(sorted(set(names)))
            return [classes.numbers[name] for name in names], classes
        given = self.classes.numbers
        numbers = {name: given.get(self.classes.spelt(name), -1) for name in dict.fromkeys(names)}
        unknown = [repr(name) for name, number in numbers.items() if number < 0]
        if unknown:
            first = next(sample for sample, name in enumerate(names) if numbers[name] < 0)
            more = f", and so {'are' if len(unknown) > 2 else 'is'} {enumerated(unknown[1:])}" if unknown[1:] else ""
            raise LocationError(
                f"{where(first)}: the class {unknown[0]} is none of classes={self.classes!r}{more}. Add it there, or "
                "leave its samples out"
            )
        self._check_filled(self.classes, set(numbers.values()))
        return [numbers[name] for name in names], self.classes

    def checked(self, numbers: Sequence[int], where: Where) -> Classes | None:
        """The given classes, after a check that each number is one of theirs; None if none are given.

        Raises:
            LocationError: a number is that of no class.
            EmptyClassError: a given class has no sample.
        """
        if self.classes is None:
            return None
        given = sorted(self.classes.numbers.values())
        used = set(numbers)
        if not used.issubset(given):
            sample, number = next((at, number) for at, number in enumerate(numbers) if number not in given)
            raise LocationError(
                f"{where(sample)}: there is no class {number}: {len(given)} are given, from {given[0]} to {given[-1]}"
            )
        self._check_filled(self.classes, used)
        return self.classes

    def _check_filled(self, classes: Classes, used: Container[int]) -> None:
        """Check that each given class has a sample, unless a class without one is allowed.

        Raises:
            EmptyClassError: one is.
        """
        empty = [name for name, number in classes.numbers.items() if number not in used]
        if empty and not self.allow_empty:
            raise EmptyClassError(
                f"{self.location}: there is no sample of {enumerated(map(repr, empty))}, which classes= or "
                "class_to_idx= names; allow_empty=True lets a class keep its number without one"
            )

    def number_of(self, label: Any) -> int:
        """The number of a class that is given by its name or its number.

        Raises:
            LocationError: there is no such class.
        """
        assert self.classes is not None
        number = self.classes.numbers.get(self.classes.spelt(label)) if isinstance(label, str) else _whole(label)
        if number not in self.classes.numbers.values():
            message = f"the label {label!r} is neither the name nor the number of one of classes={self.classes!r}"
            raise LocationError(message)
        assert number is not None
        return number


class _Numbering(NamedTuple):
    location: str
    numbers: dict[str, int]
    is_given: bool


_SEEN: deque[_Numbering] = deque(maxlen=64)


def compare(classes: Classes, location: str, *, is_given: bool) -> None:
    """Warn once if a class has another number in another split of the same data that this process has seen.

    Args:
        classes: of a dataset that was just made.
        location: its location; splits lie beside each other, or are of the same one.
        is_given: whether the user gave the numbers.
    """
    made = _Numbering(location, classes.numbers, is_given)
    if made in _SEEN:
        return
    for seen in _SEEN:
        common = made.numbers.keys() & seen.numbers.keys()
        moved = sorted(name for name in common if made.numbers[name] != seen.numbers[name])
        are_splits = 2 * len(common) >= min(len(made.numbers), len(seen.numbers))
        if moved and are_splits and _above(seen.location) == _above(location) and not (is_given and seen.is_given):
            tell_once(
                f"{location}: the class {moved[0]!r} has the number {made.numbers[moved[0]]} here, and "
                f"{seen.numbers[moved[0]]} in an earlier dataset of {seen.location}. Give one's classes to the other: "
                "StorageDataset(…, classes=train.classes)"
            )
            break
    _SEEN.append(made)


def _above(location: str) -> str:
    return posixpath.dirname(location.rstrip("/"))
