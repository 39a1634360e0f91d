"""Entries that stay together: under the policy ``"auto"`` they do not evict each other while their reader lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.cache.disk_cache import session_of
from ai4os_data.cache.live import live_in
from ai4os_data.machine import packed_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.cache.disk_cache import DiskCache
    from ai4os_data.cache.uncached import UncachedStore
    from ai4os_data.stores import Entry


class Together:
    """The digests of the files that are read by a listing.

    Args:
        source: where the files come from.
        cache: where they are kept.
        entries: the files.
    """

    def __init__(self, source: UncachedStore, cache: DiskCache, entries: Sequence[Entry]) -> None:
        self._source = source
        self._cache = cache
        self._entries = entries
        self._names: Sequence[str] | None = None
        live_in(cache.directory).keep_together(self.names)

    def __setstate__(self, state: dict[str, object]) -> None:
        """Keep the entries together in this process too."""
        self.__dict__.update(state)
        live_in(self._cache.directory).keep_together(self.names)

    def names(self) -> Sequence[str]:
        """The digests in the order of the files, of newer versions as far as they are known."""
        if self._names is None:
            self._names = packed_texts([self._source.name(self._source.current(entry)) for entry in self._entries])
        link = self._source.versions.link
        if not (newer := session_of(self._cache).known.newer) or self._source.versions.listing is None:
            return self._names
        return [newer.get(link(name) or name, name) for name in self._names]
