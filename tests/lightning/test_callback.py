"""When the callback saves, what it refuses, and what it logs before anything is lost."""

from __future__ import annotations

import argparse
import enum
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.lightning import StorageCheckpointCallback
from tests.support.lit import (
    BATCHES,
    FailedError,
    Model,
    Patient,
    callback_of,
    fit,
    loader_of,
    steps_of,
    trainer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.shares import Folder

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers


def told(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """Return the warnings of ours that have a word in them."""
    said = [record.getMessage() for record in caplog.records if record.name == "ai4os_data" and record.levelno >= 30]
    return [text for text in said if word in text]


# --- when it saves


@pytest.mark.parametrize("accumulated", [1, 3])
def test_saves_at_the_steps_of_model_checkpoint(folder: Folder, tmp_path: Path, accumulated: int) -> None:
    """Each multiple is saved once, however many batches make a step."""
    own = callback_of(folder, tmp_path, every_n_train_steps=5, save_top_k=-1, save_on_train_end=False)
    other = ModelCheckpoint(tmp_path / "other", "{step}", every_n_train_steps=5, save_top_k=-1)
    loader = loader_of(folder, tmp_path, batch_size=3 if accumulated == 1 else 1)
    fit(own, loader, Patient(), other, max_epochs=1, accumulate_grad_batches=accumulated)
    assert steps_of(folder, tmp_path) == [15, 10, 5]
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"step=5.ckpt", "step=10.ckpt", "step=15.ckpt"}


def test_no_step_is_counted_twice_after_a_resume(folder: Folder, tmp_path: Path) -> None:
    """This holds for a checkpoint that Lightning wrote in the middle of accumulated batches too."""
    options: dict[str, Any] = {"max_epochs": 1, "accumulate_grad_batches": 3}
    loader = loader_of(folder, tmp_path, batch_size=1)
    kept = ModelCheckpoint(tmp_path / "other", "{step}", every_n_train_steps=5, save_top_k=-1)
    trainer_of(kept, **options, max_steps=5).fit(Model(), loader)
    own = callback_of(folder, tmp_path, every_n_train_steps=5, save_top_k=-1, save_on_train_end=False)
    path = str(tmp_path / "other" / "step=5.ckpt")
    trainer_of(Patient(), own, **options).fit(Model(), loader, ckpt_path=path)
    assert steps_of(folder, tmp_path) == [15, 10]


def test_manual_optimization_saves_at_its_steps(folder: Folder, tmp_path: Path) -> None:
    """If several batches make a step by hand, each step counts once."""

    class Manual(Model):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            loss = super().training_step(batch, number)
            self.manual_backward(loss)
            if number % 2 == 1:
                optimizer: Any = self.optimizers()
                optimizer.step()
                optimizer.zero_grad()
            return loss

    own = callback_of(folder, tmp_path, every_n_train_steps=2, save_top_k=-1, save_on_train_end=False)
    trainer_of(Patient(), own, max_epochs=1).fit(Manual(), loader_of(folder, tmp_path))
    assert steps_of(folder, tmp_path) == [6, 4, 2]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"every_n_epochs": 2, "save_on_train_end": False}, [4, 2]),
        ({"every_n_epochs": 2}, [5, 4]),
        ({"save_top_k": 0, "keep_last": 1}, [5]),
        ({"save_top_k": -1, "keep_last": 1}, [5, 4, 3, 2, 1]),
        ({"keep_every": 2 * BATCHES, "keep_last": 1}, [5, 4, 2]),
    ],
)
def test_epochs_that_are_kept(folder: Folder, tmp_path: Path, options: dict[str, Any], epochs: list[int]) -> None:
    """The epochs that the options name are kept."""
    fit(callback_of(folder, tmp_path, **options), loader_of(folder, tmp_path), Patient(), max_epochs=5)
    assert steps_of(folder, tmp_path) == [epoch * BATCHES for epoch in epochs]


def test_exception_is_not_saved_if_it_is_not_wanted(folder: Folder, tmp_path: Path) -> None:
    """With save_on_exception=False, a save that was due before the exception is there."""
    own = callback_of(folder, tmp_path, every_n_train_steps=4, save_on_exception=False)
    with pytest.raises(FailedError):
        fit(own, loader_of(folder, tmp_path), Patient(), fail_at=6)
    assert steps_of(folder, tmp_path) == [4]


