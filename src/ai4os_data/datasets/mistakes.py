"""Patterns that match fewer files than the user meant: what is wrong with them, and what to write instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ai4os_data.datasets.braces import alternatives
from ai4os_data.datasets.junk import is_junk
from ai4os_data.datasets.patterns import Pattern, expression_of, globs_in, matcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_EXTENSION = re.compile(r"\.?[A-Za-z0-9]{2,5}")


def hint(pattern: Pattern, keys: Sequence[str]) -> str | None:
    """What to write instead, if no key matches."""
    for glob in globs_in(pattern.given):
        for words, better in _rewritten(glob):
            if count := _count(better, keys):
                return f"{words}: {better!r} matches {count:,} of them"
        if (flaw := _flaw(glob)) is not None:
            return flaw
    return None


def misses(pattern: Pattern, others: Sequence[str]) -> str | None:
    """The words about files that a pattern leaves out although the user may mean them; None if there are none.

    Args:
        pattern: what was given.
        others: the keys that do not match.
    """
    for glob in globs_in(pattern.given):
        if _is_flawed(glob) and (count := _count(_with_slash(glob), others)):
            return f"{glob!r} stays within one folder; {_with_slash(glob)!r} takes {count:,} files more"
    plain = [glob for glob in pattern.globs if "[" not in glob]  # a range of letters in brackets may be meant so
    in_any_case = re.compile(expression_of(plain), re.DOTALL | re.IGNORECASE)
    found = [key for key in others if in_any_case.fullmatch(key) and not is_junk(key)] if plain else []
    if not found:
        return None
    return (
        f"{len(found):,} of the other files, such as {found[0]!r}, differ from {pattern.given!r} in upper and lower "
        "case only, and are left out; braces take both, as in '*.{jpg,JPG}'"
    )


def _count(pattern: str | Sequence[str], keys: Sequence[str]) -> int:
    try:
        return sum(map(matcher(pattern), keys))
    except ValueError:  # the rewritten pattern is not valid
        return 0


def _flaw(glob: str) -> str | None:
    """What is wrong with a pattern in itself."""
    if _is_flawed(glob):
        return f"'**' stands alone between slashes: {_with_slash(glob)!r} instead of {glob!r}"
    if "," in glob and alternatives(glob) == [glob]:
        return f"{glob!r} is one pattern; give several in a list, such as {glob.replace(' ', '').split(',')!r}"
    return None


def _is_flawed(glob: str) -> bool:
    """Whether ``**`` stands beside something else, as in ``**.jpg``."""
    return any("**" in part and part.strip("*") for part in glob.split("/"))


def _with_slash(glob: str) -> str:
    """``**.jpg`` as it is meant: ``**/*.jpg``."""
    parts = (re.sub(r"^\*\*+(?=[^*])", "**/*", part) for part in glob.split("/"))
    return "/".join(re.sub(r"(?<=[^*/])\*\*+", "*/**/*", part) for part in parts)


def _rewritten(glob: str) -> Iterator[tuple[str, str | list[str]]]:
    """Patterns that a user may have meant, each with what is wrong with the given one; the likeliest first."""
    if _is_flawed(glob):
        yield f"'**' stands alone between slashes, in {glob!r} it does not", _with_slash(glob)
    bare = glob.strip().replace("\\", "/").lstrip("/")
    while bare.startswith("./"):
        bare = bare[2:].lstrip("/")
    if bare != glob:
        yield "patterns begin below the location, and have / between folders", bare
    yield from _separated(bare)
    if bare.startswith(".") or _EXTENSION.fullmatch(bare):
        yield "a pattern is for the whole name", f"**/*.{bare.removeprefix('.')}"
    yield "the files lie deeper", _deeper(bare)
    yield "a pattern is for files, not for folders", f"{bare.rstrip('/')}/**/*"
    if "/" in bare and not bare.startswith("**/"):
        yield "patterns begin below the location", bare.partition("/")[2]
    regular = bare.replace("/.", ".").replace(".*", "*").strip("^$")
    yield "patterns are globs, not regular expressions", _deeper(regular)
    for other in (bare.lower(), bare.upper(), bare.swapcase()):
        yield "upper and lower case differ", other
        yield "upper and lower case differ", _deeper(other)


def _separated(glob: str) -> Iterator[tuple[str, str | list[str]]]:
    """Several patterns that are written as one."""
    if alternatives(glob) != [glob]:
        return
    for separator in (",", ";", "|", " "):
        parts = [part.strip() for part in glob.split(separator) if part.strip()]
        if len(parts) > 1:
            yield "several patterns are a list", [_deeper(part) for part in parts]
    braces = re.sub(r"[({]([^(){}|]+(?:\|[^(){}|]+)+)[)}]", _as_braces, glob)
    if braces != glob:
        yield "alternatives stand in braces, with commas between them", _deeper(braces)


def _deeper(glob: str) -> str:
    return glob if glob.startswith("**/") else f"**/{glob}"


def _as_braces(found: re.Match[str]) -> str:
    return f"{{{','.join(part.strip() for part in found[1].split('|'))}}}"
