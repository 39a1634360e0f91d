"""A training that is killed ends with the weights of one that was left alone.

    python examples/train_and_survive.py
    python examples/train_and_survive.py rshare:runs/survive

The first command starts a WebDAV server of its own, the second one uses your
storage.

A second process kills the training with SIGKILL at random moments, and starts it
again. Each time the training has lost its memory and its local disk, and has
nothing but the storage. On your own storage the two runs stay, so that you can look
at them: the last line names them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from storage import arguments, join, own_server
from torch import nn

from ai4os_data import StorageCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data import Remote

STEPS = 120
SAVE_EVERY = 10
BATCH = 32


class Order:
    """Samples in a new random order in each epoch; the order can be resumed."""

    def __init__(self, size: int) -> None:
        self.size, self.epoch, self.position = size, 0, 0

    def next(self) -> torch.Tensor:
        """The indices of the next batch."""
        if self.position + BATCH > self.size:
            self.epoch, self.position = self.epoch + 1, 0
        permutation = torch.randperm(
            self.size, generator=torch.Generator().manual_seed(self.epoch)
        )
        self.position += BATCH
        return permutation[self.position - BATCH : self.position]

    def state_dict(self) -> dict[str, int]:
        """The position in the order, as plain numbers."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume at a saved position."""
        vars(self).update(state)


def train(
    location: str, remote: Remote | None, spool: str, pause_s: float, answer: Any
) -> None:
    """Train from the newest checkpoint; sends its first step, and the final weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.randn(500, 16)
    targets = inputs.square().sum(1, keepdim=True)
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    order = Order(len(inputs))
    state = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "order": order,
    }

    with StorageCheckpoint(location, remote=remote, spool=spool) as run:
        restored = run.restore(into=state)  # None on a new run
        begin = restored.step + 1 if restored else 1
        answer.send(("begin", begin))
        for step in range(begin, STEPS + 1):
            batch = order.next()
            loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if step % SAVE_EVERY == 0:
                run.save(state, step, metrics={"loss": loss.item()})
            time.sleep(pause_s)  # a real step takes longer
    answer.send(
        (
            "end",
            loss.item(),
            {name: value.numpy() for name, value in model.state_dict().items()},
        )
    )


class Training:
    """A training in a process of its own, on a machine of its own."""

    def __init__(
        self, location: str, remote: Remote | None, scratch: Path, *, pause_s: float
    ) -> None:
        spool = tempfile.mkdtemp(dir=scratch)  # empty, as on a new machine
        # A fork is safe: this process has imported torch, and used nothing of it.
        context = multiprocessing.get_context("fork")
        self.answer, theirs = context.Pipe()
        arguments = (location, remote, spool, pause_s, theirs)
        self.process = context.Process(target=train, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        _, self.begin = self.answer.recv()

    def kill(self) -> None:
        """Send SIGKILL, which the process cannot handle."""
        self.process.kill()
        self.process.join()

    def result(self) -> tuple[float, dict[str, Any]]:
        """The last loss and the weights, once the training has ended."""
        _, loss, weights = self.answer.recv()
        self.process.join()
        return loss, weights


def survive(location: str, remote: Remote | None, kills: int, scratch: Path) -> bool:
    """Train undisturbed, train and be killed, and compare the weights."""
    name = secrets.token_hex(4)
    undisturbed, killed = (
        join(location, f"undisturbed-{name}"),
        join(location, f"killed-{name}"),
    )
    loss, expected = Training(undisturbed, remote, scratch, pause_s=0.0).result()
    print(f"undisturbed: {STEPS} steps, loss {loss:.6f}")

    for number in range(kills):
        victim = Training(killed, remote, scratch, pause_s=0.02)
        alive_s = random.uniform(0.5, 1.2)
        time.sleep(alive_s)
        victim.kill()
        print(
            f"life {number + 1}: begun at step {victim.begin}, "
            f"killed with SIGKILL after {alive_s:.2f} s"
        )
    last = Training(killed, remote, scratch, pause_s=0.0)
    loss, found = last.result()
    print(f"last life: begun at step {last.begin}, loss {loss:.6f}")

    is_same = all((found[key] == expected[key]).all() for key in expected)
    print(
        "The weights are the same, bit for bit." if is_same else "The weights DIFFER."
    )
    if remote is None:
        print(
            "The two runs are still there; remove them when you have seen them: "
            f"{undisturbed} {killed}"
        )
    return is_same


@contextlib.contextmanager
def storage(location: str | None) -> Iterator[tuple[str, Remote | None]]:
    """The location that was given, whose runs stay, or that of a server of our own."""
    if location is not None:
        yield location, None
        return
    with own_server(latency_s=0.02) as (url, remote):
        print(f"A WebDAV server at {url} answers each request after 20 ms.")
        yield f"{url}runs", remote


def main() -> int:
    """Run the example; returns the exit code."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--kills", type=int, default=3, help="how often the training is killed"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ai4os-data-survive-") as scratch,
        storage(options.location) as (location, remote),
    ):
        return 0 if survive(location, remote, options.kills, Path(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main())
