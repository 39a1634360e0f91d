"""Datasets inside datasets: which sample of which `StorageDataset` an index of a ``Subset`` or a ``Concat`` means."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from torch.utils.data import ConcatDataset, Subset

from ai4os_data.datasets import StorageDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ai4os_data.cache import CachedStore
    from ai4os_data.stores import Entry

Place = tuple[StorageDataset, int]


def located(dataset: Any, indices: Sequence[int]) -> list[Place] | None:
    """The dataset and the index there that each index means; None where somebody else's code decides that."""
    if _reads_as(dataset, StorageDataset):
        return [(dataset, index) for index in indices]
    if _reads_as(dataset, Subset):
        return located(dataset.dataset, [dataset.indices[index] for index in indices])
    if _reads_as(dataset, ConcatDataset):
        return _located_in_parts(dataset, indices)
    return None


def expected(dataset: Any, indices: Sequence[int]) -> list[Place] | None:
    """As `located`, where it need not be certain.

    A subset is believed to read its indices, and a wrapper with as many samples as what it wraps to read them one to
    one, whatever code of the user's they add.
    """
    if isinstance(dataset, Subset):
        return expected(dataset.dataset, [dataset.indices[index] for index in indices])
    inner = getattr(dataset, "dataset", None)
    if not isinstance(dataset, StorageDataset) and inner is not None and _same_length(dataset, inner):
        return expected(inner, indices)
    return located(dataset, indices)


def files(dataset: Any, indices: Sequence[int]) -> list[tuple[CachedStore, list[Entry]]]:
    """The files that samples are expected to be read from through a cache, as whole ones, with what reads them."""
    by_dataset: dict[int, tuple[StorageDataset, list[int]]] = {}
    for found, index in expected(dataset, indices) or ():
        by_dataset.setdefault(id(found), (found, []))[1].append(index)
    return [
        (found.cached_store, found.files_of(its_indices))
        for found, its_indices in by_dataset.values()
        if found.cached_store.cache is not None
    ]


def storage_datasets(dataset: Any) -> list[StorageDataset]:
    """Every `StorageDataset` that a dataset is made of, each once."""
    return list({id(found): found for found in _all_in(dataset, set())}.values())


def fetches_batches(dataset: Any) -> bool:
    """Whether a dataset fetches several samples at once, of its own accord."""
    while _reads_as(dataset, Subset):
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


def _all_in(dataset: Any, seen: set[int]) -> Iterator[StorageDataset]:
    if id(dataset) in seen:
        return
    seen.add(id(dataset))
    if isinstance(dataset, StorageDataset):
        yield dataset
        return
    inner = getattr(dataset, "dataset", None)
    parts = getattr(dataset, "datasets", None)
    inside = [] if inner is None else [inner]
    if isinstance(parts, (list, tuple)):
        inside += parts
    for part in inside:
        yield from _all_in(part, seen)


def _reads_as(dataset: Any, kind: type) -> bool:
    """Whether a dataset is of a kind, and reads as that kind does."""
    return isinstance(dataset, kind) and all(
        getattr(type(dataset), name, None) is getattr(kind, name, None) for name in ("__getitem__", "__getitems__")
    )


def _located_in_parts(dataset: ConcatDataset[Any], indices: Sequence[int]) -> list[Place] | None:
    ends = dataset.cumulative_sizes
    places: list[Place | None] = [None] * len(indices)
    by_part: dict[int, list[int]] = {}
    numbers = [index + len(dataset) if index < 0 else index for index in indices]
    for place, index in enumerate(numbers):
        by_part.setdefault(bisect_right(ends, index), []).append(place)
    for part, its_places in by_part.items():
        if part >= len(ends):
            return None  # out of range: the dataset says so itself
        begin = ends[part - 1] if part else 0
        found = located(dataset.datasets[part], [numbers[place] - begin for place in its_places])
        if found is None:
            return None
        for place, where in zip(its_places, found, strict=True):
            places[place] = where
    return [place for place in places if place is not None]


def _same_length(one: Any, other: Any) -> bool:
    try:
        return len(one) == len(other)
    except TypeError:
        return False
