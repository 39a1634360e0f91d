"""Archives of many files in one answer: which files go together, and what of an answer may be believed.

Nextcloud (since 31) answers ``GET FOLDER?accept=zip&files=["a","sub/b"]`` with a zip of these files, stored and with
CRC-32. Each request has a cost of its own, so one archive is 6 to 10 times faster than a GET for each file. But an
answer with status 200 can be truncated, or lack a member: every member is checked by name, listed size and CRC.

A member's name is no proof by itself. Up to version 34, Nextcloud makes it by removing the folder's path on
the server, ``/USER/files/FOLDER``, *everywhere* in the path of the file, so that one file can come under the name of
another. `Naming` knows the files to which that may happen; they are never read from an archive.
"""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from ai4os_data.http import MemoryBody
from ai4os_data.stores.unpacking import Member, Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai4os_data.stores.base import Entry

MOST_BYTES = 16 * 1024 * 1024  # an archive is held in memory
MOST_MEMBERS = 128
LONGEST_QUERY = 6000  # the request line may have some 8 KB (414)
LARGE_BYTES = 2 * 1024 * 1024  # from this size on, the cost of a request no longer counts

_WORTH_HALVING = 16  # files, from which two requests at once are faster than one
_WORTH_ASKING_AGAIN = 16
_FRUITLESS = 2  # archives in a row of which nothing came

_ABOUT_A_MEMBER_BYTES = 1024  # its headers take less than 300

_NO_NAME = re.compile(r"[\\\ud800-\udfff]")  # the server turns a backslash into a slash; the others are no UTF-8


class Group(NamedTuple):
    """Files to be asked for together: the folder above them, and the entries."""

    folder: str
    entries: list[Entry]
    fruitless: int = 0
    """How many archives in a row have brought nothing of these."""

    @property
    def names(self) -> list[str]:
        """The entries' names below the folder."""
        skipped = len(self.folder) + 1 if self.folder else 0
        return [entry.key[skipped:] for entry in self.entries]

    @property
    def longest_bytes(self) -> int:
        """The largest size of an archive of them, if they are as listed: each name stands in it twice."""
        names = sum(len(name.encode()) for name in self.names)
        return sum(entry.size_bytes for entry in self.entries) + 2 * names + len(self.entries) * _ABOUT_A_MEMBER_BYTES

    @property
    def query(self) -> str:
        """The query that asks for them."""
        return query(self.names)


def query(names: Iterable[str]) -> str:
    """The query that asks for an archive of these names."""
    return f"accept=zip&files={quote(json.dumps([*names], ensure_ascii=False, separators=(',', ':')), safe='')}"


def groups(entries: Iterable[Entry], most_members: int) -> Iterator[Group]:
    """Put entries together, neighbours first, so that the names below the common folder are short."""
    group: list[Entry] = []
    folder = ""
    held = length = 0
    for entry in sorted(entries):
        above = posixpath.dirname(entry.key)
        common = posixpath.commonpath((folder, above)) if group and folder != above else above
        # Below a higher common folder every name is longer, by the folders in between.
        grown = length + len(group) * _longer(folder, common) + _length(entry, common)
        if group and (held + entry.size_bytes > MOST_BYTES or len(group) >= most_members or grown > LONGEST_QUERY):
            yield Group(folder, group)
            group, common, held = [], above, 0
            grown = _length(entry, above)
        group.append(entry)
        folder, length = common, grown
        held += entry.size_bytes
    if group:
        yield Group(folder, group)


class Unpacked(NamedTuple):
    """The files of an archive that passed every check.

    Attributes:
        files: entries and their bytes, whole and of the listed size.
        rest: those that another archive may still bring, if this one was cut off: those after the one at which it was
            cut.
    """

    files: list[tuple[Entry, bytes]]
    rest: list[Entry]


def unpacked(chunks: Iterable[bytes], group: Group) -> Unpacked:
    """The files of a group that are in an archive, whole or cut off. A name that occurs twice in it is not used."""
    positions = {name.encode(): position for position, name in enumerate(group.names)}

    def choose(name: bytes) -> Member[MemoryBody] | None:
        position = positions.get(name)
        return None if position is None else Member(group.entries[position].size_bytes, MemoryBody())

    unpacker: Unpacker[MemoryBody] = Unpacker(choose)
    for chunk in chunks:
        unpacker.write(chunk)
    found: dict[bytes, tuple[Entry, bytes]] = {}
    seen, twice = set(), set()
    reached = -1  # the position in the group of the last one whose end was seen
    for name, body in unpacker.came:
        reached = max(reached, positions[name])
        if name in seen:
            twice.add(name)
        elif body is not None:
            found[name] = group.entries[positions[name]], body.getvalue()
        seen.add(name)
    if unpacker.is_complete:
        reached = len(group.entries)
    files = [came for name, came in found.items() if name not in twice]
    return Unpacked(files, group.entries[reached + 2 :])


