"""What a cache directory holds, read from its files alone: without its index or lock, and without any writing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.cache import listings, placement
from ai4os_data.cache.leases import living
from ai4os_data.cache.objects import Objects
from ai4os_data.cache.record import record_in
from ai4os_data.cache.staged import allocated
from ai4os_data.errors import CacheError, CacheLimitError
from ai4os_data.machine import disk_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Report(NamedTuple):
    """What is found in a cache directory.

    Attributes:
        directory: where it is.
        entries: how many files it holds for datasets.
        entries_bytes: the disk space that these take.
        listings: how many listings of locations it keeps.
        used_bytes: the disk space of everything in the directory.
        limit_bytes: the limit that its last user gave; None if nothing was stored yet.
        auto_bytes: what ``size_limit="auto"`` gives here now; None if the disk has too little room.
        ceded_bytes: how much of the limit is left to others now, such as a checkpoint.
        ceded_until: the time until which that holds, as `time.time` counts.
        free_bytes: what is free on its disk.
        processes: how many processes store into it now.
    """

    directory: str
    entries: int
    entries_bytes: int
    listings: int
    used_bytes: int
    limit_bytes: int | None
    auto_bytes: int | None
    ceded_bytes: int
    ceded_until: float
    free_bytes: int
    processes: int


def directories(environ: Mapping[str, str]) -> list[str]:
    """The caches among the directories that ``"auto"`` may use, the one that it prefers first.

    Raises:
        CacheError: there is none; it says where it looked.
    """
    looked_at = [os.path.abspath(os.path.expanduser(path)) for path in placement.candidates(environ)]
    found = [path for path in looked_at if placement.is_cache(path)]
    if not found:
        raise CacheError(
            f"no cache has been made yet in {', '.join(looked_at)}; for one elsewhere, give its directory, as it was "
            "given to DiskCache"
        )
    return found


def existing(directory: str) -> str:
    """The absolute path of a directory that is a cache.

    Raises:
        CacheError: it is none, and so nothing in it is touched.
    """
    path = os.path.abspath(os.path.expanduser(directory))
    if placement.is_cache(path):
        return path
    if not os.path.isdir(path):
        raise CacheError(f"{path}: there is no such directory; check the spelling")
    raise CacheError(f"{path} is no cache of ai4os-data (no {placement.MARKER} in it), and nothing in it is touched")


def held_on_disk_of(path: str, environ: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """The usual caches on the disk that a path is on, this process's or not, and what the entries of each take."""
    disk = os.stat(path).st_dev
    for candidate in placement.candidates(environ):
        directory = os.path.abspath(os.path.expanduser(candidate))
        with suppress(OSError):
            if placement.is_cache(directory) and os.stat(directory).st_dev == disk:
                held_bytes = sum(allocated(held.size_bytes) for held in Objects(directory).files())
                if held_bytes:
                    yield directory, held_bytes


def report(directory: str) -> Report:
    """What a cache directory holds now."""
    held_bytes = [allocated(held.size_bytes) for held in Objects(directory).files()]
    disk = os.statvfs(directory)
    record, now = record_in(directory), time.time()
    return Report(
        directory=directory,
        entries=len(held_bytes),
        entries_bytes=sum(held_bytes),
        listings=len(listings.kept_in(directory)),
        used_bytes=sum(_taken(directory)),
        limit_bytes=record.limit_bytes or None,
        auto_bytes=_auto_bytes(directory, sum(held_bytes)),
        ceded_bytes=record.ceded_at(now),
        ceded_until=record.ceded_until,
        free_bytes=disk.f_bavail * disk.f_frsize,
        processes=len(living(directory)),
    )


def _auto_bytes(directory: str, held_bytes: int) -> int | None:
    try:
        return placement.auto_limit(directory, held_bytes)
    except CacheLimitError:
        return None


def _taken(directory: str) -> Iterator[int]:
    """The disk space of each file and folder; 0 for files that are evicted during the look."""
    for folder, _, names in os.walk(directory):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            with suppress(OSError):
                yield disk_bytes(path)
