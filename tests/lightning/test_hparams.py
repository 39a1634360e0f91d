"""Hyperparameters come back as they were, or a warning or an error before the training says that they do not."""

from __future__ import annotations

import argparse
import dataclasses
import enum
from collections import namedtuple
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning
import torch

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.lightning import StorageCheckpointCallback, StorageCheckpointIO
from ai4os_data.lightning.hparams import check_hyperparameters
from tests.support.lit import Model, loader_of, trainer_of

if TYPE_CHECKING:
    from tests.support.shares import Folder

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers

Pair = namedtuple("Pair", "low high")  # noqa: PYI024  as others write it


class Hue(enum.Enum):
    """A choice."""

    RED = 1


class Level(enum.IntEnum):
    """A choice that is a number too."""

    LOW = 3


@dataclasses.dataclass
class Config:
    """Settings in a class of their own."""

    rate: float = 0.5


class Kept(Model):
    """A model that keeps an argument."""

    def __init__(self, what: Any = None) -> None:  # noqa: ARG002  Lightning takes it from the frame
        super().__init__()
        self.save_hyperparameters()


class Data(lightning.LightningDataModule):
    """Data that keep an argument."""

    def __init__(self, loader: Any = None, what: Any = None) -> None:  # noqa: ARG002  Lightning takes it from the frame
        super().__init__()
        self._loader = loader
        self.save_hyperparameters(ignore=["loader"])

    def train_dataloader(self) -> Any:
        """Return what it was given."""
        return self._loader


REFUSED = {
    "module": (torch.nn.Linear(1, 1), "ignore=.*load_from_checkpoint"),
    "class": (torch.nn.ReLU, "the class torch.*ignore="),
    "function": (torch.relu, "the function relu.*ignore="),
    "path": (Path("/x"), r"str\(path\)"),
    "enum": (Hue.RED, r"\.name"),
    "namespace": (argparse.Namespace(a=1), "vars"),
    "timedelta": (timedelta(1), "total_seconds"),
    "dataclass": (Config(), "asdict"),
    "range": (range(3), "list"),
    "deep": ({"layers": [{"kind": torch.nn.ReLU}]}, r"\['what'\]\['layers'\]\[0\]\['kind'\]"),
    "key": ({Hue.RED: 1}, "key"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("where", ["model", "data"])
def test_what_cannot_be_saved_is_told_before_the_first_batch(
    folder: Folder, tmp_path: Path, name: str, where: str
) -> None:
    """The error names it and what to write instead; nothing of it is saved as something else."""
    value, advice = REFUSED[name]
    loader = loader_of(folder, tmp_path)
    model = Kept(value if where == "model" else None)
    data = Data(loader, value if where == "data" else None)
    callback = StorageCheckpointCallback(str(tmp_path / "run"), spool=tmp_path / "spool")
    with pytest.raises(errors.StateError, match=f"(?s){type(model if where == 'model' else data).__name__}.*{advice}"):
        trainer_of(callback).fit(model, data)
    assert model.batches == []


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (np.float64(0.5), "float"),
        (np.int64(3), "int"),
        (Level.LOW, "int"),
        (Pair(1, 2), "tuple"),
        (frozenset({1}), "set"),
        (np.arange(3), "Tensor"),
        (torch.nn.Parameter(torch.ones(1)), "Tensor"),
    ],
)
def test_change_of_a_type_is_named(caplog: pytest.LogCaptureFixture, value: Any, form: str) -> None:
    """A warning before the training names what comes back in a plain form of the same content."""
    check_hyperparameters(Kept({"deep": value}))
    (record,) = caplog.records
    assert "hyper_parameters['what']['deep'] of Kept" in record.message
    assert f"comes back as a {form}" in record.message


