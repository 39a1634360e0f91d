"""The cache on the local disk. A hit never touches the network, and the directory never outgrows its limit."""

from __future__ import annotations

from ai4os_data.cache import placement
from ai4os_data.cache.cached_store import CachedStore, Files
from ai4os_data.cache.disk_cache import DiskCache
from ai4os_data.cache.objects import MOST_KNOWN, Held, LocalPath, digest
from ai4os_data.cache.placement import (
    SMALLEST_BYTES,
    fallback,
    spool_candidates,
    spool_room,
)
from ai4os_data.cache.plan import Plan, Uses
from ai4os_data.cache.report import Report, directories, existing, report
from ai4os_data.cache.uncached import IN_MEMORY_BYTES, UncachedStore
from ai4os_data.cache.versions import Drift, WantedFile

__all__ = [
    "IN_MEMORY_BYTES",
    "MOST_KNOWN",
    "SMALLEST_BYTES",
    "CachedStore",
    "DiskCache",
    "Drift",
    "Files",
    "Held",
    "LocalPath",
    "Plan",
    "Report",
    "UncachedStore",
    "Uses",
    "WantedFile",
    "digest",
    "directories",
    "existing",
    "fallback",
    "placement",
    "report",
    "spool_candidates",
    "spool_room",
]
