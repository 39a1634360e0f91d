"""Whoever trains with pytorch_lightning, which comes beside lightning, gets classes that its Trainer knows."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors

pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import pytorch_lightning as pl
from ai4os_data.lightning import StorageCheckpointCallback, StorageCheckpointIO

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, _):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def train(*callbacks, plugins=()):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, callbacks=list(callbacks), plugins=list(plugins), **quiet)
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.rand(8, 1), 4))

folder = sys.argv[1]
train(StorageCheckpointCallback(f"{folder}/callback", spool=f"{folder}/spool"))
train(pl.callbacks.ModelCheckpoint(f"{folder}/plugin"), plugins=[StorageCheckpointIO(spool=f"{folder}/spool")])
"""


def test_pytorch_lightning_is_served_when_it_is_there_first(tmp_path: Path) -> None:
    """Both the callback and the plugin save."""
    subprocess.run([sys.executable, "-c", TRAINING, str(tmp_path)], check=True, timeout=120)
    for name in ("callback", "plugin"):
        assert len([*tmp_path.glob(f"{name}/**/MANIFEST.json")]) == 1


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
def test_trainer_of_the_other_one_is_told(tmp_path: Path) -> None:
    """The error says what to import first."""
    from pytorch_lightning.strategies import SingleDeviceStrategy

    from ai4os_data.lightning import StorageCheckpointCallback

    trainer: Any = SimpleNamespace(strategy=SingleDeviceStrategy())
    with pytest.raises(errors.CheckpointError, match=r"this Trainer is of pytorch_lightning, .* before"):
        StorageCheckpointCallback(tmp_path / "run").setup(trainer, trainer, "fit")
