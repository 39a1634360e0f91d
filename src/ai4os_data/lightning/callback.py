"""Lightning trains with checkpoints that survive the deployment, and goes on from them exactly.

`StorageCheckpointCallback` takes the place of ``ModelCheckpoint``; `StorageCheckpointIO`, in a room of its own, is for
those who keep that. Both save through `StorageCheckpoint`: they have no protocol, no retries and no names of their own.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from ai4os_data import errors
from ai4os_data.checkpoint import (
    BUDGET_S,
    RANK_TIMEOUT_S,
    CheckpointName,
    Ranks,
    Retention,
    StorageCheckpoint,
    chosen_mode,
    read_named,
    set_random_states,
)
from ai4os_data.lightning.best import Best
from ai4os_data.lightning.flavour import (
    FLAVOUR,
    Checkpoint,
    DDPStrategy,
    DeepSpeedStrategy,
    SIGTERMException,
    SingleDeviceStrategy,
    Strategy,
)
from ai4os_data.lightning.hparams import check_hyperparameters, plain_hyperparameters
from ai4os_data.lightning.io import StorageCheckpointIO
from ai4os_data.lightning.kept import AROUND_VALIDATION, Kept, has_own, suspects
from ai4os_data.lightning.loaders import LoaderStates
from ai4os_data.lightning.moments import Moment, Moments, is_about_to_end, is_stopping, is_whole_epoch
from ai4os_data.lightning.options import checked_options, numbers_in
from ai4os_data.lightning.resume import end_first_epoch, make_up
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer

    from ai4os_data.cache import DiskCache
    from ai4os_data.checkpoint import Checkpoint as Found
    from ai4os_data.checkpoint import Mode, Restored
    from ai4os_data.locations import Remote
    from ai4os_data.stores import Durability

__all__ = ["StorageCheckpointCallback", "StorageCheckpointIO"]

_OF_PROCESS = frozenset(("_run", "_is_fitting", "_ranks", "_hurried_ranks", "_files", "_moments", "_kept"))
_OURS = "ai4os_data"  # our part of a checkpoint of Lightning's
_ANSWER = "AI4OS_DATA_LIGHTNING_RESUME"  # how rank 0 tells the processes that Lightning starts
_TOGETHER_S = 4.0  # how long ranks wait for each other when one of them is about to end


class StorageCheckpointCallback(Checkpoint):
    """Saves to a storage what Lightning needs to go on exactly where it was.

    Every checkpoint is of a moment at which all gradients have been applied: model, optimizers, schedulers, loops, the
    position of a `StorageDataLoader`, the states of other callbacks, and the random states of every rank. Without
    ``every_n_train_steps``, ``every_n_epochs`` and ``train_time_interval`` it saves at the end of each epoch.

    Args:
        location: the run's own folder, as `StorageCheckpoint` takes it.
        remote: a remote's name, or a `Remote`.
        every_n_train_steps: save when ``trainer.global_step`` is a multiple of it.
        every_n_epochs: save at the end of the epochs whose number, counted from 1, is a multiple of it.
        train_time_interval: save when so much time has passed since the last time.
        monitor: the logged metric that says which are the best.
        mode: ``"max"`` if high values of it are good, ``"min"`` if low ones are. It may be left out where its name says
            that it is a loss or an error.
        save_top_k: how many of the best stay; -1 for all. Without ``monitor`` it is -1, 0 or 1. With 0 it still saves,
            and the newest stay.
        keep_last: how many of the newest stay beside them.
        keep_every: checkpoints whose step is a multiple of it stay too.
        save_on_exception: save too when training ends with an exception, Ctrl-C or SIGTERM.
        save_on_train_end: save too when training ends, be it by ``max_time`` in the middle of an epoch.
        spool: as in `StorageCheckpoint`.
        spool_limit: as in `StorageCheckpoint`.
        durability: as in `StorageCheckpoint`.
        cache: as in `StorageCheckpoint`.
        rank_timeout_s: as in `StorageCheckpoint`.
        **unknown: those of ``ModelCheckpoint``, say: the error tells what there is in their place.

    Raises:
        TypeError: an option is none, or of another kind.
        ValueError: an option makes no sense.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        remote: str | Remote | None = None,
        *,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        train_time_interval: timedelta | None = None,
        monitor: str | None = None,
        mode: Mode | None = None,
        save_top_k: int = 1,
        keep_last: int = 2,
        keep_every: int | None = None,
        save_on_exception: bool = True,
        save_on_train_end: bool = True,
        spool: str | os.PathLike[str] | None = None,
        spool_limit: int | str | None = None,
        durability: Durability = "best",
        cache: DiskCache | Literal["auto"] | None = "auto",
        rank_timeout_s: float = RANK_TIMEOUT_S,
        **unknown: Any,
    ) -> None:
        super().__init__()
        options = checked_options(
            *(self, unknown),
            spool=spool,
            spool_limit=spool_limit,
            durability=durability,
            cache=cache,
            rank_timeout_s=rank_timeout_s,
        )
        if train_time_interval is not None and not isinstance(train_time_interval, timedelta):
            raise TypeError(f"train_time_interval is a datetime.timedelta, not {train_time_interval!r}")
        if every_n_train_steps is None and every_n_epochs is None and train_time_interval is None:
            every_n_epochs = 1
        _check_counts(every_n_train_steps, every_n_epochs, save_top_k, monitor)
        self.location = os.fspath(location)
        self.monitor = monitor
        self.mode: Mode = mode or "min" if monitor is None else chosen_mode(monitor, mode)
        self._every_n_train_steps = every_n_train_steps
        self._every_n_epochs = every_n_epochs
        self._train_time_interval = train_time_interval
        self._save_on_exception = save_on_exception
        self._save_on_train_end = save_on_train_end
        self._remote = remote
        keep_best = max(0, save_top_k) if monitor else 0
        retention = Retention(keep_last, keep_best, 1 if save_top_k == -1 else keep_every, monitor, self.mode)
        self._options = {
            **options,
            **asdict(retention),
            "save_random_states": False,  # they go where Lightning hands them back to us
        }
        self._best = Best(monitor, self.mode)
        self._random: list[Any] | None = None
        self._loaders = LoaderStates()
        self._resumed: Mapping[str, Any] | None = None  # our part of the checkpoint that was loaded
        self._is_due = False
        self._saved_step = 0  # a model without a step is no progress
        self._measured_step: int | None = None
        self._counted_step = 0  # whether it is time to save is asked once for each step
        self._is_validated = False
        self._has_told: set[str] = set()  # what is warned of once
        self._metric_before: Any = None
        self._last_s = time.monotonic()
        self._forget()

    def _forget(self) -> None:
        """Have nothing that belongs to a process."""
        self._run: StorageCheckpoint | None = None
        self._is_fitting = False
        self._ranks: Ranks | None = None
        self._hurried_ranks: Ranks | None = None
        self._files: dict[CheckpointName, Path] = {}
        self._moments: Moments | None = None
        self._kept = Kept()

    # --- what users ask for

    def resume_path(self) -> str | None:
        """A local file for ``trainer.fit(ckpt_path=…)``, with the newest intact checkpoint; None on a new run.

        The file lives as long as this process. Every rank gets the same answer, before and after the process group is
        made.

        Raises:
            DamagedError: there are checkpoints, and none is intact.
            StorageError: the location cannot be listed or read.
        """
        return _agreed(f"resume {self.location}", self._newest_file)

    @property
    def best_model_path(self) -> str:
        """A local file with the best checkpoint by ``monitor``, or the newest one; fetched now. Empty if there is none.

        The file lives as long as this process. Under DDP it is asked for on every rank, as
        ``trainer.test(ckpt_path="best")`` does.
        """
        return _agreed(f"best {self.location}", self._best_file) or ""

    @property
    def best_model_score(self) -> float | None:
        """The metric of the best checkpoint that is there, whatever attempt it is of; None if none was measured.

        During a training, and on several ranks, it is what all of them knew at the last save. Otherwise the storage is
        looked at now; if that fails, a warning says so, and it is what was known last.
        """
        if not self._is_fitting and not _has_others():
            try:
                self._look_for_best()
            except errors.StorageError as error:
                log.warning("best_model_score may be out of date: %s", error)
        return self._best.score

    @property
    def last_model_path(self) -> str:
        """A local file with the newest checkpoint; fetched now. Empty if there is none.

        The file lives as long as this process. Under DDP it is asked for on every rank.
        """
        return _agreed(f"last {self.location}", self._last_file) or ""

    @property
    def state_key(self) -> str:
        """What tells it from other callbacks of its kind, wherever they save."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode, **self._triggers())

    def _triggers(self) -> dict[str, Any]:
        return {
            "every_n_train_steps": self._every_n_train_steps,
            "every_n_epochs": self._every_n_epochs,
            "train_time_interval": self._train_time_interval,
        }

    def _former_keys(self) -> Iterator[str]:
        """What it was called once: without its triggers, and "min" where nobody had said a mode."""
        yield self._generate_state_key(monitor=self.monitor, mode=self.mode)
        yield self._generate_state_key(monitor=self.monitor, mode="min", **self._triggers())
        yield self._generate_state_key(monitor=self.monitor, mode="min")

    # --- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Open the run, on every rank."""
        if stage != "fit":
            return
        _refuse_other_flavour(trainer.strategy)
        _refuse_shards(trainer.strategy)
        timeout_s = self._options.get("rank_timeout_s", RANK_TIMEOUT_S)
        self._ranks, self._hurried_ranks = Ranks(timeout_s), Ranks(min(timeout_s, _TOGETHER_S))
        if self._ranks.is_distributed and self._run is not None:
            self._run.close()
            self._run = None
        if self._run is None:
            self._run = self._opened()
        self._forget_moments()
        self._is_fitting = True
        self._is_due, self._saved_step, self._measured_step, self._resumed = False, 0, None, None
        self._is_validated, self._has_told = False, set()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Record where the training goes on from."""
        states = checkpoint.get("callbacks", {})
        for former in self._former_keys():
            if former in states:
                states.setdefault(self.state_key, states[former])
        if trainer.state.fn == "fit":
            self._loaders.note(checkpoint)
        ours = checkpoint.get(_OURS)
        if ours is None or self._run is None or self._ranks is None or trainer.state.fn != "fit":
            return
        self._random, self._resumed = ours["random"], ours
        awaits = ours.get("awaits") in {"validation", "end of epoch"}
        self._is_due = self._is_due or awaits  # it is saved again, when that is done
        name = CheckpointName.parse(ours.get("name", ""))
        is_of_this_run = self._ranks.writes and name in {found.name for found in self._run.list()}
        if is_of_this_run and name is not None:
            self._run.saver.go_on_from(name)
        # The same step of another run is not here yet.
        is_here = self._ranks.broadcast(is_of_this_run)
        self._saved_step = int(checkpoint["global_step"]) if is_here and not awaits else 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random states, before the loaders draw from them; tell now what would fail, or be forgotten.

        Raises:
            StateError: the hyperparameters cannot be saved.
        """
        check_hyperparameters(pl_module, getattr(trainer, "datamodule", None))
        if _is_training(trainer):
            self._agree_on_best()
        if _is_training(trainer) and trainer.ckpt_path is None and trainer.global_step == 0:
            self._warn_of_what_is_there()
        if is_stopping(trainer) and self._resumed is not None and self._resumed.get("awaits") == "validation":
            self._warn_once(
                "the validation after the last step of max_steps was cut off, and Lightning trains no more: "
                "trainer.validate(model, ckpt_path=callback.resume_path()) makes it up"
            )
        self._set_random_states()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Let the loaders go on where they were, and make up what the training had still to do."""
        self._loaders.load(trainer)
        self._last_s = time.monotonic()
        self._counted_step = trainer.global_step
        self._moments = Moments(trainer)
        if self._resumed is None:
            return
        make_up(trainer, self._resumed)
        if self._resumed.get("awaits") in {"validation", "end of epoch"}:
            if not is_whole_epoch(trainer):
                self._warn_of_loaders(trainer)
            self._set_random_states()
            self._random = None
            self._moments.resume(trainer, self._resumed["awaits"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Where a new epoch begins after a resume, let the loaders begin it once more.

        Lightning has let them begin already, without their states and before it told them which epoch it is.
        """
        ready, fetcher = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.fit_loop._data_fetcher
        if self._random is not None and fetcher is not None and not 0 < ready < trainer.num_training_batches:
            self._set_random_states()
            iter(fetcher)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Go on with the random states once more where it is in mid-epoch, since the loaders have drawn from them."""
        if batch_idx > 0 and self._random is not None:
            self._warn_of_loaders(trainer)
            self._set_random_states()
        self._random = None
        if self._moments is not None:
            self._save_late(trainer)
            self._moments.begin_batch(trainer)
            self._kept.drop()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: ARG002
        """Note that a step of an optimizer begins."""
        if self._moments is not None:
            self._moments.begin_step(optimizer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Save if it is time, unless gradients wait to be applied or a validation comes first."""
        if not _is_training(trainer):
            return
        self._is_due = self._is_due or self._is_time(trainer)
        if self._moments is None:
            return
        is_whole = self._moments.end_batch(trainer)
        awaits = self._moments.last.awaits if self._moments.last is not None else None
        if is_stopping(trainer) and awaits == "batch":
            self._moments.note_weights(trainer)
            self._keep(trainer, *AROUND_VALIDATION, is_end=True)
        if not is_whole:
            return
        if awaits == "validation":  # after it its metrics are known
            self._keep(trainer, *AROUND_VALIDATION)
        elif awaits == "end of epoch":
            self._keep_for_end(trainer)
        elif self._is_due and has_own(pl_module, "on_train_batch_end"):
            self._kept.awaits_model = True  # its hook comes after ours
        elif self._is_due:
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Remember the metric as it was, to tell a new one from an old one."""
        self._metric_before = trainer.callback_metrics.get(self.monitor or "")

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look once whether the weights have been swapped."""
        if batch_idx == dataloader_idx == 0 and _is_training(trainer) and self._moments is not None:
            self._kept.note_validation(is_swapped=self._moments.has_other_weights(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save what had to wait for the validation."""
        if not _is_training(trainer):
            return
        self._is_validated = True
        metric = trainer.callback_metrics.get(self.monitor or "")
        # A number that somebody has put there may be the same object as before.
        if metric is not self._metric_before or isinstance(metric, (int, float)):
            self._measured_step = trainer.global_step
        if self._moments is None:
            return
        is_swapped = self._moments.has_other_weights(trainer)
        self._kept.end_validation(is_swapped=is_swapped)
        if not self._moments.end_validation(trainer):
            return
        if not is_swapped:  # otherwise the copy of before the validation is what was trained
            self._keep_after_validation(trainer)
        if self._is_due and not is_whole_epoch(trainer):
            self._save_now_or_late(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save if this epoch is one to be saved, or the training ends with it: later, weights may be swapped."""
        if not _is_training(trainer) or self._moments is None:
            return
        if self._resumed is not None:
            end_first_epoch(trainer)
            self._resumed = None
        is_end = is_about_to_end(trainer)
        if is_whole_epoch(trainer):  # otherwise it was stopped, and goes on in its middle
            self._moments.end_epoch(trainer)
            every = self._every_n_epochs
            self._is_due = self._is_due or (every is not None and (trainer.current_epoch + 1) % every == 0)
        else:
            is_end = True
        self._is_due = self._is_due or (is_end and self._save_on_train_end)
        if self._is_due:
            self._save_now_or_late(trainer, is_end=is_end)
        if is_end and not self._kept.is_late:
            self._moments.note_weights(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save the end, where the last epoch has not been it."""
        if self._save_on_train_end and _is_training(trainer):
            try:
                self._save_what_was_trained(trainer)
            except errors.CheckpointError as error:
                log.error("the end of the training is not saved: %s", error)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Save the last moment at which everything fitted together, and let nothing hide the exception."""
        if self._run is None:
            return
        begun_s = time.monotonic()
        try:
            if self._save_on_exception and _is_training(trainer) and self._moments is not None:
                if self._moments.catch_up(trainer):
                    log.warning(
                        "the %s came between the optimizer's step and the end of its batch: the batch counts as "
                        "trained, and what callbacks do in on_train_batch_end may be missing for it",
                        type(exception).__name__,
                    )
                self._save_what_was_trained(trainer, self._hurried_ranks)
        except errors.StorageError as error:
            log.error("the %s has ended the training, and its end is not saved: %s", type(exception).__name__, error)
        self._is_fitting = False
        is_killed = isinstance(exception, SIGTERMException)
        left_s = max(0.0, BUDGET_S - (time.monotonic() - begun_s)) if is_killed else None
        try:
            self._run.close(left_s)
        except errors.StorageError as error:
            log.error("%s", error)
        self._run = None
        self._forget_moments()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Wait for the last upload.

        Raises:
            StorageError: what failed.
        """
        self._forget_moments()
        run, self._run, self._is_fitting = self._run, None, False
        if run is not None:
            run.close()

    def state_dict(self) -> dict[str, Any]:
        """What it knows; its checkpoints know the rest."""
        return self._best.state_dict(self.location)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, here or at another location, where the best one may still be that of before."""
        self._best.load_state_dict(state_dict, self.location)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        return {name: value for name, value in self.__dict__.items() if name not in _OF_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin in another process with none of it."""
        self.__dict__.update(state)
        self._forget()

    # --- saving

    def _is_time(self, trainer: Trainer) -> bool:
        every, interval = self._every_n_train_steps, self._train_time_interval
        is_new_step, self._counted_step = trainer.global_step != self._counted_step, trainer.global_step
        is_time = every is not None and is_new_step and trainer.global_step % every == 0
        if interval is not None:
            is_late = time.monotonic() - self._last_s >= interval.total_seconds()
            is_late = trainer.strategy.broadcast(is_late)  # clocks differ, and all ranks save together
            if is_late:
                self._last_s = time.monotonic()
            is_time = is_time or is_late
        return is_time

    def _save_now_or_late(self, trainer: Trainer, *, is_end: bool = False) -> None:
        """Save, or wait for the next batch where somebody has changed the weights, and may change them back."""
        assert self._moments is not None
        if not self._moments.has_other_weights(trainer) or self._kept.is_change_for_good:
            self._save(trainer)
        elif self._kept.moment is not None:
            self._save_what_was_trained(trainer)
        elif is_end and not self._kept.is_swapped:
            self._save(trainer)  # no callback could have: the model itself has changed its weights
        else:
            self._kept.is_late = True

    def _save_late(self, trainer: Trainer) -> None:
        """Save what had to wait until nobody but the training changes the weights."""
        if self._kept.awaits_model:
            self._save(trainer)
        elif self._kept.is_late and self._moments is not None:
            self._kept.note_late(is_swapped_back=not self._moments.has_other_weights(trainer))
            self._save(trainer)

    def _save_what_was_trained(self, trainer: Trainer, ranks: Ranks | None = None) -> None:
        """Save the last moment, from the copy that was kept of it, or if the weights are still those of then.

        Raises:
            CheckpointError: the weights are others, and there is no copy.
        """
        assert self._moments is not None
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
        self._save(trainer, ranks, is_kept=is_kept and (is_swapped or kept is last))

    def _save(self, trainer: Trainer, ranks: Ranks | None = None, *, is_kept: bool = False) -> None:
        """Save the last moment, on every rank, unless that has been done."""
        assert self._run is not None
        assert self._moments is not None
        self._is_due = self._kept.is_late = self._kept.awaits_model = False
        ranks, moment = ranks or self._ranks, self._kept.moment if is_kept else self._moments.last
        if moment is None or ranks is None or moment.step == self._saved_step:
            return
        everywhere = ranks.gather((moment.step, moment.random))
        self._warn_of_monitor(trainer)
        metrics = self._metrics(trainer)
        if ranks.writes:
            self._best.note([*self._run.saver.catalogue.known().values(), metrics])
        is_same, self._best.score = ranks.broadcast((len({step for step, _ in everywhere}) == 1, self._best.score))
        if not is_same:
            raise errors.CheckpointError(f"step {moment.step} of rank {ranks.rank} is not where the other ranks are")
        checkpoint = self._kept.take() if is_kept else self._checkpoint(trainer, moment)
        checkpoint[_OURS]["random"] = [random for _, random in everywhere]
        # At an exception what failed before is left to close: it is no failure of this one.
        save = self._run.save if ranks is not self._hurried_ranks else self._run.saver.save
        save(checkpoint, moment.step, metrics)
        self._saved_step = moment.step

    def _checkpoint(self, trainer: Trainer, moment: Moment) -> dict[str, Any]:
        """What Trainer.save_checkpoint() writes, of a moment; the public way to it leads over a file."""
        assert self._moments is not None
        with self._moments.buffers():
            checkpoint = plain_hyperparameters(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
        checkpoint.update({"loops": moment.loops, "global_step": moment.step})
        checkpoint[_OURS] = {
            "random": [],
            "awaits": moment.awaits,
            "updates": moment.updates_left(trainer),
            "metrics": dict(trainer.callback_metrics),
        }
        return checkpoint

    def _keep(self, trainer: Trainer, *hooks: str, is_end: bool = False) -> None:
        """Keep a copy of the last moment, if one of these hooks may swap the weights, or what comes at the end."""
        assert self._moments is not None
        assert self._moments.last is not None
        assert self._ranks is not None
        # Some swap for the first time at the end, so that no earlier epoch tells of it.
        if self._kept.is_needed(suspects(trainer, *hooks)) or (is_end and suspects(trainer, "on_train_epoch_end")):
            checkpoint = self._checkpoint(trainer, self._moments.last)
            self._kept.keep(self._moments.last, checkpoint if self._ranks.writes else {_OURS: {}})

    def _keep_after_validation(self, trainer: Trainer) -> None:
        """Keep a copy of the moment after a validation, if no batch may come that shows which weights were trained."""
        if is_whole_epoch(trainer):
            self._keep_for_end(trainer)
        elif is_stopping(trainer):
            self._keep(trainer, is_end=True)

    def _keep_for_end(self, trainer: Trainer) -> None:
        """Keep a copy of the last epoch: after it no batch comes that shows which weights were trained."""
        self._kept.drop()
        if is_about_to_end(trainer):
            self._keep(trainer, *AROUND_VALIDATION, is_end=True)

    def _forget_moments(self) -> None:
        if self._moments is not None:
            self._moments.close()
        self._moments = None
        self._kept.drop()

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """What was logged; the metric that decides only where it was measured at this step."""
        metrics = numbers_in(trainer.callback_metrics)
        if self.monitor is not None:
            is_old = self._measured_step is not None and self._measured_step != trainer.global_step
            metrics[self.monitor] = math.nan if is_old else metrics.get(self.monitor, math.nan)
        return metrics

    def _warn_of_monitor(self, trainer: Trainer) -> None:
        """Tell that there will be no best one, where whatever is logged has had its occasion."""
        epoch_is_over = is_whole_epoch(trainer) or trainer.num_training_batches == math.inf
        is_complete = epoch_is_over and (self._is_validated or not trainer.enable_validation)
        if self.monitor is not None and self.monitor not in trainer.callback_metrics and is_complete:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            self._warn_once(
                f"monitor={self.monitor!r} is not logged, so none of the checkpoints is the best; logged are: {logged}"
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._has_told and self._ranks is not None and self._ranks.writes:
            self._has_told.add(text)
            log.warning("%s", text)

    # --- reading

    def _warn_of_what_is_there(self) -> None:
        """Tell that a training begins anew where there are checkpoints."""
        if self._run is None or self._ranks is None or not self._ranks.writes:
            return
        newest = self._run.latest()
        if newest is not None:
            self._warn_once(
                f"{self.location} has checkpoints, the newest of step {newest.step}, and this training begins anew: "
                "trainer.fit(…, ckpt_path=callback.resume_path()) goes on from it"
            )

    def _warn_of_loaders(self, trainer: Trainer) -> None:
        """Tell that samples come twice where a loader does not know how far it was."""
        combined = trainer.fit_loop._combined_loader
        for loader in combined.flattened if combined is not None else ():
            if not callable(getattr(loader, "state_dict", None)):
                self._warn_once(
                    f"the training goes on in mid-epoch, and {type(loader).__name__} begins the epoch anew: samples "
                    "come twice, and as many others not at all; ai4os_data.StorageDataLoader gives the rest of it"
                )

    def _opened(self, location: str | None = None, *, alone: bool = False) -> StorageCheckpoint:
        return StorageCheckpoint(location or self.location, remote=self._remote, alone=alone, **self._options)

    def _newest_file(self) -> str | None:
        if self._run is None:
            self._run = self._opened(alone=True)  # it stays open for the training
        restored = self._run.restore()
        return None if restored is None else self._written(self._run, restored)

    @contextmanager
    def _read(self, location: str) -> Iterator[StorageCheckpoint]:
        """A run to look into; during a training its own, which knows what is on its way."""
        if location == self.location and self._run is not None:
            yield self._run
        else:
            with self._opened(location, alone=True) as run:
                yield run

    def _look_for_best(self) -> tuple[str, Found] | None:
        """The best one that is there, and its location; here, of equals, rather than where it was before."""
        if self.monitor is None:
            return None
        found: dict[str, list[Found]] = {}
        for location in (self.location, *self._best.earlier):
            with self._read(location) as run:
                found[location] = run.list()
        here = found[self.location]
        everything = [one for of_location in found.values() for one in of_location]
        self._best.earlier_score = self._best.among(one.metrics for one in everything[len(here) :])
        self._best.note(one.metrics for one in here)
        best = self._best.of(everything)
        location = next((location for location, of_location in found.items() if best in of_location), self.location)
        return None if best is None else (location, best)

    def _agree_on_best(self) -> None:
        """Let every rank know the best one that is there before the training."""
        assert self._ranks is not None
        if self._ranks.writes:
            try:
                self._look_for_best()
            except errors.StorageError as error:
                self._warn_once(f"best_model_score may be out of date: {error}")
        self._best.score = self._ranks.broadcast(self._best.score)

    def _best_file(self) -> str | None:
        if self.monitor is None:
            return self._last_file()
        if (best := self._look_for_best()) is None:
            return None
        location, found = best
        with self._read(location) as run:
            return self._file_of(run, found)

    def _last_file(self) -> str | None:
        with self._opened(alone=True) as run:
            restored = run.restore()
            return None if restored is None else self._written(run, restored)

    def _file_of(self, run: StorageCheckpoint, found: Found) -> str:
        if (path := self._files.get(found.name)) is not None and path.exists():
            return str(path)
        return self._written(run, read_named(run.saver, found.name))

    def _written(self, run: StorageCheckpoint, restored: Restored) -> str:
        """A local file as Lightning loads it; it goes with this process."""
        path = self._files.get(restored.name)
        if path is None or not path.exists():  # somebody may have cleaned the spool
            folder = run.saver.room.for_download(restored.size_bytes)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            ours = {**restored.get(_OURS, {"random": []}), "name": str(restored.name)}
            path = folder / f"{restored.name.attempt}-{restored.name.folder}.ckpt"
            torch.save({**restored, _OURS: ours}, path)
            self._files[restored.name] = path
        return str(path)

    def _set_random_states(self) -> None:
        if self._random is not None and self._ranks is not None and self._ranks.rank < len(self._random):
            set_random_states(self._random[self._ranks.rank])


def _is_training(trainer: Trainer) -> bool:
    is_rehearsal: bool = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]  # set elsewhere
    return trainer.state.fn == "fit" and not is_rehearsal


def _check_counts(
    every_n_train_steps: int | None, every_n_epochs: int | None, save_top_k: int, monitor: str | None
) -> None:
    for name, count in (("every_n_train_steps", every_n_train_steps), ("every_n_epochs", every_n_epochs)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is at least 1, or None, not {count}")
    if save_top_k < -1 or (monitor is None and save_top_k > 1):
        raise ValueError(f"save_top_k={save_top_k} is a number from -1 up, and needs monitor where it is more than 1")


def _refuse_other_flavour(strategy: Any) -> None:
    if not isinstance(strategy, Strategy):
        raise errors.CheckpointError(
            f"this Trainer is of {type(strategy).__module__.partition('.')[0]}, and ai4os_data.lightning has been set "
            f"up for {FLAVOUR}: import the one that you use before ai4os_data.lightning, and not both"
        )


def _refuse_shards(strategy: Any) -> None:
    is_whole = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) and not isinstance(strategy, DeepSpeedStrategy)
    if not is_whole or type(strategy).save_checkpoint is not Strategy.save_checkpoint:
        raise errors.CheckpointError(
            f"{type(strategy).__name__} may spread a state over its ranks, and a checkpoint is one file of rank 0: "
            "use strategy='ddp' or a single device; or ModelCheckpoint to a local disk, and copy what it writes"
        )


def _agreed(question: str, answer: Callable[[], str | None]) -> str | None:
    """What rank 0 answers, on every rank; wherever the ranks are on their way to a process group."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        ranks = Ranks(RANK_TIMEOUT_S)
        return _opened_answer(ranks.broadcast(_sealed_answer(answer) if ranks.writes else None))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and int(os.environ["WORLD_SIZE"]) > 1:
        return _opened_answer(_over_torchrun(question, answer))
    told: dict[str, str] = json.loads(os.environ.get(_ANSWER, "{}"))
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and question in told:
        return _opened_answer(told[question])
    sealed = told[question] = _sealed_answer(answer)
    os.environ[_ANSWER] = json.dumps(told)  # Lightning starts the other ranks from this process
    return _opened_answer(sealed)


def _over_torchrun(question: str, answer: Callable[[], str | None]) -> str:
    """The answer of rank 0 by way of the store that torchrun keeps, where no process group is made yet."""
    store = dist.TCPStore(  # type: ignore[attr-defined]  # it is documented, and not in __all__
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    rank, attempt = os.environ["RANK"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    asked = store.add(f"ai4os-data/{attempt}/{rank}/{question}", 1)  # all ranks ask equally often
    key = f"ai4os-data/{attempt}/{question}/{asked}"
    if rank == "0":
        store.set(key, _sealed_answer(answer))
    return bytes(store.get(key)).decode()


def _sealed_answer(answer: Callable[[], str | None]) -> str:
    """An answer as text; where this process fails, the others have to learn of it."""
    try:
        return json.dumps({"path": answer()})
    except errors.StorageError as error:
        if not _has_others():
            raise
        log.error("%s", error)
        return json.dumps({"error": str(error), "damaged": isinstance(error, errors.DamagedError)})


def _has_others() -> bool:
    is_grouped = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return is_grouped or int(os.environ.get("WORLD_SIZE", "1")) > 1


def _opened_answer(sealed: str) -> str | None:
    told = json.loads(sealed)
    if "error" in told:
        raise (errors.DamagedError if told["damaged"] else errors.CheckpointError)(told["error"])
    path: str | None = told["path"]
    if path is not None and not os.path.exists(path):
        raise errors.CheckpointError(f"{path} is on the machine of rank 0, and not here: put TMPDIR on a shared disk")
    return path
