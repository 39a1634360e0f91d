"""The order of an epoch is shared among ranks exactly once, and resumed at any position by any number of them."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from ai4os_data import StorageSampler

LENGTHS = st.integers(1, 60)
WORLDS = st.integers(1, 8)


def ranks(length: int, world: int, **options: Any) -> list[StorageSampler]:
    """The samplers of all ranks."""
    return [StorageSampler(range(length), world, rank, **options) for rank in range(world)]


def woven(parts: list[list[int]]) -> list[int]:
    """The samples of the ranks, in the order in which all of them together advance."""
    return [index for step in zip(*parts, strict=True) for index in step]


@given(LENGTHS, WORLDS, st.booleans(), st.booleans())
def test_ranks_share_each_epoch_as_under_a_distributed_sampler(
    length: int,
    world: int,
    shuffle: bool,  # noqa: FBT001  drawn by hypothesis
    drop_last: bool,  # noqa: FBT001  drawn by hypothesis
) -> None:
    """The same number for each rank, each sample once; some twice, or left out, where they do not divide."""
    samplers = ranks(length, world, shuffle=shuffle, drop_last=drop_last)
    numbers: Any = range(length)
    torchs: list[Any] = [DistributedSampler(numbers, world, rank, shuffle, 0, drop_last) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(list(other)) for other in torchs] == [len(one) for one in samplers]
    together = Counter(woven(parts))
    if drop_last:
        assert max(together.values(), default=1) == 1
        assert length - len(together) == length % world
    else:
        assert set(together) == set(range(length))
        assert together.total() - length == -length % world
    if not shuffle:
        assert parts == [list(other) for other in torchs]


@given(LENGTHS, st.integers(0, 2**40), st.integers(0, 1000))
def test_order_follows_from_seed_and_epoch(length: int, seed: int, epoch: int) -> None:
    """Neither earlier passes nor the global generators change it."""
    one, other = (StorageSampler(range(length), 1, 0, seed=seed) for _ in range(2))
    list(one)
    torch.manual_seed(epoch)
    one.set_epoch(epoch)
    other.set_epoch(epoch)
    assert list(one) == list(other)
    assert sorted(one.order(epoch)) == list(range(length))


def test_epochs_and_seeds_differ() -> None:
    """Neighbouring seeds and epochs have orders of their own, and (seed + 1, epoch) is not (seed, epoch + 1)."""
    orders = {tuple(StorageSampler(range(50), 1, 0, seed=seed).order(epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(
    LENGTHS,
    st.lists(st.tuples(WORLDS, st.integers(0, 12)), min_size=1, max_size=4),
    WORLDS,
    st.booleans(),
    st.integers(0, 9),
)
def test_rest_of_an_epoch_is_exact_at_any_world_size(
    length: int,
    legs: list[tuple[int, int]],
    last_world: int,
    shuffle: bool,  # noqa: FBT001  drawn by hypothesis
    epoch: int,
) -> None:
    """Cut anywhere, one to four times, with another number of ranks each time: each sample comes at its position."""
    whole = StorageSampler(range(length), 1, 0, shuffle=shuffle).order(epoch)
    seen: list[int] = []
    state: dict[str, int] | None = None
    for world, steps in [*legs, (last_world, length)]:
        samplers = ranks(length, world, shuffle=shuffle)
        parts = []
        for sampler in samplers:
            if state is None:
                sampler.set_epoch(epoch)
            else:
                sampler.load_state_dict(state)
                sampler.set_epoch(epoch)  # as training loops do
            expected = len(sampler)
            coming = iter(sampler)
            part = [index for _, index in zip(range(steps), coming, strict=False)]
            assert len(part) == min(steps, expected)
            parts.append(part)
        states = [sampler.state_dict() for sampler in samplers]
        assert all(other == states[0] for other in states)
        state = states[0]
        seen += woven(parts)
    assert seen[:length] == whole
    padding = len(seen) - length
    assert padding < max(world for world, _ in [*legs, (last_world, 0)])


@given(LENGTHS, WORLDS, st.integers(0, 20))
def test_resumed_epoch_with_as_many_ranks_is_the_uninterrupted_one(length: int, world: int, steps: int) -> None:
    """A resume with as many ranks gives the uninterrupted order, padding included."""
    for rank in range(world):
        whole = list(StorageSampler(range(length), world, rank))
        sampler = StorageSampler(range(length), world, rank)
        begun = [index for _, index in zip(range(steps), sampler, strict=False)]
        resumed = StorageSampler(range(length), world, rank)
        resumed.load_state_dict(sampler.state_dict())
        rest = list(resumed)
        assert begun + rest == whole
        assert list(resumed) == whole, "a second pass is through the whole epoch"


def test_length_is_that_of_the_rest_until_the_next_epoch() -> None:
    """len() is right after a resume, during the pass, and from the next epoch on."""
    sampler = StorageSampler(range(10), 2, 0)
    coming = iter(sampler)
    next(coming)
    next(coming)
    resumed = StorageSampler(range(10), 2, 0)
    resumed.load_state_dict(sampler.state_dict())
    assert len(resumed) == 3
    assert len(list(resumed)) == 3
    resumed.set_epoch(1)
    assert (len(resumed), len(list(resumed))) == (5, 5)
    assert len(StorageSampler(range(10), 2, 0)) == 5


def test_state_is_of_plain_numbers() -> None:
    """``torch.load(weights_only=True)`` loads the state."""
    sampler = StorageSampler(range(10), 2, 0, seed=3)
    sampler.set_epoch(4)
    next(iter(sampler))
    state = sampler.state_dict()
    assert state == {"seed": 3, "epoch": 4, "done": 2, "length": 10, "shuffle": 1}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


def test_state_of_another_order_is_refused() -> None:
    """A dataset that has grown, or an order that is not shuffled, has no such rest."""
    state = StorageSampler(range(10), 1, 0).state_dict()
    with pytest.raises(ValueError, match="saved for 10 samples, this dataset has 11"):
        StorageSampler(range(11), 1, 0).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with shuffle=1, this sampler has shuffle=0"):
        StorageSampler(range(10), 1, 0, shuffle=False).load_state_dict(state)


def test_without_a_process_group_it_is_the_only_rank() -> None:
    """Without a process group a sampler has all samples, as in a plain DataLoader."""
    sampler = StorageSampler(range(12))
    assert isinstance(sampler, DistributedSampler)
    assert (sampler.num_replicas, sampler.rank) == (1, 0)
    loader: DataLoader[int] = DataLoader(range(12), batch_size=4, sampler=sampler)  # type: ignore[arg-type]
    assert sorted(int(number) for batch in loader for number in batch) == list(range(12))


def test_process_group_that_is_made_later_is_noticed(tmp_path: Any) -> None:
    """Under Lightning, loaders are made before the group is."""
    sampler = StorageSampler(range(12))
    assert len(sampler) == 12
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", world_size=1, rank=0)
    try:
        fixed = StorageSampler(range(12), 3, 2)
        assert (len(sampler), sampler.num_replicas) == (12, 1)
        assert (len(fixed), fixed.rank) == (4, 2)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_under_a_stateful_dataloader(workers: int) -> None:
    """Under torchdata's loader the rest comes exactly after two cuts, and then another epoch."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def loader() -> Any:
        sampler = StorageSampler(range(23), seed=3)
        return stateful.StatefulDataLoader(range(23), 4, sampler=sampler, num_workers=workers, collate_fn=list)

    wanted = list(loader())
    seen: list[Any] = []
    state = None
    for cut in (2, 1):
        part = loader()
        if state is not None:
            part.load_state_dict(state)
        coming = iter(part)
        seen += [next(coming) for _ in range(cut)]
        state = part.state_dict()
    last = loader()
    last.load_state_dict(state)
    assert seen + list(last) == wanted
    last.sampler.set_epoch(1)
    following = list(last)
    assert sorted(index for batch in following for index in batch) == list(range(23))
    assert following != wanted


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
def test_it_resumes_under_nodes() -> None:
    """Under torchdata's nodes the rest comes exactly, and then another epoch."""
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")

    def loader() -> Any:
        return nodes.Loader(
            nodes.MapStyleWrapper(range(23), StorageSampler(range(23), seed=3)), restart_on_stop_iteration=True
        )

    whole = loader()
    wanted = [list(whole), list(whole)]
    assert sorted(wanted[0]) == sorted(wanted[1]) == list(range(23))
    assert wanted[0] != wanted[1]
    part = loader()
    coming = iter(part)
    begun = [next(coming) for _ in range(9)]
    last = loader()
    last.load_state_dict(part.state_dict())
    assert begun + list(last) == wanted[0]
    assert list(last) == wanted[1]


