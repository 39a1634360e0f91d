"""Names in URLs and in Unicode: no byte of a name is lost, and a name in its other Unicode form is found."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


def quoted(path: str) -> str:
    """A path percent-encoded; what is no UTF-8 in it stays byte for byte."""
    return quote(path, errors="surrogateescape")


def unquoted(path: str) -> str:
    """A path decoded, so that `quoted` gives the same bytes again, whatever they are."""
    return unquote(path, errors="surrogateescape")


def composed(name: str) -> str:
    """A name in the form that Nextcloud stores (NFC); Macs write the other one (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def forms(name: str) -> list[str]:
    """A name in all forms that read alike (as it is, NFC, NFD), each once."""
    if name.isascii():
        return [name]
    return list(dict.fromkeys([name, composed(name), unicodedata.normalize("NFD", name)]))


def shown(name: str) -> str:
    """A name for a message, in which its two forms look different: with escapes if it is not ASCII."""
    return repr(name) if name.isascii() else f"{name!r} ({name!a})"


class Twins:
    """The names that are the same in Unicode as others that somebody types.

    Args:
        names: those that are there.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, list[str]] = {}
        for name in names:
            if not name.isascii():
                self._names.setdefault(composed(name), []).append(name)

    def of(self, name: str) -> list[str]:
        """What is there under another form of a name."""
        return [] if name.isascii() else self._names.get(composed(name), [])


def are_alike(one: str, other: str) -> bool:
    """Whether two names may mean the same on a server: they differ at most in Unicode form and in capitals."""
    return one == other or _folded(one) == _folded(other)


def same_prefix(path: str, base: str) -> int | None:
    """The length of the part of a path that names the folder ``base``; None if it names another one.

    A server may answer in its own spelling: the other Unicode form, a user name in other capitals, and no doubled
    slashes.

    Args:
        path: begins with a slash, and has none at its end.
        base: the same; ``""`` is the root.
    """
    if path == base or path.startswith(f"{base}/"):
        return len(base)
    wanted = [_folded(part) for part in base.split("/") if part]
    position = 0
    for part in wanted:
        while path.startswith("/", position):
            position += 1
        end = path.find("/", position)
        end = len(path) if end < 0 else end
        if _folded(path[position:end]) != part:
            return None
        position = end
    return position


def _folded(part: str) -> str:
    return composed(part).casefold()


def in_its_form(key: str, known: Mapping[str, T]) -> T | None:
    """What is known under a key, or under the other form of it, if under one alone."""
    if key in known:
        return known[key]
    found = [known[form] for form in forms(key)[1:] if form in known]
    return found[0] if len(found) == 1 else None


def keyed_alike(mapping: Mapping[str, T], keys: Iterable[str]) -> Mapping[str, T]:
    """A mapping that holds these keys as they are spelled, if it holds them in the other form."""
    other = [key for key in keys if key not in mapping and not key.isascii()]
    if not other:
        return mapping
    twins = Twins(mapping)
    alike = {key: mapping[names[0]] for key in other if len(names := twins.of(key)) == 1}
    return {**mapping, **alike}
