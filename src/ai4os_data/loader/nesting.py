"""Datasets inside datasets: which sample of which `StorageDataset` an index of a ``Subset`` or a ``Concat`` means."""

from __future__ import annotations

from bisect import bisect_right
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from ai4os_data.datasets import StorageDataset
from ai4os_data.loader.sharing import has_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ai4os_data.cache import CachedStore, WantedFile

Located = tuple[StorageDataset, int]


def located(dataset: Any, indices: Sequence[int]) -> list[Located] | None:
    """The dataset, and the index in it, that each index means; None if other code decides that."""
    found = _found(dataset, indices, certain=True)
    return None if found is None else [one for one in found if one is not None]


def expected(dataset: Any, indices: Sequence[int]) -> list[Located | None]:
    """Like `located`, but without certainty; None for each index of which nothing is known.

    The assumptions: a subset reads its indices, a subclass of our dataset reads its own samples, and a wrapper with as
    many samples as the wrapped dataset reads them one to one.
    """
    return _found(dataset, indices, certain=False) or [None] * len(indices)


def by_dataset(found: Sequence[Located | None]) -> list[tuple[StorageDataset, list[int], list[int]]]:
    """Each dataset with the positions of its samples in a batch, and their indices."""
    grouped: dict[int, tuple[StorageDataset, list[int], list[int]]] = {}
    for position, one in enumerate(found):
        if one is not None:
            _, positions, indices = grouped.setdefault(id(one[0]), (one[0], [], []))
            positions.append(position)
            indices.append(one[1])
    return list(grouped.values())


def files(
    dataset: Any, indices: Sequence[int], *, trusting: bool = False
) -> list[tuple[CachedStore, list[WantedFile]]]:
    """The whole files that samples will probably be read from, through a cache, with the store that reads them.

    Args:
        dataset: that of a loader.
        indices: of the samples.
        trusting: whether files that this process has found in the cache lately may be left out.
    """
    try:
        readers = [(found.reader, its_indices) for found, _, its_indices in by_dataset(expected(dataset, indices))]
        return [
            (reader.cached, reader.all_files(some, trusting=trusting))
            for reader, some in readers
            if reader.cached is not None
        ]
    except (IndexError, KeyError, TypeError, ValueError):  # the error is raised when the batch is made
        return []


def names(dataset: Any, indices: Sequence[int]) -> list[list[str]]:
    """The digests of each sample's files in the cache; none for samples of which nothing is known."""
    found: list[list[str]] = [[] for _ in indices]
    for storage_dataset, positions, its_indices in by_dataset(expected(dataset, indices)):
        for position, its_names in zip(positions, storage_dataset.reader.names_of(its_indices), strict=True):
            found[position] = its_names
    return found


def fingerprints(dataset: Any) -> tuple[str, str] | None:
    """Fingerprints of a dataset's samples, one of their keys and one of their versions; None without any."""
    try:
        found = expected(dataset, range(len(dataset)))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    if not any(found):
        return None
    keys, versions = blake2b(digest_size=16), blake2b(digest_size=16)
    for one in found:
        entry = None if one is None else one[0].reader.entries[one[1]]
        keys.update((b"" if entry is None else entry.key.encode("utf-8", "surrogateescape")) + b"\0")
        versions.update(b"" if entry is None else f"{entry.version}\0{entry.size_bytes}\0".encode())
    return keys.hexdigest(), versions.hexdigest()


def storage_datasets(dataset: Any) -> list[StorageDataset]:
    """Every `StorageDataset` that a dataset is made of, each once."""
    return list({id(found): found for found in _all_in(dataset, set())}.values())


def fetches_batches(dataset: Any) -> bool:
    """Whether a dataset fetches several samples at once by itself."""
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


def _found(dataset: Any, indices: Sequence[int], *, certain: bool) -> list[Located | None] | None:
    """The dataset and index that each index leads to, as far as known; None if nothing is known."""
    reads_as = _reads_as if certain else isinstance
    if reads_as(dataset, StorageDataset):
        return [(dataset, index) for index in indices]
    if reads_as(dataset, Subset):
        return _found(dataset.dataset, [dataset.indices[index] for index in indices], certain=certain)
    if reads_as(dataset, ConcatDataset):
        return _in_parts(dataset, indices, certain=certain)
    inner = [] if certain else _wrapped(dataset)
    have_lengths = len(inner) == 1 and has_length(dataset) and has_length(inner[0])
    is_one_to_one = have_lengths and len(dataset) == len(inner[0])
    return _found(inner[0], indices, certain=False) if is_one_to_one else None


def _in_parts(dataset: ConcatDataset[Any], indices: Sequence[int], *, certain: bool) -> list[Located | None] | None:
    """The same for a ``ConcatDataset``; None if an index is out of range, or not certain."""
    ends = dataset.cumulative_sizes
    result: list[Located | None] = [None] * len(indices)
    by_part: dict[int, list[int]] = {}
    numbers = [index + len(dataset) if index < 0 else index for index in indices]
    for position, index in enumerate(numbers):
        by_part.setdefault(bisect_right(ends, index), []).append(position)
    for part, positions in by_part.items():
        if part >= len(ends):
            return None  # the dataset raises its own error
        begin = ends[part - 1] if part else 0
        found = _found(dataset.datasets[part], [numbers[position] - begin for position in positions], certain=certain)
        if found is None and certain:
            return None
        for position, one in zip(positions, found or [None] * len(positions), strict=True):
            result[position] = one
    return result
