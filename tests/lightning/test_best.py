"""The best checkpoint of a Lightning training stays through restarts; its path and score belong to an existing one."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ai4os_data import StorageCheckpoint
from tests.support.lit import BATCHES, FailedError, Model, Patient, callback_of, loader_of, trainer_of

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.lightning import StorageCheckpointCallback
    from tests.support.shares import Folder

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers


class Told(Model):
    """A model whose validation gives a chosen score in each epoch; constant weights mark the training."""

    def __init__(self, *scores: float, mark: float = 0.0) -> None:
        super().__init__()
        self.mark = torch.nn.Parameter(torch.tensor(mark), requires_grad=False)
        self._scores = scores

    def validation_step(self, batch: torch.Tensor, _: int) -> None:  # noqa: ARG002
        """Log the score."""
        self.log("score", self._scores[self.current_epoch])


class Boom(lightning.Callback):
    """Ends a training before an epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Fail."""
        if trainer.current_epoch == self._epoch:
            raise FailedError


def best_of(folder: Folder, tmp_path: Path, name: str = "run", **options: Any) -> StorageCheckpointCallback:
    """A callback that keeps the best by the score; low is good."""
    options = {"monitor": "score", "mode": "min", "keep_last": 1, "save_on_exception": False, **options}
    return callback_of(folder, tmp_path, name, **options)


def train(
    folder: Folder, tmp_path: Path, model: Told, *callbacks: Any, epochs: int = 2, path: str | None = None
) -> None:
    """Train with a validation at the end of each epoch, and with every save confirmed before the next."""
    loader = loader_of(folder, tmp_path)
    trainer = trainer_of(Patient(), *callbacks, max_epochs=epochs, num_sanity_val_steps=0, limit_val_batches=1)
    trainer.fit(model, loader, loader, ckpt_path=path)


def there(folder: Folder, tmp_path: Path, name: str = "run") -> list[tuple[int, int, float]]:
    """Return attempt, epoch and score of each checkpoint, newest first."""
    with StorageCheckpoint(f"{folder.location}/{name}", remote=folder.remote, spool=tmp_path / "looking") as run:
        return [(one.attempt, one.step // BATCHES, round(one.metrics["score"], 3)) for one in run.list()]


def told_by(callback: StorageCheckpointCallback) -> tuple[float | None, int, float]:
    """Return best_model_score, and the epoch and the mark of the file at best_model_path."""
    state = torch.load(callback.best_model_path, weights_only=True)
    score = callback.best_model_score
    return score and round(score, 3), state["global_step"] // BATCHES, round(float(state["state_dict"]["mark"]), 3)


def test_best_stays_after_a_resume_from_a_local_file(folder: Folder, tmp_path: Path) -> None:
    """A file of Lightning's own ModelCheckpoint, which knows nothing of this run, does not hide the best one."""
    scores = (0.5, 0.1, 0.6, 0.7, 0.8)
    local = tmp_path / "local"
    other = ModelCheckpoint(local, filename="{epoch}", save_top_k=-1)
    with pytest.raises(FailedError):
        train(folder, tmp_path, Told(*scores), other, best_of(folder, tmp_path), Boom(3), epochs=5)
    callback = best_of(folder, tmp_path)
    train(folder, tmp_path, Told(*scores, mark=2), callback, epochs=5, path=str(local / "epoch=2.ckpt"))
    assert there(folder, tmp_path) == [(2, 5, 0.8), (1, 3, 0.6), (1, 2, 0.1)]
    assert told_by(callback) == (0.1, 2, 0.0)


def test_best_of_another_training_in_the_location_is_read_by_its_name(folder: Folder, tmp_path: Path) -> None:
    """The best one has the same step as a later one that is worse."""
    train(folder, tmp_path, Told(0.9, 0.7, 0.5, mark=1), best_of(folder, tmp_path), epochs=3)
    callback = best_of(folder, tmp_path, keep_last=2)
    train(folder, tmp_path, Told(0.8, 0.55, 0.95, mark=2), callback, epochs=3)
    assert there(folder, tmp_path) == [(2, 3, 0.95), (2, 2, 0.55), (1, 3, 0.5)]
    assert told_by(callback) == (0.5, 3, 1.0)


def test_score_is_that_of_what_is_there(folder: Folder, tmp_path: Path) -> None:
    """If the best one was removed by hand, after the training or before the next one, the next best counts."""
    callback = best_of(folder, tmp_path, keep_last=3)
    assert callback.best_model_score is None
    assert callback.best_model_path == ""
    train(folder, tmp_path, Told(0.2, 0.1, 0.3), callback, epochs=3)
    assert told_by(callback) == (0.1, 2, 0.0)
    remove(folder, tmp_path, 2)
    assert told_by(callback) == (0.2, 1, 0.0)
    remove(folder, tmp_path, 1)
    again = best_of(folder, tmp_path, keep_last=3)
    scores = Scores(again)
    path = again.resume_path()
    assert path is not None
    train(folder, tmp_path, Told(0.0, 0.0, 0.0, 0.4, 0.25), again, scores, epochs=5, path=path)
    assert scores.seen == [0.3, 0.3]
    assert told_by(again) == (0.25, 5, 0.0)


