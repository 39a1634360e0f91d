"""What goes when room is needed: between datasets what was used longest ago, within a live one nothing."""

from __future__ import annotations

import gc
import pickle
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from ai4os_data import StorageDataset
from ai4os_data.cache import CachedStore, DiskCache, session_of
from tests.support.crowd import Reading, Warnings, read_all, together, wrong_keys
from tests.support.disks import allocated_bytes, cached_files
from tests.support.shares import Folder
from tests.support.sources import source, tell

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.stores.base import Entry
    from ai4os_data.stores.memory import MemoryStore

KiB = 1024
MiB = 1024 * KiB


def held(cached: CachedStore, entries: list[Entry]) -> list[bool]:
    """Tell of each entry whether it is in the cache."""
    return [cached.holds(entry) for entry in entries]


@dataclass
class Use:
    """Reads some files in a process of its own."""

    store: MemoryStore
    directory: str
    numbers: list[int]

    def __call__(self) -> list[str]:
        """Do it; what was wrong."""
        cache = DiskCache(self.directory, "8MiB", "lru")
        entries = self.store.list()
        wrong = wrong_keys(CachedStore(self.store, cache), self.store, [entries[number] for number in self.numbers])
        cache.close()
        return wrong


def test_least_recently_used_goes_first_across_processes(tmp_path: Path) -> None:
    """What one process stored, and another has used since, outlives what nobody has used."""
    files = source([100 * KiB] * 60, "lru")
    directory = str(tmp_path)
    for numbers in (range(60), range(0, 60, 2)):  # all are stored; then another process uses every second one
        assert together([Use(files, directory, list(numbers))]) == [[]]
    more = source([100 * KiB] * 40, "lru more")
    assert together([Use(more, directory, list(range(40)))]) == [[]]
    cached = CachedStore(files, DiskCache(directory, "8MiB", "lru"))
    there = held(cached, files.list())
    assert there[0::2] == [True] * 30
    assert sum(there[1::2]) < 15
    assert there[1::2] == sorted(there[1::2])  # among the unused ones, the oldest went first


def test_use_counts_also_within_one_process_and_batch(tmp_path: Path) -> None:
    """An entry that was read again after others is newer than they are, although it was read before them too."""
    files = source([500 * KiB] * 20, "again")
    entries = files.list()
    cached = CachedStore(files, DiskCache(tmp_path, "5MiB", "lru"))
    assert wrong_keys(cached, files, entries[:8]) == []
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 0):
        assert wrong_keys(cached, files, [entries[number]]) == []
    assert wrong_keys(cached, files, entries[8:13]) == []
    there = held(cached, entries)
    assert there[0]
    assert not there[1]
    assert not there[2]


def test_eviction_takes_no_more_than_is_needed(tmp_path: Path) -> None:
    """To make room for one large entry, one or two go, not all that a batch of the index would take."""
    files = source([900 * KiB] * 30, "few")
    cached = CachedStore(files, DiskCache(tmp_path, "16MiB", "lru"))
    for entry in files.list():
        assert wrong_keys(cached, files, [entry]) == []
        number = files.list().index(entry) + 1
        assert len(cached_files(tmp_path)) >= min(number, 15)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_shuffled_epochs_hit_what_fits(tmp_path: Path, share: float) -> None:
    """Under "auto" each epoch after the first hits the share that the cache can hold; under LRU far less."""
    count = 400
    files = source([20 * KiB - 512] * count, "epochs")
    limit = int(share * count * 20.5 * KiB) + 600 * KiB
    rates = {}
    for policy in ("auto", "lru"):
        cache = DiskCache(tmp_path / policy, limit, policy)
        cached = CachedStore(files, cache)
        for epoch in range(4):
            if epoch == 1:
                before = cached.counters.totals()
            assert read_all(cached, reading(files, cache, epoch)).wrong == []
        totals = cached.counters.totals()
        rates[policy] = (totals["hits"] - before["hits"]) / (3 * count)
        assert totals["damaged"] == 0
        assert (allocated_bytes(tmp_path / policy) or 0) <= limit
    tell(f"share {share}: {rates}")
    assert share - 0.02 <= rates["auto"] <= share + 0.08
    assert rates["lru"] < 0.72 * rates["auto"]


def reading(store: MemoryStore, cache: DiskCache, seed: int) -> Reading:
    """Return an epoch of all files in the order of a seed."""
    return Reading(store=store, directory=cache.directory, size_limit=cache.size_limit, seed=seed, batch=8)


def test_workers_of_one_dataset_do_not_evict_each_other(tmp_path: Path) -> None:
    """Four processes that shuffle the same listing under "auto" keep what fits, as one does."""
    count, limit = 400, 5 * MiB
    files = source([20 * KiB - 512] * count, "workers")
    tasks = [
        Reading(store=files, directory=str(tmp_path), size_limit=limit, policy="auto", seed=seed, rounds=3)
        for seed in range(4)
    ]
    first = cached_after(tmp_path, tasks[:1])
    second = cached_after(tmp_path, tasks)
    assert len(first & second) >= len(first) - 4
    totals = [report.totals for report in together(tasks)]
    assert sum(total["stored"] for total in totals) <= 4


def cached_after(directory: Path, tasks: list[Reading]) -> set[str]:
    """Do tasks together, and return what is cached then."""
    assert [report.wrong for report in together(tasks)] == [[]] * len(tasks)
    return cached_files(directory)


