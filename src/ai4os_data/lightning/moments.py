"""A moment of a Lightning training: all gradients have been applied, so that the training can be resumed from there.

Between two moments the state is incomplete: gradients wait to be applied, a forward pass has changed running means, the
learning rate waits for a metric. `Moments` keeps the last moment, and finds out whether the state has changed since.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from ai4os_data import errors
from ai4os_data.checkpoint import random_states
from ai4os_data.lightning.loaders import end_epoch
from ai4os_data.lightning.weights import Buffers, sample_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lightning.pytorch import Trainer


Awaited = Literal["batch", "validation", "end of epoch", "epoch"]


class Moment(NamedTuple):
    """The position of a training when all gradients have been applied.

    The weights are not in it: they stay as they are until the next such moment.

    Attributes:
        step: how many steps the optimizers have made.
        loops: the progress of Lightning's loops, with the positions of the loaders.
        random: the random states at that time.
        updates: the updates of the learning rate that Lightning makes before the next batch: schedulers by their
            number, each with its metric.
        scheduled: how often each scheduler had been updated.
        awaits: what comes next: a batch, a validation, the end of the epoch, or another epoch.
        sample: a few elements of each weight; None if nothing but the training can change them.
    """

    step: int
    loops: dict[str, Any]
    random: dict[str, Any]
    updates: list[tuple[int, Any]]
    scheduled: list[int]
    awaits: Awaited
    sample: torch.Tensor | None = None

    def updates_left(self, trainer: Trainer) -> list[list[Any]]:
        """The updates of the learning rate that have not been made yet."""
        return [list(update) for update in _left(self.updates, self.scheduled, trainer)]


class Moments:
    """The last moment of a training, and what has changed since."""

    def __init__(self, trainer: Trainer) -> None:
        self.last: Moment | None = None
        self._buffers = Buffers(trainer.lightning_module)
        self._is_before = True  # whether only the model's own hooks have changed buffers since the last moment
        self._random_before: dict[str, Any] | None = None  # before a validation that only a stop has caused
        self._steps = 0  # steps of any optimizer since the last moment
        self._begun: tuple[torch.optim.Optimizer, Any] | None = None  # the step that may be under way
        self._scheduled_before = _scheduled(trainer)
        self._handles = [optimizer.register_step_post_hook(self._note_step) for optimizer in trainer.optimizers]

    def close(self) -> None:
        """Remove the hooks from the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    # --- what happens

    def begin_batch(self, trainer: Trainer) -> None:
        """Note the progress of the schedulers, and copy the buffers before a forward pass changes them."""
        self._scheduled_before = _scheduled(trainer)
        if self._is_before:
            self._is_before = False
            self._buffers.keep()

    def begin_step(self, optimizer: Any) -> None:
        """Note the values that an optimizer changes first."""
        if isinstance(optimizer, torch.optim.Optimizer):
            self._begun = optimizer, _first_versions(optimizer)

    def _note_step(self, *_: Any) -> None:
        self._steps += 1
        self._begun = None

    def end_batch(self, trainer: Trainer) -> bool:
        """Record the moment, if all gradients have been applied. Returns whether they have."""
        is_by_hand = not trainer.lightning_module.automatic_optimization
        if trainer.fit_loop.epoch_loop._should_accumulate() or (is_by_hand and not self._steps):
            return False
        self._take(_at_end_of_batch(trainer))
        return True

    def end_validation(self, trainer: Trainer) -> bool:
        """Record the moment after a validation, if there was a moment before it. Returns whether there was."""
        last = self.last
        if last is None or last.awaits != "validation":
            self._random_before = last.random if last is not None and last.awaits == "end of epoch" else None
            return False
        self._take(_after(trainer, "end of epoch" if is_whole_epoch(trainer) else "batch", last.sample))
        return True

    def end_epoch(self, trainer: Trainer) -> None:
        """Record the moment at which an epoch is over."""
        moment = _after(trainer, "epoch", None if self.last is None else self.last.sample)
        self._take(moment if self._random_before is None else moment._replace(random=self._random_before))

    def resume(self, trainer: Trainer, awaits: Awaited) -> None:
        """Record the moment that the training resumes from as the last one."""
        self._take(_after(trainer, awaits, sample_of(trainer.lightning_module)))

    def note_weights(self, trainer: Trainer) -> None:
        """Record the present weights as the trained ones."""
        if self.last is not None and not self._steps:
            self.last = self.last._replace(sample=sample_of(trainer.lightning_module))

    def _take(self, moment: Moment) -> None:
        self.last = moment
        self._steps, self._begun, self._random_before = 0, None, None
        self._is_before = moment.awaits == "batch"
        if not self._is_before:
            self._buffers.keep()

    # --- what is saved

    def has_other_weights(self, trainer: Trainer) -> bool:
        """Whether the weights have been changed since, such as by a callback that swaps in averaged ones."""
        sample = None if self.last is None or self._steps else self.last.sample
        return sample is not None and not torch.equal(sample, sample_of(trainer.lightning_module))

    def buffers(self) -> AbstractContextManager[None]:
        """A context with the model's buffers of the last moment."""
        return nullcontext() if self._is_before else self._buffers.of_then()

    def catch_up(self, trainer: Trainer) -> bool:
        """Find the last moment after an exception. Returns whether its batch was cut off before its end.

        Raises:
            CheckpointError: the weights are no longer those of the last moment, and not yet those of the next.
        """
        is_by_hand = not trainer.lightning_module.automatic_optimization
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        is_cut_off = progress.started > progress.processed
        if self._begun is not None and _first_versions(self._begun[0]) != self._begun[1]:
            raise _half_done("in the midst of a step of the optimizer", self.last)
        has_counted = self.last is not None and self.last.step != trainer.global_step
        if not self._steps and not has_counted:
            return False
        if is_by_hand and is_cut_off:
            raise _half_done("in a training_step that had stepped an optimizer already", self.last)
        left = _left(_updates_of_batch(trainer), self._scheduled_before, trainer)
        moment = _at_end_of_batch(trainer)
        self._take(moment._replace(updates=left + moment.updates))
        return True


