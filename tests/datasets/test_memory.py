"""Large files are on the disk, not in memory; and workers copy nothing of what a dataset knows of its files."""

from __future__ import annotations

import gc
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import DiskCache, StorageDataLoader, StorageDataset, open_filesystem
from ai4os_data.stores.base import Entry, Listing
from ai4os_data.stores.memory import MemoryStore
from tests.support.shares import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data import Sample
    from tests.support.shares import Share

MiB = 1 << 20
LARGE_BYTES = 256 * MiB


def peak_bytes(work: Callable[[], object]) -> int:
    """Return how far memory rises while some work is done."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = high_water_bytes()
    work()
    return high_water_bytes() - before


def high_water_bytes() -> int:
    """Return the most that this process had in memory."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


@pytest.fixture
def large(share: Share) -> Share:
    """A share with a large file, a hole but for its end, and a small one."""
    share.put({"a.txt": "small"})
    with open(share.root / "scan.nii.gz", "wb") as file:
        file.truncate(LARGE_BYTES)
        file.seek(-3, os.SEEK_END)
        file.write(b"end")
    return share


def check(path: str) -> int:
    """See that a path has the large file's content."""
    assert path.endswith(".nii.gz")
    with open(path, "rb") as file:
        assert file.seek(-3, os.SEEK_END) == LARGE_BYTES - 3
        assert file.read() == b"end"
    return 1


def sibling_path(sample: Sample) -> int:
    """The path of the large file beside a small one."""
    return check(sample.sibling("scan.nii.gz").path()) if sample.key == "a.txt" else 0


@pytest.mark.parametrize("limit", ["1GiB", "64MiB", None])
@pytest.mark.parametrize("decode", ["path", lambda sample: sample.path(), sibling_path])
def test_path_of_a_large_file_takes_no_memory(large: Share, tmp_path: Path, limit: str | None, decode: Any) -> None:
    """The same holds from the cache, past a cache that is too small, and without a cache."""
    cache = DiskCache(tmp_path, limit) if limit else None
    dataset = StorageDataset(large.location, remote=large.remote, cache=cache, decode=decode)

    def work() -> None:
        for _ in range(2):
            for index in range(2):
                item = dataset[index]
                if index == 1 and isinstance(item, str):
                    check(item)

    assert peak_bytes(work) < 40 * MiB
    if limit == "1GiB":
        assert dataset.stats()["misses"] == 2


@pytest.mark.parametrize("limit", ["1GiB", "64MiB"])
def test_warming_and_looking_ahead_take_no_memory(large: Share, tmp_path: Path, limit: str) -> None:
    """What nobody reads yet goes to the disk, and what finds no room there is not fetched."""

    def opened(name: str) -> StorageDataset:
        cache = DiskCache(tmp_path / name, limit)
        return StorageDataset(large.location, remote=large.remote, cache=cache, decode="path")

    warm, ahead = opened("warm"), opened("ahead")
    done: list[dict[str, int]] = []
    assert peak_bytes(lambda: done.append(warm.warm(progress=False))) < 40 * MiB
    whole = {"files": 2, "bytes": LARGE_BYTES + 5}
    assert done == [whole if limit == "1GiB" else {"files": 1, "bytes": 5}]

    def epoch() -> None:
        loader = StorageDataLoader(ahead, batch_size=1, num_workers=1, collate_fn=list)
        assert [check(path) for (path,) in loader if path.endswith(".gz")] == [1]

    assert peak_bytes(epoch) < 60 * MiB


@pytest.mark.parametrize("limit", ["1GiB", "64MiB", None])
def test_bytes_of_a_large_file_are_in_memory_once(large: Share, tmp_path: Path, limit: str | None) -> None:
    """Not as pieces and as the whole; and as little when they come from the cache."""
    cache = DiskCache(tmp_path, limit) if limit else None
    dataset = StorageDataset(large.location, remote=large.remote, cache=cache)
    for _ in range(2):
        assert peak_bytes(lambda: dataset[1][-3:] == b"end") < LARGE_BYTES * 5 // 4


