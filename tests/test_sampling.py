"""The order of an epoch: dealt out to ranks exactly once, and gone on with from any place by any number of them."""

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
    """Return the samplers of all ranks."""
    return [StorageSampler(range(length), world, rank, **options) for rank in range(world)]


def woven(parts: list[list[int]]) -> list[int]:
    """Return what the ranks were given, in the order in which all of them together advance."""
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
    """Whatever was done before, and whatever the global generators say."""
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
    """Cut anywhere, one to four times, with another number of ranks each time: each sample comes in its place."""
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
    """Padding included."""
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
    """After a resume, during it, and from the next epoch on."""
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
    """So that ``torch.load(weights_only=True)`` takes it."""
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
    with pytest.raises(ValueError, match="length was 10, and is 11"):
        StorageSampler(range(11), 1, 0).load_state_dict(state)
    with pytest.raises(ValueError, match="shuffle was 1, and is 0"):
        StorageSampler(range(10), 1, 0, shuffle=False).load_state_dict(state)


def test_without_a_process_group_it_is_the_only_rank() -> None:
    """As it is in a plain DataLoader."""
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
    """Of torchdata: after the first and the second cut exactly the rest comes, and the next epoch is another one."""
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