def test_old_dataset_gives_way_to_a_new_one(tmp_path: Path) -> None:
    """Under "auto" the entries of a dataset that is gone make room for those of a live one, until it has its share."""
    limit = 8 * MiB
    old, new = source([50 * KiB] * 300, "old"), source([50 * KiB] * 100, "new")
    task = Reading(store=old, directory=str(tmp_path), size_limit=limit, policy="auto", rounds=2)
    assert together([task])[0].wrong == []
    full = len(cached_files(tmp_path))
    assert full > 120
    (report,) = together([Reading(store=new, directory=str(tmp_path), size_limit=limit, policy="auto", rounds=3)])
    assert report.wrong == []
    assert (report.totals["misses"], report.totals["hits"], report.totals["passed_through"]) == (100, 200, 0)
    assert len(cached_files(tmp_path)) > full - 6


def test_dataset_that_was_dropped_gives_way_in_the_same_process(tmp_path: Path) -> None:
    """A dataset protects its entries while it lives, and no longer."""
    cache = DiskCache(tmp_path, 8 * MiB, "auto")
    old, new = source([50 * KiB] * 300, "old"), source([50 * KiB] * 100, "new")
    old_cached, new_cached = CachedStore(old, cache), CachedStore(new, cache)
    assert read_all(old_cached, reading(old, cache, 1)).wrong == []
    assert read_all(new_cached, reading(new, cache, 1)).wrong == []
    assert sum(held(new_cached, new.list())) <= 4
    del old_cached
    gc.collect()
    session_of(cache).budget._not_before = 0.0  # the second until it asks again for what was refused
    assert read_all(new_cached, reading(new, cache, 2)).wrong == []
    assert sum(held(new_cached, new.list())) == 100


def test_caches_of_one_directory_know_what_lives(tmp_path: Path) -> None:
    """Two datasets whose caches were made separately do not evict each other: not here, and not in forked workers."""
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    first, second = source([50 * KiB] * 100, "first"), source([50 * KiB] * 100, "second")
    first_cache = DiskCache(tmp_path / "cache", 8 * MiB)
    first_cached = CachedStore(first, first_cache)
    assert read_all(first_cached, reading(first, first_cache, 1)).wrong == []
    assert sum(held(first_cached, first.list())) == 100
    for directory in (tmp_path / "cache", tmp_path / "link"):
        task = Reading(store=second, directory=str(directory), size_limit=8 * MiB, policy="auto", rounds=2)
        assert task().wrong == []
        assert together([task])[0].wrong == []
    assert sum(held(first_cached, first.list())) == 100
    copy = pickle.loads(pickle.dumps(first_cached))  # noqa: S301  our own
    del first_cached, first_cache
    gc.collect()
    assert task().wrong == []
    assert sum(held(copy, first.list())) == 100


def test_keys_given_twice_are_protected_once(tmp_path: Path) -> None:
    """A dataset whose keys come several times does not count their room several times, and lets old entries go."""
    folder = Folder(tmp_path / "data")
    folder.put({f"{number:02d}.bin": random.Random(number).randbytes(100 * KiB) for number in range(30)})
    cache = DiskCache(tmp_path / "cache", 8 * MiB, "auto")
    old = source([50 * KiB] * 300, "old")
    assert read_all(CachedStore(old, cache), reading(old, cache, 1)).wrong == []
    gc.collect()
    session_of(cache).budget._not_before = 0.0
    keys = [f"{number:02d}.bin" for number in range(30)] * 4
    dataset = StorageDataset.from_keys(folder.location, keys, cache=cache)
    for _ in range(2):
        for index in range(len(dataset)):
            dataset[index]
    assert dataset.stats()["misses"] == 30


@pytest.mark.parametrize("policy", ["auto", "lru"])
def test_foreign_files_survive(tmp_path: Path, policy: Literal["auto", "lru"]) -> None:
    """What others have put into the directory is never removed: not by eviction, not by mending, not by clear."""
    names = [
        "notes.txt",
        "objects/notes.txt",
        "objects/a/holiday.jpg",
        "objects/a/" + "0" * 32,
        "objects/xy/file-with-dashes-and.fill",
        "objects/f",
        "index/readme",
        "index/cache.db.backup",
        "leases/12-foreign",
        "listings/mine.json",
    ]
    files = source([100 * KiB] * 200, "foreign")
    cache = DiskCache(tmp_path, 4 * MiB, policy)
    cache.stats()
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with Warnings() as warnings:
        cached = CachedStore(files, cache)
        assert wrong_keys(cached, files, files.list()) == []
        for number in range(40):
            session_of(cache).keep_listing(f"{number:032x}", b"listing")
        cache.verify()
        cache.close()
        assert (
            together([Reading(store=files, directory=str(tmp_path), size_limit=4 * MiB, policy="lru")])[0].wrong == []
        )
        DiskCache(tmp_path, 4 * MiB).clear()
    assert [message for message in warnings if "Not a directory" not in message] == []
    assert {name: (tmp_path / name).read_text() for name in names} == dict.fromkeys(names, "mine")


def test_clear_removes_what_other_processes_have_just_stored(tmp_path: Path) -> None:
    """Entries that are not in the index yet are removed too; the process that stored them works on."""
    files = source([10 * KiB] * 50, "cleared")
    cached = CachedStore(files, DiskCache(tmp_path, "64MiB"))
    assert wrong_keys(cached, files, files.list()) == []
    DiskCache(tmp_path, "64MiB").clear()
    assert cached_files(tmp_path) == set()
    assert wrong_keys(cached, files, files.list()) == []
    assert cached.cache is not None
    assert cached.cache.stats()["entries"] == 50
    totals: Any = cached.counters.totals()
    assert (totals["misses"], totals["stored"], totals["damaged"]) == (100, 100, 0)
