"""What was probably meant by a name that is not there, judged by the names that are."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALIKE = 0.6  # as difflib.get_close_matches has it


def nearest_first(name: str, names: Iterable[str]) -> list[str]:
    """The names, those that look most like this one first."""
    return sorted(set(names), key=lambda other: (-_likeness(name, other), other))


def mistaken_for(name: str, names: Iterable[str]) -> list[str]:
    """The names that this one may be a misspelling of; the next number, as in ``run-2`` beside ``run-1``, is none."""
    alike = [other for other in nearest_first(name, names) if _likeness(name, other) >= _ALIKE]
    return [other for other in alike if _without_digits(other) != _without_digits(name)]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.casefold(), other.casefold()).ratio()


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "", name)
