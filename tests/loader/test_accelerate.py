"""Hugging Face Accelerate takes the loader as it is: each sample once, and all that the loader can do."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from ai4os_data import Sample, StorageDataLoader, StorageDataset, StorageSampler
from tests.support.ranks import run_by_ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Accelerate's own, about a CPU


def number_of(sample: Sample) -> int:
    """Return the number in a file."""
    return int(sample.bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[int], str]:
    """Make a folder with this many numbers."""

    def made(samples: int) -> str:
        (tmp_path / "data").mkdir()
        for number in range(samples):
            (tmp_path / "data" / f"{number:03}.txt").write_text(str(number))
        return str(tmp_path / "data")

    return made


def seen_by(loader: Any, batches: int | None = None) -> list[list[int]]:
    """Return the batches of a pass, or the first of them."""
    seen = []
    for batch in loader:
        seen.append(batch.tolist())
        if len(seen) == batches:
            break
    return seen


def flat(of_ranks: list[list[list[int]]]) -> list[int]:
    """Return the samples of all ranks, in order."""
    return sorted(number for batches in of_ranks for batch in batches for number in batch)


# --- in ranks


def prepared(location: str) -> dict[str, Any]:
    """Iterate over two epochs, the second in two parts, and return all of it."""
    accelerator = accelerate.Accelerator(cpu=True)
    dataset = StorageDataset(location, decode=number_of)
    given = StorageDataLoader(dataset, batch_size=4, shuffle=True, seed=1)
    loader = accelerator.prepare(given)
    told = {"is_same": loader is given, "first": seen_by(loader), "begun": seen_by(loader, 2)}
    accelerator.save_state(state := f"{location}/../state-{accelerator.process_index}")
    other = accelerate.Accelerator(cpu=True)
    resumed = other.prepare(StorageDataLoader(dataset, batch_size=4, shuffle=True, seed=1))
    other.load_state(state)
    told["rest"] = seen_by(resumed)
    return told


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_sample_comes_to_one_process_once(folder: Any, ranks: int) -> None:
    """Over two epochs; ``save_state`` and ``load_state`` keep the position in the second."""
    told = run_by_ranks(prepared, folder(48), ranks=ranks)
    assert [rank["is_same"] for rank in told] == [True] * ranks
    assert flat([rank["first"] for rank in told]) == list(range(48))
    assert flat([rank["begun"] + rank["rest"] for rank in told]) == list(range(48))
    assert all(rank["begun"] != rank["first"][:2] for rank in told)


def gathered(samples: int, **options: Any) -> tuple[list[int], list[int], list[bool]]:
    """Gather for metrics what loaders of ours and of torch give, and where the gradients are synchronised."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    told: list[Any] = []
    kinds: tuple[Any, Any] = (StorageDataLoader, DataLoader)
    for kind in kinds:
        loader = accelerator.prepare(kind(range(samples), **options))
        found, synced = [], []
        for batch in loader:
            with accelerator.accumulate():
                synced.append(accelerator.sync_gradients)
            found += accelerator.gather_for_metrics(batch).tolist()
        assert accelerator.gradient_state.active_dataloader is None
        told += [found, synced]
    ours, ours_synced, torchs, torchs_synced = told
    assert ours_synced == torchs_synced
    return ours, torchs, ours_synced


def both_gathered(sizes: list[tuple[int, int]]) -> list[Any]:
    """Gather several lengths in one process."""
    return [gathered(samples, batch_size=batch_size) for samples, batch_size in sizes]


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_gathered_is_each_sample_once_in_order(ranks: int) -> None:
    """As with a DataLoader, where the ranks do not divide the samples, too; gradients are synchronised as with one."""
    sizes = [(13, 4), (48, 4), (11, 2), (7, 1), (25, 8)]
    for told in run_by_ranks(both_gathered, sizes, ranks=ranks):
        for (samples, _), (ours, torchs, synced) in zip(sizes, told, strict=True):
            assert ours == torchs == list(range(samples))
            assert synced[-1]


def otherwise(location: str) -> dict[str, Any]:
    """Prepare in other ways, and return what comes of it."""
    accelerator = accelerate.Accelerator(cpu=True)
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ai4os_data").addHandler(handler)
    dataset = StorageDataset(location, decode=number_of)
    configuration = accelerate.DataLoaderConfiguration

    def loader(**options: Any) -> StorageDataLoader:
        return StorageDataLoader(dataset, **{"batch_size": 4, **options})

    def prepare(given: Any, **options: Any) -> Any:
        return accelerate.Accelerator(cpu=True, dataloader_config=configuration(**options)).prepare(given)

    def error_of(action: Any) -> str:
        try:
            action()
        except (RuntimeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    function = accelerate.data_loader.prepare_data_loader
    told: dict[str, Any] = {
        "split": error_of(lambda: prepare(loader(), split_batches=True)),
        "plain": error_of(lambda: seen_by(prepare(DataLoader(dataset, 4, sampler=StorageSampler(dataset))))),
        "function": error_of(lambda: seen_by(function(loader()))),
        "dispatch": seen_by(prepare(loader(), dispatch_batches=True)),
        "uneven": seen_by(prepare(loader(), even_batches=False)),
        "stateful": seen_by(prepare(loader(), use_stateful_dataloader=True)),
        "twice": seen_by(prepare(prepare(loader()))),
        "theirs": seen_by(prepare(DataLoader(dataset, 4, sampler=StorageSampler(dataset, 1, 0)))),
        "distributed": seen_by(prepare(loader(sampler=DistributedSampler(dataset)))),
    }
    before = len(heard)
    sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(3))
    told["foreign"] = seen_by(prepare(loader(sampler=sampler)))
    told["heard"], told["earlier"] = heard[before:], heard[:before]
    skipped = prepare(loader())
    told["skipped"] = seen_by(accelerate.skip_first_batches(skipped, 1))
    if accelerator.is_main_process:  # the other ranks would wait for its batches
        plain = DataLoader(dataset, 4, sampler=StorageSampler(dataset))
        told["dispatched"] = error_of(lambda: seen_by(prepare(plain, dispatch_batches=True)))
    return told


