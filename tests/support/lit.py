"""A Lightning training over a share, in this process or another; its last weights show any difference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ai4os_data import DiskCache, Remote, Sample, StorageCheckpoint, StorageDataLoader, StorageDataset
from ai4os_data.lightning import StorageCheckpointCallback, StorageCheckpointIO

if TYPE_CHECKING:
    from ai4os_data.checkpoint import SaveHandle
    from ai4os_data.stores import Level
    from tests.support.shares import Folder

SAMPLES = 48
FILES = {f"{number:02}.txt": str(number) for number in range(SAMPLES)}
BATCHES = SAMPLES // 4


class FailedError(Exception):
    """The training fails at a chosen step."""


def number_of(sample: Sample) -> torch.Tensor:
    """Return the number in a file, with some noise, as an augmentation adds it."""
    return torch.tensor([float(sample.bytes()) / SAMPLES]) + 0.1 * torch.rand(1)


class Model(lightning.LightningModule):
    """A small network with dropout, momentum and a scheduler: whatever is not restored shows in its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
        self.batches: list[list[float]] = []
        self.fail_at: int | None = None

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        """Learn the square."""
        if self.fail_at is not None and len(self.batches) == self.fail_at:
            torch.rand(7)
            raise FailedError
        self.batches.append(batch.flatten().tolist())
        loss: torch.Tensor = (self.layers(batch) - batch.square()).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        """Measure."""
        self.log("val_loss", (self.layers(batch) - batch.square()).square().mean() + 0.1 * torch.rand(()))

    def configure_optimizers(self) -> Any:
        """Use what has a state."""
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Signal(lightning.Callback):
    """Sends this process a signal after a step, when the saves before it have reached a level."""

    def __init__(self, step: int, number: int, level: Level) -> None:
        self._step = step
        self._number = number
        self._level = level

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Send it, to all ranks at once."""
        if trainer.global_step == self._step:
            for callback in trainer.checkpoint_callbacks:
                if (newest := newest_save(callback)) is not None:
                    newest.wait(self._level, timeout_s=60)
            trainer.strategy.barrier()
            os.kill(os.getpid(), self._number)


class Scores(lightning.Callback):
    """Records best_model_score at the beginning and the end of each epoch."""

    def __init__(self, other: StorageCheckpointCallback) -> None:
        self._other = other
        self.seen: list[float | None] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Ask."""
        self.seen.append(self._other.best_model_score)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Ask once more."""
        self.seen.append(self._other.best_model_score)


class Patient(lightning.Callback):
    """Waits for each save before the next batch, so that none takes another's place."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Wait."""
        for callback in trainer.checkpoint_callbacks:
            if (newest := newest_save(callback)) is not None:
                newest.wait(timeout_s=30)


def newest_save(callback: Any) -> SaveHandle | None:
    """Return the handle of the newest save of a callback, if it is ours and has saved."""
    run = callback._runs.current if isinstance(callback, StorageCheckpointCallback) else None
    return None if run is None else run.saver.newest


def callback_of(share: Folder, tmp_path: Path, name: str = "run", **options: Any) -> StorageCheckpointCallback:
    """Return a callback that saves beside the data."""
    return StorageCheckpointCallback(f"{share.location}/{name}", share.remote, spool=tmp_path / "spool", **options)


def steps_of(share: Folder, tmp_path: Path, name: str = "run") -> list[int]:
    """Return the steps of all checkpoints on the storage, newest first."""
    with StorageCheckpoint(f"{share.location}/{name}", remote=share.remote, spool=tmp_path / "looking") as run:
        assert run.verify() == {}
        return [checkpoint.step for checkpoint in run.list()]


def loader_of(share: Folder, tmp_path: Path, workers: int = 0, batch_size: int = 4) -> StorageDataLoader:
    """Return the loader of the training; the files are there afterwards."""
    if not (share.root / "data").exists():
        share.put({f"data/{key}": content for key, content in FILES.items()})
    dataset = StorageDataset(
        f"{share.location}/data",
        remote=share.remote,
        decode=number_of,
        cache=DiskCache(tmp_path / "cache", "64MiB") if share.remote else None,
    )
    return StorageDataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers, seed=3)


