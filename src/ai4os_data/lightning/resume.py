"""Resumes a training: restores the random states, the loaders and the unfinished work of the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.checkpoint import CheckpointName, Ranks, StorageCheckpoint, set_random_states
from ai4os_data.lightning.loaders import LoaderStates, begins_anew
from ai4os_data.lightning.moments import is_whole_epoch
from ai4os_data.lightning.runs import OURS
from ai4os_data.lightning.unfinished import end_first_epoch, make_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning.pytorch import Trainer

    from ai4os_data.lightning.moments import Awaited


class Resumed:
    """The checkpoint that a training resumes from, if it does not begin anew.

    Attributes:
        saved_step: the step of this run that need not be saved again; 0 by default, since a model without a step is no
            progress.
    """

    def __init__(self, ranks: Ranks, warn: Callable[[str], None]) -> None:
        self.saved_step = 0
        self._ranks, self._warn = ranks, warn
        self._ours: Mapping[str, Any] | None = None  # our part of the checkpoint
        self._random: list[Any] | None = None
        self._loaders = LoaderStates()

    @property
    def awaits(self) -> Awaited | None:
        """What followed next at the checkpoint; None if none was loaded, or its epoch has ended."""
        return None if self._ours is None else self._ours.get("awaits")

    @property
    def is_cut_off(self) -> bool:
        """Whether a validation or the end of an epoch was cut off and is made up; then the step is saved again."""
        return self.awaits in {"validation", "end of epoch"}

    def note(self, checkpoint: Mapping[str, Any], run: StorageCheckpoint) -> None:
        """Record the checkpoint that Lightning loads, of this run or of another."""
        self._loaders.note(checkpoint)
        if (ours := checkpoint.get(OURS)) is None:
            return
        self._ours, self._random = ours, ours["random"]
        name = CheckpointName.parse(ours.get("name", ""))
        is_of_this_run = self._ranks.writes and name in {found.name for found in run.list()}
        if is_of_this_run and name is not None:
            run.saver.go_on_from(name)
        # The same step of another run must be saved here.
        is_here = self._ranks.broadcast(is_of_this_run)
        self.saved_step = int(checkpoint["global_step"]) if is_here and not self.is_cut_off else 0

    def set_random_states(self) -> None:
        """Set the random states of this rank, if no batch has been trained after the resume."""
        if self._random is not None and self._ranks.rank < len(self._random):
            set_random_states(self._random[self._ranks.rank])

    def begin(self, trainer: Trainer) -> None:
        """Let the loaders resume, and complete what the interrupted training had left undone."""
        self._loaders.load(trainer)
        if self._ours is None:
            return
        make_up(trainer, self._ours)
        if self.is_cut_off:
            if not is_whole_epoch(trainer):
                self._warn_of_loaders(trainer)
            self.set_random_states()
            self._random = None

    def begin_epoch(self, trainer: Trainer) -> None:
        """If a new epoch begins after the resume, let the loaders begin it once more.

        Lightning has let them begin already, without their states and before it set the epoch.
        """
        ready, fetcher = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.fit_loop._data_fetcher
        if self._random is not None and fetcher is not None and not 0 < ready < trainer.num_training_batches:
            self.set_random_states()
            iter(fetcher)

    def begin_batch(self, trainer: Trainer, batch_idx: int) -> None:
        """In mid-epoch, set the random states once more: the loaders have drawn from them."""
        if batch_idx > 0 and self._random is not None:
            self._warn_of_loaders(trainer)
            self.set_random_states()
        self._random = None

    def end_epoch(self, trainer: Trainer) -> None:
        """Forget the checkpoint when the first epoch ends."""
        if self._ours is not None:
            end_first_epoch(trainer)
            self._ours = None

    def _warn_of_loaders(self, trainer: Trainer) -> None:
        for name in begins_anew(trainer):
            self._warn(
                f"the training resumes in mid-epoch, and {name} begins the epoch anew: samples come twice, and as many "
                "others not at all; ai4os_data.StorageDataLoader gives the rest of it"
            )
