"""The metrics of a checkpoint: numbers, of which the one that decides was measured at the checkpoint's own step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ai4os_data.lightning.moments import is_whole_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer


class Metrics:
    """What a training has logged, and whether its monitor was measured at the step that is saved."""

    def __init__(self, monitor: str | None) -> None:
        self._monitor = monitor
        self._before: Any = None
        self._measured_step: int | None = None
        self._is_validated = False

    def begin_validation(self, trainer: Trainer) -> None:
        """Remember the metric as it was, to know a new one from an old one."""
        self._before = trainer.callback_metrics.get(self._monitor or "")

    def end_validation(self, trainer: Trainer) -> None:
        """Note whether the metric was measured."""
        self._is_validated = True
        metric = trainer.callback_metrics.get(self._monitor or "")
        # A number that somebody has put there may be the same object as before.
        if metric is not self._before or isinstance(metric, (int, float)):
            self._measured_step = trainer.global_step

    def of(self, trainer: Trainer) -> dict[str, float]:
        """What was logged; the monitor is not a number if it was measured at an earlier step."""
        metrics = numbers_in(trainer.callback_metrics)
        if self._monitor is not None:
            is_old = self._measured_step is not None and self._measured_step != trainer.global_step
            metrics[self._monitor] = math.nan if is_old else metrics.get(self._monitor, math.nan)
        return metrics

    def lacking(self, trainer: Trainer) -> str | None:
        """What to warn of if the monitor is not logged, though whatever is logged has had its occasion."""
        epoch_is_over = is_whole_epoch(trainer) or trainer.num_training_batches == math.inf
        is_complete = epoch_is_over and (self._is_validated or not trainer.enable_validation)
        if self._monitor is None or self._monitor in trainer.callback_metrics or not is_complete:
            return None
        logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        return f"monitor={self._monitor!r} is not logged, so none of the checkpoints is the best; logged are: {logged}"


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers: tensors and arrays of one element, and what somebody has put there as a number."""
    return {name: float(value) for name, value in metrics.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float, np.number, np.bool_)) and not isinstance(value, np.complexfloating)
