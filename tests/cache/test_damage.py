"""A damaged cache costs a second fetch, and never gives wrong bytes, hangs, or outgrows its limit."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, telemetry
from ai4os_data.cache import CachedStore, DiskCache, session_of
from tests.support.crowd import Reading, Warnings, Worker, together, wait_for, wrong_keys
from tests.support.disks import allocated_bytes, cached_files, indexed_files
from tests.support.shares import Folder
from tests.support.sources import new_seed, source, spread, tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MiB = 1024 * 1024
LIMIT = 3 * MiB
OLD = source(spread(60, 500, 60_000, seed=11), "old")
NEW = source(spread(140, 500, 200_000, seed=12), "new")  # more than fits: all that was there is evicted


@dataclass
class Abandoned:
    """Fills a cache, updates the ledger, and exits at once: the log of the database and a lease stay."""

    directory: str

    def __call__(self) -> None:
        """Do it."""
        cache = DiskCache(self.directory, LIMIT, "lru")
        assert wrong_keys(CachedStore(OLD, cache), OLD, OLD.list()) == []
        session_of(cache).keep_listing("0" * 32, b"what there was")
        cache.stats()
        os._exit(0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache as a process leaves it that was killed."""
    directory = tmp_path_factory.mktemp("template") / "cache"
    worker = Worker(Abandoned(str(directory)))
    worker.process.join(60)
    worker.kill()
    assert (directory / "index" / "cache.db-wal").stat().st_size > 0
    assert len(list(directory.glob("leases/*"))) == 1
    assert len(cached_files(directory)) == 60
    return directory


def flip(path: Path, chance: random.Random) -> str:
    """Change one byte of a file; a text that names the byte."""
    place = chance.randrange(path.stat().st_size)
    mask = chance.choice([1 << chance.randrange(8), chance.randrange(1, 256)])
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ mask]))
    return f"{path.name} at {place} by {mask:#x}"


def check_use(directory: Path, *, damaged_at_most: int) -> list[str]:
    """Read all that was cached, and more than fits, and check the result; the warnings."""
    telemetry._told.clear()
    with Warnings() as warnings:
        cache = DiskCache(directory, LIMIT, "lru")
        for store in (OLD, NEW):
            cached = CachedStore(store, cache)
            entries = store.list()
            for begin in range(0, len(entries), 20):
                assert wrong_keys(cached, store, entries[begin : begin + 20]) == []
                assert (allocated_bytes(directory) or 0) <= LIMIT
            assert cached.counters.totals()["damaged"] <= damaged_at_most
            assert cached.counters.totals()["passed_through"] == 0
        assert cache.verify()["damaged"] == 0
        cache.close()
    assert len(cached_files(directory)) == len(indexed_files(directory))  # a flipped name shows at its eviction
    assert (allocated_bytes(directory) or 0) <= LIMIT
    return warnings


def check_rounds(
    template: Path, directory: Path, pick: Callable[[Path, random.Random], Path], count: int, damaged_at_most: int = 0
) -> list[list[str]]:
    """Flip a byte in a copy of a cache, use it and check the result, ``count`` times; the warnings of each time."""
    seed = new_seed()
    said = []
    for number in range(count):
        chance = random.Random(seed + number)
        shutil.copytree(template, directory)
        what = flip(pick(directory, chance), chance)
        tell(f"seed {seed} + {number}: {what}")
        before = (directory / "index" / "cache.db").stat().st_ino
        warnings = check_use(directory, damaged_at_most=damaged_at_most)
        if (directory / "index" / "cache.db").stat().st_ino != before:
            assert warnings, "made anew without a word"
        assert [message for message in warnings if "made anew" not in message] == []
        said.append(warnings)
        shutil.rmtree(directory)
    return said


def test_flipped_byte_in_an_entry(template: Path, tmp_path: Path) -> None:
    """A flipped byte in an entry is found on the hit, and the file is fetched again."""

    def pick(directory: Path, chance: random.Random) -> Path:
        return chance.choice(sorted(directory.glob("objects/*/*-*")))

    said = check_rounds(template, tmp_path / "cache", pick, 40, damaged_at_most=1)
    assert said == [[]] * 40


