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
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from ai4os_data import errors
from ai4os_data.checkpoint import StorageCheckpoint
from ai4os_data.checkpoint.manager import BUDGET_S, RANK_TIMEOUT_S
from ai4os_data.checkpoint.names import CheckpointName
from ai4os_data.checkpoint.randomness import random_states, set_random_states
from ai4os_data.checkpoint.ranks import Ranks
from ai4os_data.checkpoint.retention import Retention
from ai4os_data.checkpoint.staging import Staging
from ai4os_data.lightning_flavour import (
    FLAVOUR,
    Checkpoint,
    DDPStrategy,
    DeepSpeedStrategy,
    SIGTERMException,
    SingleDeviceStrategy,
    Strategy,
)
from ai4os_data.lightning_io import StorageCheckpointIO
from ai4os_data.lightning_loaders import load_left_states
from ai4os_data.lightning_options import OPTIONS, check_options
from ai4os_data.loader import StorageDataLoader
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer

    from ai4os_data.checkpoint import Restored
    from ai4os_data.checkpoint.restored import Checkpoint as Found
    from ai4os_data.checkpoint.retention import Mode
    from ai4os_data.remotes import Remote

__all__ = ["StorageCheckpointCallback", "StorageCheckpointIO"]

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
        mode: ``"min"`` or ``"max"``.
        save_top_k: how many of the best stay; -1 for all. Without ``monitor`` it is -1, 0 or 1. With 0 it still saves,
            and the newest stay.
        keep_last: how many of the newest stay beside them.
        keep_every: checkpoints whose step is a multiple of it stay too.
        save_on_exception: save too when training ends with an exception, Ctrl-C or SIGTERM.
        save_on_train_end: save too when training ends, be it by ``max_time`` in the middle of an epoch.
        **options: ``spool``, ``spool_limit``, ``durability``, ``cache`` and ``rank_timeout_s`` of `StorageCheckpoint`.

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
        mode: Mode = "min",
        save_top_k: int = 1,
        keep_last: int = 2,
        keep_every: int | None = None,
        save_on_exception: bool = True,
        save_on_train_end: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        check_options(type(self).__name__, options, OPTIONS)
        if train_time_interval is not None and not isinstance(train_time_interval, timedelta):
            raise TypeError(f"train_time_interval is a datetime.timedelta, not {train_time_interval!r}")
        if every_n_train_steps is None and every_n_epochs is None and train_time_interval is None:
            every_n_epochs = 1
        _check_counts(every_n_train_steps, every_n_epochs, save_top_k, monitor)
        self.location = os.fspath(location)
        self.monitor = monitor
        self.mode: Mode = mode
        self.best_model_score: float | None = None
        self._every_n_train_steps = every_n_train_steps
        self._every_n_epochs = every_n_epochs
        self._train_time_interval = train_time_interval
        self._save_on_exception = save_on_exception
        self._save_on_train_end = save_on_train_end
        self._remote = remote
        keep_best = max(0, save_top_k) if monitor else 0
        retention = Retention(keep_last, keep_best, 1 if save_top_k == -1 else keep_every, monitor, mode)
        self._options = {
            **options,
            **asdict(retention),
            "save_random_states": False,  # they go where Lightning hands them back to us
        }
        self._before: _Best | None = None  # the best one of another location
        self._place: _Place | None = None
        self._random: list[Any] | None = None
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
        self._ranks: Ranks | None = None
        self._hurried_ranks: Ranks | None = None
        self._files: dict[CheckpointName, Path] = {}

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
    def last_model_path(self) -> str:
        """A local file with the newest checkpoint; fetched now. Empty if there is none.

        The file lives as long as this process. Under DDP it is asked for on every rank.
        """
        return _agreed(f"last {self.location}", self._last_file) or ""

    @property
    def state_key(self) -> str:
        """What tells it from other callbacks of its kind, wherever they save."""
        return self._generate_state_key(
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

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
        self._place, self._is_due, self._saved_step, self._measured_step = None, False, 0, None
        self._is_validated, self._has_told = False, set()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Record where the training goes on from."""
        states = checkpoint.get("callbacks", {})
        without_triggers = self._generate_state_key(monitor=self.monitor, mode=self.mode)  # as it was called once
        if without_triggers in states:
            states.setdefault(self.state_key, states[without_triggers])
        ours = checkpoint.get(_OURS)
        if ours is None or self._run is None or self._ranks is None or trainer.state.fn != "fit":
            return
        self._random = ours["random"]
        self._saved_step = int(checkpoint["global_step"])
        name = CheckpointName.parse(ours.get("name", ""))
        if self._ranks.writes and name is not None and name in {found.name for found in self._run.list()}:
            self._run.go_on_from(name)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random states, before the loaders draw from them; tell now what would fail, or be forgotten.

        Raises:
            StateError: the hyperparameters cannot be saved.
        """
        _check_hyperparameters(pl_module, getattr(trainer, "datamodule", None))
        if _is_training(trainer) and trainer.ckpt_path is None and trainer.global_step == 0:
            self._warn_of_what_is_there()
        self._set_random_states()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Measure the time and count the steps from here; let the loaders go on where they were."""
        load_left_states(trainer)
        self._last_s = time.monotonic()
        self._counted_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Where a new epoch begins after a resume, let the loaders begin it once more.

        Lightning has let them begin already, without their states and before it told them which epoch it is.
        """
        ready, fetcher = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.fit_loop._data_fetcher
        if self._random is not None and fetcher is not None and not 0 < ready < trainer.num_training_batches:
            _set_epoch(trainer, trainer.current_epoch)
            self._set_random_states()
            iter(fetcher)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Go on with the random states once more where it is in mid-epoch, since the loaders have drawn from them."""
        if batch_idx > 0 and self._random is not None:
            self._warn_of_loaders(trainer)
            self._set_random_states()
        self._random = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Save if it is time, unless gradients wait to be applied or a validation comes first."""
        if not _is_training(trainer):
            return
        self._is_due = self._is_due or self._is_time(trainer)
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        self._place = _Place.of(trainer)
        fetcher = trainer.fit_loop._data_fetcher
        # After the validation its metrics are known; and Lightning does not make up for it when it goes on from here.
        is_validated = fetcher is not None and loop._should_check_val_fx(fetcher)
        if self._is_due and not is_validated and not _is_whole_epoch(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Remember the metric as it was, to tell a new one from an old one."""
        self._metric_before = trainer.callback_metrics.get(self.monitor or "")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save what had to wait for the validation."""
        if not _is_training(trainer):
            return
        self._is_validated = True
        if trainer.callback_metrics.get(self.monitor or "") is not self._metric_before:
            self._measured_step = trainer.global_step
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self._place = _Place.of(trainer)
        if self._is_due and not _is_whole_epoch(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save if this epoch is one to be saved."""
        if not _is_training(trainer):
            return
        if _is_whole_epoch(trainer):  # otherwise it was stopped, and goes on in its middle
            self._place = _Place.of(trainer)
            every = self._every_n_epochs
            self._is_due = self._is_due or (every is not None and (trainer.current_epoch + 1) % every == 0)
        if self._is_due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save the end."""
        if self._save_on_train_end and _is_training(trainer):
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Save the last moment at which everything fitted together, and let nothing hide the exception."""
        if self._run is None:
            return
        begun_s = time.monotonic()
        try:
            if self._save_on_exception and _is_training(trainer) and self._place is not None:
                if self._place.step != trainer.global_step:
                    self._place = _Place.of(trainer)
                self._save(trainer, self._hurried_ranks)
        except errors.StorageError as error:
            log.error("the %s has ended the training, and no checkpoint of it: %s", type(exception).__name__, error)
        is_killed = isinstance(exception, SIGTERMException)
        left_s = max(0.0, BUDGET_S - (time.monotonic() - begun_s)) if is_killed else None
        try:
            self._run.close(left_s)
        except errors.StorageError as error:
            log.error("%s", error)
        self._run = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Wait for the last upload.

        Raises:
            StorageError: what failed.
        """
        run, self._run = self._run, None
        if run is not None:
            run.close()

    def state_dict(self) -> dict[str, Any]:
        """What it knows; its checkpoints know the rest."""
        before = None if self._before is None else list(self._before)
        return {"location": self.location, "score": self.best_model_score, "before": before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, here or at another location, where the best one may still be that of before."""
        self.best_model_score = state_dict["score"]
        self._before = None if state_dict["before"] is None else _Best(*state_dict["before"])
        if state_dict["location"] != self.location and self.best_model_score is not None:
            self._before = _Best(state_dict["location"], self.best_model_score)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        return {**self.__dict__, "_run": None, "_ranks": None, "_hurried_ranks": None, "_files": {}}

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

    def _save(self, trainer: Trainer, ranks: Ranks | None = None) -> None:
        """Save the place, on every rank, unless that has been done."""
        assert self._run is not None
        self._is_due = False
        ranks, place = ranks or self._ranks, self._place
        if place is None or ranks is None or place.step == self._saved_step:
            return
        everywhere = ranks.gather((place.step, place.random))
        if not ranks.broadcast(len({step for step, _ in everywhere}) == 1):
            raise errors.CheckpointError(f"step {place.step} of rank {ranks.rank} is not where the other ranks are")
        self._warn_of_monitor(trainer)
        metrics = self._metrics(trainer)
        self._note_best(metrics)
        # What Trainer.save_checkpoint() writes; the public way to it leads over a file.
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        checkpoint.update({"loops": place.loops, "global_step": place.step})
        checkpoint[_OURS] = {"random": [random for _, random in everywhere]}
        self._run.save(checkpoint, place.step, metrics)
        self._saved_step = place.step

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """What was logged; the metric that decides only where it was measured at this step."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        if self.monitor is not None:
            is_old = self._measured_step is not None and self._measured_step != trainer.global_step
            metrics[self.monitor] = math.nan if is_old else metrics.get(self.monitor, math.nan)
        return metrics

    def _warn_of_monitor(self, trainer: Trainer) -> None:
        """Tell that there will be no best one, where whatever is logged has had its occasion."""
        epoch_is_over = _is_whole_epoch(trainer) or trainer.num_training_batches == math.inf
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

    def _note_best(self, metrics: Mapping[str, float]) -> None:
        score = metrics.get(self.monitor or "", math.nan)
        if not math.isnan(score) and (
            self.best_model_score is None or self._rank(score) <= self._rank(self.best_model_score)
        ):
            self.best_model_score = score

    def _rank(self, score: float) -> float:
        """The lower the better."""
        return score if self.mode == "min" else -score

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

    def _best_file(self) -> str | None:
        with self._opened(alone=True) as run:
            best = self._best_of(run.list())
            before = self._before
            if before is None or (best is not None and self._score(best) <= self._rank(before.score)):
                return None if best is None else self._file_of(run, best)
        with self._opened(before.location, alone=True) as run:
            best = self._best_of(run.list())
            return None if best is None else self._file_of(run, best)

    def _last_file(self) -> str | None:
        with self._opened(alone=True) as run:
            restored = run.restore()
            return None if restored is None else self._written(run, restored)

    def _best_of(self, found: list[Found]) -> Found | None:
        """The best one, of equals the newest; without a metric the newest."""
        if self.monitor is None:
            return found[0] if found else None
        measured = [one for one in found if not math.isnan(one.metrics.get(self.monitor, math.nan))]
        return min(measured, key=self._score, default=None)

    def _score(self, found: Found) -> float:
        return self._rank(found.metrics[self.monitor or ""])

    def _file_of(self, run: StorageCheckpoint, found: Found) -> str:
        if found.name in self._files:
            return str(self._files[found.name])
        restored = run.restore(step=found.step)
        assert restored is not None
        return self._written(run, restored)

    def _written(self, run: StorageCheckpoint, restored: Restored) -> str:
        """A local file as Lightning loads it; it goes with this process."""
        if restored.name not in self._files:
            folder = run.room_for(restored.size_bytes)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            ours = {**restored.get(_OURS, {"random": []}), "name": str(restored.name)}
            path = folder / f"{restored.name.attempt}-{restored.name.folder}.ckpt"
            torch.save({**restored, _OURS: ours}, path)
            self._files[restored.name] = path
        return str(self._files[restored.name])

    def _set_random_states(self) -> None:
        if self._random is not None and self._ranks is not None and self._ranks.rank < len(self._random):
            set_random_states(self._random[self._ranks.rank])


class _Best(NamedTuple):
    """The best checkpoint of a location that was left."""

    location: str
    score: float


class _Place(NamedTuple):
    """A moment at which all gradients have been applied, so that the training can be gone on with from it.

    The weights are not in it: they stay as they are until the next such moment.
    """

    step: int
    loops: dict[str, Any]
    random: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer) -> _Place:
        """Record where a training is: a few hundred numbers."""
        if _is_whole_epoch(trainer):
            # Lightning goes on from here with the next epoch, but lets the loaders begin before it tells them which.
            _set_epoch(trainer, trainer.current_epoch + 1)
        loops = {
            name: getattr(trainer, name).state_dict()
            for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop")
        }
        return cls(trainer.global_step, loops, random_states())


def _is_training(trainer: Trainer) -> bool:
    is_rehearsal: bool = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]  # set elsewhere
    return trainer.state.fn == "fit" and not is_rehearsal


def _is_whole_epoch(trainer: Trainer) -> bool:
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.is_last_batch or progress.current.ready >= trainer.num_training_batches


def _set_epoch(trainer: Trainer, epoch: int) -> None:
    combined = trainer.fit_loop._combined_loader
    for loader in combined.flattened if combined is not None else ():
        if isinstance(loader, StorageDataLoader):
            loader.set_epoch(epoch)


def _check_counts(
    every_n_train_steps: int | None, every_n_epochs: int | None, save_top_k: int, monitor: str | None
) -> None:
    for name, count in (("every_n_train_steps", every_n_train_steps), ("every_n_epochs", every_n_epochs)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is at least 1, or None, not {count}")
    if save_top_k < -1 or (monitor is None and save_top_k > 1):
        raise ValueError(f"save_top_k={save_top_k} is a number from -1 up, and needs monitor where it is more than 1")


def _check_hyperparameters(*objects: Any) -> None:
    """Refuse what Lightning puts into every checkpoint and no checkpoint can hold, before an epoch was trained for it.

    Raises:
        StateError: there is such.
    """
    for one in objects:
        if not isinstance(hparams := getattr(one, "hparams", None), dict):
            continue
        try:
            Staging().stage({one.CHECKPOINT_HYPER_PARAMS_KEY: dict(hparams)})
        except errors.StateError as error:
            raise errors.StateError(f"{error}; or leave it out, with save_hyperparameters(ignore=[…])") from error


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
