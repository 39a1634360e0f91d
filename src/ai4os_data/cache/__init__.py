"""The cache on the local disk: a hit never touches the network, and the directory never outgrows its limit."""

from __future__ import annotations

from ai4os_data.cache import placement
from ai4os_data.cache.cached_store import CachedStore, Files
from ai4os_data.cache.disk_cache import DiskCache, cache_for, caches_on_disk_of, session_of, take_from
from ai4os_data.cache.entries import Held, digest
from ai4os_data.cache.known import MOST_KNOWN
from ai4os_data.cache.live import live_in
from ai4os_data.cache.paths import LocalPath
from ai4os_data.cache.placement import (
    SMALLEST_BYTES,
    copies_candidates,
    fallback,
    spool_candidates,
    spool_room,
)
from ai4os_data.cache.plan import Plan, Uses
from ai4os_data.cache.preparation import Preparation
from ai4os_data.cache.report import Report, directories, existing, held_on_disk_of, report
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
    "Preparation",
    "Report",
    "UncachedStore",
    "Uses",
    "WantedFile",
    "cache_for",
    "caches_on_disk_of",
    "copies_candidates",
    "digest",
    "directories",
    "existing",
    "fallback",
    "held_on_disk_of",
    "live_in",
    "placement",
    "report",
    "session_of",
    "spool_candidates",
    "spool_room",
    "take_from",
]
