"""What augmentations draw follows from seed, epoch and index, and from nothing else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from ai4os_data.datasets import seeding
from tests.support.epochs import dataset_of, flat, loader_of, only_key, taken

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def draws() -> tuple[float, float, float]:
    """Return what an augmentation might draw."""
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002  as transforms do


def drawn(key: str) -> tuple[str, tuple[float, float, float]]:
    """Return a sample with what its transform has drawn."""
    return key, draws()


def mixed(samples: list[Any]) -> tuple[list[Any], tuple[float, float, float]]:
    """Return a batch with what its collation has drawn."""
    return samples, draws()


class Numbers(Dataset[Any]):
    """A dataset that is none of ours."""

    def __len__(self) -> int:
        """Some."""
        return 30

    def __getitem__(self, index: int) -> Any:
        """A number, and what was drawn."""
        return index, draws()


def test_seed_all_seeds_all_three_generators() -> None:
    """The same seed gives the same draws, another one others."""
    seeding.seed_all(seeding.sample_seed(1, 2, 3))
    first = draws()
    seeding.seed_all(seeding.sample_seed(1, 2, 3))
    assert draws() == first
    others = [(1, 2, 4), (1, 3, 2), (2, 2, 3), (12, 3, 0)]
    for numbers in others:
        seeding.seed_all(seeding.sample_seed(*numbers))
        assert not set(draws()) & set(first)
    assert seeding.batch_seed(1, 2, 3) != seeding.sample_seed(1, 2, 3)


def test_augmentations_do_not_depend_on_the_workers(share: Share, tmp_path: Path) -> None:
    """The same draws for each sample and each batch with 0, 2 and 3 workers; others in the next epoch."""
    dataset = dataset_of(share, tmp_path, decode=only_key, transform=drawn)
    epochs = []
    for workers in (0, 2, 3):
        loader = loader_of(dataset, workers, collate_fn=mixed)
        epochs.append([list(loader), list(loader)])
    assert epochs[0] == epochs[1] == epochs[2]
    first, second = (dict(flat([samples for samples, _ in epoch])) for epoch in epochs[0])
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())
    of_batches = [draw for epoch in epochs[0] for _, draw in epoch]
    assert len(set(of_batches)) == len(of_batches)


def test_seed_of_the_loader_changes_them(share: Share, tmp_path: Path) -> None:
    """Another seed of the loader gives other draws."""
    dataset = dataset_of(share, tmp_path, decode=only_key, transform=drawn)
    one, other = (dict(flat(list(loader_of(dataset, seed=seed)))) for seed in (1, 2))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize("kind", ["nested", "foreign", "part of foreign"])
def test_datasets_of_any_kind_are_seeded(share: Share, tmp_path: Path, kind: str) -> None:
    """Nested ones by the index that the loader knows, those of others too, whatever the number of workers."""
    ours = dataset_of(share, tmp_path, decode=only_key, transform=drawn)
    dataset: Any = {
        "nested": ConcatDataset([Subset(ours, [3, 3, 1]), ours]),
        "foreign": Numbers(),
        "part of foreign": Subset(Numbers(), range(3, 20)),
    }[kind]
    epochs = [list(loader_of(dataset, workers)) for workers in (0, 2)]
    assert epochs[0] == epochs[1]
    samples = flat(epochs[0])
    assert len({draw for _, draw in samples}) == len(samples) == len(dataset)


def test_own_generators_of_the_caller_are_left_alone(share: Share, tmp_path: Path) -> None:
    """The caller's generators stay as they were, between and after batches, without workers too."""
    dataset = dataset_of(share, tmp_path, decode=only_key, transform=drawn)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  as users do
    torch.manual_seed(5)
    wanted = [draws() for _ in range(4)]
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  as users do
    loader = loader_of(dataset)
    coming = iter(loader)
    torch.manual_seed(5)  # beginning an epoch draws a number for the workers, as in any DataLoader
    found = []
    for _ in range(4):
        next(coming)
        found.append(draws())
    assert found == wanted


def test_sample_that_comes_twice_is_augmented_twice_alike(share: Share, tmp_path: Path) -> None:
    """The seed is that of the index; through a subset, two indices of one sample are two."""
    dataset = dataset_of(share, tmp_path, decode=only_key, transform=drawn)
    ((one, other),) = loader_of(dataset, batch_size=2, shuffle=None, sampler=[4, 4])
    assert one == other
    ((one, other),) = loader_of(Subset(dataset, [4, 4]), batch_size=2, shuffle=False)
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_nothing_is_seeded_without_our_loader(share: Share, tmp_path: Path) -> None:
    """The dataset alone draws from the generators as they are."""
    dataset = dataset_of(share, tmp_path, decode=only_key, transform=drawn)
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002  as users do
    wanted = draws()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002  as users do
    assert dataset[0][1] == wanted
    assert taken(loader_of(dataset), 1)[0][0][1] != wanted
