"""One sample, as a ``decode`` or ``target`` of the user's own sees it."""

from __future__ import annotations

import io
import posixpath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Protocol

from ai4os_data.errors import LocationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.cache import LocalPath
    from ai4os_data.stores import Entry


Data = bytes  # inside a sample, `bytes` is its verb

_NOTHING: Mapping[str, Data] = MappingProxyType({})


class Reader(Protocol):
    """Where a sample gets its bytes, and those of its siblings."""

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file."""

    def open(self, entry: Entry) -> IO[bytes]:
        """A file as a seekable binary file."""

    def path(self, entry: Entry, data: bytes | None = None) -> LocalPath:
        """A local file that stays while it is in use; ``data`` are its bytes, where they are here already."""

    def sibling(self, sample: Sample, key: str) -> tuple[Reader, Entry]:
        """Another file of the same location, and what reads it."""


class Sample:
    """A file of a dataset, read when it is needed.

    Attributes:
        key: its name below the dataset's location.
        size_bytes: its size, as listed.
    """

    __slots__ = ("_data", "_entry", "_fetched", "_path", "_reader")

    def __init__(
        self, reader: Reader, entry: Entry, data: Data | None = None, fetched: Mapping[str, Data] = _NOTHING
    ) -> None:
        self._reader = reader
        self._entry = entry
        self._data = data
        self._fetched = fetched  # what came in the same batch
        self._path: LocalPath | None = None

    @property
    def key(self) -> str:
        """The name below the dataset's location."""
        return self._entry.key

    @property
    def size_bytes(self) -> int:
        """The size, as listed."""
        return self._entry.size_bytes

    def bytes(self) -> Data:
        """The whole content."""
        if self._data is None:
            self._data = self._reader.read(self._entry)
        return self._data

    def open(self) -> IO[Data]:
        """The content as a seekable binary file. A large one that is not in the cache is read in ranges."""
        return self._reader.open(self._entry) if self._data is None else io.BytesIO(self._data)

    def path(self) -> LocalPath:
        """A local file with the content, that stays while this sample or the returned path object lives."""
        if self._path is None:
            self._path = self._reader.path(self._entry, self._data)
        return self._path

    def sibling(self, key: str) -> Sample:
        """Another file of the same location, such as the mask or the label of an image, as it is: without ``prepare``.

        The dataset learns from the first samples which siblings go with a key, and fetches them together with it.

        Args:
            key: below the dataset's location; or, with a leading ``./`` or ``../``, relative to this sample's folder.

        Raises:
            NotFoundError: there is no such file.
        """
        if key.startswith(("./", "../")):
            key = posixpath.normpath(posixpath.join(posixpath.dirname(self.key), key))
            if key.startswith(("../", "/")):
                message = f"the sibling {key!r} of {self.key!r} is outside of the dataset's location"
                raise LocationError(message)
        reader, entry = self._reader.sibling(self, key)
        return Sample(reader, entry, self._fetched.get(key), self._fetched)

    def __repr__(self) -> str:
        """Tell which."""
        return f"Sample({self.key!r})"
