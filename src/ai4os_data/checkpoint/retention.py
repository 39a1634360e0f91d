"""The rules of retention: a checkpoint that no rule keeps may be removed once a newer one is confirmed.

``keep_last`` counts along the line of descent; the best and the milestones are those of the whole run, in any attempt.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai4os_data.checkpoint.names import CheckpointName

Mode = Literal["min", "max"]

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of val_loss, valLoss, MSELoss and val/loss.1
_LOW_IS_GOOD = frozenset({"loss", "error"})
_TURNED_ROUND = frozenset({"neg", "negative"})  # as in neg_mean_squared_error of scikit-learn


@dataclass(frozen=True)
class Retention:
    """The rules by which checkpoints stay.

    Attributes:
        keep_last: how many of the newest stay, at least 1.
        keep_best: how many of the best by ``monitor`` stay.
        keep_every: checkpoints whose step is a multiple of it stay.
        monitor: the metric that says how good one is.
        mode: whether a low or a high metric is good. It may be left out if the metric's name says that it is a loss
            or an error.
    """

    keep_last: int = 2
    keep_best: int = 0
    keep_every: int | None = None
    monitor: str | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        """Check the rules.

        Raises:
            ValueError: one makes no sense.
        """
        if self.keep_last < 1:
            raise ValueError(f"keep_last is at least 1, not {self.keep_last}: the newest checkpoint always stays")
        if self.keep_best < 0 or (self.keep_every is not None and self.keep_every < 1):
            raise ValueError(f"keep_best={self.keep_best} and keep_every={self.keep_every} are no counts")
        if self.keep_best and self.monitor is None:
            raise ValueError("keep_best needs monitor, the name of the metric that says which are the best")
        if self.keep_best and self.monitor is not None:
            chosen_mode(self.monitor, self.mode)
        elif self.mode not in {"min", "max", None}:
            raise ValueError(f"mode is 'min' or 'max', not {self.mode!r}")

    def kept(
        self,
        line: Sequence[CheckpointName],
        newest_first: Sequence[CheckpointName],
        metrics: Mapping[CheckpointName, Mapping[str, float]],
    ) -> set[CheckpointName]:
        """The checkpoints that stay.

        Args:
            line: those that lead up to the one that was saved last, newest first.
            newest_first: all of the run.
            metrics: of all of them.
        """
        return {*line[: self.keep_last], *self.kept_for_good(newest_first, metrics)}

    def kept_for_good(
        self, newest_first: Sequence[CheckpointName], metrics: Mapping[CheckpointName, Mapping[str, float]]
    ) -> set[CheckpointName]:
        """Those that stay however many newer ones there are: the best, and the milestones of ``keep_every``."""
        every = self.keep_every
        regular = (name for name in newest_first if every is not None and name.step % every == 0)
        return {*self._best(newest_first, metrics), *regular}

    def _best(
        self, newest_first: Sequence[CheckpointName], metrics: Mapping[CheckpointName, Mapping[str, float]]
    ) -> list[CheckpointName]:
        if not self.keep_best or self.monitor is None:
            return []
        sign = 1 if chosen_mode(self.monitor, self.mode) == "min" else -1
        measured = [
            (sign * value, name)
            for name in newest_first
            if (value := metrics[name].get(self.monitor)) is not None and not math.isnan(value)
        ]
        # The newest of equal ones: sorting is stable.
        return [name for _, name in sorted(measured, key=lambda pair: pair[0])[: self.keep_best]]


def chosen_mode(monitor: str, mode: Mode | None) -> Mode:
    """Whether a low or a high metric is good: as the user said, or as the metric's name says.

    Raises:
        ValueError: neither says so.
    """
    if mode is None:
        words = {word.lower() for word in _WORDS.findall(monitor)}
        if words & _LOW_IS_GOOD and not words & _TURNED_ROUND:
            return "min"
        raise ValueError(
            f"monitor={monitor!r} needs a mode, since its name does not say which values are good: write mode='max' if "
            "high ones are, as of an accuracy, and mode='min' if low ones are, as of a loss"
        )
    if mode not in {"min", "max"}:
        raise ValueError(f"mode is 'min' or 'max', not {mode!r}")
    return mode