@pytest.mark.parametrize(("name", "count"), [("cache.db", 120), ("cache.db-wal", 80), ("cache.db-shm", 30)])
def test_flipped_byte_in_the_index(template: Path, tmp_path: Path, name: str, count: int) -> None:
    """A flipped byte that matters is found, and the index is made anew from the files."""
    said = check_rounds(template, tmp_path / "cache", lambda directory, _: directory / "index" / name, count)
    tell(f"{sum(map(bool, said))} of {count} made anew")


@pytest.mark.parametrize("name", ["count", "size"])
def test_index_that_counts_less_than_nothing(template: Path, tmp_path: Path, name: str) -> None:
    """A flipped byte can make a count negative: the index is made anew, and the count is never used."""
    directory = tmp_path / "cache"
    shutil.copytree(template, directory)
    with contextlib.closing(sqlite3.connect(directory / "index" / "cache.db")) as connection, connection:
        changed = connection.execute("UPDATE Settings SET value = -120 WHERE key = ?", (name,)).rowcount
    assert changed == 1
    (warning,) = check_use(directory, damaged_at_most=0)
    assert "index was damaged" in warning
    assert "made anew" in warning


@pytest.mark.parametrize("name", ["lock", "names"])
def test_flipped_byte_in_lock_or_names(template: Path, tmp_path: Path, name: str) -> None:
    """A flipped byte there costs two more fetches at most, and nothing else."""
    check_rounds(template, tmp_path / "cache", lambda directory, _: directory / name, 40)


def test_flipped_byte_in_the_lease_of_the_dead(template: Path, tmp_path: Path) -> None:
    """The lease of a dead process is not read: what the process stored is counted in."""
    check_rounds(template, tmp_path / "cache", lambda directory, _: next(directory.glob("leases/*")), 24)


def test_flipped_byte_in_the_lease_of_the_living(tmp_path: Path) -> None:
    """The other processes still know how much it may write, whatever byte it is."""
    cache = DiskCache(tmp_path / "cache", LIMIT, "lru")
    cached = CachedStore(OLD, cache)
    assert wrong_keys(cached, OLD, OLD.list()[:5]) == []
    (lease,) = (tmp_path / "cache" / "leases").iterdir()
    other = DiskCache(tmp_path / "cache", LIMIT, "lru")
    whole, used = lease.read_bytes(), other.stats()["bytes"]
    for place in range(len(whole)):
        for mask in (1, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= mask
            lease.write_bytes(damaged)
            assert other.stats()["bytes"] == used
    lease.write_bytes(whole)
    assert wrong_keys(cached, OLD, OLD.list()) == []


def test_flipped_byte_in_a_kept_listing(tmp_path: Path) -> None:
    """The listing is made anew: no sample is lost, and none is made up."""
    folder = Folder(tmp_path / "data")
    folder.put({f"{number:02d}.txt": f"file {number}" for number in range(20)})
    seed = new_seed()
    chance = random.Random(seed)
    cache = DiskCache(tmp_path / "cache", LIMIT)
    for _ in range(40):
        keys = StorageDataset(folder.location, cache=cache).keys
        assert keys == [f"{number:02d}.txt" for number in range(20)]
        (listing,) = (tmp_path / "cache" / "listings").iterdir()
        flip(listing, chance)


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "lock", "names"])
def test_flipped_byte_under_an_open_cache(tmp_path: Path, name: str) -> None:
    """Two processes that use the cache get right bytes, the limit holds, and the next process finds no damage."""
    seed = new_seed()
    chance = random.Random(seed)
    directory = tmp_path / "cache"
    victims = [
        Worker(Reading(store=NEW, directory=str(directory), size_limit=LIMIT, seed=n, rounds=6, batch=5))
        for n in (1, 2)
    ]
    path = directory / name if name in {"lock", "names"} else directory / "index" / name
    flips = 0
    while any(victim.process.is_alive() for victim in victims) and flips < 40:
        try:
            flip(path, chance)
            flips += 1
        except (FileNotFoundError, ValueError):  # not there yet, or empty
            pass
        assert (allocated_bytes(directory) or 0) <= LIMIT
        time.sleep(0.005)
    reports = [victim.result() for victim in victims]
    tell(f"{flips} flips: {[report.warnings for report in reports]}")
    assert flips > 0
    assert [report.wrong for report in reports] == [[], []]
    assert (allocated_bytes(directory) or 0) <= LIMIT
    (report,) = together([Reading(store=NEW, directory=str(directory), size_limit=LIMIT, seed=3)])
    assert report.wrong == []
    assert (allocated_bytes(directory) or 0) <= LIMIT


