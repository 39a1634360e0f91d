"""Under DDP rank 0 writes for all; each rank resumes its own random numbers and its own position in the data."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ai4os_data import StorageCheckpoint, errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class RankOrder:
    """A position in an order that differs by rank."""

    differs_by_rank = True

    def __init__(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the position."""
        vars(self).update(state)


def at_rank(rank: int, size: int, place: Path, work: str, answers: Any) -> None:
    """Run some work as a rank, and return its result."""
    torch.set_num_threads(1)
    meeting = f"file://{place}/rendezvous-{work}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    try:
        answers.put((rank, WORKS[work](rank, place)))
    except BaseException as error:  # noqa: BLE001  the parent judges it
        answers.put((rank, repr(error)))
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()
        os._exit(0)  # a group whose members are gone may hang at its end


def open_at(place: Path, timeout_s: float = 30.0) -> StorageCheckpoint:
    """Open the run, as every rank does."""
    return StorageCheckpoint(place / "run", spool=place / f"spool-{dist.get_world_size()}", rank_timeout_s=timeout_s)


def save(rank: int, place: Path) -> list[float]:
    """Save at a position that differs by rank; what this rank would draw next."""
    torch.manual_seed(100 + rank)
    order = RankOrder()
    order.position = 10 * (rank + 1)
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(7.0)
    with open_at(place) as run:
        handle = run.save({"model": model, "order": order}, 1)
        assert (handle.wait(timeout_s=30) == "confirmed") == (rank == 0)
    return [*torch.rand(3).tolist(), order.position]


def restore(_rank: int, place: Path) -> list[float]:
    """Restore; what this rank draws next."""
    order, model = RankOrder(), torch.nn.Linear(2, 2)
    with open_at(place) as run:
        restored = run.restore(into={"model": model, "order": order})
        assert restored is not None
        assert torch.equal(model.weight, torch.full((2, 2), 7.0))
    return [*torch.rand(3).tolist(), order.position]


def restore_nothing(_rank: int, place: Path) -> str:
    """Restore when every checkpoint is damaged."""
    with open_at(place) as run, pytest.raises(errors.DamagedError):
        run.restore()
    return "raised"


def lose_a_rank(rank: int, place: Path) -> str:
    """Save when another rank has died."""
    run = open_at(place, timeout_s=3.0)
    if rank == 1:
        os._exit(1)
    begun = time.monotonic()
    with pytest.raises(errors.CheckpointError, match="waited for the others"):
        run.save({"x": 1}, 1)
    assert time.monotonic() - begun < 20
    return "raised"


def fail_on_rank_0(rank: int, place: Path) -> list[str]:
    """Save when rank 0 alone has an error to raise; afterwards the ranks are in step."""
    told = []
    order = RankOrder()
    with open_at(place, timeout_s=20.0) as run:
        if rank == 0:
            run.saver.failures.lasting.append(errors.AuthenticationError("401"))
        for step in (1, 2):
            order.position = step
            try:
                run.save({"order": order, "array": RankArray(rank + step)}, step, {"loss": 1.0} if rank == 0 else None)
                told.append("saved")
            except errors.AuthenticationError as error:
                told.append(str(error))
        restored = run.restore()
        assert restored is not None
        told.append(str((restored.step, restored["order"]["position"], restored["array"]["values"].tolist())))
        assert isinstance(restored["array"]["values"], np.ndarray)
        if rank == 0:
            run.saver.look = cannot  # type: ignore[method-assign]
        with pytest.raises((OSError, errors.CheckpointError), match="a disk that fails"):
            run.restore()
    return told


def cannot(*_: object) -> Any:
    """Fail with an error of no library of ours."""
    raise OSError(5, "a disk that fails")


class RankArray:
    """An array that differs by rank."""

    differs_by_rank = True

    def __init__(self, value: int) -> None:
        self.values = np.full(2, value)

    def state_dict(self) -> dict[str, Any]:
        """Tell it."""
        return {"values": self.values}


WORKS: dict[str, Callable[[int, Path], Any]] = {
    "save": save,
    "restore": restore,
    "restore_nothing": restore_nothing,
    "lose_a_rank": lose_a_rank,
    "fail_on_rank_0": fail_on_rank_0,
}


def together(work: str, place: Path, size: int = 2, answering: int | None = None) -> dict[int, Any]:
    """Let ranks do some work; their results."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    ranks = [context.Process(target=at_rank, args=(rank, size, place, work, answers)) for rank in range(size)]
    for process in ranks:
        process.start()
    told = dict(answers.get(timeout=90) for _ in range(answering or size))
    for process in ranks:
        process.join(30)
        process.kill()
    return told


def test_each_rank_goes_on_where_it_was(tmp_path: Path) -> None:
    """The model is saved once, and what differs for each rank; an additional rank resumes without the latter."""
    saved = together("save", tmp_path)
    assert saved[0] != saved[1]
    assert len(list((tmp_path / "run").glob("*/*/state-*"))) == 1
    assert together("restore", tmp_path) == saved
    for path in (tmp_path / "run").glob("*/*/state-*"):
        path.write_bytes(b"damaged")
    for path in tmp_path.glob("spool-*/*/*/*/state-*"):
        path.write_bytes(b"damaged")
    assert together("restore_nothing", tmp_path) == {0: "raised", 1: "raised"}


def test_rank_that_has_died_does_not_hang_the_others(tmp_path: Path) -> None:
    """The other ranks raise within the given time."""
    assert together("lose_a_rank", tmp_path, answering=1) == {0: "raised"}


def test_error_on_rank_0_leaves_nobody_waiting(tmp_path: Path) -> None:
    """The error is raised on rank 0, by a save in which all ranks take part."""
    assert together("fail_on_rank_0", tmp_path) == {
        0: ["401", "saved", "(2, 2, [2, 2])"],
        1: ["saved", "saved", "(2, 2, [3, 3])"],
    }
