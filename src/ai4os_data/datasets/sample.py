"""One sample, as a ``decode`` or ``target`` of the user's own sees it."""

from __future__ import annotations

import io
import posixpath
import time
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

from ai4os_data.cache import IN_MEMORY_BYTES
from ai4os_data.errors import LocationError
from ai4os_data.telemetry import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ai4os_data.cache import Files, LocalPath, WantedFile
    from ai4os_data.datasets.siblings import SiblingFiles


T = TypeVar("T")
Data = bytes  # inside the class, `bytes` is a method

_NOTHING: Mapping[tuple[str, bool], Data | Exception] = MappingProxyType({})


class Origin(NamedTuple):
    """Where a sample gets its bytes, and where it finds its siblings."""

    files: Files
    siblings: SiblingFiles


class Sample:
    """A file of a dataset, read when it is needed.

    Attributes:
        key: its name below the dataset's location.
        size_bytes: its size, as listed.
    """

    __slots__ = ("_data", "_fetched", "_file", "_origin", "_path")

    def __init__(
        self,
        origin: Origin,
        file: WantedFile,
        data: Data | None = None,
        fetched: Mapping[tuple[str, bool], Data | Exception] = _NOTHING,
    ) -> None:
        self._origin = origin
        self._file = file
        self._data = data
        self._fetched = fetched  # siblings that came with the same batch
        self._path: LocalPath | None = None

    @property
    def key(self) -> str:
        """The name below the dataset's location."""
        return self._file.key

    @property
    def size_bytes(self) -> int:
        """The size, as listed."""
        return self._file.size_bytes

    def bytes(self) -> Data:
        """The whole content."""
        if self._data is None:
            self._data = self._timed(lambda: self._origin.files.read(self._file))
        return self._data

    def open(self) -> IO[Data]:
        """The content as a seekable binary file. A large one that is not in the cache is read in ranges."""
        if self._data is not None:
            return io.BytesIO(self._data)
        return self._timed(lambda: self._origin.files.open(self._file), in_ranges=True)

    def path(self) -> LocalPath:
        """A local file with the content, that stays while this sample or the returned path object lives."""
        if self._path is None:
            self._path = self._timed(lambda: self._origin.files.path(self._file, self._data))
        return self._path

    def _timed(self, read: Callable[[], T], *, in_ranges: bool = False) -> T:
        """What reads the file gives; the time is recorded as that of reading, not of decoding.

        Args:
            read: reads it.
            in_ranges: whether what it gives records by itself what it fetches.
        """
        before_ns, begun_ns = reading.total_ns, time.perf_counter_ns()
        is_large = self._data is None and self.size_bytes > IN_MEMORY_BYTES
        fetches = is_large and not in_ranges and not self._origin.files.holds(self._file)
        result = read()
        reading.add(time.perf_counter_ns() - begun_ns, fetching=fetches, since_ns=before_ns)
        return result

    def sibling(self, key: str) -> Sample:
        """Another file of the location, such as the mask or the label of an image. ``prepare`` is not applied to it.

        The dataset learns from the first samples which siblings go with a key, and fetches them together with it.

        Args:
            key: below the dataset's location; or, with a leading ``./`` or ``../``, relative to this sample's folder.

        Raises:
            NotFoundError: there is no such file.
        """
        if key.startswith(("./", "../")):
            key = posixpath.normpath(posixpath.join(posixpath.dirname(self.key), key))
            if key.startswith(("../", "/")):
                raise LocationError(f"the sibling {key!r} of {self.key!r} is outside of the dataset's location")
        file = self._origin.siblings.find(self.key, key)
        content = self._fetched.get(file.form)
        return Sample(self._origin, file, content if isinstance(content, Data) else None, self._fetched)

    def __repr__(self) -> str:
        """A short description for people."""
        return f"Sample({self.key!r})"
