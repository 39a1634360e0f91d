"""Glob patterns over keys, as pathlib has them: ``**`` is any number of folders, none included."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ai4os_data.stores.forms import forms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def matcher(pattern: str | Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a key matches a pattern, or one of several. Upper and lower case differ.

    Raises:
        ValueError: a pattern cannot be understood.
    """
    given = [pattern] if isinstance(pattern, str) else list(pattern)
    patterns = [form for single in given for form in forms(single)]  # a Mac types another form than Nextcloud stores
    if any(single in {"**/*", "**"} for single in patterns):
        return lambda _key: True
    try:
        expression = re.compile("|".join(f"(?:{_translated(single)})" for single in patterns), re.DOTALL)
    except re.error as error:
        message = f"{pattern!r} is not a pattern: a range in square brackets goes from low to high, such as [0-9]"
        raise ValueError(message) from error
    return lambda key: expression.fullmatch(key) is not None


def _translated(pattern: str) -> str:
    out = []
    place = 0
    while place < len(pattern):
        begins_folder = place == 0 or pattern[place - 1] == "/"
        if begins_folder and pattern.startswith("**/", place):
            out.append("(?:[^/]+/)*")
            place += 3
        elif begins_folder and pattern[place:] == "**":
            out.append(".*")
            place += 2
        elif pattern[place] == "*":
            out.append("[^/]*")
            place += 1
        elif pattern[place] == "?":
            out.append("[^/]")
            place += 1
        elif pattern[place] == "[" and (end := _class_end(pattern, place)) > 0:
            out.append(_translated_class(pattern[place + 1 : end]))
            place = end + 1
        else:
            out.append(re.escape(pattern[place]))
            place += 1
    return "".join(out)


def _class_end(pattern: str, begin: int) -> int:
    """Where the class that begins there ends; -1 where it does not."""
    # A bracket at its very start is one of its characters.
    return pattern.find("]", begin + 2 + pattern.startswith("!", begin + 1))


def _translated_class(inside: str) -> str:
    negated = inside.startswith("!")
    # What means something in a class of re alone: backslash, [ and ^, and the set operations && || ~~ --.
    escaped = re.sub(r"([\\\[^&|~])", r"\\\1", inside[negated:]).replace("--", r"-\-")
    return f"(?!/)[{'^' if negated else ''}{escaped}]"  # no class takes in the end of a folder's name
