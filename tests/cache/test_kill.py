"""SIGKILL at any point leaves a cache that opens, serves only whole entries, and keeps its limit."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data.cache import CachedStore, DiskCache
from ai4os_data.http.bodies import MemoryBody
from ai4os_data.stores.memory import MemoryStore
from tests.support.crowd import Reading, Worker, together, wait_for, wrong_keys
from tests.support.disks import Peak, allocated_bytes, cached_files, indexed_files
from tests.support.sources import new_seed, source, spread, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ai4os_data.http.bodies import Body
    from ai4os_data.stores.base import Entry, MakeBody, Outcome

MiB = 1024 * 1024
KILLS = 50


def check_sound(directory: Path, files: MemoryStore, limit: int) -> None:
    """Hold that a cache is as if nobody had ever died in it, once it has been filled again."""
    cache = DiskCache(directory, limit, "lru")
    cached = CachedStore(files, cache)
    assert cache.verify()["damaged"] == 0
    chance = random.Random(1)
    entries = files.list()
    chance.shuffle(entries)
    assert wrong_keys(cached, files, entries) == []
    assert cached.counters.totals()["damaged"] == 0
    fresh = source([1000], "fresh")
    assert wrong_keys(CachedStore(fresh, cache), fresh, fresh.list()) == []
    cache.close()
    assert (allocated_bytes(directory) or 0) <= limit
    assert left_over(directory) == []
    assert cached_files(directory) == indexed_files(directory)


def left_over(directory: Path) -> list[str]:
    """Return what lies in a cache directory that nobody has open, and is neither an entry nor belongs to the index."""
    return sorted(
        str(path.relative_to(directory))
        for pattern in ("objects/*/*.fill", "leases/*", "listings/*.*", "*.new", ".ai4os-data-probe*")
        for path in directory.glob(pattern)
    )


def test_filling_process_killed_at_random_moments(tmp_path: Path) -> None:
    """Fifty times a process that fills and evicts is killed; none leaves wrong bytes, an orphan, or less room."""
    seed = new_seed()
    chance = random.Random(seed)
    limit = 6 * MiB
    files = source([*spread(120, 100, 600_000, seed=3), 17 * MiB], "killed")
    peaks = []
    for number in range(KILLS):
        task = Reading(
            store=files,
            directory=str(tmp_path / "cache"),
            size_limit=limit if number % 5 else 24 * MiB,  # the large file goes straight into its staged file
            policy="lru",
            seed=chance.randrange(1 << 30),
            rounds=1000,
            batch=chance.choice([1, 7, 40]),
        )
        victim = Worker(task)
        with Peak(lambda: allocated_bytes(tmp_path / "cache"), pause_s=0.003) as peak:
            time.sleep(chance.uniform(0.0, 0.25))
            assert victim.process.is_alive()
            victim.kill()
        peaks.append(peak.value)
        if number % 5:
            cache = DiskCache(tmp_path / "cache", limit, "lru")
            cached = CachedStore(files, cache)
            assert cache.verify()["damaged"] == 0
            assert wrong_keys(cached, files, chance.sample(files.list(), 10)) == []
            assert cached.counters.totals()["damaged"] == 0
            if chance.random() < 0.5:  # else it is dropped as its process would be
                cache.close()
    assert max(peaks) <= 24 * MiB
    del cache, cached
    gc.collect()
    check_sound(tmp_path / "cache", files, limit)


def test_cache_dropped_without_a_word_leaves_nothing_behind(tmp_path: Path) -> None:
    """An object that is no longer referred to lets go of what its process kept open, as if the process had died."""
    limit = 8 * MiB
    files = source([20_000] * 600, "dropped")
    cache = DiskCache(tmp_path, limit, "lru")
    cached = CachedStore(files, cache)
    number = 0
    while not any("objects" in name for name in left_over(tmp_path)):  # an evicted file that waits to be written over
        assert wrong_keys(cached, files, files.list()[number : number + 1]) == []
        number += 1
    del cache, cached
    gc.collect()
    check_sound(tmp_path, files, limit)


def test_survivor_counts_in_what_the_dead_have_stored(tmp_path: Path) -> None:
    """A process that lives on while others are killed does not exceed the limit for want of their accounts."""
    seed = new_seed()
    chance = random.Random(seed)
    limit = 8 * MiB
    files = source(spread(400, 100, 150_000, seed=4), "survivor")
    cache = DiskCache(tmp_path, limit, "lru")
    cached = CachedStore(files, cache)
    with Peak(lambda: allocated_bytes(tmp_path), pause_s=0.002) as peak:
        for _ in range(15):
            victims = [
                Worker(Reading(store=files, directory=str(tmp_path), size_limit=limit, seed=seed + n, rounds=1000))
                for n in range(2)
            ]
            until = time.monotonic() + chance.uniform(0.05, 0.2)
            while time.monotonic() < until:
                assert wrong_keys(cached, files, chance.sample(files.list(), 8)) == []
            for victim in victims:
                victim.kill()
            assert wrong_keys(cached, files, chance.sample(files.list(), 64)) == []
    tell(f"peak {peak.value:,} of {limit:,}")
    assert limit // 2 < peak.value <= limit
    cache.close()
    check_sound(tmp_path, files, limit)


@dataclass
class LockHolder:
    """Takes the ledger's lock as a process does that is in the middle of a change, tells, and stays."""

    directory: str

    def __call__(self) -> None:
        """Do it."""
        lock = os.open(f"{self.directory}/lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.pwrite(lock, b"*", 0)
        (fifo,) = [os.open(f"{self.directory}.held", os.O_WRONLY | os.O_CREAT)]
        os.close(fifo)
        time.sleep(600)


def test_death_with_the_ledger_in_hand_is_seen_by_the_next(tmp_path: Path) -> None:
    """The lock goes with its process, and whoever takes it next makes index and files agree before anything else."""
    files = source([50_000] * 20, "holder")
    directory = tmp_path / "cache"
    assert together([Reading(store=files, directory=str(directory), size_limit=8 * MiB)])[0].wrong == []
    holder = Worker(LockHolder(str(directory)))
    wait_for((tmp_path / "cache.held").exists)
    # What it was at: one file is removed already, another not yet entered.
    names = sorted(directory.rglob("objects/*/*-*"))
    names[0].unlink()
    begun = time.monotonic()
    holder.kill()
    cache = DiskCache(directory, 8 * MiB)
    assert cache.stats()["entries"] == 19
    assert time.monotonic() - begun < 5
    cache.close()
    check_sound(directory, files, 8 * MiB)


class SlowStore(MemoryStore):
    """A store in memory that tells when it is asked, and takes its time."""

    def __init__(self, files: MemoryStore, mark: str, pause_s: float) -> None:
        super().__init__()
        self.files = files.files
        self.identity = files.identity
        self.mark = mark
        self.pause_s = pause_s

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, each after a pause; a large one stops half-way."""

        def slow_body(entry: Entry) -> Body:
            with open(self.mark, "a") as mark:
                mark.write(f"{entry.key}\n")
            taker = body(entry) if body else MemoryBody()
            if self.pause_s > 60:
                taker.write(self.files[entry.key][: entry.size_bytes // 2])
            time.sleep(self.pause_s)
            return taker

        return super().read_many(entries, slow_body)


@pytest.mark.parametrize("size_bytes", [50_000, 17 * MiB], ids=["in memory", "on disk"])
def test_claim_of_a_killed_filler_is_taken_over_at_once(tmp_path: Path, size_bytes: int) -> None:
    """Who waits for another's fetch takes over as soon as that process is dead: there is no deadline to sit out."""
    files = source([size_bytes], "takeover")
    directory = tmp_path / "cache"
    stuck = SlowStore(files, str(tmp_path / "asked"), pause_s=300)
    filler = Worker(Reading(store=stuck, directory=str(directory), size_limit=64 * MiB))
    wait_for((tmp_path / "asked").exists)
    waiter = Worker(Reading(store=files, directory=str(directory), size_limit=64 * MiB))
    time.sleep(0.3)
    assert waiter.process.is_alive()
    begun = time.monotonic()
    filler.kill()
    report = waiter.result()
    assert time.monotonic() - begun < 2
    assert report.wrong == []
    assert report.totals["stored"] == 1
    check_sound(directory, files, 64 * MiB)


def test_death_of_a_waiter_harms_nobody(tmp_path: Path) -> None:
    """A process killed while it waits for another's fetch leaves the fetch and its entry as they are."""
    files = source([50_000], "waiter")
    directory = tmp_path / "cache"
    slow = SlowStore(files, str(tmp_path / "asked"), pause_s=1.0)
    filler = Worker(Reading(store=slow, directory=str(directory), size_limit=8 * MiB))
    wait_for((tmp_path / "asked").exists)
    waiter = Worker(Reading(store=files, directory=str(directory), size_limit=8 * MiB))
    time.sleep(0.2)
    waiter.kill()
    report = filler.result()
    assert (report.wrong, report.totals["stored"]) == ([], 1)
    check_sound(directory, files, 8 * MiB)


def test_stopped_filler_is_waited_for_and_not_robbed(tmp_path: Path) -> None:
    """A filler that only sleeps keeps its claim: the file is fetched once, also when it takes a while."""
    files = source([50_000], "stopped")
    directory = tmp_path / "cache"
    slow = SlowStore(files, str(tmp_path / "asked"), pause_s=0.2)
    filler = Worker(Reading(store=slow, directory=str(directory), size_limit=8 * MiB))
    wait_for((tmp_path / "asked").exists)
    pid = filler.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    waiter = Worker(Reading(store=slow, directory=str(directory), size_limit=8 * MiB))
    time.sleep(0.5)
    assert waiter.process.is_alive()
    os.kill(pid, signal.SIGCONT)
    reports: list[Any] = [filler.result(), waiter.result()]
    assert [report.wrong for report in reports] == [[], []]
    assert (tmp_path / "asked").read_text().splitlines() == [files.list()[0].key]
