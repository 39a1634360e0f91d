"""Options of the callback and the plugin, as a program and as LightningCLI gives them; and metrics that are numbers."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import torch

from ai4os_data import StorageCheckpoint
from ai4os_data.lightning import StorageCheckpointCallback, StorageCheckpointIO
from ai4os_data.lightning.metrics import numbers_in
from tests.support.lit import Model, loader_of, trainer_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Folder

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers

SHARED = ("spool", "spool_limit", "durability", "cache", "rank_timeout_s")


@pytest.mark.parametrize("kind", [StorageCheckpointCallback, StorageCheckpointIO])
def test_options_are_parameters_with_the_defaults_of_a_checkpoint(kind: type) -> None:
    """Tools that read signatures find each of them."""
    own, checkpoint = (inspect.signature(each).parameters for each in (kind, StorageCheckpoint))
    for name in SHARED:
        assert own[name].default == checkpoint[name].default
        assert own[name].annotation == checkpoint[name].annotation


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every_n_train_steps", "2"),
        ("every_n_epochs", "2"),
        ("train_time_interval", "0:00:01"),
        ("monitor", "loss"),
        ("save_top_k", "2"),
        ("keep_last", "3"),
        ("keep_every", "10"),
        ("save_on_exception", "false"),
        ("save_on_train_end", "false"),
        ("remote", "rshare"),
        ("spool", "spool2"),
        ("spool_limit", "1GiB"),
        ("durability", "confirmed"),
        ("cache", "null"),
        ("rank_timeout_s", "5.0"),
    ],
)
def test_command_line_of_lightning_takes_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    """LightningCLI takes those of the callback, and those that the plugin has too."""
    pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
    from lightning.pytorch.cli import LightningCLI

    monkeypatch.setattr(sys, "argv", ["train.py"])
    places = [("callbacks", "StorageCheckpointCallback")]
    if name in {"remote", *SHARED}:
        places.append(("plugins", "StorageCheckpointIO"))
    for place, kind in places:
        arguments = [f"--trainer.{place}+=ai4os_data.lightning.{kind}", f"--trainer.{place}.{name}={value}"]
        if place == "callbacks":
            arguments.append("--trainer.callbacks.location=run")
        with pytest.raises(SystemExit) as ended:
            LightningCLI(Model, args=["fit", *arguments, "--print_config"])
        assert ended.value.code == 0
        assert f"{name}: {value}" in capsys.readouterr().out.replace("'", "")


class Numbers(Model):
    """A model that puts plain numbers where Lightning has tensors."""

    def on_validation_epoch_end(self) -> None:
        """Put them there."""
        metrics: dict[str, Any] = self.trainer.callback_metrics
        metrics.update(accuracy=0.25, count=3, name="x", spread=torch.tensor([1.0, 2.0]), share=np.float32(0.5))


def test_plain_numbers_in_the_metrics_are_metrics(folder: Folder, tmp_path: Path) -> None:
    """A plain number can be the monitor, each time that it was measured; other objects are left out."""
    callback = StorageCheckpointCallback(
        str(tmp_path / "run"), spool=tmp_path / "spool", monitor="accuracy", mode="max", save_top_k=2, keep_last=1
    )
    loader = loader_of(folder, tmp_path)
    trainer_of(callback, max_epochs=3).fit(Numbers(), loader, loader)
    assert callback.best_model_score == 0.25
    with StorageCheckpoint(tmp_path / "run", spool=tmp_path / "spool") as run:
        found = [one.metrics for one in run.list()]
    for metrics in found:
        assert (metrics["accuracy"], metrics["count"], metrics["share"]) == (0.25, 3.0, 0.5)
        assert not {"name", "spread"} & metrics.keys()


def test_numbers_are_tensors_and_arrays_of_one_element_and_plain_ones() -> None:
    """Nothing else is a number."""
    metrics = {
        "tensor": torch.tensor([0.5]),
        "array": np.float64(0.25),
        "bool": True,
        "text": "0.5",
        "none": None,
        "many": torch.ones(2),
        "complex": torch.tensor(1j),
    }
    assert numbers_in(metrics) == {"tensor": 0.5, "array": 0.25, "bool": 1.0}