def _at_end_of_batch(trainer: Trainer) -> Moment:
    """The moment at which a batch has been trained, even if it has not been counted yet."""
    fetcher = trainer.fit_loop._data_fetcher
    awaits: Awaited = "end of epoch" if is_whole_epoch(trainer) else "batch"
    if fetcher is not None and _is_validation_due(trainer, fetcher):
        awaits = "validation"
    loops = _states_of_loops(trainer)
    step = _count_batch(loops, trainer)
    sample = None if awaits == "batch" else sample_of(trainer.lightning_module)
    return _moment(trainer, step, loops, awaits, sample)


def _after(trainer: Trainer, awaits: Awaited, sample: torch.Tensor | None) -> Moment:
    """The moment after a validation or an epoch."""
    return _moment(trainer, trainer.global_step, _states_of_loops(trainer), awaits, sample)


def _moment(trainer: Trainer, step: int, loops: dict[str, Any], awaits: Awaited, sample: torch.Tensor | None) -> Moment:
    _turn_to(loops, awaits)
    updates = [] if awaits == "validation" else _plateau_updates(trainer, "epoch" if awaits == "epoch" else "step")
    return Moment(step, loops, random_states(), updates, _scheduled(trainer), awaits, sample)


# --- Lightning's counters


def _states_of_loops(trainer: Trainer) -> dict[str, Any]:
    if is_whole_epoch(trainer):
        # Lightning resumes with the next epoch, but lets the loaders begin before it sets the epoch.
        end_epoch(trainer, trainer.current_epoch + 1)
    names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    return {name: getattr(trainer, name).state_dict() for name in names}


def _count_batch(loops: dict[str, Any], trainer: Trainer) -> int:
    """Count a batch that was trained and not counted yet. Returns the number of steps."""
    fit = loops["fit_loop"]
    for counts in (fit["epoch_loop.batch_progress"][which] for which in ("total", "current")):
        counts["processed"] = counts["started"]
    if not trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    steps = fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    for counts in (steps["total"], steps["current"]):
        counts["completed"] = counts["ready"]
    step: int = steps["total"]["completed"]
    return step


