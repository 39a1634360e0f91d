"""How much of what a loader reads its caches hold, by a look at a few hundred files."""

from __future__ import annotations

import math
import os
import statistics
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.cache import DiskCache
    from ai4os_data.datasets import StorageDataset

_LOOKS = 300  # files of each dataset
_NEARLY_ALL = 0.98
_SPARE = 1.05  # for blocks, listings and the index
_GIB, _MIB = 2**30, 2**20


class Holding(NamedTuple):
    """What the caches of a loader's datasets hold.

    Attributes:
        share: of the files, by number; 1 if they lie on a local disk.
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
        found = [_found(dataset) for dataset in remote]
        caches = {dataset.reader.files.cache for dataset in remote}
        return cls(
            sum(held for held, _ in found) / files,
            None not in caches,
            _limit(caches.pop(), sum(needed for _, needed in found)) if len(caches) == 1 else None,
        )


def _found(dataset: StorageDataset) -> tuple[float, float]:
    """How many files of a dataset are in its cache, and the bytes that all of them would take there."""
    cached, entries = dataset.reader.cached, dataset.reader.entries
    if cached is None or not len(entries):
        return 0.0, 0.0
    looked_at = [entries[index] for index in range(0, len(entries), math.ceil(len(entries) / _LOOKS))]
    absent = {wanted.key for wanted in cached.absent(looked_at)}
    there = [held for entry in looked_at if entry.key not in absent and (held := cached.known(entry)) is not None]
    mean_bytes = statistics.fmean(
        one.size_bytes for one in there or looked_at
    )  # prepared, they differ from the listing
    return len(entries) * (1 - len(absent) / len(looked_at)), len(entries) * mean_bytes


def _limit(cache: DiskCache | None, needed_bytes: float) -> str | None:
    """A limit under which a full cache would hold so many bytes; None if its disk has too little room."""
    with suppress(OSError):  # its user has removed it
        if cache is not None:
            disk = os.statvfs(cache.directory)
            needed_bytes *= _SPARE
            if needed_bytes <= cache.size_limit + disk.f_bavail * disk.f_frsize:
                unit, name = (_GIB, "GiB") if needed_bytes >= _GIB else (_MIB, "MiB")
                return f"{math.ceil(needed_bytes / unit)}{name}"
    return None
