"""A training that dies and goes on: it notes every loss and every sample that it has used.

Each line of the notes is ``step loss ids``; of a step that was done again after a restart the last line counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data import StorageCheckpoint

SAMPLES = 97
BATCH = 8
SAVE_EVERY = 3


class Order:
    """Samples in a shuffled order, epoch after epoch, which goes on where it was."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0

    def next(self) -> list[int]:
        """Return the next batch."""
        if self.position + BATCH > SAMPLES:
            self.epoch, self.position = self.epoch + 1, 0
        generator = torch.Generator().manual_seed(self.epoch)
        ids: list[int] = torch.randperm(SAMPLES, generator=generator)[self.position : self.position + BATCH].tolist()
        self.position += BATCH
        return ids

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there."""
        vars(self).update(state)


def train(run: StorageCheckpoint, notes: Path, steps: int, step_s: float = 0.0) -> dict[str, torch.Tensor]:
    """Train up to a step, each of which takes so long; the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.randn(SAMPLES, 6)
    model = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters())
    order = Order()
    state = {"model": model, "optimizer": optimizer, "order": order}
    restored = run.restore(into=state)
    with notes.open("a", buffering=1) as lines:
        for step in range(restored.step + 1 if restored else 1, steps + 1):
            ids = order.next()
            loss = (model(data[ids]) + 0.1 * torch.randn(BATCH, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lines.write(f"{step} {loss.item().hex()} {','.join(map(str, ids))}\n")
            if step % SAVE_EVERY == 0:
                run.save(state, step)
            time.sleep(step_s)
    return model.state_dict()
