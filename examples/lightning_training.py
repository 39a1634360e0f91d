"""Train with Lightning from a storage, stop in mid-epoch, and resume.

    python examples/lightning_training.py
    python examples/lightning_training.py rshare:somewhere

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there.

The first training stops after 40 steps, in the middle of the second epoch; the
second one resumes with step 41.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING

import lightning
import numpy as np
import torch
from storage import arguments, storage
from torch import nn

from ai4os_data import DiskCache, StorageDataLoader, StorageDataset, open_filesystem
from ai4os_data.lightning import StorageCheckpointCallback

if TYPE_CHECKING:
    from ai4os_data import Remote, Sample

POINTS = 256
BATCH = 8
STOP_AT = 40


class Squares(lightning.LightningModule):
    """A small network that learns to square."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        """Take a step."""
        loss = nn.functional.mse_loss(self.layers(batch), batch.square())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use AdamW."""
        return torch.optim.AdamW(self.parameters(), 0.01)


def point(sample: Sample) -> torch.Tensor:
    """The number in a file."""
    return torch.from_numpy(np.load(sample.open())).float()


def upload(location: str, remote: Remote | None) -> None:
    """Upload one file for each point."""
    files = {}
    for number in range(POINTS):
        array = io.BytesIO()
        np.save(array, np.array([number / POINTS * 2 - 1]))
        files[f"{number:03}.npy"] = array.getvalue()
    open_filesystem(location, remote, create=True).pipe(files)


def train(location: str, remote: Remote | None, scratch: str, max_steps: int) -> int:
    """Train from the newest checkpoint; returns the step at which it begins."""
    data = StorageDataset(
        f"{location}/data",
        remote=remote,
        decode=point,
        cache=DiskCache(f"{scratch}/cache", "64MiB"),
    )
    loader = StorageDataLoader(data, batch_size=BATCH, shuffle=True, seed=1)
    callback = StorageCheckpointCallback(
        f"{location}/run", remote, every_n_train_steps=16, spool=f"{scratch}/spool"
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=4,
        max_steps=max_steps,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = callback.resume_path()  # None on a new run
    begin = torch.load(path, weights_only=True)["global_step"] if path else 0
    trainer.fit(Squares(), loader, ckpt_path=path)
    loss = trainer.callback_metrics["loss"]
    end = trainer.global_step
    print(f"begun at step {begin}, ended at step {end}, loss {loss:.5f}")
    return int(begin)


def main() -> int:
    """Run the example; returns the exit code."""
    given = arguments(__doc__).parse_args().location
    # Lightning asks for more workers, which such small files do not need.
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory(prefix="ai4os-data-lightning-") as scratch,
        storage(given) as (location, remote),
    ):
        upload(f"{location}/data", remote)
        train(location, remote, scratch, max_steps=STOP_AT)
        return 0 if train(location, remote, scratch, max_steps=-1) == STOP_AT else 1


if __name__ == "__main__":
    sys.exit(main())