@pytest.mark.parametrize("value", [None, 1, "a", [1, (2, 3)], {"a": {"b": {1}}}, torch.arange(3)])
def test_what_is_plain_comes_back_without_a_word(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    """Plain hyperparameters load as from a checkpoint of Lightning, and nothing is logged."""
    callback = StorageCheckpointCallback(str(tmp_path / "run"), spool=tmp_path / "spool")
    trainer_of(callback, max_epochs=1).fit(Kept(value), loader_of(folder, tmp_path))
    again = Kept.load_from_checkpoint(callback.best_model_path)
    assert type(again.hparams["what"]) is type(value)
    assert str(again.hparams["what"]) == str(value)
    assert "hyper_parameters" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [Hue.RED, Path("/x"), argparse.Namespace(a=1), timedelta(1), Config(), torch.nn.ReLU, np.float64(0.5), Pair(1, 2)],
    ids=str,
)
def test_plugin_saves_hyperparameters_as_lightning_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    """With weights_only=False they come back as they were; otherwise the log names those that are left out."""
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    checkpoint = {"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": {"what": value, "plain": 1}}
    io.save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    found = io.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)["hyper_parameters"]
    assert type(found["what"]) is type(value)
    assert found == {"what": value, "plain": 1}
    assert "hyper_parameters['what']" not in caplog.text
    plain = io.load_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert plain.keys() == checkpoint.keys()
    assert plain["hyper_parameters"]["plain"] == 1
    assert plain["hyper_parameters"].get("what") in {None, 0.5, (1, 2)}
    assert "hyper_parameters['what']" in caplog.text
    assert "weights_only=False" in caplog.text


def test_plugin_saves_a_module_as_one_and_trains_on(folder: Folder, tmp_path: Path) -> None:
    """The module comes back with `weights_only=False`; the training resumes without it, from the rest."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    loader = loader_of(folder, tmp_path)
    keeper = ModelCheckpoint(str(tmp_path / "run"), save_last=True)
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    trainer_of(keeper, max_epochs=1, plugins=[io]).fit(Kept(torch.nn.Linear(2, 1)), loader)
    found = io.load_checkpoint(keeper.best_model_path, weights_only=False)["hyper_parameters"]["what"]
    assert isinstance(found, torch.nn.Linear)
    model = Kept(torch.nn.Linear(2, 1))
    trainer = trainer_of(max_epochs=2, plugins=[StorageCheckpointIO()], enable_checkpointing=False)
    trainer.fit(model, loader, ckpt_path=keeper.last_model_path)
    assert len(model.batches) == 12


def test_hyperparameter_that_cannot_be_pickled_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lightning leaves it out too."""
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    io.save_checkpoint({"hyper_parameters": {"what": lambda: 1, "plain": 1}}, tmp_path / "a.ckpt")
    assert io.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)["hyper_parameters"] == {"plain": 1}
    assert "hyper_parameters['what'] cannot be pickled" in caplog.text


def test_class_in_a_state_is_refused(tmp_path: Path) -> None:
    """The error names it; it is not that of its `state_dict`, which needs an instance."""
    with (
        StorageCheckpoint(tmp_path / "run", spool=tmp_path / "spool") as run,
        pytest.raises(errors.StateError, match="model"),
    ):
        run.save({"model": torch.nn.ReLU}, 1)


# --- OmegaConf


class Whole(Model):
    """A model whose hyperparameters are a single configuration."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)


@pytest.mark.parametrize("kind", [Kept, Whole])
def test_omegaconf_is_named_and_comes_back_as_plain_containers(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    """This holds for the whole configuration and for one argument, with lists, interpolations and missing values."""
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed")
    plain = {"lr": 0.1, "layers": [1, 2], "twice": 0.1}
    cfg = omegaconf.OmegaConf.create({"lr": 0.1, "layers": [1, 2], "twice": "${lr}"})
    if kind is Kept:  # Lightning takes no missing value in a whole one
        cfg.open, plain["open"] = "???", "???"
    callback = StorageCheckpointCallback(str(tmp_path / "run"), spool=tmp_path / "spool")
    trainer_of(callback, max_epochs=1).fit(kind(cfg), loader_of(folder, tmp_path))
    assert "OmegaConf.to_container(cfg, resolve=True)" in caplog.text
    checkpoint = torch.load(callback.best_model_path, weights_only=True)
    hparams = checkpoint["hyper_parameters"]
    assert (hparams if kind is Whole else hparams["what"]) == plain
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    trainer = trainer_of(max_epochs=1, plugins=[io], enable_checkpointing=False)
    trainer.fit(kind(cfg), loader_of(folder, tmp_path))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    found = io.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    hparams = found["hyper_parameters"]
    hparams = hparams if kind is Whole else hparams["what"]
    assert omegaconf.OmegaConf.to_yaml(hparams) == omegaconf.OmegaConf.to_yaml(cfg)
    assert kind is Kept or found["hparams_type"] is omegaconf.DictConfig
