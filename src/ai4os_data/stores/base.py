"""A store: files under keys, reached over some protocol. Whole files in, whole files out, one version each.

There is no rename and no lock in it, because no server gives them honestly.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ai4os_data import errors
from ai4os_data.bodies import Body, Content, MemoryBody

PIECE_BYTES = 1024 * 1024

_LEAVES = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")  # an empty part, one or two dots, a NUL

MakeBody = Callable[["Entry"], Body]
Entries = list["Entry"]  # inside a store, `list` is its verb
Keys = list[str]


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


class Store(ABC):
    """Files under keys.

    Attributes:
        location: what messages call it; it holds no secrets.
        identity: what tells its files from those of other stores, for the cache.
        is_local: whether it is as fast as a local disk, so that a cache would gain nothing.
    """

    location: str
    identity: str
    is_local: bool = False

    @abstractmethod
    def list(self) -> list[Entry]:
        """Every file below the root, ordered by key.

        Raises:
            LocationError: there is no such folder.
        """

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
        """Store a whole file, and the folders above it."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file."""

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

    def __repr__(self) -> str:
        """Tell what is stored where."""
        return f"{type(self).__name__}({self.location!r})"


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