def test_path_of_a_file_on_a_mount_takes_no_memory(large: Share, tmp_path: Path) -> None:
    """A directory with a cache in front, as a mount has it, is read piece by piece."""
    folder = Folder(large.root)
    dataset = StorageDataset(folder.location, cache=DiskCache(tmp_path, "1GiB"), decode="path")
    assert peak_bytes(lambda: check(dataset[1])) < 40 * MiB


def test_large_file_is_copied_out_piece_by_piece(large: Share, tmp_path: Path) -> None:
    """The content of a large file is copied into an open file without passing through memory."""
    system = open_filesystem(large.location, large.remote, cache=DiskCache(tmp_path / "cache", "1GiB"))
    target = tmp_path / "scan.nii.gz"
    with target.open("wb") as file:
        assert peak_bytes(lambda: system.get_file("scan.nii.gz", file)) < 60 * MiB
    check(str(target))


# --- workers


class Listed(MemoryStore):
    """Many files that are listed, and not there."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def listing(self) -> Listing:
        """Each in one of a hundred folders."""
        entries = [
            Entry(f"class{n * 100 // self._number:02}/image {n:07}.jpg", n % 90_000, f"{n * 7919:032x}", None)
            for n in range(self._number)
        ]
        return Listing(entries, [])


def own_bytes() -> int:
    """Return what this process shares with no other."""
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private"))


def copied_bytes(look: Callable[[int], object], number: int) -> int:
    """Return what a forked process copies while it looks at so many things in random order."""
    order = iter_order(number)
    receiving, sending = os.pipe()
    if os.fork() == 0:
        before = own_bytes()
        for index in order:
            look(index)
        os.write(sending, str(own_bytes() - before).encode())
        os._exit(0)
    os.close(sending)
    os.wait()
    with open(receiving, "rb") as pipe:
        return int(pipe.read())


def iter_order(number: int) -> Iterator[int]:
    """Each number once, in an order that is computed: a list of them would be copied too."""
    step = 7919
    start = random.Random(3).randrange(number)
    return ((start + step * place) % number for place in range(number))


def test_worker_copies_nothing_of_the_index(tmp_path: Path) -> None:
    """Keys, entries, names in the cache, labels: a list of 100,000 entries costs each worker 20 MB and more."""
    number = 100_000
    store = Listed(number)
    dataset = StorageDataset(store, cache=DiskCache(tmp_path, "64MiB"), target="folder")
    names, targets = dataset.reader.names(), dataset.targets
    assert targets is not None

    def look(index: int) -> object:
        return (
            dataset.keys[index],
            dataset.index.entries[index],
            dataset.reader.entries[index],
            names[index],
            targets[index],
        )

    assert copied_bytes(look, number) < 3_000_000
    entries = store.list()
    assert copied_bytes(lambda index: entries[index].key, number) > 10_000_000  # or this measures nothing


def test_keys_and_targets_are_lists_to_their_reader(share: Share) -> None:
    """They compare, slice and add up as lists; and a mapping of them is one of plain values."""
    share.put({"a/1.jpg": "", "b/2.jpg": "", "b/3.jpg": ""})
    dataset = StorageDataset(share.location, remote=share.remote, cache=None, target="folder")
    assert dataset.keys == ["a/1.jpg", "b/2.jpg", "b/3.jpg"]
    assert dataset.targets == [0, 1, 1]
    assert dict(zip(dataset.keys, dataset.targets, strict=True)) == {"a/1.jpg": 0, "b/2.jpg": 1, "b/3.jpg": 1}
    assert (dataset.keys[-1], dataset.keys[:2], "b/2.jpg" in dataset.keys) == ("b/3.jpg", ["a/1.jpg", "b/2.jpg"], True)
    again = StorageDataset.from_keys(share.location, dataset.keys[::-1], remote=share.remote, cache=None)
    assert again.keys == ["b/3.jpg", "b/2.jpg", "a/1.jpg"]
    again.refresh()
    assert again.keys == ["b/3.jpg", "b/2.jpg", "a/1.jpg"]
