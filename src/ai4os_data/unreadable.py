"""What a listing could not tell, held against what a dataset wants: it is named, and never left out in silence."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ai4os_data.braces import alternatives
from ai4os_data.index import enumerated
from ai4os_data.patterns import matcher
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ai4os_data.stores.base import Unreadable

# What file systems and servers keep for themselves: no data of a user is in it.
_OF_THE_SYSTEM = (
    "lost+found",
    ".Trash",
    ".Trash-*",
    ".Trashes",
    ".snapshot",
    ".snapshots",
    ".zfs",
    ".Spotlight-V100",
    ".fseventsd",
    ".TemporaryItems",
    ".DocumentRevisions-V100",
    "System Volume Information",
    "$RECYCLE.BIN",
    "#recycle",
    "@eaDir",
)


def check_pattern(unreadable: Sequence[Unreadable], pattern: str | Sequence[str], location: str) -> None:
    """See that nothing that cannot be read matches a pattern, or may hold what does. The rest is named in the log.

    Raises:
        StorageError: something does; it is of the kind of the first one's error.
    """
    if not unreadable:
        return
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    matches = matcher(patterns)
    wanted = [
        one
        for one in unreadable
        if not _is_of_the_system(one.key)
        and (
            (one.is_folder is not True and matches(_plain(one.key)))
            or (one.is_folder is not False and any(reaches(each, _plain(one.key)) for each in patterns))
        )
    ]
    if wanted:
        raise type(wanted[0].error)(
            f"{pattern!r} may match what cannot be read: {enumerated(str(one.error) for one in wanted)}. A dataset "
            "without it would look complete, so mend this on the storage, or give a pattern that does not reach it "
            "(several in a list, such as ['cat/**/*.jpg', 'dog/**/*.jpg'])"
        )
    tell_once(f"{location}: left out, since it cannot be read: {enumerated(str(one.error) for one in unreadable)}")


def check_keys(unreadable: Iterable[Unreadable], keys: Iterable[str]) -> None:
    """See that none of some keys that are not listed is, or lies in, what cannot be read.

    Raises:
        StorageError: one does.
    """
    by_key = {one.key: one for one in unreadable}
    for key in keys if by_key else ():
        parts = key.split("/")
        for depth in range(1, len(parts) + 1):
            one = by_key.get("/".join(parts[:depth]))
            if one is not None:
                raise type(one.error)(f"{key!r} cannot be read: {one.error}")


def reaches(pattern: str, folder: str) -> bool:
    """Whether something in a folder, or further below, could match a pattern."""
    return any(_reach(glob.split("/"), folder.split("/")) for glob in alternatives(pattern))


def _reach(pattern: Sequence[str], folder: Sequence[str]) -> bool:
    if not folder:
        return bool(pattern)
    if not pattern:
        return False
    if pattern[0] == "**":
        return True
    return matcher(pattern[0])(folder[0]) and _reach(pattern[1:], folder[1:])


def _plain(key: str) -> str:
    """A key without its empty parts: S3 has keys such as ``a//b.jpg``, which somebody means by ``a/b.jpg``."""
    return "/".join(part for part in key.split("/") if part)


def _is_of_the_system(key: str) -> bool:
    return any(fnmatchcase(part, name) for part in key.split("/") for name in _OF_THE_SYSTEM)
