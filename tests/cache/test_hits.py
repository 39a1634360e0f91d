"""A hit never touches the network, and waits for no other process; what was hit and missed is counted."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

from ai4os_data import StorageDataset
from ai4os_data.cache import CachedStore, DiskCache, session_of
from tests.support.crowd import Reading, Report, Warnings, Worker, together, wait_for, wrong_keys
from tests.support.disks import cached_files
from tests.support.sources import content, source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.shares import Share

KiB = 1024
MiB = 1024 * KiB
COUNT = 40


@dataclass
class Everything:
    """Takes every lock that there is in a cache directory, exclusively, and stays."""

    directory: str
    mark: str

    def __call__(self) -> None:
        """Do it."""
        for folder, _, names in os.walk(self.directory):
            for name in names:
                if name in {"lock", "names"} or name.startswith("cache.db"):
                    descriptor = os.open(os.path.join(folder, name), os.O_RDWR)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    with suppress(BlockingIOError):  # the database is open in the process that reads
                        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(self.mark, "w"):
            pass
        time.sleep(600)


@contextmanager
def locked(directory: Path, mark: Path) -> Iterator[None]:
    """Let another process hold the ledger, the names and the database."""
    holder = Worker(Everything(str(directory), str(mark)))
    try:
        wait_for(mark.exists)
        yield
    finally:
        holder.kill()


@pytest.fixture
def texts(share: Share) -> Share:
    """A folder of files on a server."""
    share.put({f"{number:02d}.bin": content(str(number), 3000 + number) for number in range(COUNT)})
    return share


@pytest.mark.parametrize("fresh", [False, True], ids=["in the process that filled", "in a new process"])
def test_hits_are_served_with_the_server_down_and_the_ledger_taken(
    texts: Share, tmp_path: Path, *, fresh: bool
) -> None:
    """Hundreds of hits take a moment while another process keeps every lock, and nobody answers on the network."""
    directory = tmp_path / "cache"
    dataset = StorageDataset(texts.location, remote=texts.remote, cache=DiskCache(directory, "16MiB"))
    expected = [content(str(number), 3000 + number) for number in range(COUNT)]
    assert dataset.__getitems__(range(COUNT)) == expected
    dataset.reader.files.cache.stats()  # type: ignore[union-attr]
    if fresh:
        dataset = StorageDataset(texts.location, remote=texts.remote, cache=DiskCache(directory, "16MiB"))
    before = dataset.stats()
    texts.server.forget()
    with locked(directory, tmp_path / "mark"), texts.down():
        begun = time.monotonic()
        for _ in range(5):
            assert dataset.__getitems__(range(COUNT)) == expected
            assert [dataset[index] for index in range(COUNT)] == expected
        assert time.monotonic() - begun < 1.0
    assert texts.requests() == []
    after = dataset.stats()
    assert after["hits"] - before["hits"] == 10 * COUNT
    assert after["misses"] == before["misses"]


def test_use_is_not_noted_against_a_taken_ledger(tmp_path: Path) -> None:
    """The moment at which uses go to the index passes without a wait where another process has it; later they do."""
    files = source([KiB] * 10, "noted")
    cache = DiskCache(tmp_path / "cache", "8MiB", "lru")
    cached = CachedStore(files, cache)
    assert wrong_keys(cached, files, files.list()) == []
    cache.stats()
    budget = session_of(cache).budget
    with locked(tmp_path / "cache", tmp_path / "mark"):
        for _ in range(20):
            budget._note_use_at = 0.0
            begun = time.monotonic()
            assert wrong_keys(cached, files, files.list()) == []
            assert time.monotonic() - begun < 0.5
        assert len(budget._used) == 10
    budget._note_use_at = 0.0
    assert wrong_keys(cached, files, files.list()) == []
    assert len(budget._used) < 10


def test_miss_waits_for_a_taken_ledger_and_is_stored(tmp_path: Path) -> None:
    """A miss that needs room waits its turn; it neither fails nor passes through."""
    files = source([100 * KiB] * 3, "waits")
    cache = DiskCache(tmp_path / "cache", "8MiB", "lru")
    cache.stats()
    mark = tmp_path / "mark"
    holder = Worker(Everything(str(tmp_path / "cache"), str(mark)))
    wait_for(mark.exists)
    reader = Worker(Reading(store=files, directory=str(tmp_path / "cache"), size_limit="8MiB"))
    time.sleep(0.3)
    assert reader.process.is_alive()
    holder.kill()
    report = reader.result()
    assert (report.wrong, report.warnings, report.totals["stored"]) == ([], [], 3)


# --- across processes


def plain_batch(items: Sequence[Any]) -> list[Any]:
    """Leave a batch as it is."""
    return list(items)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_dataset_goes_through_processes_and_comes_back(texts: Share, tmp_path: Path, method: str) -> None:
    """Used in the parent, then in workers, then again in the parent: right bytes, one fetch each, one sum of counts."""
    cache = DiskCache(tmp_path, "16MiB")
    dataset = StorageDataset(texts.location, remote=texts.remote, cache=cache)
    expected = [content(str(number), 3000 + number) for number in range(COUNT)]
    texts.server.forget()
    assert dataset.__getitems__(range(10)) == expected[:10]
    loader = DataLoader(
        dataset,
        batch_size=5,
        num_workers=2,
        collate_fn=plain_batch,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    for _ in range(2):
        assert [item for batch in loader for item in batch] == expected
    assert [dataset[index] for index in range(COUNT)] == expected
    del loader
    assert len(texts.read_keys()) == COUNT
    totals = dataset.stats()
    assert (totals["misses"], totals["stored"], totals["hits"]) == (COUNT, COUNT, 10 + 2 * COUNT)
    assert (totals["damaged"], totals["passed_through"]) == (0, 0)
    assert cache.stats()["entries"] == COUNT == len(cached_files(tmp_path))


@dataclass
class Child:
    """Reads through a dataset's store that was inherited in the midst of its use."""

    cached: CachedStore
    store: Any

    def __call__(self) -> Report:
        """Do it."""
        with Warnings() as warnings:
            wrong = wrong_keys(self.cached, self.store, self.store.list())
            assert self.cached.cache is not None
            self.cached.cache.close()
            return Report(wrong, warnings, self.cached.counters.totals())


