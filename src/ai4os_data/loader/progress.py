"""How an epoch went: how fast, how much of it came over the network, and how long the caller waited."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ai4os_data import telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai4os_data.loader.look_ahead import LookAhead

_COUNTED = ("hits", "misses", "bytes_from_network")


class Progress:
    """The figures of one pass.

    Args:
        epoch: its number.
        counters: of the datasets that it goes through, which other loaders over them count into too.
        ahead: the look-ahead of the pass.
    """

    def __init__(self, epoch: int, counters: Sequence[telemetry.Counters], ahead: LookAhead | None) -> None:
        self.epoch = epoch
        self._ahead = ahead
        self._counters = counters
        self._before = self._totals()
        self._samples = 0
        self._begun_s = time.perf_counter()
        self._ended_s: float | None = None
        self._first_batch_s = 0.0
        self._waited_s = 0.0
        self._at_end: dict[str, int] = {}

    def given(self, samples: int, waited_s: float) -> None:
        """Record a batch that the caller has waited for."""
        if self._samples == 0:
            self._first_batch_s = time.perf_counter() - self._begun_s
        else:
            self._waited_s += waited_s
        self._samples += samples

    def end(self) -> None:
        """Stop the clock."""
        if self._ended_s is None:
            self._ended_s = time.perf_counter()
            self._at_end = self._totals()

    def figures(self) -> dict[str, float]:
        """The figures up to now, or up to the end."""
        seconds = (self._ended_s or time.perf_counter()) - self._begun_s
        totals = self._at_end or self._totals()
        hits, misses, from_network = (totals[name] - self._before[name] for name in _COUNTED)
        fetched_ahead = self._ahead.figures["look_ahead_files"] if self._ahead is not None else 0
        used = hits + misses - fetched_ahead  # files that were fetched ahead are hits when they are used
        looping_s = seconds - self._first_batch_s
        return {
            **(self._ahead.figures if self._ahead is not None else {}),
            "epoch": self.epoch,
            "images": self._samples,
            "seconds": seconds,
            "images_per_s": self._samples / seconds if seconds else 0.0,
            "hit_rate": max(0.0, 1 - misses / used) if used > 0 else math.nan,
            "bytes_from_network": from_network,
            "first_batch_s": self._first_batch_s,
            "waiting_share": min(1.0, self._waited_s / looping_s) if looping_s > 0 else 0.0,
        }

    def log(self) -> None:
        """Log the figures in one line."""
        said = self.figures()
        parts = {name: said[name] * 100 for name in ("hit_rate", "waiting_share")}
        telemetry.log.info(
            "epoch %(epoch)d: %(images)d images, %(images_per_s).0f images/s, hit rate %(hit_rate).1f %%, "
            "%(megabytes).1f MB from the network, first batch after %(first_batch_s).2f s, "
            "then %(waiting_share).1f %% of the time waiting",
            {**said, **parts, "megabytes": said["bytes_from_network"] / 1e6},
        )

    def _totals(self) -> dict[str, int]:
        found = [counters.totals() for counters in self._counters]
        return {name: sum(totals[name] for totals in found) for name in _COUNTED}
