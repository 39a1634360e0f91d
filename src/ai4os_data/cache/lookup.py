"""A file is looked up and read in the cache without the network, an exclusive lock, or a wait for anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import telemetry
from ai4os_data.cache.disk_cache import session_of

if TYPE_CHECKING:
    from ai4os_data.cache.disk_cache import DiskCache
    from ai4os_data.cache.entries import Held
    from ai4os_data.cache.versions import Versions

_MOST_CHANGES = 8  # of one file, one after the other


class Lookup:
    """Finds the cached files of a store, also newer versions of files that have changed since they were listed."""

    def __init__(self, cache: DiskCache, versions: Versions, counters: telemetry.Counters) -> None:
        self.cache = cache
        self._versions = versions
        self._counters = counters

    def find(self, name: str) -> Held | None:
        """The cached file of a digest, or of the file's newer version; it may have been evicted since."""
        return session_of(self.cache).known.find(name) or self.newer(name)

    def newer(self, name: str) -> Held | None:
        """The cached file of a newer version that was found since the listing, if that version may be used."""
        session = session_of(self.cache)
        known = session.known
        for _ in range(_MOST_CHANGES):
            link = self._versions.link(name) if known.newer else None
            newer = known.newer.get(link) if link is not None else None
            if newer is None:
                return None
            if (held := known.find(newer)) is not None and session.objects.is_there(held):
                return held
            name = newer
        return None

    def hit(self, held: Held) -> bytes | None:
        """The bytes of a cached file, checked; None if it is damaged, or was evicted."""
        row = self._counters.row
        try:
            data = session_of(self.cache).read(held)
        except FileNotFoundError:
            return None
        if data is None:
            row[telemetry.DAMAGED] += 1
            return None
        row[telemetry.HITS] += 1
        row[telemetry.BYTES_FROM_CACHE] += held.size_bytes
        return data
