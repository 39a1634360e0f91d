"""A miss is fetched once on a node, however many processes, workers and threads want it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

from ai4os_data import StorageDataset
from ai4os_data.cache import CachedStore, DiskCache
from ai4os_data.cache.disk_cache import session_of
from ai4os_data.stores import open_store
from tests.support.crowd import Report, together, wrong_keys
from tests.support.disks import cached_files
from tests.support.servers import Fault, FaultServer
from tests.support.shares import Share
from tests.support.sources import content, source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from ai4os_data.locations.remotes import Remote

COUNT = 48
MiB = 1024 * 1024


@pytest.fixture
def distant(fault: FaultServer) -> Share:
    """A folder of files on a server that takes 20 ms for each request."""
    share = Share(fault)
    share.put({f"{number:03d}.bin": content(f"{number:03d}.bin", 3000 + number) for number in range(COUNT)})
    fault.change(latency_s=0.02)
    fault.forget()
    return share


def right(item: Any) -> bool:
    """Tell whether a sample is one of the files, in its right size."""
    number = len(item) - 3000
    return bool(item == content(f"{number:03d}.bin", len(item)))


def plain_batch(items: Sequence[Any]) -> list[Any]:
    """Leave a batch as it is."""
    return list(items)


@dataclass
class Epoch:
    """One rank: reads a whole dataset with workers."""

    location: str
    remote: Remote
    directory: str
    workers: int
    method: str

    def __call__(self) -> tuple[bool, int]:
        """Whether every sample was right, and how many there were."""
        dataset = StorageDataset(self.location, remote=self.remote, cache=DiskCache(self.directory, "64MiB"))
        loader = DataLoader(
            dataset,
            batch_size=6,
            shuffle=True,
            num_workers=self.workers,
            collate_fn=plain_batch,
            multiprocessing_context=self.method,
        )
        items = [item for batch in loader for item in batch]
        return all(map(right, items)), len(items)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_four_workers_in_each_of_two_ranks_ask_for_each_key_once(distant: Share, tmp_path: Path, method: str) -> None:
    """Two processes with four workers each read the same files in their own order: the log shows each key once."""
    ranks = [Epoch(distant.location, distant.remote, str(tmp_path), 4, method) for _ in range(2)]  # type: ignore[arg-type]
    results = together(ranks, daemon=False)
    assert results == [(True, COUNT)] * 2
    assert sorted(distant.read_keys()) == sorted(f"{number:03d}.bin" for number in range(COUNT))


def test_processes_in_the_same_order_ask_for_each_key_once(distant: Share, tmp_path: Path, patience: Patience) -> None:
    """Four processes that want the same files at the same moment, in the same order, share the work."""
    reports = together([Same(distant, str(tmp_path), patience) for _ in range(4)])
    assert [report.wrong for report in reports] == [[]] * 4
    assert set(Counter(distant.read_keys()).values()) == {1}
    assert len(distant.read_keys()) == COUNT
    assert sum(report.totals["misses"] for report in reports) == COUNT
    assert sum(report.totals["hits"] for report in reports) == 3 * COUNT
    assert sum(report.totals["damaged"] for report in reports) == 0


def test_threads_of_one_process_ask_for_each_key_once(distant: Share, tmp_path: Path, patience: Patience) -> None:
    """Threads that share a dataset's store fetch each file once, and each is given the right bytes."""
    cached = CachedStore(distant.store(patience), DiskCache(tmp_path, "64MiB"))
    entries = cached.store.list()
    wrong: list[str] = []
    start = threading.Barrier(4)

    def read(seed: int) -> None:
        start.wait()
        order = entries[seed * 7 :] + entries[: seed * 7]
        for begin in range(0, COUNT, 12):
            for entry, result in cached.read_many(order[begin : begin + 12]):
                if result != content(entry.key, entry.size_bytes):
                    wrong.append(entry.key)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(distant.read_keys()) == COUNT
    assert set(Counter(distant.read_keys()).values()) == {1}


def test_key_that_comes_twice_in_a_batch_is_fetched_once(distant: Share, tmp_path: Path) -> None:
    """A sampler with replacement draws a file twice: one request, and both places get its bytes."""
    dataset = StorageDataset(distant.location, remote=distant.remote, cache=DiskCache(tmp_path, "64MiB"))
    distant.server.forget()
    items = dataset.__getitems__([5, 3, 5, 5])
    assert [len(item) for item in items] == [3005, 3003, 3005, 3005]
    assert sorted(distant.read_keys()) == ["003.bin", "005.bin"]


def test_entry_twice_in_one_read_many_is_fetched_once(distant: Share, tmp_path: Path, patience: Patience) -> None:
    """Below the dataset too: the same entry twice in one call comes twice and costs one request."""
    cached = CachedStore(distant.store(patience), DiskCache(tmp_path, "64MiB"))
    entries = cached.store.list()[:3]
    results = [(entry.key, result) for entry, result in cached.read_many([*entries, *entries])]
    assert Counter(key for key, _ in results) == dict.fromkeys(["000.bin", "001.bin", "002.bin"], 2)
    assert all(result == content(key, len(result)) for key, result in results if isinstance(result, bytes))
    assert sorted(distant.read_keys()) == ["000.bin", "001.bin", "002.bin"]


def test_failed_fetch_is_taken_over_by_who_waits(distant: Share, tmp_path: Path, patience: Patience) -> None:
    """Where the process that fetches fails, the ones that wait try themselves, and nobody waits for ever."""
    server = distant.server
    assert isinstance(server, FaultServer)
    server.always(f"{distant.name}/007.bin", Fault(status=404, body=b""))
    reports = together([Same(distant, str(tmp_path), patience) for _ in range(3)])
    assert [report.wrong for report in reports] == [["007.bin"]] * 3
    assert Counter(distant.read_keys())["007.bin"] == 3
    assert len(cached_files(tmp_path)) == COUNT - 1


@dataclass
class Same:
    """Reads all files of a share in the order of their keys, in batches."""

    share: Share
    directory: str
    patience: Patience

    def __call__(self) -> Report:
        """Do it."""
        remote = self.share.remote
        cache = DiskCache(self.directory, "64MiB")
        cached = CachedStore(open_store(self.share.location, remote, patience=self.patience), cache)
        entries = cached.store.list()
        expected = {entry.key: content(entry.key, entry.size_bytes) for entry in entries}
        wrong = []
        for begin in range(0, COUNT, 12):
            wrong += wrong_keys(cached, Expected(expected), entries[begin : begin + 12])
        cache.close()
        return Report(wrong, [], cached.counters.totals())


@dataclass
class Expected:
    """The right bytes of some files."""

    files: dict[str, bytes]


@pytest.mark.parametrize("now_bytes", [9 * MiB, 4 * MiB], ids=["no room at all", "as much as there is"])
def test_changed_file_is_not_claimed_for_ever(tmp_path: Path, now_bytes: int) -> None:
    """A file that has outgrown the cache since it was listed passes through; who lists it anew waits for nobody."""
    files = source([100_000] * 3, "grown")
    cache = DiskCache(tmp_path, "8MiB")
    listed = files.list()
    files.files[listed[0].key] = bytes(now_bytes)
    assert (listed[0].key, bytes(now_bytes)) in [
        (wanted.key, data) for wanted, data in CachedStore(files, cache).read_many(listed)
    ]
    cached = CachedStore(files, cache)
    assert session_of(cache).claim(cached.name(files.list()[0])) is not None
