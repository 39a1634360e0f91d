"""Names and room: before the first byte comes, it is known that a directory can hold the copy."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import digest, spool_room
from ai4os_data.datasets import enumerated
from ai4os_data.machine import shown_size
from ai4os_data.stores import composed, is_safe, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # of Linux, in bytes; a path ends with a NUL


def check_names(keys: Sequence[str], directory: str) -> None:
    """See that a directory can hold files of these names, each as one of its own.

    Args:
        keys: in order.
        directory: where they are to be; it need not be there yet.

    Raises:
        NameRefusedError: it cannot; all such names are counted, and the first are listed.
    """
    wrong = [*_unusable(keys, directory), *_clashing(keys, directory)]
    if wrong:
        raise errors.NameRefusedError(
            f"{directory}: {len(wrong):,} of {len(keys):,} names cannot be there: {enumerated(wrong)}. Nothing was "
            "fetched; rename them on the storage, or leave them out by pattern="
        )


def _unusable(keys: Iterable[str], directory: str) -> Iterator[str]:
    """What leaves the directory, or is too long for it."""
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


def _clashing(keys: Sequence[str], directory: str) -> Iterator[str]:
    """Files that would be one, and files that are folders too."""
    folders = {folder for key in keys for folder in _above(key)}
    yield from (f"{key!r} is a file, and a folder too" for key in keys if key in folders)
    for what, fold in (("but for upper and lower case", str.casefold), ("but for their Unicode form", composed)):
        clashes = [f"{one!r} and {other!r} are one there, {what}" for one, other in alike(keys, fold)]
        if clashes and is_one(directory, fold):
            yield from clashes


def alike(keys: Iterable[str], fold: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Names that are one if they are folded."""
    ordered = sorted((fold(key), key) for key in keys)
    yield from ((one[1], other[1]) for one, other in pairwise(ordered) if one[0] == other[0])


def is_one(directory: str, fold: Callable[[str], str]) -> bool:
    """Whether a directory takes two names for one if they fold to the same, as those of macOS and Windows do."""
    # An E with an accent, in two characters. What a kill leaves is found by the next call, which asks for the same.
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


def _above(key: str) -> Iterator[str]:
    """The folders above a file."""
    end = key.rfind("/")
    while end > 0:
        yield key[:end]
        end = key.rfind("/", 0, end)


def check_room(
    directory: str, *, need_bytes: int, files: int, total_bytes: int, limit_bytes: int | None, estimated: bool
) -> None:
    """See that a disk has room for a copy.

    Args:
        directory: where it goes.
        need_bytes: what it takes more than now.
        files: how many files that is.
        total_bytes: what all of the copy takes.
        limit_bytes: what it may take; None for what the disk has.
        estimated: whether these are estimates.

    Raises:
        OutOfSpaceError: it has not.
    """
    about = "about " if estimated else ""
    if limit_bytes is not None and total_bytes > limit_bytes:
        raise errors.OutOfSpaceError(
            f"{directory}: the copy takes {about}{_size(total_bytes)}, and size_limit is {_size(limit_bytes)}. Nothing "
            f"was fetched. {_REMEDY}"
        )
    free, reserve = spool_room(nearest(directory))
    if need_bytes > 0 and need_bytes + reserve > free:
        raise errors.OutOfSpaceError(
            f"{directory}: the copy needs {about}{_size(need_bytes)} more, for {files:,} files. {_size(free)} are free "
            f"on its disk, of which {_size(reserve)} stay in reserve. Nothing was fetched. {_REMEDY}"
        )


_REMEDY = (
    "To make it fit: choose files by pattern=, shrink photographs by prepare=shrink(…), free some disk, or read "
    "through a bounded cache with StorageDataset, which needs no room for all of it"
)


def _size(size_bytes: int) -> str:
    return f"{shown_size(size_bytes)} ({size_bytes:,} bytes)"
