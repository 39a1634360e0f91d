"""One call of ``Trainer.fit``: the run that it saves to, its ranks, and the checkpoint that it resumes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.checkpoint import Ranks
from ai4os_data.lightning.moments import is_stopping
from ai4os_data.lightning.resume import Resumed
from ai4os_data.lightning.saving import Saving
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer

    from ai4os_data.lightning.best import Best
    from ai4os_data.lightning.runs import Runs
    from ai4os_data.lightning.triggers import Triggers

_TOGETHER_S = 4.0  # how long ranks wait for each other when one of them is about to end


class Training:
    """The callback's objects from the beginning of a ``fit`` to its end.

    Attributes:
        resumed: the checkpoint that it resumes from.
        saving: saves it; None before its first batch, and in a rehearsal.
    """

    def __init__(self, runs: Runs, timeout_s: float, best: Best) -> None:
        self.saving: Saving | None = None
        self._runs, self._best = runs, best
        self._ranks = Ranks(timeout_s)
        self._hurried = Ranks(min(timeout_s, _TOGETHER_S))
        self._run = runs.begin(anew=self._ranks.is_distributed)
        self._warned: set[str] = set()
        self.resumed = Resumed(self._ranks, self._warn)

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Record the checkpoint that it resumes from."""
        self.resumed.note(checkpoint, self._run)

    def look_around(self, trainer: Trainer) -> None:
        """Before the first batch, look up the best checkpoint that is there, and warn of what would be lost."""
        if not is_rehearsal(trainer):
            if self._ranks.writes:
                self._best.refresh(self._runs, self._warn)
            self._best.score = self._ranks.broadcast(self._best.score)
            if trainer.ckpt_path is None and trainer.global_step == 0:
                self._warn_of_what_is_there()
        if is_stopping(trainer) and self.resumed.awaits == "validation":
            self._warn(
                "the validation after the last step of max_steps was cut off, and Lightning trains no more: "
                "trainer.validate(model, ckpt_path=callback.resume_path()) makes it up"
            )
        self.resumed.set_random_states()

    def begin(self, trainer: Trainer, triggers: Triggers) -> None:
        """Resume, and save from now on."""
        self.resumed.begin(trainer)
        if not is_rehearsal(trainer):
            start = trainer, self._run, self._ranks, self.resumed, triggers
            self.saving = Saving(*start, best=self._best, warn=self._warn)

    def catch(self, trainer: Trainer, exception: BaseException) -> None:
        """Save the training that an exception ends; if that fails, it is logged."""
        try:
            if self.saving is not None:
                self.saving.catch(trainer, exception, self._hurried)
        except errors.StorageError as error:
            log.error("the %s has ended the training, and its end is not saved: %s", type(exception).__name__, error)

    def leave(self) -> None:
        """Stop watching the trainer."""
        if self.saving is not None:
            self.saving.close()

    def _warn_of_what_is_there(self) -> None:
        newest = self._run.latest() if self._ranks.writes else None
        if newest is not None:
            self._warn(
                f"{self._runs.location} has checkpoints, the newest of step {newest.step}, and this training begins "
                "anew: trainer.fit(…, ckpt_path=callback.resume_path()) resumes from it"
            )

    def _warn(self, text: str) -> None:
        """Log a warning once in this training, on rank 0 alone."""
        if text not in self._warned and self._ranks.writes:
            self._warned.add(text)
            log.warning("%s", text)


def is_rehearsal(trainer: Trainer) -> bool:
    """Whether this is only a sanity check or a ``fast_dev_run``."""
    return bool(trainer.sanity_checking or trainer.fast_dev_run)  # type: ignore[attr-defined]  # set elsewhere
