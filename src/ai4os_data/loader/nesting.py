"""Datasets inside datasets: which sample of which `StorageDataset` an index of a ``Subset`` or a ``Concat`` means."""

from __future__ import annotations

from bisect import bisect_right
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from ai4os_data.datasets import StorageDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai4os_data.cache import CachedStore, WantedFile

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


def expected(dataset: Any, indices: Sequence[int]) -> list[Place | None]:
    """As `located`, where it need not be certain; None for each index of which nothing is known.

    A subset is believed to read its indices, one of our datasets with code of the user's to read its own, and a wrapper
    with as many samples as what it wraps to read them one to one.
    """
    if isinstance(dataset, StorageDataset):
        return [(dataset, index) for index in indices]
    if isinstance(dataset, Subset):
        return expected(dataset.dataset, [dataset.indices[index] for index in indices])
    if isinstance(dataset, ConcatDataset):
        return _in_parts(dataset, indices, expected) or [None] * len(indices)
    inner = _wrapped(dataset)
    if len(inner) == 1 and _same_length(dataset, inner[0]):
        return expected(inner[0], indices)
    return [None] * len(indices)


def files(dataset: Any, indices: Sequence[int]) -> list[tuple[CachedStore, list[WantedFile]]]:
    """The files that samples are expected to be read from through a cache, as whole ones, with what reads them."""
    try:
        readers = [(found.reader, its_indices) for found, its_indices in _by_dataset(expected(dataset, indices))]
        return [(reader.cached, reader.all_files(some)) for reader, some in readers if reader.cached is not None]
    except (IndexError, KeyError, TypeError, ValueError):  # the batch meets it in its own place
        return []


def names(dataset: Any, indices: Sequence[int]) -> list[list[str]]:
    """What the files of each sample are called in the cache; none where nothing is known of it."""
    places = expected(dataset, indices)
    found: list[list[str]] = [[] for _ in places]
    numbers: dict[int, list[int]] = {}
    for number, place in enumerate(places):
        if place is not None:
            numbers.setdefault(id(place[0]), []).append(number)
    for storage_dataset, its_indices in _by_dataset(places):
        for number, its_names in zip(
            numbers[id(storage_dataset)], storage_dataset.reader.names_of(its_indices), strict=True
        ):
            found[number] = its_names
    return found


def fingerprints(dataset: Any) -> tuple[str, str] | None:
    """What tells the samples of a dataset from others: by their keys, and by their versions; None if it has none."""
    try:
        places = expected(dataset, range(len(dataset)))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    if not any(places):
        return None
    keys, versions = blake2b(digest_size=16), blake2b(digest_size=16)
    for place in places:
        entry = None if place is None else place[0].reader.entries[place[1]]
        key = b"" if entry is None else entry.key.encode("utf-8", "surrogateescape")
        keys.update(key + b"\0")
        versions.update(b"" if entry is None else f"{entry.version}\0{entry.size_bytes}\0".encode())
    return keys.hexdigest(), versions.hexdigest()


def _by_dataset(places: Sequence[Place | None]) -> list[tuple[StorageDataset, list[int]]]:
    by_dataset: dict[int, tuple[StorageDataset, list[int]]] = {}
    for place in places:
        if place is not None:
            by_dataset.setdefault(id(place[0]), (place[0], []))[1].append(place[1])
    return list(by_dataset.values())


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
    for part in _wrapped(dataset):
        yield from _all_in(part, seen)


def _wrapped(dataset: Any) -> list[Any]:
    """The datasets that a dataset holds in its attributes, by whatever name, or in a list there."""
    inside: list[Any] = []
    for name, value in getattr(dataset, "__dict__", {}).items():
        if isinstance(value, Dataset) or (name == "dataset" and value is not None):
            inside.append(value)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Dataset):
            inside += value
    return inside


def _reads_as(dataset: Any, kind: type) -> bool:
    """Whether a dataset is of a kind, and reads as that kind does."""
    return isinstance(dataset, kind) and all(
        getattr(type(dataset), name, None) is getattr(kind, name, None) for name in ("__getitem__", "__getitems__")
    )


def _located_in_parts(dataset: ConcatDataset[Any], indices: Sequence[int]) -> list[Place] | None:
    places = _in_parts(dataset, indices, located)
    return None if places is None else [place for place in places if place is not None]


def _in_parts(
    dataset: ConcatDataset[Any],
    indices: Sequence[int],
    within: Callable[[Any, Sequence[int]], Sequence[Place | None] | None],
) -> list[Place | None] | None:
    """Where each index leads to, by what is known of the part that it lies in; None if a part tells nothing."""
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
        found = within(dataset.datasets[part], [numbers[place] - begin for place in its_places])
        if found is None:
            return None
        for place, where in zip(its_places, found, strict=True):
            places[place] = where
    return places


def _same_length(one: Any, other: Any) -> bool:
    try:
        return len(one) == len(other)
    except TypeError:
        return False
