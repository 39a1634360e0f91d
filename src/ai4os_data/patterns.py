"""Glob patterns over keys, as pathlib has them: ``**`` is any number of folders, none included."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def matcher(pattern: str | Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a key matches a pattern, or one of several. Upper and lower case differ."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if any(single in {"**/*", "**"} for single in patterns):
        return lambda _key: True
    expression = re.compile("|".join(f"(?:{_translated(single)})" for single in patterns), re.DOTALL)
    return lambda key: expression.fullmatch(key) is not None


def _translated(pattern: str) -> str:
    out = []
    place = 0
    while place < len(pattern):
        if pattern.startswith("**/", place):
            out.append("(?:[^/]+/)*")
            place += 3
        elif pattern.startswith("**", place):
            out.append(".*")
            place += 2
        elif pattern[place] == "*":
            out.append("[^/]*")
            place += 1
        elif pattern[place] == "?":
            out.append("[^/]")
            place += 1
        elif pattern[place] == "[" and (end := pattern.find("]", place + 2)) > 0:
            inside = pattern[place + 1 : end].replace("\\", r"\\")
            out.append(f"[{'^' + inside[1:] if inside.startswith('!') else inside}]")
            place = end + 1
        else:
            out.append(re.escape(pattern[place]))
            place += 1
    return "".join(out)
