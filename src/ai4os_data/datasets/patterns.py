"""Glob patterns for keys, as pathlib has them, and with braces: ``**`` is any number of folders, even none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from ai4os_data.datasets.braces import CHARACTERS, alternatives
from ai4os_data.datasets.junk import is_junk, names_junk
from ai4os_data.stores import forms

_TOKEN = re.compile(
    rf"(?P<folders>(?<![^/])\*\*/)|(?P<all>(?<![^/])\*\*\Z)|(?P<some>\*)|(?P<one>\?)|(?P<characters>{CHARACTERS})|.",
    re.DOTALL,
)
_WILDCARDS = {"folders": "(?:[^/]+/)*", "all": ".*", "some": "[^/]*", "one": "[^/]"}
EVERYTHING = ("**/*", "**")

Matcher = Callable[[str], bool]


class Pattern:
    """Which files of a location are samples: those that match a glob, or one of several, and are no junk.

    Junk is left out unless the pattern names it, as in ``.ipynb_checkpoints/*.jpg``.

    Args:
        pattern: the glob, or the globs.
        takes_junk: whether a glob for everything there is takes junk too.

    Attributes:
        given: the glob, or the globs.
        globs: the same without braces.
        is_everything: whether it takes whatever there is.

    Raises:
        TypeError: it is neither.
        ValueError: a glob cannot be understood.
    """

    def __init__(self, pattern: str | Sequence[str], *, takes_junk: bool = False) -> None:
        self.given = pattern
        self.globs = [glob for single in globs_in(pattern) for glob in alternatives(single)]
        self._ordinary = matcher([glob for glob in self.globs if not names_junk(glob)])
        self.is_everything = any(glob in EVERYTHING for glob in self.globs)
        self._takes_junk = takes_junk
        self._explicit = matcher([glob for glob in self.globs if names_junk(glob) or self._takes(glob)])

    def __call__(self, key: str) -> bool:
        """Whether the file of this key is a sample."""
        return self._explicit(key) or (self._ordinary(key) and not is_junk(key))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what was given."""
        return partial(Pattern, takes_junk=self._takes_junk), (self.given,)

    def _takes(self, glob: str) -> bool:
        """Whether a glob takes junk too."""
        return self._takes_junk and glob in EVERYTHING

    def leaves_out(self, key: str) -> bool:
        """Whether the file, which is no sample, would be one if it were no junk."""
        return self._ordinary(key) and is_junk(key) and not self._explicit(key)

    def reaches(self, folder: str) -> bool:
        """Whether the name of a file in this folder, or further below, may match."""
        names = folder.split("/")
        is_junk_folder = names_junk(folder)
        return any(
            _is_on_the_way(parts, names)
            for glob, parts in self._parts
            if not is_junk_folder or names_junk(glob) or self._takes(glob)
        )

    @cached_property
    def _parts(self) -> list[tuple[str, list[Matcher | None]]]:
        """For each glob the matchers of its parts; None for ``**``."""
        return [(glob, [None if part == "**" else matcher(part) for part in glob.split("/")]) for glob in self.globs]


def matcher(pattern: str | Sequence[str]) -> Matcher:
    """A function that says whether a key matches a pattern, or one of several. Upper and lower case differ.

    Raises:
        ValueError: a pattern cannot be understood.
    """
    # A Mac types another Unicode form than Nextcloud stores.
    globs = [form for single in globs_in(pattern) for glob in alternatives(single) for form in forms(glob)]
    if any(glob in EVERYTHING for glob in globs):
        return lambda _key: True
    if not globs:
        return lambda _key: False
    try:
        expression = re.compile(expression_of(globs), re.DOTALL)
    except re.error as error:
        message = f"{pattern!r} is not a pattern: a range in square brackets goes from low to high, such as [0-9]"
        raise ValueError(message) from error
    return lambda key: expression.fullmatch(key) is not None


def globs_in(pattern: Any) -> list[str]:
    """The globs that a ``pattern=`` argument means.

    Raises:
        TypeError: it is none.
    """
    globs = [pattern] if isinstance(pattern, str) else pattern
    if not isinstance(globs, Sequence) or not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"pattern is a glob such as '**/*.jpg', or several in a list, not {pattern!r}")
    return list(globs)


def expression_of(globs: Sequence[str]) -> str:
    """The regular expression for a key that matches one of several globs."""
    return "|".join(f"(?:{_translated(glob)})" for glob in globs)


def _translated(pattern: str) -> str:
    return _TOKEN.sub(_translated_token, pattern)


def _translated_token(token: re.Match[str]) -> str:
    if token.lastgroup == "characters":
        return _translated_class(token[0][1:-1])
    return _WILDCARDS[token.lastgroup] if token.lastgroup is not None else re.escape(token[0])


def _translated_class(inside: str) -> str:
    negated = inside.startswith("!")
    # Escape what has a meaning only in a character class of re: backslash, [ and ^, and && || ~~ --.
    escaped = re.sub(r"([\\\[^&|~])", r"\\\1", inside[negated:]).replace("--", r"-\-")
    return f"(?!/)[{'^' if negated else ''}{escaped}]"  # no class matches a slash


def _is_on_the_way(parts: Sequence[Matcher | None], names: Sequence[str]) -> bool:
    """Whether the folder of these names lies above a path that the parts of a glob may match."""
    for number, name in enumerate(names):
        if number == len(parts):
            return False
        part = parts[number]
        if part is None:
            return True
        if not part(name):
            return False
    return len(parts) > len(names)
