"""How much of what a loader reads its caches hold, by a look at a few hundred files."""

from __future__ import annotations

import math
import os
import statistics
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.cache import DiskCache
    from ai4os_data.datasets import StorageDataset

_LOOKS = 300  # files of each dataset
_NEARLY_ALL = 0.98
_OF_A_FILE = 4096  # bytes, for its last block and its row in the index
_SPARE = 1.1  # a few hundred files are not all
_GIB, _MIB = 2**30, 2**20


class Holding(NamedTuple):
    """What the caches of a loader's datasets hold.

    Attributes:
        share: of the files, by number; 1 if they lie on a local disk, or if there is room for the rest.
        has_caches: whether each dataset that needs a cache has one.
        wanted_limit: a ``size_limit=`` for all files, if they go through one cache, and its disk has room for that.
    """

    share: float
    has_caches: bool
    wanted_limit: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all files are there, or nearly all."""
        return self.share >= _NEARLY_ALL

    @classmethod
    def of(cls, datasets: Sequence[StorageDataset]) -> Holding:
        """What the caches of these hold now."""
        remote = [dataset for dataset in datasets if not dataset.reader.files.store.is_local]
        files = sum(map(len, remote))
        if not files:
            return cls(1.0, has_caches=True)
        found = [_absent(dataset) for dataset in remote]
        share = 1 - sum(number for number, _ in found) / files
        caches = {dataset.reader.files.cache for dataset in remote}
        cache = caches.pop()
        if cache is None or caches:
            return cls(share, has_caches=cache is not None and None not in caches)
        with suppress(CacheError, OSError):  # its user has removed it
            lacking_bytes = _lacking(cache, sum(size_bytes for _, size_bytes in found))
            if lacking_bytes <= 0:  # the next epoch keeps what it fetches
                return cls(1.0, has_caches=True)
            disk = os.statvfs(cache.directory)
            if lacking_bytes < disk.f_bavail * disk.f_frsize:
                return cls(share, has_caches=True, wanted_limit=_as_limit(cache.size_limit + _SPARE * lacking_bytes))
        return cls(share, has_caches=True)


def _absent(dataset: StorageDataset) -> tuple[float, float]:
    """How many files of a dataset are not in its cache, and the bytes that they would take there."""
    cached, entries = dataset.reader.cached, dataset.reader.entries
    if cached is None or not len(entries):
        return len(entries), 0.0
    looked_at = [entries[index] for index in range(0, len(entries), math.ceil(len(entries) / _LOOKS))]
    absent = {wanted.key for wanted in cached.absent(looked_at)}
    there = [held for entry in looked_at if entry.key not in absent and (held := cached.known(entry)) is not None]
    mean_bytes = statistics.fmean(one.size_bytes for one in there or looked_at)  # as prepared, if that is known
    number = len(entries) * len(absent) / len(looked_at)
    return number, number * (mean_bytes + _OF_A_FILE)


def _lacking(cache: DiskCache, absent_bytes: float) -> float:
    """How much more a cache would have to take to hold these bytes, too."""
    now = cache.stats()
    return now["bytes"] + absent_bytes - now["size_limit"]


def _as_limit(size_bytes: float) -> str:
    unit, name = (_GIB, "GiB") if size_bytes >= _GIB else (_MIB, "MiB")
    return f"{math.ceil(size_bytes / unit)}{name}"
