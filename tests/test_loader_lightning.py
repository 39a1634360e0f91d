"""Lightning uses the loader as it is, and goes on in mid-epoch with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from epochs import dataset_of, loader_of

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data import Sample
    from shares import Share

lightning = pytest.importorskip("lightning", reason="lightning is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers


def number_of(sample: Sample) -> torch.Tensor:
    """Return the number of a sample."""
    return torch.tensor([float(sample.key[:2])])


class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]  # without it there are no types
    """Remembers what it was given, in which epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        """Learn nothing."""
        self.seen.append((self.current_epoch, [int(number) for number in batch.flatten()]))
        loss: torch.Tensor = self.layer(batch).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Change nothing."""
        return torch.optim.SGD(self.parameters(), 0.0)


class SaveAt(lightning.Callback):  # type: ignore[misc, name-defined]
    """Saves a checkpoint after a step."""

    def __init__(self, step: int, path: Path) -> None:
        self._step = step
        self._path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Save where it is time."""
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)


@pytest.mark.parametrize("workers", [0, 2])
def test_fit_goes_on_in_mid_epoch(share: Share, tmp_path: Path, workers: int) -> None:
    """From a checkpoint of the eleventh step the rest of three epochs comes exactly, each in its own order."""
    dataset = dataset_of(share, tmp_path / "cache", decode=number_of)
    path = tmp_path / "eleven.ckpt"

    def fit(resumed: Path | None, *callbacks: Any) -> list[tuple[int, list[int]]]:
        model = Model()
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
        )
        trainer.fit(model, loader_of(dataset, workers, collate_fn=None), ckpt_path=resumed)
        return model.seen

    whole = fit(None, SaveAt(11, path))
    assert len(whole) == 24
    assert len({tuple(batch) for _, batch in whole}) == 24
    assert whole[:11] + fit(path) == whole
