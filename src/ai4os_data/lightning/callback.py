"""Lightning trains with checkpoints that survive the deployment, and resumes from them exactly.

`StorageCheckpointCallback` takes the place of ``ModelCheckpoint``; `StorageCheckpointIO` is for those who keep it.
Both save through `StorageCheckpoint`: they have no protocol, no retries and no names of their own.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from ai4os_data import errors
from ai4os_data.checkpoint import BUDGET_S, RANK_TIMEOUT_S, Retention, chosen_mode
from ai4os_data.lightning.agreement import agreed, has_others
from ai4os_data.lightning.best import Best
from ai4os_data.lightning.flavour import pytorch
from ai4os_data.lightning.hparams import check_hyperparameters
from ai4os_data.lightning.options import check_options
from ai4os_data.lightning.refusals import refuse_strategy
from ai4os_data.lightning.runs import Runs
from ai4os_data.lightning.training import Training
from ai4os_data.lightning.triggers import Triggers
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from lightning.pytorch import LightningModule, Trainer

    from ai4os_data.cache import DiskCache
    from ai4os_data.checkpoint import Mode
    from ai4os_data.lightning.saving import Saving
    from ai4os_data.locations import Remote
    from ai4os_data.stores import Durability

__all__ = ["StorageCheckpointCallback"]


class StorageCheckpointCallback(pytorch.callbacks.Checkpoint):
    """Saves to a storage all that Lightning needs for an exact resume.

    Every checkpoint is of a moment at which all gradients have been applied: model, optimizers, schedulers, loops, the
    position of a `StorageDataLoader`, the states of other callbacks, and the random states of every rank. Without
    ``every_n_train_steps``, ``every_n_epochs`` and ``train_time_interval`` it saves at the end of each epoch.

    Args:
        location: the run's own folder, as `StorageCheckpoint` takes it.
        remote: a remote's name, or a `Remote`.
        every_n_train_steps: save when ``trainer.global_step`` is a multiple of it.
        every_n_epochs: save at the end of the epochs whose number, counted from 1, is a multiple of it.
        train_time_interval: save when this time has passed since the last save.
        monitor: the logged metric that says which are the best.
        mode: ``"max"`` if high values of it are good, ``"min"`` if low ones are. It may be left out if its name says
            that it is a loss or an error.
        save_top_k: how many of the best stay; -1 for all. Without ``monitor`` it is -1, 0 or 1. With 0 it still saves,
            and the newest stay.
        keep_last: how many of the newest stay beside them.
        keep_every: checkpoints whose step is a multiple of it stay too.
        save_on_exception: save too when training ends with an exception, Ctrl-C or SIGTERM.
        save_on_train_end: save too when training ends, even by ``max_time`` in the middle of an epoch.
        spool: as in `StorageCheckpoint`.
        spool_limit: as in `StorageCheckpoint`.
        durability: as in `StorageCheckpoint`.
        cache: as in `StorageCheckpoint`.
        rank_timeout_s: as in `StorageCheckpoint`.
        **unknown: refused, such as other options of ``ModelCheckpoint``: the error says what to use instead.

    Raises:
        TypeError: there is no such option, or it has the wrong type.
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
        check_options(self, unknown, spool_limit)
        self._triggers = Triggers(every_n_train_steps, every_n_epochs, train_time_interval)
        if save_top_k < -1 or (monitor is None and save_top_k > 1):
            raise ValueError(f"save_top_k={save_top_k} is a number from -1 up, and needs monitor if it is more than 1")
        self.location = os.fspath(location)
        self.monitor = monitor
        self.mode: Mode = mode or "min" if monitor is None else chosen_mode(monitor, mode)
        keep_best = max(0, save_top_k) if monitor else 0
        retention = Retention(keep_last, keep_best, 1 if save_top_k == -1 else keep_every, monitor, self.mode)
        options: dict[str, Any] = {"spool": spool, "spool_limit": spool_limit, "durability": durability, "cache": cache}
        options |= {"rank_timeout_s": rank_timeout_s, "save_random_states": False}  # they are in our part
        self._runs = Runs(self.location, remote, {**options, **asdict(retention)})
        self._best = Best(monitor, self.mode)
        self._save_on_exception = save_on_exception
        self._save_on_train_end = save_on_train_end
        self._rank_timeout_s = rank_timeout_s
        self._training: Training | None = None

    # --- what users ask for

    def resume_path(self) -> str | None:
        """A local file for ``trainer.fit(ckpt_path=…)``, with the newest intact checkpoint; None on a new run.

        The file lives as long as this process. Every rank gets the same answer, before and after the process group is
        made.

        Raises:
            DamagedError: there are checkpoints, and none is intact.
            StorageError: the location cannot be listed or read.
        """
        return agreed(f"resume {self.location}", self._runs.newest)

    @property
    def best_model_path(self) -> str:
        """A local file with the best checkpoint by ``monitor``, or the newest one; fetched now. Empty if there is none.

        The file lives as long as this process. Under DDP every rank has to ask for it, as
        ``trainer.test(ckpt_path="best")`` does.
        """
        return agreed(f"best {self.location}", self._best_file) or ""

    @property
    def best_model_score(self) -> float | None:
        """The metric of the best checkpoint that is there, whatever attempt it is of; None if none was measured.

        During a training, and on several ranks, it is the score at the last save. Otherwise the storage is asked now;
        if that fails, a warning says so, and the last known score is returned.
        """
        if self._training is None and not has_others():
            self._best.refresh(self._runs)
        return self._best.score

    @property
    def last_model_path(self) -> str:
        """A local file with the newest checkpoint; fetched now. Empty if there is none.

        The file lives as long as this process. Under DDP every rank has to ask for it.
        """
        return agreed(f"last {self.location}", self._runs.last) or ""

    def _best_file(self) -> str | None:
        if self.monitor is None:
            return self._runs.last()
        best = self._best.look(self._runs)
        return None if best is None else self._runs.file_of(best[0], best[1].name)

    # --- its state

    @property
    def state_key(self) -> str:
        """The key that distinguishes it from other callbacks of its kind, whatever their location."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode, **self._triggers.options)

    def _former_keys(self) -> Iterator[str]:
        """The keys of earlier versions: without the triggers, and with mode "min" if none was given."""
        yield self._generate_state_key(monitor=self.monitor, mode=self.mode)
        yield self._generate_state_key(monitor=self.monitor, mode="min", **self._triggers.options)
        yield self._generate_state_key(monitor=self.monitor, mode="min")

    def state_dict(self) -> dict[str, Any]:
        """The score and the locations; everything else is read from the checkpoints."""
        return self._best.state_dict(self.location)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume, here or at another location; the best checkpoint may still be in the one before."""
        self._best.load_state_dict(state_dict, self.location)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the training of this process."""
        return {**self.__dict__, "_training": None}

    # --- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the run, on every rank."""
        if stage == "fit":
            refuse_strategy(trainer.strategy)
            self._leave_training()
            self._training = Training(self._runs, self._rank_timeout_s, self._best)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the checkpoint that the training resumes from."""
        states = checkpoint.get("callbacks", {})
        for former in self._former_keys():
            if former in states:
                states.setdefault(self.state_key, states[former])
        if self._training is not None and trainer.state.fn == "fit":
            self._training.load(checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the random states before the loaders draw from them, and refuse early what cannot be saved.

        Raises:
            StateError: the hyperparameters cannot be saved.
        """
        check_hyperparameters(pl_module, getattr(trainer, "datamodule", None))
        if self._training is not None:
            self._training.look_around(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the loaders resume, and complete what the interrupted training had left undone."""
        if self._training is not None:
            self._training.begin(trainer, self._triggers)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """If a new epoch begins after a resume, let the loaders begin it once more."""
        if self._training is not None:
            self._training.resumed.begin_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the save that had to wait for this batch."""
        if self._training is not None:
            self._training.resumed.begin_batch(trainer, batch_idx)
        if (saving := self._saving) is not None:
            saving.begin_batch(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note that a step of an optimizer begins."""
        if (saving := self._saving) is not None:
            saving.begin_step(optimizer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save if it is time, unless gradients wait to be applied or a validation comes first."""
        if (saving := self._saving) is not None:
            saving.end_batch(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics as they were."""
        if (saving := self._saving) is not None:
            saving.begin_validation(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Before the first batch, check whether the weights have been swapped."""
        if batch_idx == dataloader_idx == 0 and (saving := self._saving) is not None:
            saving.look_at_weights(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the save that had to wait for the validation."""
        if (saving := self._saving) is not None:
            saving.end_validation(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if this epoch is one to be saved, or the training ends with it."""
        if self._training is not None and (saving := self._saving) is not None:
            self._training.resumed.end_epoch(trainer)
            saving.end_epoch(trainer, saves_end=self._save_on_train_end)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the training, unless the last epoch has saved it."""
        if self._save_on_train_end and (saving := self._saving) is not None:
            saving.end(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last whole moment. If that fails it is logged, so that the exception is not hidden."""
        begun_s = time.monotonic()
        if self._save_on_exception and self._training is not None:
            self._training.catch(trainer, exception)
        self._leave_training()
        is_killed = isinstance(exception, pytorch.utilities.exceptions.SIGTERMException)
        try:
            self._runs.end(max(0.0, BUDGET_S - (time.monotonic() - begun_s)) if is_killed else None)
        except errors.StorageError as error:
            log.error("%s", error)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last upload.

        Raises:
            StorageError: what failed.
        """
        self._leave_training()
        self._runs.end()

    @property
    def _saving(self) -> Saving | None:
        """The object that saves the training; None before its first batch, in a rehearsal, and outside of ``fit``."""
        return None if self._training is None else self._training.saving

    def _leave_training(self) -> None:
        if self._training is not None:
            self._training.leave()
        self._training = None
