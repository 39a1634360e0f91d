"""Keys that are not there: what they may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def meant(key: str, keys: Sequence[str], label: str | None = None) -> str | None:
    """What to write in the place of a key that is not there; None where nothing is like it.

    Args:
        key: the key.
        keys: those that there are.
        label: what was written as its label.
    """
    known = set(keys)
    first = key.split(None, 1)[:1]
    if label is not None and label in known:
        return f"{label!r} stands where the label belongs: the path comes first"
    if first != [key] and not known.isdisjoint(first):
        return f"{first[0]!r} is there: a line has one label, and a label with blanks stands in quotes or after a tab"
    if (shorter := _without_folders(key, known)) is not None:
        return f"{shorter!r} is there: the folders before it are too many"
    return next((words for other in keys if (words := _difference(key, other)) is not None), None)


def _without_folders(key: str, known: set[str]) -> str | None:
    """A key that is the end of a path."""
    parts = key.split("/")
    return next((end for begin in range(1, len(parts)) if (end := "/".join(parts[begin:])) in known), None)


def _difference(key: str, other: str) -> str | None:
    """What tells a key that is not there from one that is; None where much does."""
    if other.casefold() == key.casefold():
        return f"{other!r} is there: upper and lower case differ"
    if other == key.strip("\"'"):
        return f"{other!r} is there: quotes are closed before the label"
    before, found, after = f"/{other}".rpartition(f"/{key}")
    if found and (not after or (after.startswith(".") and "/" not in after)):
        lacks = ["its folder"] * bool(before) + ["its suffix"] * bool(after)
        adds = [f"prefix={before[1:] + '/'!r} before it"] * bool(before) + [f"suffix={after!r} after it"] * bool(after)
        return f"{other!r} is there: the path lacks {' and '.join(lacks)}; from_csv puts {' and '.join(adds)}"
    if key in {other.replace("/", ""), other.replace(".", "")}:
        return f"{other!r} is there: a prefix ends with '/', and a suffix begins with '.'"
    return None
