"""Braces in patterns, as a shell expands them: ``*.{jpg,png}`` is ``*.jpg`` and ``*.png``."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_ALTERNATIVES = 10_000
CHARACTERS = r"\[(?:!.|[^!])[^\]]*\]"  # a set of characters: a bracket at its very start belongs to it
_TOKEN = re.compile(rf"{CHARACTERS}|[{{}},]", re.DOTALL)
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.([1-9]\d*))?", re.ASCII)


def alternatives(pattern: str) -> list[str]:
    """The patterns that one with braces stands for, as a shell expands them: ``*.{jpg,png}``, ``{01..12}``.

    Braces without a comma or a range are themselves, and so are those in square brackets: ``[{]``.

    Raises:
        ValueError: they stand for too many, or have blanks inside as no shell takes them.
    """
    found = list(dict.fromkeys(_bounded(_expanded(pattern), pattern)))
    return found or [pattern]


def _bounded(globs: Iterator[str], pattern: str) -> Iterator[str]:
    for number, glob in enumerate(globs):
        if number == _MOST_ALTERNATIVES:
            message = f"{pattern!r} stands for more than {_MOST_ALTERNATIVES:,} patterns; use * instead of braces"
            raise ValueError(message)
        yield glob


def _expanded(pattern: str) -> Iterator[str]:
    group = _first_group(pattern)
    if group is None:
        yield pattern
        return
    begin, end, options = group
    for option in options:
        if option != option.strip():
            message = f"{pattern!r} has blanks inside of its braces; write them without, such as '*.{{jpg,png}}'"
            raise ValueError(message)
        for inner in _expanded(option):
            for rest in _expanded(pattern[end:]):
                yield pattern[:begin] + inner + rest


def _first_group(pattern: str) -> tuple[int, int, list[str]] | None:
    """Where the first braces with alternatives begin and end, and these alternatives."""
    for begin, end, commas in _groups(pattern):
        inside = pattern[begin + 1 : end - 1]
        if commas:
            ends = [begin, *commas, end - 1]
            return begin, end, [pattern[one + 1 : other] for one, other in pairwise(ends)]
        if (numbers := _RANGE.fullmatch(inside)) is not None:
            return begin, end, list(_range(*numbers.groups()))
    return None


def _groups(pattern: str) -> list[tuple[int, int, list[int]]]:
    """Closed braces: the positions where they begin and end, and of their own commas; ordered by the first."""
    found: list[tuple[int, int, list[int]]] = []
    opened: list[tuple[int, list[int]]] = []
    for token in _TOKEN.finditer(pattern):
        position, character = token.start(), token[0]
        if character == "{":
            opened.append((position, []))
        elif character == "," and opened:
            opened[-1][1].append(position)
        elif character == "}" and opened:
            begin, commas = opened.pop()
            found.append((begin, position + 1, commas))
    return sorted(found)


def _range(first: str, last: str, step: str | None) -> Iterator[str]:
    """``08..10`` is 08, 09, 10."""
    begin, end = int(first), int(last)
    is_padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    direction = 1 if begin <= end else -1
    for number in range(begin, end + direction, direction * int(step or 1)):
        yield f"{number:0{width}d}"
