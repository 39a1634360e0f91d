"""Whole folders in one archive: which folders are asked for by their names, so that nobody names their files.

``GET FOLDER?accept=zip&files=["a","b"]`` of Nextcloud takes folders as well. The server lists each by one query,
where a file that is named costs it queries of its own.

That a file comes under no other name is known of the listed files (see `archives.Naming`), but an archive of a folder
has those as well that were made since. All that can be renamed lies below a folder that is named like the user. So no
such folder is asked for, and one that comes ends the reading; as does a file whose folder has not come before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.stores.archives import LONGEST_QUERY, MOST_MEMBERS, query
from ai4os_data.stores.unpacking import Member

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from ai4os_data.http import Body
    from ai4os_data.stores.archives import Naming
    from ai4os_data.stores.base import Entry, MakeBody

_ONE_ARCHIVE = MOST_MEMBERS  # files that come with one request anyway
_NEARLY_ALL = 0.9  # of the files and of the bytes below a folder
_FEWEST = 32  # files in an archive; fewer come with others, by their names
_MOST = 4096  # an archive that breaks off has not brought the rest of these
_QUARTER = 4


class WholeFolders:
    """Some folders with all that lies below them, and what is to be done with each member of their archive.

    Args:
        parent: the folder that they lie in.
        folders: these.
        wanted: the keys of the files that are wanted.
        user: who they belong to on the server.
        make: makes what takes the bytes of an entry.

    Attributes:
        wanted: the wanted entries, by their names in the archive.
        has_come: whether any has.
        size_bytes: the length of all files.
    """

    def __init__(self, parent: str, folders: list[_Folder], wanted: Collection[str], user: str, make: MakeBody) -> None:
        self.parent = parent
        self.wanted: dict[bytes, Entry] = {}
        self.has_come = False
        self.size_bytes = sum(folder.size_bytes for folder in folders)
        self._skipped = len(parent) + 1 if parent else 0
        self._names = [folder.key[self._skipped :] for folder in folders]
        self._sizes: dict[bytes, int] = {}
        self._user = user.lower().encode()
        self._make = make
        self._announced: set[bytes] = set()
        self._begun: set[bytes] = set()
        for entry in (entry for folder in folders for entry in folder.below()):
            name = entry.key[self._skipped :].encode()
            self._sizes[name] = entry.size_bytes
            if entry.key in wanted:
                self.wanted[name] = entry

    @property
    def query(self) -> str:
        """The query that asks for them."""
        return query(self._names)

    def choose(self, name: bytes) -> Member[Body] | None:
        """What is to be done with a member, as `Unpacker` asks."""
        above, _, last = name.rstrip(b"/").rpartition(b"/")
        if name.endswith(b"/"):
            self._announced.add(name[:-1])
            return None if last.lower() == self._user else Member(0, None)
        size_bytes = self._sizes.get(name)
        if size_bytes is None or above not in self._announced:
            return None
        if name not in self.wanted or name in self._begun:
            return Member(size_bytes, None)
        self._begun.add(name)
        return Member(size_bytes, self._make(self.wanted[name]))


def whole_folders(
    wanted: Collection[str], listed: Iterable[Entry], naming: Naming, make: MakeBody
) -> Iterator[WholeFolders]:
    """The archives to ask for: about as large as each other, and so many that two can be on their way.

    Args:
        wanted: the keys of the files that are wanted.
        listed: all files there are.
        naming: knows which files may come in an archive at all.
        make: makes what takes the bytes of an entry.
    """
    if naming.user is None or not naming.user.isascii() or len(wanted) <= _ONE_ARCHIVE:
        return
    folders: dict[str, _Folder] = {}
    root = _folder_at("", folders)
    dangerous = f"/{naming.user.lower()}/"
    for entry in listed:
        key = entry.key.rpartition("/")[0]
        _folder_at(key, folders).entries.append(entry)
        is_wanted = entry.key in wanted
        is_kept = naming.is_kept(entry) and dangerous not in f"/{entry.key.lower()}"
        for above in _upwards(key):
            folders[above].count(entry, is_wanted=is_wanted, is_kept=is_kept)
    most = min(_MOST, max(_FEWEST, -(-root.files // _QUARTER)))
    for parent, together in _together(root, most):
        if sum(folder.files for folder in together) >= _FEWEST:
            yield WholeFolders(parent.key, together, wanted, naming.user, make)


class _Folder:
    """What is listed below a folder."""

    __slots__ = ("entries", "files", "folders", "is_kept", "key", "size_bytes", "wanted", "wanted_bytes")

    def __init__(self, key: str) -> None:
        self.key = key
        self.folders: list[_Folder] = []
        self.entries: list[Entry] = []
        self.files = self.wanted = self.size_bytes = self.wanted_bytes = 0
        self.is_kept = True

    def count(self, entry: Entry, *, is_wanted: bool, is_kept: bool) -> None:
        """Count a file that lies somewhere below."""
        self.files += 1
        self.size_bytes += entry.size_bytes
        self.is_kept = self.is_kept and is_kept
        if is_wanted:
            self.wanted += 1
            self.wanted_bytes += entry.size_bytes

    @property
    def is_whole(self) -> bool:
        """Whether nearly all of it is wanted, and may come in an archive."""
        return (
            self.is_kept
            and self.wanted >= _NEARLY_ALL * self.files
            and self.wanted_bytes >= _NEARLY_ALL * self.size_bytes
        )

    @property
    def splits(self) -> bool:
        """Whether most of it lies in folders of its own."""
        return 2 * len(self.entries) < self.files

    def below(self) -> Iterator[Entry]:
        """All files."""
        yield from self.entries
        for folder in self.folders:
            yield from folder.below()


def _folder_at(key: str, folders: dict[str, _Folder]) -> _Folder:
    """The folder of a key; it is put into the one above it if it is new."""
    folder = folders.get(key)
    if folder is None:
        folder = folders[key] = _Folder(key)
        if key:
            _folder_at(key.rpartition("/")[0], folders).folders.append(folder)
    return folder


def _together(parent: _Folder, most: int) -> Iterator[tuple[_Folder, list[_Folder]]]:
    """Folders that come in one archive, and the one that they lie in."""
    group: list[_Folder] = []
    files = 0
    for folder in parent.folders:
        if not folder.is_whole or (folder.files > most and folder.splits):
            yield from _together(folder, most)
            continue
        names = [each.key.rpartition("/")[2] for each in (*group, folder)]
        if group and (files + folder.files > most or len(query(names)) > LONGEST_QUERY):
            yield parent, group
            group, files = [], 0
        group.append(folder)
        files += folder.files
    if group:
        yield parent, group


def _upwards(key: str) -> Iterator[str]:
    """A folder, and all those above it."""
    while key:
        yield key
        key = key.rpartition("/")[0]
    yield key