def test_fork_in_the_midst_of_filling(tmp_path: Path) -> None:
    """Children that are forked while their parent fills, with claims, a lease and the index open, do all of it anew."""
    files = source([20 * KiB] * 120, "midst")
    limit = 8 * MiB
    cache = DiskCache(tmp_path, limit, "lru")
    cached = CachedStore(files, cache)
    children = []
    wrong = []
    for number, (entry, result) in enumerate(cached.read_many(files.list())):
        if result != files.files[entry.key]:
            wrong.append(entry.key)
        if number in {3, 30, 60, 90}:
            children.append(Worker(Child(cached, files)))
    reports = [child.result() for child in children]
    assert wrong == []
    assert [report.wrong for report in reports] == [[]] * 4
    assert [report.warnings for report in reports] == [[]] * 4
    totals = cached.counters.totals()
    assert (totals["misses"], totals["stored"]) == (120, 120)
    assert totals["hits"] == 4 * 120
    assert cache.stats()["entries"] == 120


def test_child_that_is_forked_and_killed_frees_nothing_of_its_parent(tmp_path: Path) -> None:
    """A parent's lease and claims stay its own, whatever becomes of the children that were forked meanwhile."""
    files = source([50 * KiB] * 40, "parent")
    cache = DiskCache(tmp_path, "8MiB", "lru")
    cached = CachedStore(files, cache)
    for number, (entry, result) in enumerate(cached.read_many(files.list())):
        assert result == files.files[entry.key]
        if number == 20:
            child = Worker(Sleep())
            wait_for(child.process.is_alive)
            child.kill()
            assert len(list((tmp_path / "leases").iterdir())) == 1
            assert together([Child(CachedStore(files, DiskCache(tmp_path, "8MiB", "lru")), files)])[0].wrong == []
            assert len(list((tmp_path / "leases").iterdir())) == 1
    assert cached.counters.totals()["stored"] + cached.counters.totals()["hits"] == 40
    assert cache.stats()["entries"] == 40


class Sleep:
    """Does nothing for long."""

    def __call__(self) -> None:
        """Do it."""
        time.sleep(600)


def test_child_that_outlives_its_parents_death_keeps_no_lock(tmp_path: Path) -> None:
    """A parent killed in the midst of a fetch leaves its claims to others, though a child that it forked lives on."""
    files = source([50 * KiB] * 4, "outlived")
    parent = Worker(Orphan(files, str(tmp_path / "cache"), str(tmp_path / "pid")), daemon=False)
    wait_for((tmp_path / "pid").exists)
    wait_for((tmp_path / "pid").read_text)
    orphan = int((tmp_path / "pid").read_text())
    try:
        parent.kill()
        begun = time.monotonic()
        (report,) = together([Reading(store=files, directory=str(tmp_path / "cache"), size_limit="8MiB")])
        assert time.monotonic() - begun < 5
        assert (report.wrong, report.totals["passed_through"]) == ([], 0)
        assert list((tmp_path / "cache").rglob("*.fill")) == []
    finally:
        os.kill(orphan, 9)


@dataclass
class Orphan:
    """Forks a child in the midst of a fetch, tells its number, and stays."""

    store: Any
    directory: str
    mark: str

    def __call__(self) -> None:
        """Do it."""
        cached = CachedStore(self.store, DiskCache(self.directory, "8MiB"))
        assert cached.cache is not None
        claims = [session_of(cached.cache).claim(cached.name(entry)) for entry in self.store.list()]
        assert all(session_of(cached.cache).budget.reserve(claim, 50 * KiB) for claim in claims)  # type: ignore[arg-type]
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        with open(self.mark, "w") as file:
            file.write(str(pid))
        time.sleep(600)
