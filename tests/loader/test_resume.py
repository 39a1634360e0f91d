"""A loader resumes exactly where the caller was: repeatedly, with other workers, other ranks and any cache."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler, Sampler, WeightedRandomSampler

from ai4os_data import StorageSampler
from tests.support.epochs import CACHES, NUMBER, dataset_of, flat, loader_of, nothing_left_running, only_key, taken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

quickly = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
BATCHES = -(-NUMBER // 4)


def through(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@settings(quickly, max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 5), st.sampled_from(CACHES))
def test_resumed_epoch_is_the_uninterrupted_one(
    share: Share, tmp_path: Path, cuts: list[int], epoch: int, cache: str
) -> None:
    """Cut anywhere, up to four times, it gives the same batches with the same augmentations."""
    whole = loader_of(dataset_of(share, None, "none"))
    whole.set_epoch(epoch)
    wanted = list(whole)
    dataset = dataset_of(share, tmp_path / uuid.uuid4().hex, cache)
    seen: list[Any] = []
    loader = loader_of(dataset)
    loader.set_epoch(epoch)
    for cut in cuts:
        seen += taken(loader, min(cut, BATCHES - len(seen)))
        state = through(loader.state_dict())
        loader = loader_of(dataset)
        loader.load_state_dict(state)
        loader.set_epoch(epoch)  # as training loops do
    assert seen + list(loader) == wanted
    assert loader.epoch == epoch + 1


@settings(quickly, max_examples=6)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=3, max_size=3),
    st.sampled_from(CACHES),
    st.booleans(),
)
def test_resume_with_other_workers_is_exact(
    share: Share,
    tmp_path: Path,
    legs: list[tuple[int, int]],
    cache: str,
    persistent: bool,  # noqa: FBT001  drawn by hypothesis
) -> None:
    """It is exact three times, whatever batches the workers had ready."""
    wanted = list(loader_of(dataset_of(share, None, "none")))
    dataset = dataset_of(share, tmp_path / uuid.uuid4().hex, cache)
    seen: list[Any] = []
    state: dict[str, Any] | None = None
    with nothing_left_running():
        for workers, cut in [*legs, (legs[0][0], BATCHES)]:
            loader = loader_of(dataset, workers, persistent_workers=persistent and workers > 0)
            if state is not None:
                loader.load_state_dict(state)
            seen += taken(loader, min(cut, BATCHES - len(seen)))
            state = through(loader.state_dict())
        del loader
    assert seen == wanted


@pytest.mark.parametrize("workers", [0, 2])
def test_persistent_workers_go_back_to_a_saved_place(share: Share, tmp_path: Path, workers: int) -> None:
    """One loader is set back three times while its workers have other batches ready."""
    loader = loader_of(dataset_of(share, tmp_path), workers, persistent_workers=workers > 0)
    first, second = list(loader), list(loader)
    for cut in (2, 5, 1):
        loader.set_epoch(0)
        assert taken(loader, cut) == first[:cut]
        state = loader.state_dict()
        taken(loader, 3)
        loader.load_state_dict(state)
        assert list(loader) == first[cut:]
        assert list(loader) == second


@settings(quickly, max_examples=15)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), min_size=1, max_size=3),
    st.integers(1, 8),
    st.integers(1, 5),
    st.sampled_from(CACHES),
)
def test_ranks_go_on_in_any_number(  # noqa: PLR0917  drawn by hypothesis
    share: Share, tmp_path: Path, legs: list[tuple[int, int]], last_world: int, batch_size: int, cache: str
) -> None:
    """Each sample comes to one rank, in the one global order, except for the padding at the end."""
    dataset = dataset_of(share, tmp_path / uuid.uuid4().hex, cache, decode=only_key)
    order = [dataset.keys[index] for index in StorageSampler(dataset, 1, 0).order(0)]
    seen: list[str] = []
    state: dict[str, Any] | None = None
    for world, cut in [*legs, (last_world, NUMBER)]:
        parts = []
        for rank in range(world):
            loader = loader_of(
                dataset, sampler=StorageSampler(dataset, world, rank), shuffle=None, batch_size=batch_size
            )
            if state is not None:
                loader.load_state_dict(state)
            left = -(-len(loader.sampler) // batch_size)  # type: ignore[arg-type]
            parts.append(flat(taken(loader, min(cut, left))))
            last = loader.state_dict()
        state = through(last)
        seen += [key for step in zip(*parts, strict=True) for key in step]
    assert seen[:NUMBER] == order
    assert len(seen) - NUMBER < max(world for world, _ in [*legs, (last_world, 0)])


@settings(quickly, max_examples=6)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=2),
    st.tuples(st.integers(1, 4), st.integers(0, 2)),
)
def test_ranks_and_workers_may_change_together(
    share: Share, tmp_path: Path, legs: list[tuple[int, int, int]], last: tuple[int, int]
) -> None:
    """Each sample comes to one rank, with the augmentations that it has in one process with no worker."""
    dataset = dataset_of(share, tmp_path / uuid.uuid4().hex, "warm")
    wanted = flat(list(loader_of(dataset)))
    seen: list[Any] = []
    state: dict[str, Any] | None = None
    for world, workers, cut in [*legs, (*last, NUMBER)]:
        parts = []
        for rank in range(world):
            loader = loader_of(dataset, workers, sampler=StorageSampler(dataset, world, rank), shuffle=None)
            if state is not None:
                loader.load_state_dict(state)
            parts.append(flat(taken(loader, min(cut, -(-len(loader.sampler) // 4)))))  # type: ignore[arg-type]
            reached = loader.state_dict()
        state = through(reached)
        seen += [sample for step in zip(*parts, strict=True) for sample in step]
    assert seen[:NUMBER] == wanted


def test_what_was_prefetched_does_not_count(share: Share, tmp_path: Path) -> None:
    """Workers are batches ahead, and the state has the caller's position."""
    loader = loader_of(dataset_of(share, tmp_path), 2, prefetch_factor=3)
    coming = iter(loader)
    next(coming)
    assert loader.state_dict()["done"] == 4
    assert loader.state_dict()["batches"] == 1
    next(coming)
    assert loader.state_dict()["done"] == 8