def test_rehearsal_and_validation_save_nothing(folder: Folder, tmp_path: Path) -> None:
    """A rehearsal and a validation save nothing, and make no folder."""
    loader = loader_of(folder, tmp_path)
    fit(callback_of(folder, tmp_path), loader, validation=loader, fast_dev_run=True)
    trainer_of(callback_of(folder, tmp_path)).validate(Model(), loader, verbose=False)
    assert not (folder.root / "run").exists()


def test_two_callbacks_with_other_triggers_go_together(folder: Folder, tmp_path: Path) -> None:
    """Each of two callbacks resumes with its own state."""

    def pair() -> list[StorageCheckpointCallback]:
        options: dict[str, Any] = {"monitor": "val_loss", "save_on_train_end": False}
        return [
            callback_of(folder, tmp_path, "epochs", every_n_epochs=1, **options),
            callback_of(folder, tmp_path, "steps", every_n_train_steps=9, **options),
        ]

    loader = loader_of(folder, tmp_path)
    first = pair()
    trainer_of(Patient(), *first, max_epochs=1).fit(Model(), loader, loader)
    second = pair()
    path = second[0].resume_path()
    trainer_of(Patient(), *second, max_epochs=2).fit(Model(), loader, loader, ckpt_path=path)
    assert steps_of(folder, tmp_path, "epochs")[0] == 2 * BATCHES
    assert steps_of(folder, tmp_path, "steps")[0] == 18


def test_state_under_its_former_key_is_read(folder: Folder, tmp_path: Path) -> None:
    """A checkpoint from before the triggers were in it still knows its best score."""
    loader = loader_of(folder, tmp_path)
    own = callback_of(folder, tmp_path, monitor="val_loss")
    fit(own, loader, max_epochs=1, validation=loader)
    path = own.resume_path()
    assert path is not None
    state = torch.load(path, weights_only=True)
    state["callbacks"]["StorageCheckpointCallback{'monitor': 'val_loss', 'mode': 'min'}"] = state["callbacks"].pop(
        own.state_key
    )
    torch.save(state, tmp_path / "old.ckpt")
    again = callback_of(folder, tmp_path, monitor="val_loss")
    trainer_of(again, max_epochs=1).fit(Model(), loader, loader, ckpt_path=str(tmp_path / "old.ckpt"))
    assert own.best_model_score is not None
    assert again.best_model_score == own.best_model_score


def test_last_model_path_is_the_newest(folder: Folder, tmp_path: Path) -> None:
    """last_model_path is the newest checkpoint even if the best one is older."""

    class Measured(Model):
        def validation_step(self, batch: torch.Tensor, _: int) -> None:  # noqa: ARG002
            self.log("score", float(self.current_epoch))

    own = callback_of(folder, tmp_path, monitor="score", mode="min")
    assert own.last_model_path == ""
    loader = loader_of(folder, tmp_path)
    trainer_of(Patient(), own).fit(Measured(), loader, loader)
    assert torch.load(own.last_model_path, weights_only=True)["global_step"] == 2 * BATCHES
    assert torch.load(own.best_model_path, weights_only=True)["global_step"] == BATCHES


# --- what it refuses


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"mode": "best"}, ValueError, "mode"),
        ({"keep_last": 0}, ValueError, "keep_last"),
        ({"spool_limit": "much"}, ValueError, "spool limit"),
        ({"train_time_interval": 5}, TypeError, "timedelta"),
        ({"save_last": True}, TypeError, "StorageCheckpointCallback has no save_last: .* keep_last"),
        ({"dirpath": "x"}, TypeError, "StorageCheckpointCallback has no dirpath: .* location"),
        ({"filename": "{epoch}"}, TypeError, "StorageCheckpointCallback has no filename"),
        ({"save_weights_only": True}, TypeError, "StorageCheckpointCallback has no save_weights_only"),
        ({"verbose": True}, TypeError, "StorageCheckpointCallback has no verbose: .* log"),
        ({"kep_last": 1}, TypeError, "StorageCheckpointCallback has no kep_last: .* spool"),
        ({"alone": True}, TypeError, "StorageCheckpointCallback has no alone"),
    ],
)
def test_wrong_option_is_refused_at_once(options: dict[str, Any], error: type[Exception], named: str) -> None:
    """The error names the class, and what there is instead."""
    with pytest.raises(error, match=named):
        StorageCheckpointCallback("run", **options)


class Written(DDPStrategy):
    """A strategy that writes its checkpoints in a way of its own."""

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