class Scores(lightning.Callback):
    """Records best_model_score at the beginning of each epoch."""

    def __init__(self, other: StorageCheckpointCallback) -> None:
        self._other = other
        self.seen: list[float | None] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Ask."""
        score = self._other.best_model_score
        self.seen.append(score and round(score, 3))


def remove(folder: Folder, tmp_path: Path, epoch: int) -> None:
    """Remove a checkpoint by hand, from the storage and from the spools."""
    for place in (folder.root / "run", *(tmp_path / "spool").glob("*")):
        for path in place.glob(f"*/step-{epoch * BATCHES:09}-*"):
            shutil.rmtree(path)


def test_best_is_followed_through_the_locations_of_a_training(folder: Folder, tmp_path: Path) -> None:
    """The best one is found in an earlier location; once it is removed there, the best of the others counts."""
    path = None
    scores = {"one": (0.1,), "two": (0.1, 0.5), "three": (0.1, 0.5, 0.4)}
    for number, (name, told) in enumerate(scores.items()):
        callback = best_of(folder, tmp_path, name)
        train(folder, tmp_path, Told(*told, mark=number), callback, epochs=len(told), path=path)
        path = callback.last_model_path
        assert told_by(callback) == (0.1, 1, 0.0)
    shutil.rmtree(folder.root / "one")
    shutil.rmtree(tmp_path / "spool")
    assert told_by(callback) == (0.4, 3, 0.0)


def test_state_of_before_names_where_the_best_was(folder: Folder, tmp_path: Path) -> None:
    """A state of an earlier format, with the location and the score of the run before, is read."""
    train(folder, tmp_path, Told(0.1, mark=3), best_of(folder, tmp_path, "one"), epochs=1)
    callback = best_of(folder, tmp_path, "three")
    before = [f"{folder.location}/one", 0.1]
    callback.load_state_dict({"location": f"{folder.location}/two", "score": 0.1, "before": before})
    assert told_by(callback) == (0.1, 1, 3.0)
    assert callback.state_dict()["earlier"] == [f"{folder.location}/two", f"{folder.location}/one"]


def test_score_outlives_a_storage_that_is_away(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading the score at the end of a training raises nothing; the log warns that it may be out of date."""
    callback = best_of(folder, tmp_path)
    train(folder, tmp_path, Told(0.1), callback, epochs=1)
    shutil.rmtree(folder.root / "run")
    (folder.root / "run").write_text("a file")
    caplog.set_level(logging.WARNING, "ai4os_data")
    assert callback.best_model_score == pytest.approx(0.1)
    assert "best_model_score may be out of date" in caplog.text


# --- the mode


def test_monitor_needs_a_mode_as_it_does_elsewhere(folder: Folder, tmp_path: Path) -> None:
    """A monitor without a mode is refused at construction, unless its name says that it is a loss."""
    for save_top_k in (-1, 0, 1):
        with pytest.raises(ValueError, match=r"monitor='acc' needs a mode.*mode='max'.*mode='min'"):
            callback_of(folder, tmp_path, monitor="acc", save_top_k=save_top_k)
    assert callback_of(folder, tmp_path, monitor="acc", mode="max").mode == "max"
    assert callback_of(folder, tmp_path, monitor="val_loss").mode == "min"
    assert callback_of(folder, tmp_path).mode == "min"


def test_state_under_the_mode_that_nobody_had_said_is_read(folder: Folder, tmp_path: Path) -> None:
    """A state from when the default was "min" is read by a callback with "max", whether its key has triggers or not."""
    for number, triggers in enumerate((True, False)):
        old = best_of(folder, tmp_path, f"old-{number}")
        train(folder, tmp_path, Told(0.1), old, epochs=1)
        path = old.last_model_path
        if not triggers:
            state = torch.load(path, weights_only=True)
            key = "StorageCheckpointCallback{'monitor': 'score', 'mode': 'min'}"
            state["callbacks"][key] = state["callbacks"].pop(old.state_key)
            path = str(tmp_path / "old.ckpt")
            torch.save(state, path)
        now = best_of(folder, tmp_path, f"now-{number}", mode="max")
        assert now.state_key != old.state_key
        train(folder, tmp_path, Told(0.1, 0.05), now, epochs=2, path=path)
        assert told_by(now) == (0.1, 1, 0.0)


def test_step_of_another_callback_is_not_taken_for_saved(folder: Folder, tmp_path: Path) -> None:
    """After a resume from another callback's file, this run has no checkpoint of that step yet."""
    other = best_of(folder, tmp_path, "other", keep_last=2)
    train(folder, tmp_path, Told(0.3, 0.2), other, epochs=2)
    own = best_of(folder, tmp_path, "own")
    own.setup(_trainer(), None, "fit")  # type: ignore[arg-type]  # no model is looked at
    state = torch.load(other.last_model_path, weights_only=True)
    own.on_load_checkpoint(_trainer(), None, state)  # type: ignore[arg-type]
    assert own._training is not None
    assert own._training.resumed.saved_step == 0
    own.teardown(_trainer(), None, "fit")  # type: ignore[arg-type]
    other.setup(_trainer(), None, "fit")  # type: ignore[arg-type]
    other.on_load_checkpoint(_trainer(), None, state)  # type: ignore[arg-type]
    assert other._training is not None
    assert other._training.resumed.saved_step == 2 * BATCHES
    other.teardown(_trainer(), None, "fit")  # type: ignore[arg-type]


def _trainer() -> Any:
    """Return a trainer that is about to train."""
    trainer = trainer_of()
    trainer.state.fn = lightning.pytorch.trainer.states.TrainerFn.FITTING
    return trainer
