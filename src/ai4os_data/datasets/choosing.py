"""Which files of a location are the samples: those that match a pattern, or all that are named by their keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data import errors
from ai4os_data.datasets.index import enumerated
from ai4os_data.datasets.labels import as_text
from ai4os_data.datasets.mistakes import hint, misses
from ai4os_data.datasets.patterns import Pattern
from ai4os_data.datasets.splits import as_key
from ai4os_data.datasets.targets import Folders, Target, Targets
from ai4os_data.stores import Twins, in_its_form, shown
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data.datasets.classes import GivenClasses
    from ai4os_data.datasets.index import Index
    from ai4os_data.stores import Entry, Unreadable


class Catalog(NamedTuple):
    """A listed location, in which samples are chosen.

    Attributes:
        listed: its listing.
        read: gives the content of a file, without ``prepare``.
        wanted: what the user says of the classes.
    """

    listed: Index
    read: Callable[[Entry], bytes]
    wanted: GivenClasses

    def is_key(self, key: str) -> bool:
        """Whether there is a file of this key."""
        return key in self.listed.by_key

    def text_of(self, file: str | os.PathLike[str]) -> str:
        """The text of a file of the location, or of a local one.

        Raises:
            NotFoundError: there is none.
        """
        key = os.fspath(file)
        entry = None if isinstance(file, os.PathLike) else in_its_form(key, self.listed.by_key)
        if entry is not None:
            return as_text(self.read(entry), key)
        if os.path.isfile(file):
            return as_text(Path(file).read_bytes(), key)
        raise errors.NotFoundError(f"{key!r} is neither a file of {self.wanted.location} nor a local one")


class Choice(NamedTuple):
    """The samples of a dataset: their positions in the listing, and their labels, or how these are found."""

    positions: Sequence[int]
    target: Target | Targets


Choose = Callable[[Catalog], Choice]


# --- by a pattern


def matching(pattern: Pattern, index: Index, location: str) -> list[int]:
    """The positions in a listing of those files that match a pattern. What may surprise the user is logged.

    Raises:
        EmptyDatasetError: nothing matches.
        StorageError: something that may match cannot be read.
    """
    _check_pattern(index.unreadable, pattern, location)
    keys = index.keys
    are_wanted = list(map(pattern, keys))
    positions = [position for position, is_wanted in enumerate(are_wanted) if is_wanted]
    others = [key for key, is_wanted in zip(keys, are_wanted, strict=True) if not is_wanted]
    if not positions:
        raise errors.EmptyDatasetError(_nothing_matches(pattern, others, location))
    if others:
        _log_left_out(pattern, others, location)
    return positions


def _nothing_matches(pattern: Pattern, others: list[str], location: str) -> str:
    found = (
        f"there are {len(others):,} files, such as {enumerated(map(repr, others[:3]))}"
        if others
        else "there is no file at all"
    )
    junk = next((key for key in others if pattern.leaves_out(key)), None)
    advice = hint(pattern, others) or "patterns are globs below the location, such as '**/*.jpg'"
    if junk is not None:
        advice = f"{junk!r} is what systems leave behind, and is left out unless the pattern names it"
    return f"{location}: nothing matches {pattern.given!r}; {found}. To mend it: {advice}"


def _log_left_out(pattern: Pattern, others: list[str], location: str) -> None:
    """Log which files are left out, if that may surprise the user."""
    junk = [key for key in others if pattern.leaves_out(key)]
    if junk:
        tell_once(
            f"{location}: {len(junk):,} of the files are what systems leave behind, and are left out: "
            f"{enumerated(map(repr, junk))}; a pattern that names them takes them"
        )
    missed = misses(pattern, others)
    if missed is not None:
        tell_once(f"{location}: {missed}")


def class_folders(pattern: str | Sequence[str] | None, index: Index) -> Folders:
    """The folders at the top of a location that may hold samples of a pattern; the pattern is None for keys."""
    reaches = Pattern("**/*" if pattern is None else pattern).reaches
    return Folders([name for name in index.tops if reaches(name)], partial(_inside, index), pattern)


def _inside(index: Index, folder: str) -> str:
    keys = [key for key in index.keys if key.startswith(f"{folder}/")]
    return f"{len(keys):,} file{'s' * (len(keys) > 1)}, such as {keys[0]!r}" if keys else "empty"


# --- by keys


def found(keys: Sequence[str], index: Index, location: str) -> list[int]:
    """The positions in a listing of the files that keys name.

    Raises:
        NotFoundError: some are not there.
        EmptyDatasetError: there are no keys.
    """
    positions = index.entries.positions_of(keys)
    missing = [key for key, position in zip(keys, positions, strict=True) if position is None]
    if missing:
        _check_keys(index.unreadable, missing)
        positions = index.entries.positions_of(_in_their_forms(keys, missing, index, location))
    if not keys:
        raise errors.EmptyDatasetError(f"{location}: no keys were given")
    return [position for position in positions if position is not None]


def _in_their_forms(keys: Sequence[str], missing: Sequence[str], index: Index, location: str) -> list[str]:
    """The keys, each in the Unicode form that the location has it in.

    Raises:
        NotFoundError: one is not there in any form, or in two.
    """
    twins = Twins(index.keys)
    names_of = {key: twins.of(key) for key in dict.fromkeys(missing)}
    unclear = [
        shown(key) + (f" (but {' and '.join(map(ascii, names))}, which look alike)" if names else "")
        for key, names in names_of.items()
        if len(names) != 1
    ]
    if unclear:
        raise errors.NotFoundError(f"{location} has no {enumerated(unclear)}")
    return [names_of[key][0] if key in names_of else key for key in keys]


def given_keys(keys: Sequence[str], targets: Sequence[Any] | Mapping[str, Any] | None, catalog: Catalog) -> Choice:
    """The samples that a user names by their keys.

    Raises:
        NotFoundError: some are not there.
    """
    keys = [as_key(key, catalog.is_key) for key in keys]
    target: Target | Targets = targets if isinstance(targets, Mapping) else None
    if targets is not None and target is None:
        target = Targets.of_values(list(targets), keys, catalog.wanted)
    return Choice(found(keys, catalog.listed, catalog.wanted.location), target)


def as_paths(keys: Iterable[Any]) -> list[str]:
    """The keys that a user gives.

    Raises:
        TypeError: one is no text, or they have no order.
    """
    if isinstance(keys, (str, bytes, set, frozenset)):
        raise TypeError(f"keys is a list of keys, not {keys!r}; a set has no order, sorted(…) gives it one")
    paths = [os.fspath(key) if isinstance(key, os.PathLike) else key for key in keys]
    wrong = [path for path in paths if not isinstance(path, str)]
    if wrong:
        raise TypeError(f"a key is a path below the location, as text, not {wrong[0]!r}")
    return paths


def check_labels(targets: Any, count: int) -> None:
    """Check that labels have an order, and that there is one for each key.

    Raises:
        TypeError: they have none.
        ValueError: they are fewer, or more.
    """
    if isinstance(targets, (str, bytes, set, frozenset)) or not hasattr(targets, "__len__"):
        raise TypeError(f"targets is a list with a label for each key, or a mapping from key to label, not {targets!r}")
    if len(targets) != count:
        raise ValueError(f"{count} keys, but {len(targets)} targets")


# --- what a listing could not read: an error or the log names it


def _check_pattern(unreadable: Sequence[Unreadable], samples: Pattern, location: str) -> None:
    """Check that nothing unreadable is a sample of a pattern, or may hold one. The rest is named in the log.

    Raises:
        StorageError: something is; it is of the kind of the first one's error.
    """
    if not unreadable:
        return
    wanted = [
        one
        for one in unreadable
        if (one.is_folder is not True and samples(_plain(one.key)))
        or (one.is_folder is not False and samples.reaches(_plain(one.key)))
    ]
    if wanted:
        raise type(wanted[0].error)(
            f"{samples.given!r} may match what cannot be read: {enumerated(str(one.error) for one in wanted)}. "
            "A dataset without it would look complete, so mend this on the storage, or give a pattern that does not "
            "reach it (several in a list, such as ['cat/**/*.jpg', 'dog/**/*.jpg'])"
        )
    tell_once(f"{location}: left out, since it cannot be read: {enumerated(str(one.error) for one in unreadable)}")


def _check_keys(unreadable: Iterable[Unreadable], keys: Iterable[str]) -> None:
    """Check that none of some keys is unreadable, or lies in an unreadable folder.

    Raises:
        StorageError: one is, or does.
    """
    by_key = {one.key: one for one in unreadable}
    for key in keys if by_key else ():
        parts = key.split("/")
        for depth in range(1, len(parts) + 1):
            one = by_key.get("/".join(parts[:depth]))
            if one is not None:
                raise type(one.error)(f"{key!r} cannot be read: {one.error}")


def _plain(key: str) -> str:
    """A key without its empty parts: S3 has keys such as ``a//b.jpg``, for which people write ``a/b.jpg``."""
    return "/".join(part for part in key.split("/") if part)
