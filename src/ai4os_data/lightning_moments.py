"""A moment of a Lightning training: all gradients have been applied, so that it can be resumed from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.checkpoint.randomness import random_states
from ai4os_data.loader import StorageDataLoader

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Moment(NamedTuple):
    """Where a training is, when all gradients have been applied.

    The weights are not in it: they stay as they are until the next such moment.
    """

    step: int
    loops: dict[str, Any]
    random: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer) -> Moment:
        """Record where a training is: a few hundred numbers."""
        if is_whole_epoch(trainer):
            # Lightning goes on from here with the next epoch, but lets the loaders begin before it tells them which.
            set_epoch(trainer, trainer.current_epoch + 1)
        return cls(trainer.global_step, _states_of_loops(trainer), random_states())


def _states_of_loops(trainer: Trainer) -> dict[str, Any]:
    names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    return {name: getattr(trainer, name).state_dict() for name in names}


def is_whole_epoch(trainer: Trainer) -> bool:
    """Whether the epoch's last batch has been given."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.is_last_batch or progress.current.ready >= trainer.num_training_batches


def set_epoch(trainer: Trainer, epoch: int) -> None:
    """Tell the loaders of the training which epoch their next pass is of."""
    combined = trainer.fit_loop._combined_loader  # noqa: SLF001
    for loader in combined.flattened if combined is not None else ():
        if isinstance(loader, StorageDataLoader):
            loader.set_epoch(epoch)