def test_other_ways_give_each_sample_once_or_say_why_not(folder: Any) -> None:
    """What would be shared out twice is refused with a reason; what is lost is logged."""
    first, second = run_by_ranks(otherwise, folder(21))
    assert first["split"].startswith("ValueError: split_batches=True")
    for name in ("plain", "function"):
        for told in (first, second):
            assert told[name].startswith("RuntimeError: this StorageSampler shares out the samples among 2"), name
    assert "and Accelerate does so once more" in first["dispatched"]
    for name in ("dispatch", "uneven", "stateful", "twice", "theirs", "distributed", "foreign"):
        assert set(flat([first[name], second[name]])) == set(range(21)), name
    assert flat([first["uneven"], second["uneven"]]) == list(range(21))
    for told in (first, second):
        assert len(told["heard"]) == 1
        assert "without look-ahead" in told["heard"][0]
        assert "your own sampler" in told["heard"][0]
        assert any("dispatch_batches=True is left out" in line for line in told["earlier"])
    assert flat([first["skipped"], second["skipped"]]) == sorted([*range(8, 21), 0])


# --- in one process


def test_prepare_keeps_what_the_loader_can_do(folder: Any) -> None:
    """It is the same loader, whose figures, state and epoch are there; also after it was prepared twice."""
    loader = StorageDataLoader(StorageDataset(folder(8), decode=number_of), batch_size=4)
    accelerator = accelerate.Accelerator(cpu=True)
    assert accelerator.prepare(loader) is loader
    assert accelerator.prepare(loader) is loader
    assert accelerator._dataloaders == [loader]
    assert not hasattr(loader, "_is_accelerate_prepared")  # for an accelerator's eyes alone
    coming = iter(loader)
    next(coming)
    assert accelerator.gradient_state.active_dataloader is loader
    assert not accelerator.gradient_state.end_of_dataloader
    assert (loader.total_batch_size, loader.total_dataset_length) == (4, 8)
    assert loader.state_dict()["done"] == 4
    next(coming)
    assert accelerator.gradient_state.end_of_dataloader
    del coming
    assert accelerator.gradient_state.active_dataloader is None
    assert loader.stats()["images"] == 8


@pytest.mark.parametrize(
    ("options", "asked", "device"),
    [({}, {}, "meta"), ({"device_placement": False}, {}, "cpu"), ({}, {"device_placement": [False]}, "cpu")],
)
def test_batches_come_on_the_device_of_the_accelerator(
    monkeypatch: pytest.MonkeyPatch, options: Any, asked: Any, device: str
) -> None:
    """Also with workers; they stay on the CPU if the accelerator, or ``prepare``, says so."""
    accelerator = accelerate.Accelerator(cpu=True, **options)
    monkeypatch.setattr(type(accelerator), "device", torch.device("meta"))
    loader: Any = StorageDataLoader(range(6), batch_size=3, num_workers=1)  # type: ignore[arg-type]
    assert {batch.device.type for batch in accelerator.prepare(loader, **asked)} == {device}


def test_batches_that_are_skipped_are_those_of_the_epoch() -> None:
    """As the ``Trainer`` of Transformers resumes: it sets the epoch on the batch sampler."""
    loader: Any = StorageDataLoader(range(24), batch_size=4, shuffle=True)  # type: ignore[arg-type]
    epochs = [seen_by(loader) for _ in range(4)]
    fresh: Any = StorageDataLoader(range(24), batch_size=4, shuffle=True)  # type: ignore[arg-type]
    skipped = accelerate.skip_first_batches(accelerate.Accelerator(cpu=True).prepare(fresh), 2)
    skipped.batch_sampler.batch_sampler.set_epoch(3)
    assert seen_by(skipped) == epochs[3][2:]


def test_a_loader_that_nobody_prepares_is_as_it_was(folder: Any) -> None:
    """Accelerate does not know a loader that was not prepared."""
    accelerator = accelerate.Accelerator(cpu=True)
    loader = StorageDataLoader(StorageDataset(folder(4), decode=number_of), batch_size=2)
    for batch in loader:
        assert batch.device.type == "cpu"
        assert accelerator.gradient_state.active_dataloader is None
    assert os.environ.get("RANK") is None


def let_go_of(samples: int) -> list[Any]:
    """Leave a pass of a prepared loader, and return what is left of it."""
    accelerator = accelerate.Accelerator(cpu=True)
    loader = accelerator.prepare(StorageDataLoader(range(samples), batch_size=4))  # type: ignore[arg-type]
    coming = iter(loader)
    next(coming)
    state = loader.gradient_state
    is_known = state.active_dataloader is loader
    refs = [weakref.ref(loader), weakref.ref(accelerator)]
    del coming, loader, accelerator
    gc.collect()
    return [is_known, state.active_dataloader, *(ref() is None for ref in refs)]


def test_a_prepared_loader_is_freed_with_its_pass() -> None:
    """It shows the gradient state as Accelerate's own loaders do, which holds on to nothing once it is let go of."""
    assert run_by_ranks(let_go_of, 16, ranks=1) == [[True, None, True, True]]