class Naming:
    """Knows the files that the server can send only under the name by which they were asked for.

    Args:
        user: who the folders belong to on the server; None if it is not known.
        above: the path of the store's root in the user's files; None if it is not known.

    Attributes:
        user: the same.
    """

    def __init__(self, user: str | None, above: str | None) -> None:
        self.user = user
        # What is removed begins with this, whatever folder below the store's root is asked.
        below = f"/{above}" if above and user is None else ""
        head = "[^/]+" if user is None else re.escape(user)
        forms = dict.fromkeys((below, unicodedata.normalize("NFC", below)))
        self._removed = re.compile("|".join(f"/{head}/files{re.escape(form)}" for form in forms), re.IGNORECASE)

    def is_kept(self, entry: Entry) -> bool:
        """Whether an entry can come only under its own name, and no other entry under that name."""
        path = f"/{entry.key}"
        if _NO_NAME.search(path) or self._removed.search(path):
            return False
        return path.isascii() or not self._removed.search(unicodedata.normalize("NFC", path))


class ArchivePlan:
    """Which of many files are asked for together next, and which alone.

    Args:
        entries: what is to be read; taken as they are needed.
        naming: knows those that may come together at all.
        halves: whether all of it is asked for in two requests of equal size, if two are enough.

    Attributes:
        alone: the files that get requests of their own; the caller takes them, and clears it.
    """

    def __init__(self, entries: Iterable[Entry], naming: Naming, *, halves: bool) -> None:
        self.alone: list[Entry] = []
        self._source = iter(entries)
        self._naming = naming
        self._halves = halves
        self._pool: dict[Entry, None] = {}  # the oldest first
        self._again: list[Group] = []
        self._is_exhausted = False

    def next(self) -> Group | None:
        """The next files that come together: the one that has waited for longest, and neighbours."""
        if self._again:
            return self._again.pop(0)
        while True:
            self._fill(2 * MOST_MEMBERS + 1 if self._halves else MOST_MEMBERS)
            if not self._pool:
                return None
            most = MOST_MEMBERS
            if self._halves and self._is_exhausted and len(self._pool) >= _WORTH_HALVING:
                most = -(-len(self._pool) // 2)
            self._halves = False  # there is always another request under way from now on
            oldest = list(islice(self._pool, most))
            group = next(group for group in groups(oldest, most) if oldest[0] in group.entries)
            for entry in group.entries:
                del self._pool[entry]
            if len(group.entries) > 1:
                return group
            self.alone += group.entries
            if len(self.alone) >= MOST_MEMBERS:
                return None

    @property
    def is_through(self) -> bool:
        """Whether nothing is left."""
        return self._is_exhausted and not (self._pool or self._again or self.alone)

    def everything(self) -> Iterator[Entry]:
        """All that is left, for archives and for single requests."""
        at_hand = [*self.alone, *(entry for group in self._again for entry in group.entries), *self._pool]
        self.alone, self._again, self._pool = [], [], {}
        yield from at_hand
        yield from self._source
        self._is_exhausted = True

    def take_up(self, group: Group, came: Unpacked) -> None:
        """Plan for what did not come with an archive: for the one that it was cut at alone, for the rest again."""
        fruitless = 0 if came.files else group.fruitless + 1
        rest = set(came.rest)
        has_come = {entry for entry, _ in came.files}
        self.alone += [entry for entry in group.entries if entry not in has_come and entry not in rest]
        if fruitless < _FRUITLESS:
            self._ask_again(group.folder, came.rest, fruitless)
        else:  # any of them may be the reason: some versions find a file missing when they have begun to answer
            self.halve(Group(group.folder, came.rest, fruitless))

    def halve(self, group: Group) -> None:
        """Plan for an archive that did not come because of one of its files, when the server does not say which."""
        middle = len(group.entries) // 2
        for part in (group.entries[:middle], group.entries[middle:]):
            self._ask_again(group.folder, part, group.fruitless)

    def _ask_again(self, folder: str, entries: list[Entry], fruitless: int) -> None:
        if len(entries) < _WORTH_ASKING_AGAIN:
            self.alone += entries
        else:
            self._again.append(Group(folder, entries, fruitless))

    def _fill(self, number: int) -> None:
        """Take entries until this many are at hand, or none is left."""
        while len(self._pool) < number and len(self.alone) < MOST_MEMBERS:
            entry = next(self._source, None)
            if entry is None:
                self._is_exhausted = True
                return
            is_small = entry.size_bytes < LARGE_BYTES
            if is_small and entry not in self._pool and self._naming.is_kept(entry):
                self._pool[entry] = None
            else:
                self.alone.append(entry)


def _length(entry: Entry, folder: str) -> int:
    name = entry.key[len(folder) + 1 :] if folder else entry.key
    return len(quote(json.dumps(name, ensure_ascii=False), safe="")) + 3  # and a comma


def _longer(folder: str, common: str) -> int:
    return 0 if folder == common else len(quote(folder[len(common) :], safe="")) + 3
