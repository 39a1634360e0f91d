"""A training that dies and goes on: it notes every loss and every sample that its loader has given it.

Each line of the notes is ``step loss ids``; of a step that was done again after a restart the last line counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ai4os_data import Sample, StorageDataLoader

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data import StorageCheckpoint, StorageDataset

SAMPLES = 97
BATCH = 8  # which leaves a batch of one at the end of an epoch
SAVE_EVERY = 3
_FEATURES = 6


def files() -> dict[str, bytes]:
    """Return what there is to learn from."""
    data = torch.randn(SAMPLES, _FEATURES, generator=torch.Generator().manual_seed(0))
    return {f"{number:03}.bin": row.numpy().tobytes() for number, row in enumerate(data)}


def features(sample: Sample) -> torch.Tensor:
    """Return the numbers in a file."""
    return torch.frombuffer(bytearray(sample.bytes()), dtype=torch.float32)


def number_of(sample: Sample) -> int:
    """Return which one it is."""
    return int(sample.key.partition(".")[0])


def train(
    run: StorageCheckpoint, dataset: StorageDataset, notes: Path, steps: int, *, step_s: float = 0.0, workers: int = 0
) -> None:
    """Train up to a step, each of which takes so long."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(_FEATURES, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters())
    loader = StorageDataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)
    state = {"model": model, "optimizer": optimizer, "loader": loader}
    restored = run.restore(into=state)
    step = restored.step if restored else 0
    with notes.open("a", buffering=1) as lines:
        while step < steps:
            for data, ids in loader:
                step += 1
                loss = (model(data) + 0.1 * torch.randn(len(ids), 1)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                lines.write(f"{step} {loss.item().hex()} {','.join(map(str, ids.tolist()))}\n")
                if step % SAVE_EVERY == 0:
                    run.save(state, step)
                time.sleep(step_s)
                if step == steps:
                    break