# --- uneven


@pytest.mark.parametrize("run_length", [1, 3, 4])
@pytest.mark.parametrize("samples", [1, 2, 12, 13, 23, 24, 25])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_uneven_ranks_have_each_sample_once(samples: int, ranks: int, run_length: int) -> None:
    """The lengths differ by one; even ranks have equal lengths, and repeat the fewest samples."""
    for even in (False, True):
        samplers = [StorageSampler(range(samples), ranks, rank, even_batches=even) for rank in range(ranks)]
        for sampler in samplers:
            sampler.run_length = run_length
        parts = [list(sampler) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
        assert max(map(len, parts)) - min(map(len, parts)) <= (0 if even else 1)
        if even:
            assert set().union(*parts) == set(range(samples))
            assert len(parts[0]) == -(-samples // ranks)
        else:
            assert sorted(number for part in parts for number in part) == list(range(samples))
            assert {sampler.state_dict()["done"] for sampler in samplers if len(sampler)} == {samples}


@pytest.mark.parametrize("run_length", [1, 4])
def test_runs_are_shared_out_in_rounds(run_length: int) -> None:
    """After each batch of four, the samples of all ranks together are the beginning of the order."""
    samplers = [StorageSampler(range(30), 3, rank, shuffle=False) for rank in range(3)]
    for sampler in samplers:
        sampler.run_length = run_length
    parts = [list(sampler) for sampler in samplers]
    for batches in (1, 2):
        given = [number for part in parts for number in part[: batches * 4]]
        assert sorted(given) == list(range(batches * 12))
    if run_length == 4:
        assert parts == [
            [0, 1, 2, 3, 12, 13, 14, 15, 24, 25],
            [4, 5, 6, 7, 16, 17, 18, 19, 26, 27],
            [8, 9, 10, 11, 20, 21, 22, 23, 28, 29],
        ]


def test_a_position_that_is_given_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Setting another epoch before the first sample is logged; setting the same one, or at an epoch's end, is not."""
    state = {"seed": 0, "epoch": 3, "done": 8, "length": 29, "shuffle": 1}
    sampler = StorageSampler(range(29), 1, 0)
    sampler.load_state_dict(state)
    sampler.set_epoch(3)
    assert len(list(sampler)) == 21
    sampler.set_epoch(4)
    sampler.load_state_dict({**state, "done": 29})
    sampler.set_epoch(4)
    assert caplog.text == ""
    sampler.load_state_dict(state)
    sampler.set_epoch(0)
    assert "set_epoch(0) gives up the position that was loaded: epoch 3, after 8 of 29 samples" in caplog.text