def trainer_of(*callbacks: Any, **options: Any) -> lightning.Trainer:
    """Return a trainer that does nothing but train."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(**{"accelerator": "cpu", "max_epochs": 2, **quiet, **options}, callbacks=list(callbacks))


def fit(
    callback: StorageCheckpointCallback | None,
    loader: Any,
    *callbacks: Any,
    validation: Any = None,
    fail_at: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Model:
    """Train from wherever the run is; the model as it is in the end."""
    torch.manual_seed(seed)
    model = Model()
    model.fail_at = fail_at
    path = callback.resume_path() if callback else None
    torch.manual_seed(seed + 77)
    own = [callback] if callback else []
    options.setdefault("enable_checkpointing", callback is not None)
    trainer = trainer_of(*own, *callbacks, **options)
    trainer.fit(model, loader, validation, ckpt_path=path)
    return model


def weights_of(model: torch.nn.Module) -> dict[str, list[Any]]:
    """Return the weights as numbers, every bit of them."""
    return {name: value.tolist() for name, value in model.state_dict().items()}


def train(told: dict[str, Any]) -> None:
    """Be the training of another process; writes its weights at the end, if it comes to that."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    remote = Remote(told["url"], told["user"], told["password"]) if told["url"] else None
    dataset = StorageDataset(
        told["data"], remote=remote, decode=number_of, cache=DiskCache(told["cache"], "64MiB") if remote else None
    )
    loader = StorageDataLoader(dataset, batch_size=4, shuffle=True, seed=3)
    callback = StorageCheckpointCallback(
        told["run"],
        remote,
        every_n_train_steps=told["every"],
        monitor=told["monitor"],
        spool=told["spool"],
        rank_timeout_s=20,
    )
    signals = [Signal(told["signal_at"], told["signal"], told["level"])] if told["signal_at"] else []
    if told["plugin"]:
        keeper = ModelCheckpoint(told["run"], "{epoch}", save_last=True)
        plugin = StorageCheckpointIO(remote, spool=told["spool"])
        model = fit(None, loader, keeper, enable_checkpointing=True, plugins=[plugin], **told["options"])
    else:
        scores = Scores(callback)
        model = fit(callback, loader, *signals, scores, **told["options"])
        seen = [*scores.seen, callback.best_model_score]
        Path(f"{told['weights']}.{os.environ.get('RANK', '0')}").write_text(json.dumps(seen))
    if int(os.environ.get("RANK", "0")) == 0:
        Path(told["weights"]).write_text(json.dumps(weights_of(model)))


def start(
    share: Folder,
    tmp_path: Path,
    name: str,
    *,
    every: int = 5,
    signal_at: int = 0,
    number: int = signal.SIGKILL,
    level: Level = "confirmed",
    spool: str = "spool",
    ranks: int = 1,
    plugin: bool = False,
    monitor: str | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Train in another process, or in as many as torchrun starts; wait for its end."""
    if not (share.root / "data").exists():
        share.put({f"data/{key}": content for key, content in FILES.items()})
    remote = share.remote
    told = {
        "url": remote and remote.url,
        "user": remote and remote.user,
        "password": remote and remote.password,
        "data": f"{share.location}/data",
        "run": f"{share.location}/{name}",
        "cache": str(tmp_path / "cache"),
        "spool": str(tmp_path / spool),
        "weights": str(tmp_path / f"{name}.json"),
        "every": every,
        "signal_at": signal_at,
        "signal": number,
        "level": level,
        "plugin": plugin,
        "monitor": monitor,
        "options": options,
    }
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [*command, __file__, json.dumps(told)],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def seconds(number: float) -> timedelta:
    """Return a timedelta of seconds."""
    return timedelta(seconds=number)


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
