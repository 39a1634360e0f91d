"""The metrics of a checkpoint: numbers, of which the monitor was measured at the checkpoint's own step."""

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
    """The logged metrics of a training, and whether its monitor was measured at the step that is saved."""

    def __init__(self, monitor: str | None) -> None:
        self._monitor = monitor
        self._before: Any = None
        self._measured_step: int | None = None
        self._is_validated = False

    def begin_validation(self, trainer: Trainer) -> None:
        """Remember the metric, to distinguish a new value from an old one."""
        self._before = trainer.callback_metrics.get(self._monitor or "")

    def end_validation(self, trainer: Trainer) -> None:
        """Note whether the metric was measured."""
        self._is_validated = True
        metric = trainer.callback_metrics.get(self._monitor or "")
        # A plain number may be the same object as before, though it is new.
        if metric is not self._before or isinstance(metric, (int, float)):
            self._measured_step = trainer.global_step

    def of(self, trainer: Trainer) -> dict[str, float]:
        """The logged metrics; the monitor is NaN if it was measured at an earlier step."""
        metrics = numbers_in(trainer.callback_metrics)
        if self._monitor is not None:
            is_old = self._measured_step is not None and self._measured_step != trainer.global_step
            metrics[self._monitor] = math.nan if is_old else metrics.get(self._monitor, math.nan)
        return metrics

    def lacking(self, trainer: Trainer) -> str | None:
        """The warning if the monitor is not logged, although everything that is logged should have been by now."""
        epoch_is_over = is_whole_epoch(trainer) or trainer.num_training_batches == math.inf
        is_complete = epoch_is_over and (self._is_validated or not trainer.enable_validation)
        if self._monitor is None or self._monitor in trainer.callback_metrics or not is_complete:
            return None
        logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        return f"monitor={self._monitor!r} is not logged, so none of the checkpoints is the best; logged are: {logged}"


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers: tensors and arrays of one element, and plain numbers."""
    return {name: float(value) for name, value in metrics.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float, np.number, np.bool_)) and not isinstance(value, np.complexfloating)
