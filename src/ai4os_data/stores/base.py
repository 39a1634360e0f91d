"""A store has files under keys, and the same few verbs over any protocol; a sha256 confirms what was written.

Whole files in, whole files out, one version each. It has no rename and no lock, because no server does them reliably.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from typing_extensions import Self

from ai4os_data import errors
from ai4os_data.http import Body, Content, FileBody, HashBody, MemoryBody, Patience, Source

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from ai4os_data.stores.levels import Level

PIECE_BYTES = 1024 * 1024

_LEAVES = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")  # an empty part, one or two dots, a NUL

B = TypeVar("B", bound=Body)
MakeBody = Callable[["Entry"], Body]
Entries = list["Entry"]  # inside `Store`, the name `list` is its verb
Keys = list[str]
OnBytes = Callable[[int], None]


class Entry(NamedTuple):
    """A file as a store lists it.

    Attributes:
        key: its name below the store's root, with ``/`` between folders, exactly as the store spells it.
        size_bytes: its length.
        etag: a mark that changes with its bytes, without quotes; None if the store has nothing of the kind.
        modified: when it last changed, in the store's own spelling.
    """

    key: str
    size_bytes: int
    etag: str | None = None
    modified: str | None = None

    @property
    def version(self) -> str:
        """What distinguishes this version from others of the same key."""
        return self.etag or self.modified or ""

    def is_same_version(self, other: Entry) -> bool:
        """Whether both describe the same bytes, as far as the store says."""
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
    """Something that a listing could not read: a folder without permission to list it, a file without a size.

    Attributes:
        key: its name below the store's root.
        is_folder: whether it is a folder, below which nothing is known; None if that is not known.
        error: why.
    """

    key: str
    is_folder: bool | None
    error: errors.StorageError


Unreadables = list[Unreadable]


class Listing(NamedTuple):
    """What lies below a folder.

    Attributes:
        entries: the files.
        unreadable: what could not be read. It is complete without that.
        hollow: the keys of the folders in which there is nothing; none of a store without folders. All others follow
            from the files.
    """

    entries: Entries
    unreadable: Unreadables
    hollow: Sequence[str] = ()

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
        identity: what distinguishes its files from those of other stores, for the cache.
        patience: how long its reads wait for a server that is away.
        is_local: whether it is as fast as a local disk, so that a cache would gain nothing.
        asks_together: whether many files come with one request, and so the faster the more are asked for at once.
    """

    location: str
    identity: str
    patience: Patience = Patience()
    is_local: bool = False
    asks_together: bool = False

    # --- looking

    def list(self) -> list[Entry]:
        """Every file below the root, ordered by key.

        Raises:
            LocationError: there is no such folder.
            StorageError: something below it could not be read; `listing` gives the rest.
        """
        return self.listing().complete()

    def listing(self) -> Listing:
        """Every file below the root that could be read, and whatever could not.

        Raises:
            LocationError: there is no such folder.
            StorageError: the root itself cannot be listed.
        """
        found = self._listed("")
        if found is None:
            raise errors.LocationError(f"{self.location}: there is nothing at this location (no such directory)")
        return found

    def list_below(self, folder: str) -> Entries:
        """Every file below a folder, ordered by key; the keys begin at the root of the store, as everywhere.

        If there is no such folder there are no files. A listing that fails raises: it never looks like an empty one.

        Args:
            folder: its key; ``""`` is the root, which may be missing too.

        Raises:
            StorageError: something below it could not be read.
        """
        found = self._listed(checked(folder) if folder else "")
        return found.complete() if found is not None else []

    @abstractmethod
    def _listed(self, folder: str) -> Listing | None:
        """Every file below a folder, with the same keys as below the root; None if there is no such folder."""

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

    def has_folder(self, key: str) -> bool:
        """Whether there is such a folder, even an empty one; an error if the store cannot answer."""
        return bool(self.list_below(key))

    @abstractmethod
    def stat(self, key: str) -> Entry:
        """One file.

        Raises:
            NotFoundError: there is none.
        """

    # --- reading

    def read(self, key: str) -> bytes:
        """One whole file, in its present version."""
        return _whole(self, self.stat(key), MemoryBody()).getvalue()

    @abstractmethod
    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, many at a time; each is yielded when it is ready, or with its own error.

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

    def read_into(self, entry: Entry, path: Path, sha256: str | None = None) -> str:
        """Download a whole file, in one version, into a local file; memory does not grow with its size.

        Args:
            entry: as it was listed.
            path: the local file; it is made anew, and removed again if this raises.
            sha256: the one that the bytes must have, in hexadecimal.

        Returns:
            The sha256 of the bytes.

        Raises:
            IntegrityError: they have another sha256.
            StorageError: it cannot be read.
            OSError: the local disk cannot take it.
        """
        return received(self, entry, path, sha256, partial(read_back, self, entry))

    def sha256_of(self, entry: Entry) -> str:
        """The sha256 of a file as the store holds it, computed by the server or from the bytes that are read back.

        Raises:
            StorageError: it cannot be computed.
        """
        return _whole(self, entry, HashBody()).sha256

    # --- writing

    @abstractmethod
    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file, and the folders above it.

        Raises:
            LocationError: there is a folder of this name, or a file where a folder above it belongs.
        """

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """Store a whole new file, and make sure that the store holds exactly these bytes.

        It may be called again after a crash or an error: a whole file that is there already is verified, and not sent
        again. Size alone never confirms.

        Args:
            key: one that nobody else writes to.
            content: the bytes, or a local file.
            sha256: of the content, in hexadecimal.
            on_bytes: called with the number of bytes sent each time, from the calling thread; what is sent again
                counts again.

        Returns:
            The level that was reached: ``"confirmed"`` if the server computed the sha256 or the bytes were read
            back, ``"mount"`` if a mount that writes through has closed the file, ``"local"`` if a mount that caches
            has.

        Raises:
            IntegrityError: the store holds other bytes; they are removed as far as possible.
            OutOfSpaceError: the store is full.
            LocationError: there is a folder of this name; nothing was stored, and the folder is as it was.
            StorageError: it could not be stored, or not verified.
        """
        source = Source(content, on_bytes=on_bytes)
        send = partial(write_new, self, key, source)
        return confirm(self, key, source, sha256, before=file_at(self, key), send=send)

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file."""

    def make_folder(self, key: str) -> bool:
        """Make an empty folder, and those above it; returns whether it is known to be new. Some stores have no folders.

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
            with suppress(errors.NotFoundError):  # somebody else is removing it too
                self.delete(entry.key)

    # --- the store itself

    def with_patience(self, patience: Patience) -> Self:
        """The same files, read with another patience for a server that is away."""
        if self.is_local or patience == self.patience:
            return self
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, patience=patience)
        return other

    def close(self) -> None:  # noqa: B027  most hold nothing open
        """Close what is open in this process, such as connections. The next request opens it again."""

    def __repr__(self) -> str:
        """A short description for people."""
        return f"{type(self).__name__}({self.location!r})"


def confirm(
    store: Store, key: str, source: Source, sha256: str, *, before: Entry | None, send: Callable[[], str]
) -> Level:
    """Write a whole new file, unless an earlier try has, and compare the sha256 of what the store holds.

    Args:
        store: where it goes.
        key: as for `Store.write_confirmed`.
        source: its bytes.
        sha256: of these.
        before: the file that an earlier try has left at the key.
        send: stores the bytes, and gives the sha256 of what the store holds then.

    Raises:
        IntegrityError: the store holds other bytes; they are removed as far as possible.
    """
    if before is None or not holds(store, before, source.size_bytes, sha256):
        stored = send()
        if stored != sha256:
            with suppress(errors.StorageError):
                store.delete(key)
            raise errors.IntegrityError(
                f"{store.location}: {key!r} was written, but the store holds other bytes (their sha256 is {stored}, "
                f"not {sha256}); they were removed, write it again"
            )
    return "confirmed"


def file_at(store: Store, key: str) -> Entry | None:
    """The file at a key; None if there is none."""
    try:
        return store.stat(key)
    except errors.NotFoundError:
        return None


def holds(store: Store, entry: Entry, size_bytes: int, sha256: str) -> bool:
    """Whether a file has these bytes already."""
    try:
        return entry.size_bytes == size_bytes and store.sha256_of(entry) == sha256
    except errors.NotFoundError:
        return False


def write_new(store: Store, key: str, source: Source) -> str:
    """Write a file, and give the sha256 of what the store holds then."""
    entry = store.write(key, source.content)
    if source.on_bytes is not None:
        source.on_bytes(source.size_bytes)
    return store.sha256_of(entry)


def received(store: Store, entry: Entry, path: Path, sha256: str | None, fill: Callable[[FileIO], str]) -> str:
    """Fill a new local file with the bytes of one version, and give their sha256 after comparing it.

    Raises:
        IntegrityError: it is not the wanted one; the local file is removed.
    """
    try:
        with path.open("w+b", buffering=0) as file:
            found = fill(file)
        if sha256 is not None and found != sha256:
            raise errors.IntegrityError(
                f"{store.location}: {entry.key!r} is damaged: its sha256 is {found}, where {sha256} was written"
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return found


def read_back(store: Store, entry: Entry, file: FileIO) -> str:
    """Fill an empty file with the bytes of one version, and give their sha256."""
    body = _whole(store, entry, FileBody(file))
    if body.error is not None:
        raise body.error
    return body.sha256


def _whole(store: Store, entry: Entry, body: B) -> B:
    """The body, once it has taken all bytes of a file."""
    ((_, outcome),) = store.read_many([entry], lambda _: body)
    if isinstance(outcome, errors.StorageError):
        raise outcome
    return body


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
        raise errors.LocationError(
            f"{key!r} is not a key: it names a file below the location, without '..' and empty parts"
        )
    return key
