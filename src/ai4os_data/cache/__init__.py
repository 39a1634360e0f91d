"""The cache on the local disk. A hit never touches the network, and the directory never outgrows its limit."""

from __future__ import annotations

from ai4os_data.cache.cached_store import IN_MEMORY_BYTES, CachedStore
from ai4os_data.cache.disk_cache import DiskCache
from ai4os_data.cache.objects import MOST_KNOWN, Held, LocalPath

__all__ = ["IN_MEMORY_BYTES", "MOST_KNOWN", "CachedStore", "DiskCache", "Held", "LocalPath"]
