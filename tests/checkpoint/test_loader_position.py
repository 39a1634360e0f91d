"""A checkpoint restores the loader's position and the model's random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ai4os_data import StorageDataLoader, StorageDataset
from tests.support.runs import open_run
from tests.support.shares import Folder
from tests.support.training import BATCH, features, files, number_of

if TYPE_CHECKING:
    from pathlib import Path


def test_random_numbers_in_mid_epoch_go_on_bit_for_bit(tmp_path: Path) -> None:
    """After a resume, dropout draws what it would have drawn: restarting the loader draws nothing."""
    folder = Folder(tmp_path / "data")
    folder.put(files())
    dataset = StorageDataset(folder.location, decode=features, target=number_of, cache=None)
    loader = StorageDataLoader(dataset, batch_size=BATCH, shuffle=True)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save({"loader": loader}, 3)
        expected = next(batches)[1].tolist(), torch.rand(1).item()
        again = StorageDataLoader(dataset, batch_size=BATCH, shuffle=True)
        run.restore(into={"loader": again})
    assert (next(iter(again))[1].tolist(), torch.rand(1).item()) == expected
