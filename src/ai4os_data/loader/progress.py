"""How an epoch went: how fast, how much of it came over the network, how long the caller waited, and for what."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, TypedDict

from ai4os_data import telemetry
from ai4os_data.loader.bound import Bound, Sums
from ai4os_data.loader.gains import Epoch
from ai4os_data.loader.holding import Holding
from ai4os_data.loader.sharing import group
from ai4os_data.machine import usable_processors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.datasets import StorageDataset
    from ai4os_data.loader.look_ahead import LookAhead

_COUNTED = ("hits", "misses", "bytes_from_network")
_LEAST_S = 1.0  # a shorter epoch says little of the next ones
_NOT_MANY = 0.05  # of the files


class EpochStats(TypedDict, total=False):
    """The figures of a pass, as `StorageDataLoader.stats` describes them."""

    epoch: int
    images: int
    seconds: float
    images_per_s: float
    hit_rate: float
    bytes_from_network: int
    first_batch_s: float
    waiting_share: float
    bound_by: str
    storage_share: float
    decode_share: float
    loop_share: float
    look_ahead_files: int
    look_ahead_bytes: int
    look_ahead_cpu_s: float


class Progress:
    """The figures of one pass.

    Args:
        epoch: its number.
        datasets: those that it goes through. Other loaders over them count into the same hits and bytes.
        ahead: the look-ahead of the pass.
        workers: how many processes make its batches; 0 if the caller does.
    """

    def __init__(self, epoch: int, datasets: Sequence[StorageDataset], ahead: LookAhead | None, workers: int) -> None:
        self.epoch = epoch
        self._ahead = ahead
        self._workers = workers
        self._datasets = datasets
        self._before = self._totals()
        self._samples = self._batches = 0
        self._sums = Sums()
        self._begun_s = time.perf_counter()
        self._ended_s: float | None = None
        self._first_batch_s = 0.0
        self._waited_s = 0.0
        self._cpu_s = time.process_time()  # until the end, that of the process up to now
        self._at_end: dict[str, int] = {}

    def given(self, samples: int, begun_s: float, ended_s: float, spent: Sequence[int]) -> None:
        """Record a batch that the caller has asked for, and waited for; ``spent`` are the fields of its `Spent`."""
        if self._samples == 0:
            self._first_batch_s = ended_s - self._begun_s
        else:
            self._waited_s += ended_s - begun_s
        self._samples += samples
        self._batches += 1
        self._sums.add(begun_s, ended_s, spent)

    def end(self) -> None:
        """Stop the clock."""
        if self._ended_s is None:
            self._ended_s = time.perf_counter()
            self._cpu_s = time.process_time() - self._cpu_s
            self._at_end = self._totals()

    def figures(self) -> EpochStats:
        """The figures up to now, or up to the end."""
        seconds = (self._ended_s or time.perf_counter()) - self._begun_s
        totals = self._at_end or self._totals()
        hits, misses, from_network = (totals[name] - self._before[name] for name in _COUNTED)
        fetched_ahead = self._ahead.figures["look_ahead_files"] if self._ahead is not None else 0
        used = hits + misses - fetched_ahead  # files that were fetched ahead are hits when they are used
        looping_s = seconds - self._first_batch_s
        bound = self._bound()
        figures: EpochStats = {
            "epoch": self.epoch,
            "images": self._samples,
            "seconds": seconds,
            "images_per_s": self._samples / seconds if seconds else 0.0,
            "hit_rate": max(0.0, 1 - misses / used) if used > 0 else math.nan,
            "bytes_from_network": from_network,
            "first_batch_s": self._first_batch_s,
            "waiting_share": min(1.0, self._waited_s / looping_s) if looping_s > 0 else 0.0,
            "bound_by": bound.by,
            "storage_share": bound.storage_share,
            "decode_share": bound.decode_share,
            "loop_share": bound.loop_share,
        }
        return figures if self._ahead is None else {**figures, **self._ahead.figures}

    def log(self) -> None:
        """Log the figures of the epoch in one line, with the one thing that would make the next ones faster."""
        said = self.figures()
        line = (
            "epoch %(epoch)d: %(images)d images, %(images_per_s).0f images/s, hit rate %(hit).1f %%, %(megabytes).1f "
            "MB from the network, first batch after %(first_batch_s).2f s, then %(waiting).1f %% of the time waiting"
        )
        if said["bound_by"]:
            line += ", bound by %(bound_by)s (storage %(storage).0f %%, decode %(decode).0f %%, loop %(loop).0f %%)"
        if advice := self._advice(said["hit_rate"]):
            line += "; %(advice)s"
        shown = {
            "hit": 100 * said["hit_rate"],
            "megabytes": said["bytes_from_network"] / 1e6,
            "waiting": 100 * said["waiting_share"],
            "storage": 100 * said["storage_share"],
            "decode": 100 * said["decode_share"],
            "loop": 100 * said["loop_share"],
            "advice": advice,
        }
        telemetry.log.info(line, {**said, **shown})

    def _bound(self) -> Bound:
        times = self._sums.times()
        return Bound() if times is None else times.bound(self._workers)

    def _advice(self, hit_rate: float) -> str:
        """What would make the next epochs faster; empty if nothing would, or too little is known of this one."""
        times = self._sums.times()
        if times is None or (self._ended_s or 0) - self._begun_s - self._first_batch_s < _LEAST_S:
            return ""
        readers = [dataset.reader for dataset in self._datasets]
        missed = 1.0 if math.isnan(hit_rate) else 1 - hit_rate
        ahead_s = self._ahead.figures["look_ahead_cpu_s"] if self._ahead is not None else 0.0
        fetches = times.fetching_s > _NOT_MANY * times.work_s
        return Epoch(
            times=times if fetches else times._replace(disk_s=times.disk_s + times.fetching_s, fetching_s=0.0),
            seen=self._sums.seen,
            batch_samples=self._samples / self._batches,
            workers=self._workers,
            cores=max(1, usable_processors() // _ranks_here()),
            cpu_s=(self._cpu_s - ahead_s) / self._batches,
            missed=missed,
            holding=Holding.of(self._datasets) if fetches else Holding(1.0, has_caches=True),
            gives_bytes=all(reader.maker.gives_bytes for reader in readers),
            own_decoder=any(reader.maker.sees_samples for reader in readers),
            is_cached=all(reader.cached is not None for reader in readers),
        ).advice()

    def _totals(self) -> dict[str, int]:
        found = [dataset.reader.files.counters.totals() for dataset in self._datasets]
        return {name: sum(totals[name] for totals in found) for name in _COUNTED}


def _ranks_here() -> int:
    """How many ranks share this machine, as far as is known."""
    ranks, _ = group()
    text = os.environ.get("LOCAL_WORLD_SIZE", "")  # of torchrun
    return min(ranks, int(text)) if text.isdecimal() and int(text) else ranks
