"""Which checkpoints of a run may go: those that no rule keeps, once a newer one is confirmed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai4os_data.checkpoint.names import CheckpointName

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Retention:
    """What stays.

    Attributes:
        keep_last: how many of the newest, at least 1.
        keep_best: how many of the best by ``monitor``.
        keep_every: those whose step is a multiple of it.
        monitor: the metric that says how good one is.
        mode: whether a low or a high metric is good.
    """

    keep_last: int = 2
    keep_best: int = 0
    keep_every: int | None = None
    monitor: str | None = None
    mode: Mode = "min"

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: it does not.
        """
        if self.keep_last < 1:
            raise ValueError(f"keep_last is at least 1, not {self.keep_last}: the newest checkpoint always stays")
        if self.keep_best < 0 or (self.keep_every is not None and self.keep_every < 1):
            raise ValueError(f"keep_best={self.keep_best} and keep_every={self.keep_every} are no counts")
        if self.keep_best and self.monitor is None:
            raise ValueError("keep_best needs monitor, the name of the metric that says which are the best")
        if self.mode not in {"min", "max"}:
            raise ValueError(f"mode is 'min' or 'max', not {self.mode!r}")

    def kept(
        self, newest_first: Sequence[CheckpointName], metrics: Mapping[CheckpointName, Mapping[str, float]]
    ) -> set[CheckpointName]:
        """Those that stay."""
        return {*newest_first[: self.keep_last], *self.kept_for_good(newest_first, metrics)}

    def kept_for_good(
        self, newest_first: Sequence[CheckpointName], metrics: Mapping[CheckpointName, Mapping[str, float]]
    ) -> set[CheckpointName]:
        """Those that newer ones alone do not displace: the best, and each of so many steps."""
        every = self.keep_every
        regular = (name for name in newest_first if every is not None and name.step % every == 0)
        return {*self._best(newest_first, metrics), *regular}

    def _best(
        self, newest_first: Sequence[CheckpointName], metrics: Mapping[CheckpointName, Mapping[str, float]]
    ) -> list[CheckpointName]:
        sign = 1 if self.mode == "min" else -1
        measured = [
            (sign * value, name)
            for name in newest_first
            if (value := metrics[name].get(self.monitor or "")) is not None and not math.isnan(value)
        ]
        # Of equals the newest: sorting keeps the order that they come in.
        return [name for _, name in sorted(measured, key=lambda pair: pair[0])[: self.keep_best]]