def test_state_after_the_last_batch_has_nothing_left(share: Share, tmp_path: Path) -> None:
    """A complete epoch resumes empty, and the next one follows; after its end the next one begins."""
    dataset = dataset_of(share, tmp_path)
    loader = loader_of(dataset)
    given = taken(loader, BATCHES)
    assert len(flat(given)) == NUMBER
    resumed = loader_of(dataset)
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == []
    following = list(resumed)
    list(loader_of(dataset))
    after = loader_of(dataset)
    list(after)
    assert (after.state_dict()["epoch"], after.state_dict()["done"]) == (1, 0)
    assert list(after) == following


def test_batches_given_out_of_order_are_not_given_again(share: Share, tmp_path: Path) -> None:
    """With ``in_order=False`` the state remembers those that overtook others."""
    if not hasattr(loader_of(list(range(3))), "in_order"):
        pytest.skip("this version of torch keeps the order always")
    dataset = dataset_of(share, tmp_path)
    seen: list[Any] = []
    state: dict[str, Any] | None = None
    for cut in (3, 2, BATCHES):
        loader = loader_of(dataset, 2, in_order=False)
        if state is not None:
            loader.load_state_dict(state)
        seen += taken(loader, cut)
        state = through(loader.state_dict())
    assert sorted(flat(seen)) == sorted(flat(list(loader_of(dataset))))


def test_gaps_are_refused_by_other_batches(share: Share) -> None:
    """A state with batches that overtook others belongs to their size."""
    dataset = dataset_of(share, None, "none")
    state = {**loader_of(dataset).state_dict(), "others": [2]}
    loader_of(dataset).load_state_dict(state)
    with pytest.raises(ValueError, match="in_order=False"):
        loader_of(dataset, batch_size=3).load_state_dict(state)


class Stateful(Sampler[int]):
    """A user's sampler that remembers what it has drawn."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        """Begin further on each time."""
        self.passes += 1
        return iter([(index * 7 + self.passes) % NUMBER for index in range(NUMBER)])

    def __len__(self) -> int:
        """All."""
        return NUMBER

    def state_dict(self) -> dict[str, int]:
        """How often it was iterated over."""
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.passes = state["passes"]


def foreign(kind: str) -> dict[str, Any]:
    """Options with a sampler of another library."""
    generator = torch.Generator()
    generator.manual_seed(7)
    options: dict[str, Any] = {
        "random": {"sampler": RandomSampler(range(NUMBER))},
        "generator": {"sampler": RandomSampler(range(NUMBER), generator=generator)},
        "weighted": {"sampler": WeightedRandomSampler([1.0] * NUMBER, NUMBER)},
        "stateful": {"sampler": Stateful()},
        "list": {"sampler": list(range(NUMBER))[::-1]},
        "batches": {"batch_sampler": BatchSampler(RandomSampler(range(NUMBER)), 7, drop_last=False), "batch_size": 1},
        "ours inside": {
            "batch_sampler": BatchSampler(StorageSampler(range(NUMBER)), 7, drop_last=False),
            "batch_size": 1,
        },
    }
    return {"shuffle": None, **options[kind]}


@pytest.mark.parametrize("kind", ["random", "generator", "weighted", "stateful", "list", "batches", "ours inside"])
def test_foreign_sampler_is_gone_through_anew(share: Share, tmp_path: Path, kind: str) -> None:
    """The third epoch is cut three times, and the global generators do not matter; the next epoch follows."""
    dataset = dataset_of(share, tmp_path, "warm")
    uninterrupted = loader_of(dataset, **foreign(kind))
    epochs = [list(uninterrupted) for _ in range(4)]
    assert kind == "list" or epochs[2] != epochs[3]
    loader = loader_of(dataset, **foreign(kind))
    assert [list(loader), list(loader)] == epochs[:2]
    seen = []
    for cut in (1, 2, 1):
        seen += taken(loader, cut)
        state = through(loader.state_dict())
        torch.rand(3)
        loader = loader_of(dataset, **foreign(kind))
        loader.load_state_dict(state)
    assert seen + list(loader) == epochs[2]
    assert list(loader) == epochs[3]


def test_endless_sampler_is_drawn_from_as_needed(share: Share) -> None:
    """One without a length gives batches for ever, and is resumed at its position."""

    class Endless(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield int(torch.randint(NUMBER, ()))

    dataset = dataset_of(share, None, "none", decode=only_key)
    wanted = taken(loader_of(dataset, shuffle=None, sampler=Endless()), 12)
    loader = loader_of(dataset, shuffle=None, sampler=Endless())
    begun = taken(loader, 5)
    resumed = loader_of(dataset, shuffle=None, sampler=Endless())
    resumed.load_state_dict(loader.state_dict())
    assert begun + taken(resumed, 7) == wanted


def test_state_of_another_sampler_is_refused(share: Share) -> None:
    """A state of another sampler raises, and no other order is given."""
    dataset = dataset_of(share, None, "none")
    with pytest.raises(ValueError, match="another kind of sampler"):
        loader_of(dataset, **foreign("random")).load_state_dict(loader_of(dataset).state_dict())
    with pytest.raises(ValueError, match="another kind of sampler"):
        loader_of(dataset).load_state_dict(loader_of(dataset, **foreign("random")).state_dict())
