"""A store seen through the cache: cached files come from the local disk; others are fetched once and kept."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from ai4os_data import errors, telemetry
from ai4os_data.cache.disk_cache import session_of
from ai4os_data.cache.entries import Held, intact
from ai4os_data.cache.fetching import Fetch
from ai4os_data.cache.lookup import Lookup
from ai4os_data.cache.paths import LocalPath, opened_shared
from ai4os_data.cache.temporaries import TemporaryBody, write_temporary
from ai4os_data.cache.together import Together
from ai4os_data.cache.uncached import UncachedStore, only_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ai4os_data.cache.disk_cache import DiskCache
    from ai4os_data.cache.fetching import Arrival, As, Content
    from ai4os_data.cache.uncached import File, Result
    from ai4os_data.cache.versions import WantedFile
    from ai4os_data.stores import Entry, Store

    Filled = tuple[WantedFile, int | errors.StorageError]

_TRIES = 3  # an entry may be evicted before it is pinned


class CachedStore:
    """Reads whole files of a store through a cache.

    Args:
        store: where the files are, and how they are prepared and compared with their listing.
        cache: where they are kept.
    """

    def __init__(self, store: Store | UncachedStore, cache: DiskCache) -> None:
        self._source = source = store if isinstance(store, UncachedStore) else UncachedStore(store)
        self.cache = cache
        self.store, self.counters, self.versions = source.store, source.counters, source.versions
        self.name = source.name
        self._lookup = Lookup(cache, source.versions, source.counters)
        self.hit = self._lookup.hit
        self._together: Together | None = None

    def keep_together(self, entries: Sequence[Entry]) -> None:
        """Read these from now on; under the policy ``"auto"`` they do not evict each other while this object lives."""
        self._together = Together(self._source, self.cache, entries)

    def names(self) -> Sequence[str]:
        """The digests that these are found by in the cache, in their order."""
        return self._together.names() if self._together is not None else ()

    # --- reading

    def read(self, file: File) -> bytes:
        """One whole file.

        Raises:
            StorageError: it cannot be read.
        """
        return only_result(self.read_many([file]))

    def read_many(self, files: Iterable[File]) -> Iterator[Result]:
        """Read whole files: hits at once, misses as they arrive. Each comes with its bytes or with its own error."""
        missing = []
        for wanted in map(self._source.current, files):
            held = self._lookup.find(self.name(wanted))
            data = self.hit(held) if held is not None else None
            if data is None:
                missing.append(wanted)
            else:
                yield wanted, data
        for wanted, content in self._fetch("bytes", missing):
            assert isinstance(content, (list, errors.StorageError))
            yield wanted, b"".join(content) if isinstance(content, list) else content

    def known(self, file: File) -> Held | None:
        """The cached file of a file, or of its newer version, as far as this process knows of one."""
        return self._lookup.find(self.name(self._source.current(file)))

    def holds(self, file: File) -> bool:
        """Whether a file is in the cache."""
        held = self.known(file)
        return held is not None and session_of(self.cache).objects.is_there(held)

    def open(self, file: File) -> IO[bytes]:
        """A file as a seekable binary file: from the cache, or, if it is large, in ranges from the store.

        Raises:
            StorageError: it cannot be read.
        """
        wanted = self._source.current(file)
        if not self._source.is_large(wanted):
            return io.BytesIO(self.read(wanted))
        held = self.known(wanted)
        with suppress(OSError):  # evicted, or about to be
            if held is not None and intact(held):
                opened = os.fdopen(opened_shared(held.path), "rb")
                self.counters.row[telemetry.HITS] += 1
                return opened
        return self._source.open_ranges(wanted)

    def path(self, file: File, data: bytes | None = None) -> LocalPath:
        """A local file with a file's bytes, that stays while the path object lives.

        Args:
            file: the file.
            data: its bytes, if they have been read already.

        Raises:
            StorageError: it cannot be read.
        """
        content: Content | None = None if data is None else [data]
        for _ in range(_TRIES):
            if (path := self._pinned(file, is_counted=content is not None)) is not None:
                return path
            if not isinstance(content, list):
                content = self._brought(file)
            if isinstance(content, TemporaryBody):
                return LocalPath.temporary(content.take())
            if isinstance(content, list) and self.known(file) is None:
                return LocalPath.temporary(write_temporary(content, self._source.current(file).key))
        return self._source.temporary_path(self._source.current(file))  # the cache lost it each time

    def _brought(self, file: File) -> Content:
        """A fetched file, for its path: in the cache, in a temporary file, or, if it is small, in memory."""
        ((_, content),) = self._fetch("file", [self._source.current(file)])
        if isinstance(content, errors.StorageError):
            raise content
        return content

    def _pinned(self, file: File, *, is_counted: bool) -> LocalPath | None:
        """The path of a cached file, if it is there and whole."""
        held = self.known(file)
        if held is None:
            return None
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            path = LocalPath.in_cache(held.path)
            if intact(held):
                if not is_counted:
                    self.counters.row[telemetry.HITS] += 1
                    self.counters.row[telemetry.BYTES_FROM_CACHE] += held.size_bytes
                session_of(self.cache).budget.note_use(held.name)
                return path
        session_of(self.cache).objects.discard(held)
        return None

    # --- filling

    def fill(self, files: Iterable[File]) -> Iterator[Filled]:
        """Bring files into the cache; each comes with the bytes that were fetched for it, 0 if it was there."""
        return _lengths(self._fetch("nothing", map(self._source.current, files)))

    def fetch_ahead(self, files: Iterable[File], is_wanted: Callable[[], bool] = lambda: True) -> Iterator[Filled]:
        """As `fill`, for files that nobody waits for: those that another process is fetching are left out.

        If the cache has no more room, or the last file is no longer wanted, no further file is taken.

        Args:
            files: the files.
            is_wanted: asked once this process alone can fetch the file that was taken last: another one may have
                fetched it before, and found no room to keep it.
        """
        return _lengths(self._fetch("nothing", map(self._source.current, files), is_wanted))

    def absent(self, files: Iterable[File], *, trusting: bool = False, noting: bool = False) -> list[WantedFile]:
        """Those files that are not in the cache.

        Args:
            files: the files.
            trusting: whether files that this process has found there before count as there, without a look at the disk.
            noting: whether to record that the files that are there will be used, so that they are not evicted before.
        """
        absent = []
        for wanted in map(self._source.current, files):
            held = self._lookup.find(self.name(wanted))
            if held is None or not (trusting or session_of(self.cache).objects.is_there(held)):
                absent.append(wanted)
            elif noting:
                session_of(self.cache).budget.note_use(held.name)
        return absent

    def not_at_hand(self, positions: Sequence[int]) -> Sequence[int]:
        """Those of the files that are read now which this process has not used lately; all, if uses are recorded.

        Args:
            positions: of the files, as they were given to `keep_together`.
        """
        known = session_of(self.cache).known
        if known.newer or self.cache.policy == "lru":
            return positions
        names, recent = self.names(), known.recent
        return [position for position in positions if names[position] not in recent]

    def forget(self, file: File) -> None:
        """Remove a file from the cache: after a write, since some servers give a quick rewrite the same ETag."""
        if (held := session_of(self.cache).known.find(self.name(file))) is not None:
            session_of(self.cache).objects.discard(held)

    def _fetch(
        self, as_: As, files: Iterable[WantedFile], is_wanted: Callable[[], bool] | None = None
    ) -> Iterator[Arrival]:
        return Fetch(self._source, self._lookup, as_, is_wanted).arrivals(files)


Files = CachedStore | UncachedStore
"""What reads the files of a store, with a cache or without."""


def _lengths(arrivals: Iterable[Arrival]) -> Iterator[Filled]:
    for wanted, content in arrivals:
        if isinstance(content, errors.StorageError):
            yield wanted, content
        elif isinstance(content, list):
            yield wanted, sum(map(len, content))
        else:
            yield wanted, content.size_bytes if isinstance(content, Held) else content.length
