"""A store: files under keys, reached over some protocol. Whole files in, whole files out, one version each.

There is no rename and no lock in it, because no server gives them honestly.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.http import Body, Content, FileBody, HashBody, MemoryBody, Source

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from ai4os_data.stores.levels import Level

PIECE_BYTES = 1024 * 1024

_LEAVES = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")  # an empty part, one or two dots, a NUL

MakeBody = Callable[["Entry"], Body]
Entries = list["Entry"]  # inside a store, `list` is its verb
Keys = list[str]
OnBytes = Callable[[int], None]


class Entry(NamedTuple):
    """A file as a store lists it.

    Attributes:
        key: its name below the store's root, with ``/`` between folders, exactly as the store spells it.
        size_bytes: its length.
        etag: what changes when its bytes do, without quotes; None where the store has nothing of the kind.
        modified: when it last changed, in the store's own spelling.
    """

    key: str
    size_bytes: int
    etag: str | None = None
    modified: str | None = None

    @property
    def version(self) -> str:
        """What tells this version from the others of the same key."""
        return self.etag or self.modified or ""

    def is_same_version(self, other: Entry) -> bool:
        """Whether both describe the same bytes, as far as the store tells."""
        if self.size_bytes != other.size_bytes:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        return not (self.modified and other.modified) or self.modified == other.modified


class Fetched(NamedTuple):
    """A file that has arrived whole: the entry as it was served, and the body that took its bytes."""

    entry: Entry
    body: Body


Outcome = tuple[Entry, Fetched | errors.StorageError]


class Unreadable(NamedTuple):
    """What a listing has met and cannot tell: a folder that may not be looked into, a file without a size.

    Attributes:
        key: its name below the store's root.
        is_folder: whether it is a folder, of which nothing is known that is below it; None where that is not known.
        error: why.
    """

    key: str
    is_folder: bool | None
    error: errors.StorageError


Unreadables = list[Unreadable]


class Listing(NamedTuple):
    """What lies below a folder: the files, and what could not be read of it. It is complete without the latter."""

    entries: Entries
    unreadable: Unreadables

    def complete(self) -> Entries:
        """The files, ordered by key, if they are all that is there.

        Raises:
            StorageError: something could not be read.
        """
        for _, _, error in self.unreadable:
            raise error
        return sorted(self.entries)


class Store(ABC):
    """Files under keys.

    Attributes:
        location: what messages call it; it holds no secrets.
        identity: what tells its files from those of other stores, for the cache.
        is_local: whether it is as fast as a local disk, so that a cache would gain nothing.
        asks_together: whether many files come with one request, and so the faster the more are asked for at once.
    """

    location: str
    identity: str
    is_local: bool = False
    asks_together: bool = False

    @abstractmethod
    def list(self) -> list[Entry]:
        """Every file below the root, ordered by key.

        Raises:
            LocationError: there is no such folder.
            StorageError: something of it cannot be told; `listing` gives the rest.
        """

    def listing(self) -> Listing:
        """Every file below the root that can be told, and beside them what cannot.

        Raises:
            LocationError: there is no such folder.
            StorageError: the root itself cannot be listed.
        """
        return Listing(self.list(), [])

    @abstractmethod
    def stat(self, key: str) -> Entry:
        """One file.

        Raises:
            NotFoundError: there is none.
        """

    @abstractmethod
    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, many at a time; each comes as it is ready, or with its own error.

        A file that changed since it was listed comes as it is now: compare the two entries.

        Args:
            entries: as they were listed.
            body: makes what takes the bytes of an entry; memory by default.
        """

    @abstractmethod
    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop`` (exclusive, cut at the end of the file), of the version in ``entry``.

        Raises:
            ChangedError: the store has another version by now.
        """

    @abstractmethod
    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file, and the folders above it.

        Raises:
            LocationError: there is a folder of this name, or a file where a folder above it belongs.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file."""

    # --- where it is

    def look(self) -> None:  # noqa: B027  most are looked at when they are opened, or have nothing that could be missing
        """Find the location there.

        Raises:
            LocationError: there is nothing at it.
            StorageError: the store cannot tell.
        """

    def place(self, key: str) -> str:
        """What a key's file has in common with the same file of any other store, and with no other file.

        Args:
            key: ``""`` is the root.
        """
        return f"{self.identity}/{key}".rstrip("/")

    # --- whole trees

    def list_below(self, folder: str) -> Entries:
        """Every file below a folder, ordered by key; the keys begin at the root of the store, as everywhere.

        Where there is no such folder there are no files. A listing that fails raises: it never looks like an empty one.

        Args:
            folder: its key; ``""`` is the root, which may be missing too.

        Raises:
            StorageError: what is there cannot be told.
        """
        above = f"{checked(folder)}/" if folder else ""
        return [entry for entry in self.list() if entry.key.startswith(above)]

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder, be it empty; an error where the store cannot tell."""
        return bool(self.list_below(key))

    def members(self, folder: str) -> tuple[Entries, Keys]:
        """The files that lie directly in a folder, and the keys of the folders in it, each ordered.

        Args:
            folder: its key; ``""`` is the root.

        Raises:
            NotFoundError: there is no such folder.
        """
        above = f"{checked(folder)}/" if folder else ""
        below = self.list_below(folder)
        if not below and folder:
            raise errors.NotFoundError(f"{self.location}: {folder!r}: there is no such folder")
        files = [entry for entry in below if "/" not in entry.key[len(above) :]]
        names = {entry.key[len(above) :].partition("/")[0] for entry in below} - {e.key[len(above) :] for e in files}
        return files, sorted(above + name for name in names)

    def make_folder(self, key: str) -> bool:
        """Make an empty folder, and those above it; whether it is known to be new. Some stores have no folders.

        Raises:
            LocationError: there is a file of this name, or of that of a folder above it.
        """
        checked(key)
        return False

    def remove_tree(self, key: str) -> None:
        """Remove a folder and all below it. A missing one is no error.

        Raises:
            LocationError: the key is empty: the root is never removed.
        """
        for entry in self.list_below(checked(key)):
            with suppress(errors.NotFoundError):  # somebody else removes it too
                self.delete(entry.key)

    def expunge(self, folder: str, first: Sequence[str] = ()) -> None:
        """Remove a folder and all below it for good; a missing one is no error.

        Where the store has a trash bin nothing of it stays there, as far as that is possible; that it does is no error.

        Args:
            folder: its key.
            first: keys of files in it that go before all others.

        Raises:
            LocationError: the key is empty: the root is never removed.
        """
        for key in first:
            with suppress(errors.NotFoundError):  # somebody else was faster
                self.delete(key)
        self.remove_tree(folder)

    # --- files that are verified

    @property
    def best_level(self) -> Level:
        """The highest level that `write_confirmed` can reach here. It may ask the store once, and remembers.

        Raises:
            StorageError: the store cannot be asked, or not be written to.
        """
        return "confirmed"

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """Store a whole new file, and make sure that the store holds exactly these bytes.

        It may be called again after a crash or an error: what is there already, whole, is verified and not sent again.
        Size alone never confirms.

        Args:
            key: one that nobody else writes to.
            content: the bytes, or a local file.
            sha256: of the content, in hexadecimal.
            on_bytes: told how many bytes were sent each time, from the calling thread; what is sent again counts again.

        Returns:
            The level that was reached: ``"confirmed"`` where the server computed the sha256 or the bytes were read
            back, ``"mount"`` where a mount that writes through has closed the file, ``"local"`` where one that caches
            has.

        Raises:
            IntegrityError: the store holds other bytes; they are removed as far as possible.
            OutOfSpaceError: the store is full.
            LocationError: there is a folder of this name; nothing was stored, and the folder is as it was.
            StorageError: it could not be stored, or not verified.
        """
        source = Source(content, on_bytes=on_bytes)
        before = self._before(key)
        if before is None or not self._holds(before, source.size_bytes, sha256):
            found = self._store_new(key, source, sha256, before)
            if found != sha256:
                with suppress(errors.StorageError):
                    self.delete(key)
                raise errors.IntegrityError(
                    f"{self.location}: {key!r} was written, but the store holds other bytes (their sha256 is {found}, "
                    f"not {sha256}); they were removed, write it again"
                )
        return self.best_level

    def abandon(self, key: str, size_bytes: int, sha256: str) -> None:  # noqa: B027  most keep nothing of it
        """Remove what is left of an upload that broke off and will not be resumed; errors are no news.

        Args:
            key: where it was to go.
            size_bytes: its length.
            sha256: of the content, in hexadecimal.
        """

    def sha256_of(self, entry: Entry) -> str:
        """The sha256 of a file as the store holds it, computed by the server or from the bytes that are read back.

        Raises:
            StorageError: it cannot be told.
        """
        body = HashBody()
        ((_, outcome),) = self.read_many([entry], lambda _: body)
        if isinstance(outcome, errors.StorageError):
            raise outcome
        return body.sha256

    def read_into(self, entry: Entry, path: Path, sha256: str | None = None) -> str:
        """Download a whole file, in one version, into a local file; memory does not grow with its size.

        Args:
            entry: as it was listed.
            path: the local file; it is made anew, and removed again if this raises.
            sha256: what the bytes must have, in hexadecimal.

        Returns:
            The sha256 of the bytes.

        Raises:
            IntegrityError: they have another sha256.
            StorageError: it cannot be read.
            OSError: the local disk cannot take it.
        """
        with new_file(path) as file:
            return self._verified(entry, self._read_into(entry, file), sha256)

    def _verified(self, entry: Entry, found: str, sha256: str | None) -> str:
        """The sha256 that was found, if it is the one that was wanted."""
        if sha256 is not None and found != sha256:
            raise errors.IntegrityError(
                f"{self.location}: {entry.key!r} is damaged: its sha256 is {found}, where {sha256} was written"
            )
        return found

    def _before(self, key: str) -> Entry | None:
        """What an earlier try has left at a key."""
        try:
            return self.stat(key)
        except errors.NotFoundError:
            return None

    def _holds(self, entry: Entry, size_bytes: int, sha256: str) -> bool:
        """Whether an earlier try has stored these bytes already."""
        try:
            return entry.size_bytes == size_bytes and self.sha256_of(entry) == sha256
        except errors.NotFoundError:
            return False

    def _store_new(self, key: str, source: Source, sha256: str, before: Entry | None) -> str:  # noqa: ARG002  others ask
        """Store a file where there was none, or another, and tell the sha256 of what the store holds then."""
        entry = self.write(key, source.content)
        if source.on_bytes is not None:
            source.on_bytes(source.size_bytes)
        return self.sha256_of(entry)

    def _read_into(self, entry: Entry, file: FileIO) -> str:
        """Fill an empty file with the bytes of one version, and tell their sha256."""
        body = FileBody(file)
        ((_, outcome),) = self.read_many([entry], lambda _: body)
        if isinstance(outcome, errors.StorageError):
            raise outcome
        if body.error is not None:
            raise body.error
        return body.sha256

    def token(self) -> str | None:
        """One value that changes when anything below the root does; None where the store has none."""
        return None

    def local_path(self, entry: Entry) -> str | None:  # noqa: ARG002  for those whose files are elsewhere
        """Where a file lies on a disk of this machine, in the version of the entry; None where it does not."""
        return None

    def read(self, key: str) -> bytes:
        """One whole file, in its present version."""
        ((_, outcome),) = self.read_many([self.stat(key)])
        if isinstance(outcome, errors.StorageError):
            raise outcome
        return in_memory(outcome.body)

    def exists(self, key: str) -> bool:
        """Whether there is such a file; an error where the store cannot tell."""
        try:
            self.stat(key)
        except errors.NotFoundError:
            return False
        return True

    def waiting(self, outage_s: float) -> Store:  # noqa: ARG002  for those that wait
        """The same files, whose reads wait so long for a server that is away; 0 for no longer than their tries."""
        return self

    def hurried(self, limit_s: float, *, waits: bool) -> Store:  # noqa: ARG002  for those that can hurry
        """The same files, for a question that somebody has another answer to after a while.

        Args:
            limit_s: how long it may take without an answer.
            waits: whether to wait so long for a server that is away, since there is no other answer.
        """
        return self

    def close(self) -> None:  # noqa: B027  most hold nothing open
        """Let go of what is held open in this process, such as connections. The next request opens it again."""

    def __repr__(self) -> str:
        """Tell what is stored where."""
        return f"{type(self).__name__}({self.location!r})"


@contextmanager
def new_file(path: Path) -> Iterator[FileIO]:
    """An empty local file to write to; it is removed where that fails."""
    try:
        with path.open("w+b", buffering=0) as file:
            yield file
    except BaseException:
        with suppress(FileNotFoundError):
            path.unlink()
        raise


def in_memory(body: Body) -> bytes:
    """The bytes of a body that was made in memory."""
    assert isinstance(body, MemoryBody)
    return body.getvalue()


def memory_body(_entry: Entry) -> Body:
    """A body in memory."""
    return MemoryBody()


def is_safe(key: str) -> bool:
    """Whether a name that came from a server stays in its folder."""
    return _LEAVES.search(key) is None


def checked(key: str) -> str:
    """The key, if it is one.

    Raises:
        LocationError: it would leave its folder.
    """
    if not is_safe(key):
        message = f"{key!r} is not a key: it names a file below the location, without '..' and empty parts"
        raise errors.LocationError(message)
    return key
