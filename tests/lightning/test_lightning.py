"""A Lightning training resumes exactly where it was, however it ended."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning
import torch

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.lightning import StorageCheckpointCallback
from tests.support.lit import (
    BATCHES,
    FailedError,
    Model,
    callback_of,
    fit,
    loader_of,
    newest_save,
    seconds,
    start,
    steps_of,
    trainer_of,
    weights_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.stores import Level
    from tests.support.shares import Folder, Share

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers


def test_new_run_has_no_path_to_resume_from(folder: Folder, tmp_path: Path) -> None:
    """resume_path is None, and the training begins."""
    assert callback_of(folder, tmp_path).resume_path() is None


def test_only_damaged_checkpoints_raise(folder: Folder, tmp_path: Path) -> None:
    """A training never begins anew in silence."""
    fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), max_epochs=1)
    for path in folder.root.glob("run/*/*/state-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(errors.DamagedError):
        StorageCheckpointCallback(f"{folder.location}/run", spool=tmp_path / "empty").resume_path()


@pytest.mark.parametrize("disk", ["stays", "is lost"])
def test_killed_in_mid_epoch_ends_with_the_same_weights(share: Share, tmp_path: Path, disk: str) -> None:
    """Killed twice, it resumes from the storage or the spool, and ends with the weights of one left alone."""
    level: Level = "local" if disk == "stays" else "confirmed"
    spools = ["1", "1", "1"] if disk == "stays" else ["1", "2", "3"]
    assert start(share, tmp_path, "alone").returncode == 0
    for signal_at, spool in zip((8, 19, 0), spools, strict=True):
        ended = start(share, tmp_path, "killed", signal_at=signal_at, spool=spool, level=level)
        assert ended.returncode == (-signal.SIGKILL if signal_at else 0), ended.stderr
        assert ("Restored all states" in ended.stderr) == (signal_at != 8)
    assert json.loads((tmp_path / "killed.json").read_text()) == json.loads((tmp_path / "alone.json").read_text())


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("batches", [4, 7, BATCHES - 1, BATCHES + 1])
def test_exception_loses_nothing(folder: Folder, tmp_path: Path, batches: int, accumulated: int) -> None:
    """It resumes from the last step of the optimizer; gradients that were accumulated since are computed again."""
    options: dict[str, Any] = {"accumulate_grad_batches": accumulated}
    expected = fit(None, loader_of(folder, tmp_path), **options)
    with pytest.raises(FailedError):
        fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), fail_at=batches, **options)
    model = fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), seed=5, **options)
    assert weights_of(model) == weights_of(expected)


def test_interrupt_is_saved_too(folder: Folder, tmp_path: Path) -> None:
    """After Ctrl-C the training resumes with the same weights."""
    expected = fit(None, loader_of(folder, tmp_path))
    assert start(folder, tmp_path, "run", every=99, signal_at=5, number=signal.SIGINT).returncode == 1
    assert steps_of(folder, tmp_path)[0] in {5, 6}
    model = fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), seed=5)
    assert weights_of(model) == weights_of(expected)


def test_sigterm_saves_and_sends_in_time(share: Share, tmp_path: Path) -> None:
    """A deployment gets SIGTERM before it is killed; the checkpoint is on the server by then."""
    expected = fit(None, loader_of(share, tmp_path))
    ended = start(share, tmp_path, "run", every=99, signal_at=5, number=signal.SIGTERM)
    assert "Received SIGTERM" in ended.stderr
    assert not (tmp_path / "run.json").exists()
    assert steps_of(share, tmp_path) == [5]
    model = fit(callback_of(share, tmp_path), loader_of(share, tmp_path), seed=5)
    assert weights_of(model) == weights_of(expected)


def test_stopped_by_its_time_it_goes_on_in_mid_epoch(folder: Folder, tmp_path: Path) -> None:
    """`max_time` ends an epoch early; the rest of it comes with the next start."""
    expected = fit(None, loader_of(folder, tmp_path))
    fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), Pause(), max_time=seconds(0.5))
    (step,) = steps_of(folder, tmp_path)
    assert 0 < step < BATCHES
    model = fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), seed=5)
    assert weights_of(model) == weights_of(expected)


@pytest.mark.parametrize("stop", [4, 6, 9, BATCHES])
def test_validation_in_mid_epoch_changes_nothing(folder: Folder, tmp_path: Path, stop: int) -> None:
    """Checkpoints from before, at and after a validation, in mid-epoch and at its end, lead to the same weights."""
    options: dict[str, Any] = {
        "val_check_interval": 0.5,
        "validation": loader_of(folder, tmp_path),
        "limit_val_batches": 2,
    }
    expected = fit(None, loader_of(folder, tmp_path), **options)
    fit(callback_of(folder, tmp_path, every_n_train_steps=stop), loader_of(folder, tmp_path), max_steps=stop, **options)
    assert steps_of(folder, tmp_path) == [stop]
    model = fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), seed=5, **options)
    assert weights_of(model) == weights_of(expected)


def test_epoch_that_is_over_is_followed_by_the_next(folder: Folder, tmp_path: Path) -> None:
    """Without another trigger the end of each epoch is saved."""
    expected = fit(None, loader_of(folder, tmp_path), max_epochs=3)
    for epochs in (1, 2, 3):
        model = fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), seed=epochs - 1, max_epochs=epochs)
    assert weights_of(model) == weights_of(expected)
    assert steps_of(folder, tmp_path) == [3 * BATCHES, 2 * BATCHES]


def test_saved_when_so_much_time_has_passed(folder: Folder, tmp_path: Path) -> None:
    """An interval of zero saves at every step."""
    callback = callback_of(
        folder, tmp_path, train_time_interval=seconds(0), save_top_k=-1, save_on_train_end=False, durability="local"
    )
    fit(callback, loader_of(folder, tmp_path), max_epochs=1)
    assert steps_of(folder, tmp_path)[0] == BATCHES


def test_best_and_newest_stay(folder: Folder, tmp_path: Path) -> None:
    """The two best by the metric and the newest one stay; the best one loads."""

    class Measured(Model):
        def validation_step(self, batch: torch.Tensor, _: int) -> None:  # noqa: ARG002
            self.log("score", [0.3, 0.9, 0.5, 0.8, 0.1][self.current_epoch])

    callback = callback_of(folder, tmp_path, monitor="score", mode="max", save_top_k=2, keep_last=1)
    trainer = trainer_of(callback, max_epochs=5, limit_val_batches=1)
    slow = Slow(callback)
    trainer.callbacks.insert(0, slow)  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    model = Measured()
    trainer.fit(model, loader_of(folder, tmp_path), loader_of(folder, tmp_path))
    assert steps_of(folder, tmp_path) == [5 * BATCHES, 4 * BATCHES, 2 * BATCHES]
    assert callback.best_model_score == pytest.approx(0.9)
    best = Model.load_from_checkpoint(callback.best_model_path)
    assert weights_of(best) == slow.weights[2 * BATCHES]
    assert trainer.test(Examined(), loader_of(folder, tmp_path), ckpt_path="best", verbose=False) == [{"w": 1.0}]


class Slow(lightning.Callback):
    """Waits for each upload, as a training whose epochs take longer than a second does."""

    def __init__(self, other: StorageCheckpointCallback) -> None:
        self._other = other
        self.weights: dict[int, Any] = {}

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait, and remember the weights that are in it."""
        self.weights[trainer.global_step] = weights_of(pl_module)
        if (newest := newest_save(self._other)) is not None:
            newest.wait(timeout_s=30)