def _turn_to(loops: dict[str, Any], awaits: Awaited) -> None:
    """Set the loops so that Lightning resumes with what comes next: it looks whether the last batch is completed."""
    for counts in (loops["fit_loop"]["epoch_loop.batch_progress"][which] for which in ("total", "current")):
        counts["completed"] = counts["processed"] - (awaits == "batch")


def _scheduled(trainer: Trainer) -> list[int]:
    """How often each scheduler has been updated; for one that does not count, how often any one has."""
    total = trainer.fit_loop.epoch_loop.scheduler_progress.total.completed
    return [getattr(config.scheduler, "last_epoch", total) for config in trainer.lr_scheduler_configs]


def _left(updates: list[tuple[int, Any]], before: list[int], trainer: Trainer) -> list[tuple[int, Any]]:
    """Those of some updates that have not been made since."""
    now = _scheduled(trainer)
    return [(number, metric) for number, metric in updates if now[number] == before[number]]


def _updates(trainer: Trainer, interval: str, *, of_plateaus: bool) -> list[int]:
    """The schedulers that Lightning steps at the end of this batch, or of this epoch."""
    if not trainer.lightning_module.automatic_optimization:
        return []
    count = 1 + (trainer.fit_loop.epoch_loop.batch_idx if interval == "step" else trainer.current_epoch)
    return [
        number
        for number, config in enumerate(trainer.lr_scheduler_configs)
        if config.reduce_on_plateau == of_plateaus and config.interval == interval and count % config.frequency == 0
    ]


def _plateau_updates(trainer: Trainer, interval: str) -> list[tuple[int, Any]]:
    """The schedulers that wait for a metric; without the metric, Lightning skips them."""
    numbers = _updates(trainer, interval, of_plateaus=True)
    metrics = trainer.callback_metrics if numbers else {}
    monitors = {number: trainer.lr_scheduler_configs[number].monitor or "" for number in numbers}
    return [(number, metrics[name]) for number, name in monitors.items() if name in metrics]


def _updates_of_batch(trainer: Trainer) -> list[tuple[int, Any]]:
    """The schedulers that are stepped after the optimizer, without a metric."""
    numbers = _updates(trainer, "step", of_plateaus=False)
    if trainer.fit_loop.epoch_loop._num_ready_batches_reached():
        numbers += _updates(trainer, "epoch", of_plateaus=False)
    return [(number, None) for number in numbers]


def _is_validation_due(trainer: Trainer, fetcher: Any) -> bool:
    """Whether a validation follows that would follow even if the training were not about to stop."""
    is_stopped, trainer.should_stop = trainer.should_stop, False
    try:
        return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    finally:
        trainer.should_stop = is_stopped


def is_whole_epoch(trainer: Trainer) -> bool:
    """Whether the epoch's last batch has been given."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.is_last_batch or progress.current.ready >= trainer.num_training_batches


def is_about_to_end(trainer: Trainer) -> bool:
    """Whether the training ends with this epoch."""
    epochs = -1 if trainer.fit_loop.max_epochs is None else trainer.fit_loop.max_epochs
    return is_stopping(trainer) or (epochs != -1 and trainer.current_epoch + 1 >= epochs)


def is_stopping(trainer: Trainer) -> bool:
    """Whether no other batch follows, even in the middle of an epoch."""
    fit = trainer.fit_loop
    is_stopped: bool = trainer.should_stop and fit._can_stop_early
    return is_stopped or (fit.max_steps != -1 and trainer.global_step >= fit.max_steps)


# --- optimizers


def _first_versions(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The version counts of the tensors that an optimizer changes first, which show whether its step has begun."""
    versions: list[Any] = []
    for group in optimizer.param_groups:
        first = next((weight for weight in group["params"] if weight.grad is not None), None)
        if first is not None:
            state = optimizer.state.get(first, {})
            versions += [first._version, len(state)]
            versions += [value._version for value in state.values() if _counts_versions(value)]
    return versions


def _counts_versions(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_inference()


def _half_done(where: str, last: Moment | None) -> errors.CheckpointError:
    step = "the beginning" if last is None else f"step {last.step}"
    return errors.CheckpointError(
        f"it came {where}, after {step}: the weights are half of one step and half of the next, so they are not saved; "
        "resume_path() gives the last checkpoint that is whole"
    )
