"""Names and room: before the first byte comes, it is known that a directory can hold the copy."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import digest
from ai4os_data.datasets import enumerated
from ai4os_data.folders.job import with_those_above
from ai4os_data.stores import composed, is_safe, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # of Linux, in bytes; a path ends with a NUL


def check_names(
    keys: Sequence[str], hollow: Sequence[str], directory: str, staging_name: str, *, thoroughly: bool
) -> None:
    """See that a directory can hold each of these names, each as one of its own.

    Args:
        keys: of files.
        hollow: of folders in which there is nothing.
        directory: where they are to be; it need not be there yet.
        staging_name: what nothing else may be called there.
        thoroughly: whether to look also for names that would be one there, which takes a try on its disk.

    Raises:
        NameRefusedError: it cannot; all such names are counted, and the first are listed.
    """
    wrong = list(_unusable(chain(keys, hollow), directory, staging_name))
    if wrong or thoroughly:
        wrong += _clashing([*keys, *hollow], directory)
    if wrong:
        raise errors.NameRefusedError(
            f"{directory}: {len(wrong):,} of {len(keys) + len(hollow):,} names cannot be there: {enumerated(wrong)}. "
            "Nothing was fetched; rename them on the storage, or leave them out by pattern="
        )


def _unusable(keys: Iterable[str], directory: str, staging_name: str) -> Iterator[str]:
    """What leaves the directory, or is too long for it, or no name at all."""
    longest = _LONGEST_NAME
    with suppress(OSError, ValueError):
        longest = os.pathconf(nearest(directory), "PC_NAME_MAX")
    rest = _LONGEST_PATH - len(os.fsencode(directory)) - 2
    for key in keys:
        if not is_safe(key):
            yield f"{key!r} leaves the directory"
        elif len(key) * 4 > min(longest, rest):  # else it is short, whatever its characters
            if any(len(os.fsencode(name)) > longest for name in key.split("/")):
                yield f"{key!r} has a name of more than {longest} bytes"
            elif len(os.fsencode(key)) > rest:
                yield f"{key!r} is a path of more than {_LONGEST_PATH} bytes there"
        if key.startswith(staging_name) and key.partition("/")[0] == staging_name:
            yield f"{key!r} has the name of the folder for what is on its way"


def _clashing(keys: Sequence[str], directory: str) -> Iterator[str]:
    """Files that would be one, and files that are folders too."""
    folders = with_those_above(keys)
    yield from (f"{key!r} is a file, and a folder too" for key in keys if key in folders)
    for what, fold in (("but for upper and lower case", str.casefold), ("but for their Unicode form", composed)):
        clashes = [f"{one!r} and {other!r} are one there, {what}" for one, other in alike([*keys, *folders], fold)]
        if clashes and is_one(directory, fold):
            yield from clashes


def alike(keys: Iterable[str], fold: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Names that are one if they are folded."""
    ordered = sorted((fold(key), key) for key in keys)
    yield from ((one[1], other[1]) for one, other in pairwise(ordered) if one[0] == other[0])


def is_one(directory: str, fold: Callable[[str], str]) -> bool:
    """Whether a directory takes two names for one if they fold to the same, as those of macOS and Windows do."""
    # An E with an accent, in two characters. What a kill leaves is removed by the next call, which asks the same.
    name = f".ai4os-data-{digest(directory)[:12]}-E\u0301"
    folder = nearest(directory)
    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError:  # what is wrong with it is met when the first file is written
        return False
    try:
        return os.path.lexists(f"{folder}/{fold(name)}")
    finally:
        with suppress(FileNotFoundError):
            os.unlink(f"{folder}/{name}")