@pytest.mark.parametrize("strategy", [DeepSpeedStrategy, Written])
def test_strategy_that_writes_by_itself_is_refused(folder: Folder, tmp_path: Path, strategy: Any) -> None:
    """A strategy that writes by itself is refused although it is a DDPStrategy: its state is spread over the ranks."""
    from types import SimpleNamespace

    trainer: Any = SimpleNamespace(strategy=strategy.__new__(strategy))
    with pytest.raises(errors.CheckpointError, match="strategy='ddp'"):
        callback_of(folder, tmp_path).setup(trainer, Model(), "fit")


class Color(enum.Enum):
    """What no checkpoint can hold."""

    RED = 1


class WithHyperparameters(Model):
    """A model that keeps an argument."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.save_hyperparameters({"fine": 1, "odd": kept})


class Data(lightning.LightningDataModule):
    """Data that keep an argument."""

    def __init__(self, loader: Any, kept: Any) -> None:
        super().__init__()
        self._loader = loader
        self.save_hyperparameters({"odd": kept})

    def train_dataloader(self) -> Any:
        """Return what it was given."""
        return self._loader


ODD: list[Callable[[], Any]] = [
    lambda: Path("/x"),
    lambda: argparse.Namespace(a=1),
    lambda: Color.RED,
    lambda: torch.relu,
    lambda: functools.partial(torch.relu),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("where", ["model", "data"])
def test_hyperparameters_that_cannot_be_saved_are_told_at_once(
    folder: Folder, tmp_path: Path, odd: Callable[[], Any], where: str
) -> None:
    """The error comes before the first batch, and names the hyperparameter."""
    loader: Any = loader_of(folder, tmp_path)
    model = WithHyperparameters(odd()) if where == "model" else Model()
    data = Data(loader, odd()) if where == "data" else loader
    with pytest.raises(errors.StateError, match=r"hyper_parameters.*odd.*ignore"):
        trainer_of(callback_of(folder, tmp_path)).fit(model, data)
    assert model.batches == []


# --- what it tells


def test_run_that_begins_anew_is_told_of(folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning comes if there are checkpoints and the training resumes from none of them."""
    loader = loader_of(folder, tmp_path)
    fit(callback_of(folder, tmp_path), loader, max_epochs=1)
    fit(callback_of(folder, tmp_path), loader, max_epochs=2)
    assert told(caplog, "begins anew") == []
    for path in (None, "last"):
        trainer_of(callback_of(folder, tmp_path), max_epochs=1).fit(Model(), loader, ckpt_path=path)
    first, second = told(caplog, "begins anew")
    assert f"the newest of step {2 * BATCHES}" in first
    assert "ckpt_path=callback.resume_path()" in second


def test_monitor_that_is_never_logged_is_told_once(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names what is logged, and does not come before a validation that is still due."""
    loader = loader_of(folder, tmp_path)
    options: dict[str, Any] = {"validation": loader, "max_epochs": 2}
    fit(callback_of(folder, tmp_path, "one", monitor="val_loss"), loader, check_val_every_n_epoch=2, **options)
    assert told(caplog, "is not logged") == []
    fit(callback_of(folder, tmp_path, "two", monitor="val_los", mode="min", every_n_train_steps=4), loader, **options)
    (text,) = told(caplog, "is not logged")
    assert "monitor='val_los'" in text
    assert "loss, val_loss" in text


def test_loader_that_begins_its_epoch_anew_is_told_once(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain loader that resumes in mid-epoch is warned of once; StorageDataLoader is not."""
    plain = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(40, 1)), 4, collate_fn=_stacked)
    for loader, name in ((loader_of(folder, tmp_path), "exact"), (plain, "plain")):
        with pytest.raises(FailedError):
            fit(callback_of(folder, tmp_path, name), loader, fail_at=5)
        fit(callback_of(folder, tmp_path, name), loader)
        assert len(told(caplog, "StorageDataLoader")) == (name == "plain")


def _stacked(samples: list[tuple[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([sample for (sample,) in samples])


@pytest.mark.parametrize("kept", ["by the callback", "by the run"])
def test_another_number_of_ranks_is_told_where_something_is_lost(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: str
) -> None:
    """Random states of two ranks are one too many for one; the callback keeps them itself."""
    is_kept = kept == "by the run"
    with StorageCheckpoint(folder.location, spool=tmp_path / "spool", save_random_states=is_kept) as run:
        ranks_of_two: Any = run.saver
        of_one = ranks_of_two._gathered
        ranks_of_two._gathered = lambda state: 2 * of_one(state)
        run.save({"a": 1}, 1).wait()
    with StorageCheckpoint(folder.location, spool=tmp_path / "spool") as run:
        run.restore()
    assert len(told(caplog, "2 processes")) == is_kept
