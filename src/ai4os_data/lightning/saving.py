"""The saves of a Lightning training: only whole moments, with the trained weights, on all ranks at the same step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.lightning.hparams import plain_hyperparameters
from ai4os_data.lightning.kept import AROUND_VALIDATION, Kept, has_own, suspects
from ai4os_data.lightning.metrics import Metrics
from ai4os_data.lightning.moments import Moment, Moments, is_about_to_end, is_stopping, is_whole_epoch
from ai4os_data.lightning.runs import OURS
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning.pytorch import Trainer

    from ai4os_data.checkpoint import Ranks, SaveHandle, StorageCheckpoint
    from ai4os_data.lightning.best import Best
    from ai4os_data.lightning.resume import Resumed
    from ai4os_data.lightning.triggers import Triggers


class Saving:
    """The saves of one training, from its first batch to its end.

    Args:
        trainer: about to train.
        run: the run to save to.
        ranks: those that save together.
        resumed: the checkpoint that the training resumes from.
        triggers: what makes a save due.
        best: it records the metrics of each save.
        warn: logs a warning once.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: StorageCheckpoint,
        ranks: Ranks,
        resumed: Resumed,
        triggers: Triggers,
        *,
        best: Best,
        warn: Callable[[str], None],
    ) -> None:
        self._run, self._ranks, self._triggers, self._best, self._warn = run, ranks, triggers, best, warn
        self._metrics = Metrics(best.monitor)
        self._moments = Moments(trainer)
        self._kept = Kept()
        self._is_due = resumed.is_cut_off
        self._saved_step = resumed.saved_step
        self._is_late = False  # whether a save waits for the next batch
        self._awaits_model = False  # whether a save waits for the model's hook after the last batch
        self._newest: tuple[SaveHandle, Mapping[str, float]] | None = None
        if resumed.is_cut_off and resumed.awaits is not None:
            self._moments.resume(trainer, resumed.awaits)
        triggers.begin(trainer)

    def close(self) -> None:
        """Remove the hooks from the optimizers, and free the memory of the copy."""
        self._moments.close()
        self._kept.drop()

    # --- what happens in the training

    def begin_batch(self, trainer: Trainer) -> None:
        """Make the save that had to wait for the trained weights."""
        if self._is_late and not self._awaits_model:
            self._kept.note_late(is_swapped_back=not self._moments.has_other_weights(trainer))
        if self._is_late or self._awaits_model:
            self._save(trainer)
        self._moments.begin_batch(trainer)
        self._kept.drop()

    def begin_step(self, optimizer: Any) -> None:
        """Note that a step of an optimizer begins."""
        self._moments.begin_step(optimizer)

    def end_batch(self, trainer: Trainer) -> None:
        """Save if it is time, unless gradients wait to be applied or a validation comes first."""
        self._is_due = self._is_due or self._triggers.is_time(trainer)
        is_whole = self._moments.end_batch(trainer)
        awaits = None if self._moments.last is None else self._moments.last.awaits
        if is_stopping(trainer) and awaits == "batch":
            self._moments.note_weights(trainer)
            self._keep(trainer, *AROUND_VALIDATION, is_end=True)
        if not is_whole:
            return
        if awaits == "validation":  # only after it are its metrics known
            self._keep(trainer, *AROUND_VALIDATION)
        elif awaits == "end of epoch":
            self._keep_for_end(trainer)
        elif self._is_due and has_own(trainer.lightning_module, "on_train_batch_end"):
            self._awaits_model = True  # the model's hook runs after ours
        elif self._is_due:
            self._save(trainer)

    def begin_validation(self, trainer: Trainer) -> None:
        """Remember the metrics as they were."""
        self._metrics.begin_validation(trainer)

    def look_at_weights(self, trainer: Trainer) -> None:
        """Check whether the weights have been swapped for the validation."""
        self._kept.note_validation(is_swapped=self._moments.has_other_weights(trainer))

    def end_validation(self, trainer: Trainer) -> None:
        """Make the save that had to wait for the validation."""
        self._metrics.end_validation(trainer)
        is_swapped = self._moments.has_other_weights(trainer)
        self._kept.end_validation(is_swapped=is_swapped)
        if not self._moments.end_validation(trainer):
            return
        if not is_swapped:  # otherwise the copy from before the validation has the trained weights
            # No later batch may show which weights were trained.
            if is_whole_epoch(trainer):
                self._keep_for_end(trainer)
            elif is_stopping(trainer):
                self._keep(trainer, is_end=True)
        if self._is_due and not is_whole_epoch(trainer):
            self._save_now_or_late(trainer)

    def end_epoch(self, trainer: Trainer, *, saves_end: bool) -> None:
        """Save if the trigger says so or the training ends with this epoch: later, weights may be swapped."""
        is_end = is_about_to_end(trainer)
        if is_whole_epoch(trainer):  # otherwise the epoch was stopped, and resumes in its middle
            self._moments.end_epoch(trainer)
            self._is_due = self._is_due or self._triggers.is_end_of_epoch(trainer)
        else:
            is_end = True
        self._is_due = self._is_due or (is_end and saves_end)
        if self._is_due:
            self._save_now_or_late(trainer, is_end=is_end)
        if is_end and not self._is_late:
            self._moments.note_weights(trainer)

    def end(self, trainer: Trainer) -> None:
        """Save the end of the training, unless the last epoch has saved it."""
        try:
            self._save_trained(trainer)
        except errors.CheckpointError as error:
            log.error("the end of the training is not saved: %s", error)

    def catch(self, trainer: Trainer, exception: BaseException, ranks: Ranks) -> None:
        """Save the last whole moment before an exception.

        Args:
            trainer: it is about to end.
            exception: what ends it.
            ranks: those that save together; they do not wait long for each other.

        Raises:
            StorageError: it cannot be saved.
        """
        if self._moments.catch_up(trainer):
            log.warning(
                "the %s came between the optimizer's step and the end of its batch: the batch counts as trained, and "
                "what callbacks do in on_train_batch_end may be missing for it",
                type(exception).__name__,
            )
        self._save_trained(trainer, ranks)

    # --- what is saved

    def _save_now_or_late(self, trainer: Trainer, *, is_end: bool = False) -> None:
        """Save, or wait for the next batch if somebody has changed the weights, and may change them back."""
        if not self._moments.has_other_weights(trainer) or self._kept.is_change_for_good:
            self._save(trainer)
        elif self._kept.moment is not None:
            self._save_trained(trainer)
        elif is_end and not self._kept.is_swapped:
            self._save(trainer)  # no callback could have changed the weights: the model itself has
        else:
            self._is_late = True

    def _save_trained(self, trainer: Trainer, hurried: Ranks | None = None) -> None:
        """Save the last moment, from the kept copy, or from the model if its weights have not changed since.

        Raises:
            CheckpointError: the weights have changed, and there is no copy.
        """
        last, kept = self._moments.last, self._kept.moment
        if last is None or last.step == self._saved_step:
            return
        is_kept = kept is not None and kept.step == last.step
        is_swapped = self._moments.has_other_weights(trainer)
        if is_swapped and not is_kept:
            names = ", ".join(suspects(trainer, *AROUND_VALIDATION, "on_train_epoch_end", "on_train_end"))
            raise errors.CheckpointError(
                f"the weights of step {last.step} have been swapped for others ({names or 'by the model itself'}), and "
                "there is no copy of what was trained; resume_path() gives the last checkpoint"
            )
        self._save(trainer, hurried, is_kept=is_kept and (is_swapped or kept is last))

    def _save(self, trainer: Trainer, hurried: Ranks | None = None, *, is_kept: bool = False) -> None:
        """Save the last moment, on every rank, unless it has been saved."""
        self._is_due = self._is_late = self._awaits_model = False
        moment = self._kept.moment if is_kept else self._moments.last
        if moment is None or moment.step == self._saved_step:
            return
        ranks = hurried or self._ranks
        everywhere = ranks.gather((moment.step, moment.random))
        if (lacking := self._metrics.lacking(trainer)) is not None:
            self._warn(lacking)
        metrics = self._metrics.of(trainer)
        if ranks.writes:
            self._best.note([*self._coming(), *self._run.saver.catalogue.known().values(), metrics])
        is_same, self._best.score = ranks.broadcast((len({step for step, _ in everywhere}) == 1, self._best.score))
        if not is_same:
            raise errors.CheckpointError(f"step {moment.step} of rank {ranks.rank} is not where the other ranks are")
        checkpoint = self._kept.take() if is_kept else self._checkpoint(trainer, moment)
        checkpoint[OURS]["random"] = [random for _, random in everywhere]
        # During an exception, earlier errors are left to `close`: they are not errors of this save.
        save = self._run.save if hurried is None else self._run.saver.save
        self._newest = save(checkpoint, moment.step, metrics), metrics
        self._saved_step = moment.step

    def _coming(self) -> list[Mapping[str, float]]:
        """The metrics of the previous save, as long as it is not in the spool yet."""
        if self._newest is None or self._newest[0].level is not None or self._newest[0].error is not None:
            return []
        return [self._newest[1]]

    def _checkpoint(self, trainer: Trainer, moment: Moment) -> dict[str, Any]:
        """The checkpoint that Trainer.save_checkpoint() would write at a moment; the public method needs a file."""
        with self._moments.buffers():
            checkpoint, _ = plain_hyperparameters(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
        checkpoint.update({"loops": moment.loops, "global_step": moment.step})
        checkpoint[OURS] = {
            "random": [],
            "awaits": moment.awaits,
            "updates": moment.updates_left(trainer),
            "metrics": dict(trainer.callback_metrics),
        }
        return checkpoint

    def _keep(self, trainer: Trainer, *hooks: str, is_end: bool = False) -> None:
        """Keep a copy of the last moment, if one of these hooks, or a hook at the end, may swap the weights."""
        assert self._moments.last is not None
        # Some callbacks swap for the first time at the end, which no earlier epoch shows.
        if self._kept.is_needed(suspects(trainer, *hooks)) or (is_end and suspects(trainer, "on_train_epoch_end")):
            checkpoint = self._checkpoint(trainer, self._moments.last)
            self._kept.keep(self._moments.last, checkpoint if self._ranks.writes else {OURS: {}})

    def _keep_for_end(self, trainer: Trainer) -> None:
        """Keep a copy of the last epoch: no later batch shows which weights were trained."""
        self._kept.drop()
        if is_about_to_end(trainer):
            self._keep(trainer, *AROUND_VALIDATION, is_end=True)