def truncated(path: Path) -> None:
    """Leave half of it."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def lengthened(path: Path) -> None:
    """Let it end with a byte more."""
    with path.open("ab") as file:
        file.write(b"x")


def emptied(path: Path) -> None:
    """Leave nothing of it."""
    path.write_bytes(b"")


def folder(path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def looped(path: Path) -> None:
    """Put a link to itself in its place."""
    path.unlink()
    path.symlink_to(path)


def gone(path: Path) -> None:
    """Remove it."""
    path.unlink()


DAMAGES = [truncated, lengthened, emptied, folder, looped, gone]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("fresh", [True, False], ids=["new process", "open"])
def test_damaged_entries_are_read_rightly(
    template: Path, tmp_path: Path, *, damage: Callable[[Path], None], fresh: bool
) -> None:
    """Whatever stands in the place of an entry, the file is fetched again, and the others stay."""
    directory = tmp_path / "cache"
    shutil.copytree(template, directory)
    cache = DiskCache(directory, LIMIT, "lru")
    cached = CachedStore(OLD, cache)
    if not fresh:
        assert wrong_keys(cached, OLD, OLD.list()) == []
    for path in sorted(directory.glob("objects/*/*-*"))[::5]:
        damage(path)
    for _ in range(2):
        assert wrong_keys(cached, OLD, OLD.list()) == []
    if damage is not folder:  # which is not ours to remove
        assert cached.counters.totals()["misses"] == 12
    assert cache.verify()["damaged"] == 0
    cache.close()
    assert (allocated_bytes(directory) or 0) <= LIMIT


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["index/cache.db", "index/cache.db-wal", "lock", "names", "leases/*", "listings/*"])
def test_damaged_bookkeeping_is_made_anew(
    template: Path, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    """If a bookkeeping file is replaced by anything, reads stay right and the limit holds."""
    directory = tmp_path / "cache"
    shutil.copytree(template, directory)
    damage(next(directory.glob(name)))
    with Warnings() as warnings:
        cache = DiskCache(directory, LIMIT, "lru")
        for store in (OLD, NEW):
            cached = CachedStore(store, cache)
            assert wrong_keys(cached, store, store.list()) == []
            assert (allocated_bytes(directory) or 0) <= LIMIT
        cache.close()
    assert len(warnings) <= 2
    assert (allocated_bytes(directory) or 0) <= LIMIT


@pytest.mark.parametrize("name", ["index", "objects", "leases", "lock", "names", ""])
def test_removed_under_an_open_cache(tmp_path: Path, name: str) -> None:
    """Two processes work on if a folder, a file or the whole directory is removed meanwhile."""
    directory = tmp_path / "cache"
    stop = tmp_path / "stop"
    workers = [
        Worker(Until(Reading(store=NEW, directory=str(directory), size_limit=LIMIT, seed=n, batch=5), str(stop)))
        for n in (1, 2)
    ]
    for _ in range(12):
        wait_for((directory / name).exists)
        time.sleep(0.02)
        remove(directory / name)
    stop.touch()
    reports = [worker.result() for worker in workers]
    assert [report.wrong for report in reports] == [[], []]
    (report,) = together([Reading(store=NEW, directory=str(directory), size_limit=LIMIT)])
    assert report.wrong == []
    assert report.totals["passed_through"] == 0
    assert (allocated_bytes(directory) or 0) <= LIMIT
    assert cached_files(directory) == indexed_files(directory)


def remove(path: Path) -> None:
    """Remove a file, or a folder in which others are at work."""
    trash = path.with_name(f"trash {path.name}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(trash)
        if trash.is_dir():
            shutil.rmtree(trash, ignore_errors=True)
        else:
            trash.unlink()


@dataclass
class Until:
    """Reads again and again until a file appears."""

    reading: Reading
    stop: str

    def __call__(self) -> object:
        """Do it."""
        report = self.reading()
        while not os.path.exists(self.stop):
            report = self.reading()
            if report.wrong:
                break
        return report
