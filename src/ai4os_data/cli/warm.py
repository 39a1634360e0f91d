"""The warm command: the files of a location in the cache, before a training begins."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai4os_data import errors, telemetry
from ai4os_data.cache import CachedStore, DiskCache, UncachedStore, WantedFile, session_of
from ai4os_data.cli import kinds
from ai4os_data.cli.output import note, say
from ai4os_data.cli.progress import Steps, shown
from ai4os_data.datasets import Pattern, fill, matching, open_index
from ai4os_data.machine import shown_size
from ai4os_data.stores import ChosenEntries, open_store

if TYPE_CHECKING:
    from ai4os_data.stores import Store

_MOST_NAMED = 5  # of the files that could not be read


@dataclass(frozen=True)
class Options:
    """What is to be in the cache, and how; the names are those of the command line."""

    location: str
    remote: str | None = None
    pattern: str | list[str] = "**/*"
    shrink: int | None = None
    cache: str | None = None
    cache_size: str = "auto"
    quiet: bool = False
    as_json: bool = False


def run(options: Options) -> int:
    """Fill the cache as far as there is room; gives the exit code, which is 1 if files could not be read.

    Raises:
        CacheError: there is no cache.
        StorageError: the location cannot be listed.
    """
    begun_s = time.monotonic()
    store = open_store(options.location, options.remote, counters=telemetry.Counters())
    if store.is_local and options.cache is None:
        note(f"{store.location} is on a local disk, where a training reads without a cache: there is nothing to do")
        return 0
    prepare = kinds.prepare(options.shrink)
    cached = CachedStore(UncachedStore(store, prepare=prepare), DiskCache(options.cache, options.cache_size))
    files = _files(options, store, cached)
    failed: list[errors.StorageError] = []
    total = sum(file.size_bytes for file in files)
    with shown("warm", quiet=options.quiet) as show:
        came = Steps(show, total, len(files)).came
        filled = fill(cached, files, came, lambda _, error: failed.append(error))
    for reason in map(str, failed[:_MOST_NAMED]):
        note(f"ai4os-data: {reason}")
    absent = cached.absent(files)
    result = {
        "cache": cached.cache.directory,
        "files": len(files),
        "bytes": total,
        "files_in_cache": len(files) - len(absent),
        "bytes_in_cache": total - sum(file.size_bytes for file in absent),
        "bytes_from_network": filled.size_bytes,
        "failed": len(failed),
        "seconds": round(time.monotonic() - begun_s, 3),
    }
    if options.as_json:
        say(json.dumps(result))
    elif not options.quiet:
        say(_summary(result, cached.cache))
    return 1 if failed else 0


def _summary(result: dict[str, Any], cache: DiskCache) -> str:
    there = f"{result['files_in_cache']:,} of {result['files']:,} files"
    sizes = f"{shown_size(result['bytes_in_cache'])} of {shown_size(result['bytes'])}"
    came = f"{shown_size(result['bytes_from_network'])} fetched in {result['seconds']:.1f} s"
    line = f"{there} ({sizes}) are in {cache.directory}; {came}"
    if result["failed"]:
        return f"{line}. {result['failed']:,} could not be read"
    if result["files_in_cache"] == result["files"]:
        return line
    limit = shown_size(cache.stats()["size_limit"])
    return f"{line}. The cache is full, with a limit of {limit}; a training reads the rest over the network"


def _files(options: Options, store: Store, cached: CachedStore) -> list[WantedFile]:
    """What a dataset with these patterns has."""
    matches = Pattern(options.pattern)
    listed = open_index(store, session_of(cached.cache), None, "warn", matches)
    entries = ChosenEntries.at_positions(listed.entries, matching(matches, listed, store.location))
    cached.versions.begin(f"{listed.checked_s!r}", listed.newer)
    cached.keep_together(entries)
    return [*map(WantedFile, entries)]
