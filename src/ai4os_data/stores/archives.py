"""Archives of many files in one answer: which files go together, and what of an answer may be believed.

Nextcloud (since 31) answers ``GET FOLDER?accept=zip&files=["a","sub/b"]`` with a zip of these files, stored and with
CRC-32. Its cost is by the request, so one archive is 6 to 10 times faster than a GET for each file. But a 200 can be
truncated, or lack a member: every one is checked by name, listed size and CRC.
"""

from __future__ import annotations

import io
import json
import posixpath
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai4os_data.stores.base import Entry

MOST_BYTES = 16 * 1024 * 1024  # an archive is held in memory
MOST_MEMBERS = 128
LONGEST_QUERY = 6000  # the request line may have some 8 KB (414)
LARGE_BYTES = 2 * 1024 * 1024  # from here on, the cost of a request no longer counts

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


class Group(NamedTuple):
    """Files to be asked for together: the folder above them, and the entries."""

    folder: str
    entries: list[Entry]

    @property
    def names(self) -> list[str]:
        """The entries' names below the folder."""
        skipped = len(self.folder) + 1 if self.folder else 0
        return [entry.key[skipped:] for entry in self.entries]

    @property
    def query(self) -> str:
        """The query that asks for them."""
        return f"accept=zip&files={_encoded(self.names)}"


def groups(entries: Iterable[Entry], longest_query: int = LONGEST_QUERY) -> Iterator[Group]:
    """Put entries together, neighbours first, so that the names below the common folder are short."""
    group: list[Entry] = []
    folder = ""
    held = length = 0
    for entry in sorted(entries):
        if not _can_be_asked_for(entry.key):
            yield Group(posixpath.dirname(entry.key), [entry])
            continue
        above = posixpath.dirname(entry.key)
        common = _common(folder, above) if group else above
        # A higher common folder makes every name longer by what it no longer says.
        grown = length + len(group) * _longer(folder, common) + _length(entry, common)
        if group and (held + entry.size_bytes > MOST_BYTES or len(group) >= MOST_MEMBERS or grown > longest_query):
            yield Group(folder, group)
            group, common, held = [], above, 0
            grown = _length(entry, above)
        group.append(entry)
        folder, length = common, grown
        held += entry.size_bytes
    if group:
        yield Group(folder, group)


def members(archive: bytes, group: Group) -> Iterator[tuple[Entry, bytes]]:
    """The files of a group that are in an archive, whole and of the listed size; what is not, does not come."""
    wanted = dict(zip(group.names, group.entries, strict=True))
    try:
        opened = zipfile.ZipFile(io.BytesIO(archive))
    except _DAMAGE:
        return
    with opened:
        for info in opened.infolist():
            entry = wanted.pop(info.filename.lstrip("/"), None)
            if entry is None or info.file_size != entry.size_bytes:
                continue
            try:
                yield entry, opened.read(info)  # checks the CRC
            except _DAMAGE:
                continue


def _encoded(names: list[str]) -> str:
    return quote(json.dumps(names, ensure_ascii=False, separators=(",", ":")), safe="")


def _can_be_asked_for(key: str) -> bool:
    """Whether JSON can hold a name: one that is no UTF-8 it cannot."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _length(entry: Entry, folder: str) -> int:
    name = entry.key[len(folder) + 1 :] if folder else entry.key
    return len(quote(json.dumps(name, ensure_ascii=False), safe="")) + 3  # and a comma


def _longer(folder: str, common: str) -> int:
    return 0 if folder == common else len(quote(folder[len(common) :], safe="")) + 3


def _common(one: str, other: str) -> str:
    if one == other:
        return one
    parts, others = one.split("/"), other.split("/")
    shared = [a for a, b in zip(parts, others, strict=False) if a == b]
    while shared and parts[: len(shared)] != others[: len(shared)]:
        shared.pop()
    return "/".join(shared)
