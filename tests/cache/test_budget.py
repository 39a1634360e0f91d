"""The cache directory never takes more than its limit, whatever number of processes fill it."""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING, Literal

import pytest

from ai4os_data.cache import CachedStore, DiskCache, UncachedStore, session_of
from tests.support.crowd import Reading, Report, Warnings, together, wrong_keys
from tests.support.disks import Peak, allocated_bytes, cached_files, ext4, indexed_files, tmpfs, used_bytes
from tests.support.sources import content, source, spread, tell

if TYPE_CHECKING:
    from pathlib import Path

KiB = 1024
MiB = 1024 * KiB
PROCESSES = 4


def check(reports: list[Report]) -> None:
    """Check that nothing was wrong, and nothing was warned of."""
    assert [report.wrong for report in reports] == [[]] * len(reports)
    assert [report.warnings for report in reports] == [[]] * len(reports)


@pytest.mark.parametrize("policy", ["lru", "auto"])
@pytest.mark.parametrize("limit", [2 * MiB, 8 * MiB, 64 * MiB])
def test_four_processes_fill_a_disk_of_just_the_limit(
    tmp_path: Path, limit: int, policy: Literal["lru", "auto"]
) -> None:
    """On a disk that has not one block more than the limit, no write fails, and every byte read is right."""
    files = source(spread(limit * 3 // (280 * KiB) + 60, 100, 3 * MiB, seed=limit), "exact")
    with tmpfs(tmp_path / "disk", limit) as disk, Peak(lambda: used_bytes(disk)) as peak:
        reports = together(
            [
                Reading(store=files, directory=str(disk), size_limit=limit, policy=policy, seed=seed, rounds=2)
                for seed in range(PROCESSES)
            ]
        )
    check(reports)
    tell(f"limit {limit:,}, {policy}: peak {peak.value:,} in {peak.looks} looks")
    assert limit // 2 < peak.value <= limit


@pytest.mark.parametrize("policy", ["lru", "auto"])
@pytest.mark.parametrize("limit", [2 * MiB, 8 * MiB, 64 * MiB])
def test_directory_stays_below_its_limit_at_every_moment(
    tmp_path: Path, limit: int, policy: Literal["lru", "auto"]
) -> None:
    """On a real disk with much room, folders and index counted, the directory is never seen above the limit."""
    files = source(spread(limit * 2 // (280 * KiB) + 300, 100, 3 * MiB, seed=limit + 1), "roomy")
    with ext4(tmp_path / "disk", 4 * limit + 32 * MiB) as disk:
        empty = used_bytes(disk)
        directory = disk / "cache"
        with Peak(lambda: used_bytes(disk) - empty) as of_disk, Peak(lambda: allocated_bytes(directory)) as of_files:
            reports = together(
                [
                    Reading(store=files, directory=str(directory), size_limit=limit, policy=policy, seed=seed, batch=64)
                    for seed in range(PROCESSES)
                ]
            )
    check(reports)
    tell(f"limit {limit:,}, {policy}: peak {of_disk.value:,} of the disk, {of_files.value:,} of its files")
    assert limit // 2 < of_disk.value <= limit
    assert limit // 2 < of_files.value <= limit


def test_small_files_after_large_ones_make_folders_inside_the_limit(tmp_path: Path) -> None:
    """The folders that small files need are paid for, also where large files have taken nearly all room."""
    limit = 64 * MiB
    large = source([3 * MiB] * 21, "large")
    small = source([100] * 2000, "small")
    with ext4(tmp_path / "disk", 192 * MiB) as disk:
        empty = used_bytes(disk)
        with Peak(lambda: used_bytes(disk) - empty) as peak:
            for store in (large, small):
                check(together([Reading(store=store, directory=str(disk / "cache"), size_limit=limit, batch=256)]))
    assert 63 * MiB < peak.value <= limit


def test_object_larger_than_the_limit_passes_through(tmp_path: Path) -> None:
    """A larger object is read with the right bytes, is not stored, and evicts nothing."""
    files = source([50 * KiB] * 100 + [30 * MiB], "larger")
    with Warnings() as warnings:
        cache = DiskCache(tmp_path / "cache", 16 * MiB, "lru")
        cached = CachedStore(files, cache)
        small, large = files.list()[:100], files.list()[100:]
        assert wrong_keys(cached, files, small) == []
        for _ in range(2):
            assert wrong_keys(cached, files, large) == []
        assert cache.stats()["entries"] == 100
        assert wrong_keys(cached, files, small) == []
    assert warnings == []
    assert cached.counters.totals()["misses"] == 102
    assert cached.counters.totals()["passed_through"] == 2


@pytest.mark.parametrize("policy", ["lru", "auto"])
def test_lower_limit_holds_at_once(tmp_path: Path, policy: Literal["lru", "auto"]) -> None:
    """A directory that is opened again with a lower limit shrinks to it, a live dataset's entries included."""
    files = source([100 * KiB] * 300, "lower")
    for limit in (64 * MiB, 8 * MiB):
        check(together([Reading(store=files, directory=str(tmp_path), size_limit=limit, policy=policy)]))
    assert DiskCache(tmp_path, limit).stats()["bytes"] <= limit
    assert 7 * MiB < (allocated_bytes(tmp_path) or 0) <= 8 * MiB


def test_dropped_caches_give_their_leases_back(tmp_path: Path) -> None:
    """A cache that is opened and forgotten a hundred times in one process leaves all room to the next."""
    limit = 16 * MiB
    files = source([100 * KiB] * 200, "dropped")
    entries = files.list()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        cached = CachedStore(files, DiskCache(tmp_path, limit, "lru"))
        assert wrong_keys(cached, files, entries[number : number + 1]) == []
        del cached
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 10
    check(together([Reading(store=files, directory=str(tmp_path), size_limit=limit)]))
    assert (allocated_bytes(tmp_path) or 0) > limit * 9 // 10


def test_full_disk_warns_once_and_reading_goes_on(tmp_path: Path) -> None:
    """Where the disk is smaller than the limit, each process says so once; the bytes are right, nothing stays over."""
    size = 8 * MiB
    files = source(spread(200, 100, 3 * MiB, seed=5), "full")
    with tmpfs(tmp_path / "disk", size) as disk:
        reports = together(
            [
                Reading(store=files, directory=str(disk), size_limit=64 * MiB, seed=seed, rounds=2)
                for seed in range(PROCESSES)
            ]
        )
        assert [report.wrong for report in reports] == [[]] * PROCESSES
        for report in reports:
            assert [message for message in report.warnings if "the disk is full" not in message] == []
            assert len(report.warnings) <= 1
        assert any(report.warnings for report in reports)
        assert list(disk.rglob("*.fill")) == []
        # A lower limit mends it, although eviction by the index needs room too.
        (report,) = together([Reading(store=files, directory=str(disk), size_limit=size // 2, policy="lru")])
        assert report.wrong == []
        assert [message for message in report.warnings if "the disk is full" in message] == []
        assert report.totals["stored"] > 150
        assert used_bytes(disk) <= size // 2
        assert cached_files(disk) == indexed_files(disk)


def test_full_disk_can_be_cleared(tmp_path: Path) -> None:
    """Where nothing can be written any more, `clear` still removes every entry, and the cache works again."""
    files = source([100 * KiB] * 100, "cleared")
    with tmpfs(tmp_path / "disk", 8 * MiB) as disk:
        together([Reading(store=files, directory=str(disk), size_limit=64 * MiB)])
        (disk / "else").write_bytes(bytes(4096 * (os.statvfs(disk).f_bfree)))
        assert os.statvfs(disk).f_bfree == 0
        cache = DiskCache(disk, 4 * MiB)
        cache.clear()
        assert cached_files(disk) == set()
        assert cache.stats()["entries"] == 0
        check(together([Reading(store=files, directory=str(disk), size_limit=4 * MiB)]))
        assert len(cached_files(disk)) > 20


def test_large_object_on_a_full_disk_is_read_rightly(tmp_path: Path) -> None:
    """An answer that goes straight into its file arrives whole also when the disk is full on its way."""
    files = source([20 * MiB], "overflow")
    with tmpfs(tmp_path / "disk", 16 * MiB) as disk, Warnings() as warnings:
        cache = DiskCache(disk, 64 * MiB)
        cached = CachedStore(files, cache)
        assert wrong_keys(cached, files, files.list()) == []
        cache.close()
        assert cached.counters.totals()["passed_through"] == 1
        assert len(warnings) == 1
        assert "the disk is full" in warnings[0]
        assert list(disk.rglob("*.fill")) == []


def test_object_that_grew_on_its_way_stays_inside_the_limit(tmp_path: Path) -> None:
    """If far more bytes come than were listed, no more are written than room was reserved for."""
    limit = 40 * MiB
    files = source([20 * MiB], "grew")
    entries = files.list()
    key = entries[0].key
    files.files[key] = content(key, 90 * MiB)
    with tmpfs(tmp_path / "disk", 200 * MiB) as disk, Peak(lambda: used_bytes(disk)) as peak:
        cached = CachedStore(UncachedStore(files, on_drift="refresh"), DiskCache(disk, limit))
        assert wrong_keys(cached, files, entries) == []
    assert peak.value <= limit


def test_listings_take_a_quarter_at_most(tmp_path: Path) -> None:
    """Listings take no more than a quarter of the limit, however many datasets keep them."""
    limit = 16 * MiB
    cache = DiskCache(tmp_path, limit)
    for number in range(20):
        session_of(cache).keep_listing(f"{number:032x}", bytes(3 * MiB))
    assert (allocated_bytes(tmp_path / "listings") or 0) <= limit // 4
    assert session_of(cache).kept_listing(f"{19:032x}") == bytes(3 * MiB)
    assert (allocated_bytes(tmp_path) or 0) <= limit


def test_index_of_many_tiny_files_is_inside_the_limit(tmp_path: Path) -> None:
    """Files of a few bytes make a large index: it is paid for as they come, by each of several processes."""
    limit = 24 * MiB
    files = source([10] * 8000, "tiny")
    with ext4(tmp_path / "disk", 96 * MiB) as disk:
        empty = used_bytes(disk)
        with Peak(lambda: used_bytes(disk) - empty) as peak:
            check(
                together(
                    [
                        Reading(store=files, directory=str(disk / "cache"), size_limit=limit, seed=seed, batch=256)
                        for seed in range(2)
                    ]
                )
            )
    assert limit * 9 // 10 < peak.value <= limit


def test_what_is_given_away_stays_so_for_an_hour_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process fills no more than is left; after the hour all of the limit is there again."""
    limit, given = 16 * MiB, 6 * MiB
    files = source([100_000] * 240, "given")
    directory = tmp_path / "cache"

    def taken() -> int:
        found = allocated_bytes(directory)
        assert found is not None
        return found

    reading = Reading(store=files, directory=str(directory), size_limit=limit, policy="auto", seed=1)
    check(together([reading]))
    cache = DiskCache(directory, limit)
    before = taken()
    assert before > limit * 9 // 10
    cache.give_way(given)
    assert before - given - limit // 10 < taken() <= before - given
    cache.close()
    check(together([reading] * 2))
    assert taken() <= before - given
    cache.give_way(given // 2)
    assert taken() <= before - given - given // 2
    in_an_hour = time.time() + 3601
    monkeypatch.setattr("ai4os_data.cache.ledger.time.time", lambda: in_an_hour)
    for _ in CachedStore(files, cache).read_many(files.list()):
        pass
    assert taken() > limit * 9 // 10
    cache.close()


@pytest.mark.parametrize("ahead_s", [365 * 86_400.0, 1900.0])
def test_room_given_away_under_a_clock_that_was_ahead_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    """The room is back once the clock is right, and stays when the wrongly recorded moment comes."""
    limit = 16 * MiB
    files = source([100_000] * 240, "given")
    cache = DiskCache(tmp_path, limit)
    cached = CachedStore(files, cache)
    now = time.time()

    def fill(at: float) -> None:
        monkeypatch.setattr("ai4os_data.cache.ledger.time.time", lambda: at)
        for _ in cached.read_many(files.list()):
            pass

    fill(now + ahead_s)
    whole = cache.stats()["bytes"]
    cache.give_way(6 * MiB)
    cache.close()
    cache = DiskCache(tmp_path, limit)
    cached = CachedStore(files, cache)
    for later_s in (0, ahead_s + 10):
        fill(now + later_s)
        assert cache.stats()["bytes"] > whole * 9 // 10
    cache.close()
