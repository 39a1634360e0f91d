"""A loader in Fabric's wrapper keeps its position in a state, and resumes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DistributedSampler, RandomSampler

from ai4os_data import StorageCheckpoint, StorageDataLoader

if TYPE_CHECKING:
    from pathlib import Path

lightning = pytest.importorskip("lightning", reason="lightning is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices and workers

BATCHES = 6


def wrapped(fabric: Any, kind: str, workers: int = 0) -> Any:
    """A loader of 24 numbers in Fabric's wrapper, with our sampler or another one."""
    numbers: Any = range(24)
    orders: dict[str, dict[str, Any]] = {
        "own": {"shuffle": True},
        "random": {"sampler": RandomSampler(numbers)},
        "distributed": {"sampler": DistributedSampler(numbers, 1, 0)},
    }
    return fabric.setup_dataloaders(StorageDataLoader(numbers, 4, num_workers=workers, **orders[kind]))


def taken(loader: Any, batches: int) -> list[list[int]]:
    """So many batches, over as many epochs as needed."""
    seen: list[list[int]] = []
    while len(seen) < batches:
        for batch in loader:
            seen.append(batch.tolist())
            if len(seen) == batches:
                break
    return seen


@pytest.mark.parametrize("way", ["fabric", "checkpoint"])
@pytest.mark.parametrize("kind", ["own", "random", "distributed"])
@pytest.mark.parametrize("cuts", [[2], [BATCHES, 9], [BATCHES + 1, 1, 2 * BATCHES]])
def test_wrapped_loader_gives_the_rest(tmp_path: Path, cuts: list[int], kind: str, way: str) -> None:
    """It does so in each epoch, at its end, and after a third interruption, by Fabric's checkpoints and ours."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    whole = taken(wrapped(fabric, kind), 4 * BATCHES)
    assert len({tuple(batch) for batch in whole}) == 4 * BATCHES
    seen: list[list[int]] = []
    for number, cut in enumerate([*cuts, 4 * BATCHES - sum(cuts)]):
        loader = wrapped(fabric, kind)
        with StorageCheckpoint(tmp_path / "run", spool=tmp_path / "spool") as run:
            if number > 0 and way == "fabric":
                fabric.load(tmp_path / "state.ckpt", {"loader": loader})
            elif number > 0:
                assert run.restore(into={"loader": loader}) is not None
            seen += taken(loader, cut)
            if way == "fabric":
                fabric.save(tmp_path / "state.ckpt", {"loader": loader})
            else:
                run.save({"loader": loader}, step=len(seen))
    assert seen == whole


def test_wrapped_loader_with_workers_gives_the_rest(tmp_path: Path) -> None:
    """Batches that workers had ready, and that were not given, are given after the resume."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    whole = taken(wrapped(fabric, "own"), 3 * BATCHES)
    begun = wrapped(fabric, "own", 2)
    seen = taken(begun, 8)
    fabric.save(tmp_path / "state.ckpt", {"loader": begun})
    resumed = wrapped(fabric, "own", 2)
    fabric.load(tmp_path / "state.ckpt", {"loader": resumed})
    assert seen + taken(resumed, 10) == whole
