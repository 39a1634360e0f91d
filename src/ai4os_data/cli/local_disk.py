"""Whether this machine's disk has room for the cache, and for checkpoints that wait; nothing is made there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import DiskCache, caches_on_disk_of, placement, report, spool_room
from ai4os_data.checkpoint import foreseen_directory
from ai4os_data.cli.finding import Finding
from ai4os_data.machine import shown_size
from ai4os_data.stores import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW_BYTES = 2**30
_BLOCK_BYTES = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ELSEWHERE = "free some space, or say where: {}=/directory, on a local disk"


def cache_of(environ: Mapping[str, str]) -> Finding:
    """Where the cache is, and whether it has room."""
    elsewhere = _ELSEWHERE.format("AI4OS_DATA_CACHE")
    try:
        cache = DiskCache()
    except errors.CacheError as error:
        return Finding("bad", "cache", _full_cache(environ) or str(error), elsewhere)
    first = next(placement.candidates(environ))
    is_elsewhere = os.path.realpath(first) != os.path.realpath(cache.directory)
    if is_elsewhere and (full := _full_cache(environ)) is not None:
        return Finding("bad", "cache", f"{full}; until there is room it goes to {cache.directory}", elsewhere)
    free = shutil.disk_usage(cache.directory).free
    told = f"{shown_size(free)} free; the cache in {cache.directory} takes up to {shown_size(cache.size_limit)}"
    few = "little room: what does not fit is read over the network in every epoch" if free < FEW_BYTES else ""
    return Finding.fine("cache", told, few)


def _full_cache(environ: Mapping[str, str]) -> str | None:
    """A sentence that says so if the disk of the first choice for the cache is full; None if it is not."""
    first = next(placement.candidates(environ))
    try:
        placement.auto_limit(placement.usable(first, memory_too=False), 0)
    except errors.CacheLimitError as error:
        return str(error)
    except errors.CacheError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            return _full_disk(first)
    return None


def _full_disk(directory: str) -> str:
    free = shutil.disk_usage(nearest(os.path.abspath(directory))).free
    return f"the disk of {directory} is full: {free >> 20:,} MiB free"


def spool_of(environ: Mapping[str, str]) -> Finding:
    """Whether checkpoints can wait on the local disk; caches on it give way to them, and so count as free."""
    directory, refusal = foreseen_directory(environ)
    elsewhere = _ELSEWHERE.format("AI4OS_DATA_SPOOL")
    if refusal is not None:
        return Finding("bad", "spool", f"{directory} {refusal}; no checkpoint can be saved", elsewhere)
    try:
        top = nearest(str(directory))
        free, reserve = spool_room(top)
        with tempfile.TemporaryFile(dir=top, buffering=0) as file:  # it has no name, and leaves nothing
            file.write(bytes(_BLOCK_BYTES))
    except OSError as error:
        is_full = error.errno in _FULL
        told = _full_disk(str(directory)) if is_full else f"{directory} cannot be written: {error.strerror}"
        return Finding("bad", "spool", f"{told}; no checkpoint can be saved", elsewhere)
    free += sum(report(cache.directory).entries_bytes for cache in caches_on_disk_of(top))
    if free <= reserve:
        told = f"{free >> 20:,} MiB free for {directory}, of which {reserve >> 20:,} MiB are kept free"
        return Finding("bad", "spool", f"{told}; no checkpoint can be saved", elsewhere)
    few = "little room: it takes two to three checkpoints; delete what is not needed" if free < FEW_BYTES else ""
    return Finding.fine("spool", f"{shown_size(free - reserve)} for checkpoints in {directory}", few)
