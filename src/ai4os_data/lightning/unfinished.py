"""Completes, after a resume, what a training had left undone at its checkpoint and Lightning would leave out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ai4os_data.lightning.flavour import pytorch
from ai4os_data.lightning.moments import is_whole_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer


def make_up(trainer: Trainer, ours: Mapping[str, Any]) -> None:
    """Complete what was undone at the moment of a checkpoint, once, before the first batch.

    Learning rates are updated, metrics are restored, a validation that was cut off is repeated, and an epoch whose
    batches were all trained is ended.

    Args:
        trainer: has loaded the checkpoint, and begins to train.
        ours: our part of the checkpoint.
    """
    trainer._logger_connector._callback_metrics.update(ours.get("metrics", {}))
    if ours.get("awaits") != "epoch":
        _begin_epoch(trainer)
    for number, metric in ours.get("updates", []):
        _update(trainer, number, metric)
    _average(trainer)
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if ours.get("awaits") == "epoch" and fit.restarting:  # as with max_steps: otherwise the epoch would end twice
        fit.epoch_progress.increment_completed()
        fit._restarting, loop.restarting = False, False
        fit.reset_restart_stage()
    elif ours.get("awaits") == "validation" and loop.restarting:
        loop.val_loop.restarting = False  # the validation begins anew
        loop.val_loop._restart_stage = "restarted_mid_evaluation"  # and before the next batch
        if getattr(trainer, "_val_check_time_interval", None) is not None:
            trainer._last_val_time = -math.inf  # type: ignore[attr-defined]  # set elsewhere
    elif ours.get("awaits") == "end of epoch" and loop.restarting and is_whole_epoch(trainer):
        loop.val_loop._has_run = True  # so that no batch is fetched
        loop._batches_that_stepped += 1


def end_first_epoch(trainer: Trainer) -> None:
    """End the resumed epoch like any other: Lightning would not update the learning rate."""
    trainer.fit_loop._restarting = False
    trainer.fit_loop.epoch_loop.on_iteration_done()


def _average(trainer: Trainer) -> None:
    """Let ``WeightAveraging`` add the last step, if an exception came before it. It ignores a step that it has."""
    averaging: Any = getattr(pytorch.callbacks, "WeightAveraging", ())  # older versions have none
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set elsewhere
        if isinstance(callback, averaging) and trainer.global_step:
            averaging.on_train_batch_end(callback, trainer, trainer.lightning_module, None, None, 0)


def _begin_epoch(trainer: Trainer) -> None:
    """Let Lightning's callbacks set up at the beginning of an epoch what no checkpoint holds.

    That is the number of accumulated batches in this epoch, and the scheduler of stochastic weight averaging.
    """
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set elsewhere
        if isinstance(callback, pytorch.callbacks.GradientAccumulationScheduler):
            callback.on_train_epoch_start(trainer)
        stochastic = pytorch.callbacks.StochasticWeightAveraging
        is_stochastic = isinstance(callback, stochastic) and callback._scheduler_state is not None
        if is_stochastic and callback.swa_start <= trainer.current_epoch <= callback.swa_end:
            stochastic.on_train_epoch_start(callback, trainer, trainer.lightning_module)
            for optimizer, before in zip(trainer.optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, before, strict=True):
                    group["lr"] = rate  # a new scheduler sets its first rate


def _update(trainer: Trainer, number: int, metric: Any) -> None:
    progress = trainer.fit_loop.epoch_loop.scheduler_progress
    progress.increment_ready()
    trainer.lightning_module.lr_scheduler_step(trainer.lr_scheduler_configs[number].scheduler, metric)
    progress.increment_completed()