class Pause(lightning.Callback):
    """Lets a step take a while."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Sleep."""
        time.sleep(0.1)


class Examined(Model):
    """A model that is tested."""

    def test_step(self, *_: Any) -> None:
        """Pass."""
        self.log("w", 1.0)


def test_old_metric_does_not_make_a_new_checkpoint_the_best(folder: Folder, tmp_path: Path) -> None:
    """A step at which nothing was validated has no metric."""
    callback = callback_of(folder, tmp_path, monitor="val_loss", every_n_train_steps=4, save_top_k=1, keep_last=9)
    options: dict[str, Any] = {"validation": loader_of(folder, tmp_path), "val_check_interval": 6}
    fit(callback, loader_of(folder, tmp_path), max_epochs=1, **options)
    with StorageCheckpoint(callback.location, spool=tmp_path / "looking") as run:
        measured = {found.step: found.metrics["val_loss"] == found.metrics["val_loss"] for found in run.list()}
    assert measured[12]
    assert not measured.get(8, False)
    assert not measured.get(4, False)


def test_goes_on_in_another_directory(folder: Folder, tmp_path: Path) -> None:
    """The weights are bit for bit the same; the best one is in the first directory until a better one comes."""
    options: dict[str, Any] = {"validation": loader_of(folder, tmp_path), "limit_val_batches": 1}
    expected = fit(None, loader_of(folder, tmp_path), **options)
    first = callback_of(folder, tmp_path, "first", monitor="val_loss", mode="max")
    fit(first, loader_of(folder, tmp_path), max_epochs=1, **options)
    second = callback_of(folder, tmp_path, "second", monitor="val_loss", mode="max")
    model = Model()
    trainer = trainer_of(second, limit_val_batches=1)
    trainer.fit(model, loader_of(folder, tmp_path), options["validation"], ckpt_path=first.resume_path())
    assert weights_of(model) == weights_of(expected)
    assert steps_of(folder, tmp_path, "second") == [2 * BATCHES]
    last = trainer.callback_metrics["val_loss"].item()
    assert first.best_model_score is not None
    assert second.best_model_score == pytest.approx(max(first.best_model_score, last))
    is_first = first.best_model_score > last
    epoch = torch.load(second.best_model_path, weights_only=True)["global_step"] // BATCHES
    assert epoch == (1 if is_first else 2)


def test_manifest_names_what_was_resumed_from(folder: Folder, tmp_path: Path) -> None:
    """A branch that was abandoned does not come back."""
    fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), max_epochs=1)
    fit(callback_of(folder, tmp_path), loader_of(folder, tmp_path), max_epochs=2)
    with StorageCheckpoint(f"{folder.location}/run", spool=tmp_path / "looking") as run:
        newest, oldest = run.list()
    assert newest.parent == oldest.name


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"save_top_k": 2}, "save_top_k"),
        ({"every_n_epochs": 0}, "every_n_epochs"),
        ({"every_n_train_steps": -1}, "every_n_train_steps"),
        ({"monitor": "x", "mode": "best"}, "mode"),
        ({"keep_last": 0}, "keep_last"),
    ],
)
def test_option_that_makes_no_sense_is_refused(
    folder: Folder, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    """The error comes before the training begins."""
    with pytest.raises(ValueError, match=named):
        callback_of(folder, tmp_path, **options).resume_path()


def test_sharded_strategy_is_told_what_to_use(folder: Folder, tmp_path: Path) -> None:
    """A file with a part of a state is never written."""
    from types import SimpleNamespace

    from lightning.pytorch.strategies import FSDPStrategy

    trainer: Any = SimpleNamespace(strategy=FSDPStrategy(accelerator=None))
    with pytest.raises(errors.CheckpointError, match="strategy='ddp'"):
        callback_of(folder, tmp_path).setup(trainer, Model(), "fit")
