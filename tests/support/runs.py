"""A run for tests: a small state that shows its step, saved to and restored from some location."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ai4os_data.checkpoint import StorageCheckpoint, leftovers
from tests.support.crowd import wait_for

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ai4os_data.checkpoint.spool import Spool, Spooled
    from ai4os_data.stores import Level, Store

NUMBERS = 1000


def state_of(step: int, numbers: int = NUMBERS) -> dict[str, Any]:
    """A state that belongs to one step only."""
    return {"weights": torch.full((numbers,), float(step)), "more": [step, {"name": f"step {step}"}]}


def open_run(
    place: str | os.PathLike[str] | Store, tmp_path: Path, spool: str = "spool", **options: Any
) -> StorageCheckpoint:
    """A run at a location, with a spool of its own."""
    return StorageCheckpoint(place, spool=tmp_path / spool, **options)


def save_steps(run: StorageCheckpoint, *steps: int, **metrics: float) -> None:
    """Save step after step, each to its best level, and wait until old ones are removed."""
    for step in steps:
        run.save(state_of(step), step, metrics or None).wait(timeout_s=60)
        wait_for(lambda: not run.saver.uploads.unsent())


def restored_step(run: StorageCheckpoint) -> int | None:
    """The step that is restored, after checking every byte; None for a new run."""
    restored = run.restore()
    if restored is None:
        return None
    wanted = state_of(restored.step, restored["weights"].numel())
    assert torch.equal(restored["weights"], wanted["weights"])
    assert restored["more"] == wanted["more"]
    return restored.step


def steps_of(run: StorageCheckpoint) -> list[int]:
    """The steps of all checkpoints, newest first."""
    return [checkpoint.step for checkpoint in run.list()]


def drop_sent_of_others(spool: Spool) -> None:
    """Remove the sent checkpoints of other runs in the directory of a spool."""
    leftovers.drop_all(spool.directory, spool.folder)


def remove_before_sending(run: StorageCheckpoint) -> None:
    """Make a run break W2: it removes its confirmed checkpoint before it sends the next one."""
    send = run.saver.delivery.send

    def worse(spooled: Spooled) -> Level:
        for checkpoint in run.list():
            if checkpoint.attempt == spooled.name.attempt.number and checkpoint.on_store:
                run.saver.store.remove_tree(str(checkpoint.name))
        return send(spooled)

    run.saver.delivery.send = worse  # type: ignore[method-assign]
