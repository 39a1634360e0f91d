"""When a Lightning training saves: every n steps or epochs, or after a time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Triggers:
    """The triggers of a save; without any, the end of each epoch is one.

    Attributes:
        options: the triggers as the callback names them.

    Raises:
        TypeError: the interval is no ``timedelta``.
        ValueError: a number is less than 1.
    """

    def __init__(self, steps: int | None, epochs: int | None, interval: timedelta | None) -> None:
        if interval is not None and not isinstance(interval, timedelta):
            raise TypeError(f"train_time_interval is a datetime.timedelta, not {interval!r}")
        for name, count in (("every_n_train_steps", steps), ("every_n_epochs", epochs)):
            if count is not None and count < 1:
                raise ValueError(f"{name} is at least 1, or None, not {count}")
        epochs = 1 if steps is None and epochs is None and interval is None else epochs
        self.options = {"every_n_train_steps": steps, "every_n_epochs": epochs, "train_time_interval": interval}
        self._steps, self._epochs, self._interval = steps, epochs, interval
        self._last_s = 0.0
        self._counted_step = 0  # `is_time` is asked once for each step

    def begin(self, trainer: Trainer) -> None:
        """Count from here."""
        self._last_s, self._counted_step = time.monotonic(), trainer.global_step

    def is_time(self, trainer: Trainer) -> bool:
        """Whether the step or the time makes a save due; all ranks ask."""
        is_new_step, self._counted_step = trainer.global_step != self._counted_step, trainer.global_step
        is_late = False
        if self._interval is not None:
            is_late = time.monotonic() - self._last_s >= self._interval.total_seconds()
            is_late = trainer.strategy.broadcast(is_late)  # clocks differ, and all ranks save together
        if is_late:
            self._last_s = time.monotonic()
        return is_late or (self._steps is not None and is_new_step and trainer.global_step % self._steps == 0)

    def is_end_of_epoch(self, trainer: Trainer) -> bool:
        """Whether the end of this epoch makes a save due."""
        return self._epochs is not None and (trainer.current_epoch + 1) % self._epochs == 0
