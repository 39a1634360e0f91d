"""Room is reckoned from the listing, or from a sample of what is prepared, which is not fetched again."""

from __future__ import annotations

import os
import threading
from collections import Counter, namedtuple
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, errors, local_copy
from ai4os_data.cache import DiskCache
from ai4os_data.folders import room, sampling
from ai4os_data.folders.room import Disk, Need
from ai4os_data.stores import Entry, MemoryStore
from tests.support.copies import MIB, differences, keys_of
from tests.support.crowd import Warnings
from tests.support.disks import tmpfs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer
    from tests.support.shares import Share


def half(data: bytes) -> bytes:
    """The first half."""
    return data[: len(data) // 2]


def test_what_was_prepared_for_the_sample_is_not_fetched_again(share: Share, tmp_path: Path) -> None:
    """Each file comes once, and is prepared once."""
    share.put({f"{number:03}": b"x" * number for number in range(1, 100)})
    prepared: Counter[int] = Counter()

    def prepare(data: bytes) -> bytes:
        prepared[len(data)] += 1
        return half(data)

    copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, prepare=prepare, progress=False)
    assert set(prepared.values()) == {1}
    assert set(Counter(share.read_keys()).values()) == {1}
    assert len(copy.files) == len(prepared) == 99
    assert copy.size_bytes == sum(number // 2 for number in range(1, 100))


def test_a_prepare_that_always_fails_is_raised_at_once(share: Share, tmp_path: Path) -> None:
    """It is a mistake in the function: nothing more is fetched for it."""
    share.put({f"{number:03}": b"x" * 100 for number in range(100)})

    def prepare(_data: bytes) -> bytes:
        raise KeyError("oops")

    with pytest.raises(errors.PreparationError, match="KeyError: 'oops'"):
        local_copy(share.location, tmp_path / "copy", remote=share.remote, prepare=prepare, progress=False)
    assert len(share.requests("GET")) <= 16
    assert not (tmp_path / "copy").exists()


def test_a_prepare_that_fails_on_some_files_names_them(share: Share, tmp_path: Path) -> None:
    """The others come; the next call fetches those that failed, and no others."""
    share.put({f"{number:03}": b"%d" % (number % 10) for number in range(100)})

    def prepare(data: bytes) -> bytes:
        if data == b"7":
            raise ValueError("seven")
        return data

    for said in (r"10 of 100 files did not come: .*ValueError: seven", r"'0\d7' failed: ValueError: seven"):
        share.server.forget()
        with pytest.raises(errors.PreparationError, match=said):
            local_copy(share.location, tmp_path / "copy", remote=share.remote, prepare=prepare, progress=False)
    assert {key[-1] for key in share.read_keys()} == {"7"}
    assert len(keys_of(tmp_path / "copy")) == 90


def test_a_sample_is_spread_over_the_bytes() -> None:
    """Large files decide how much room is needed, so they are among those that are tried; not many bytes are."""
    labels = [Entry(f"labels/{number:05}", 100) for number in range(10_000)]
    images = [Entry(f"images/{number:05}", MIB) for number in range(100)]
    chosen = sampling._chosen([*images, *labels])
    assert len(chosen) == 16
    assert sum(entry.size_bytes == MIB for entry in chosen) >= 15
    assert len({entry.key[:-1] for entry in chosen}) >= 10
    huge = [Entry(f"{number}", 100 * MIB) for number in range(100)]
    assert len(sampling._chosen(huge)) == 1
    assert len(sampling._chosen([Entry("empty", 0)])) == 1


def test_the_ratio_is_that_of_all_bytes(tmp_path: Path) -> None:
    """Photographs that become small and labels that stay as they are: their sum is met."""
    files = {f"{number:03}.jpg": bytes(10_000) for number in range(100)}
    files |= {f"{number:03}.txt": b"x" * 100 for number in range(100)}
    store = MemoryStore(files)

    def prepare(data: bytes) -> bytes:
        return data[:1000] if len(data) > 1000 else data

    copy = local_copy(store, tmp_path / "copy", prepare=prepare, progress=False)
    sample = sampling.sample_of(copy._job, store.list())
    assert copy.size_bytes / sum(map(len, files.values())) == pytest.approx(sample.ratio, rel=0.1)


def test_a_copy_that_becomes_larger_than_was_reckoned_stops_at_its_limit(tmp_path: Path) -> None:
    """The limit holds whatever the sample said; what is there is whole."""
    files = {f"{number:03}": bytes(8192) for number in range(64)}
    made = 0

    def prepare(data: bytes) -> bytes:
        nonlocal made
        made += 1
        return data[:4096] if made <= 16 else data * 4

    with pytest.raises(errors.OutOfSpaceError, match="larger than size_limit"):
        local_copy(MemoryStore(files), tmp_path / "copy", prepare=prepare, size_limit=400_000, progress=False)
    assert sum((tmp_path / "copy" / key).stat().st_blocks * 512 for key in keys_of(tmp_path / "copy")) <= 400_000
    assert len(keys_of(tmp_path / "copy")) > 16


def test_memory_stays_small_while_large_files_are_prepared(
    fault: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits to be prepared lies on the disk if it is much, and is gone afterwards."""
    from ai4os_data.folders import fetching
    from ai4os_data.folders.staged import StagedFile
    from tests.support.shares import Share

    monkeypatch.setattr(fetching, "PREPARED_IN_MEMORY_BYTES", 3 * MIB)
    share = Share(fault)
    share.put({f"{number:02}": os.urandom(2 * MIB) for number in range(24)})
    staged: list[int] = []
    plain = StagedFile.__init__

    def counted(self: StagedFile, *arguments: object) -> None:
        staged.append(1)
        plain(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StagedFile, "__init__", counted)
    copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, prepare=half, progress=False)
    assert copy.size_bytes == 24 * MIB
    assert 0 < len(staged) < 24
    assert sorted(os.listdir(tmp_path / "copy")) == list(copy.files)


def test_a_cache_on_the_same_disk_gives_way(share: Share, tmp_path: Path) -> None:
    """A cache of this process makes room, as it does for a checkpoint; that is logged."""
    share.put({f"{number:02}": os.urandom(MIB) for number in range(20)})
    with tmpfs(tmp_path / "disk", 40 * MIB) as disk:
        cache = DiskCache(disk / "cache", "30MiB")
        data = StorageDataset(share.location, remote=share.remote, cache=cache)
        for position in range(len(data)):
            assert len(data[position]) == MIB
        with Warnings() as warnings:
            copy = local_copy(share.location, disk / "copy", remote=share.remote, progress=False)
        assert copy.size_bytes == 20 * MIB
        assert any("is short of room" in warning and "gives way" in warning for warning in warnings)
        assert differences(share.root, copy.path) == ""
        del data
        cache.close()


def test_what_a_cache_of_others_holds_is_in_the_error(
    share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that no dataset of this process uses cannot give way; the error says how to free it."""
    share.put({f"{number:02}": os.urandom(MIB) for number in range(20)})
    with tmpfs(tmp_path / "disk", 40 * MIB) as disk:
        monkeypatch.setenv("AI4OS_DATA_CACHE", str(disk / "cache"))
        cache = DiskCache(disk / "cache", "30MiB")
        data = StorageDataset(share.location, remote=share.remote, cache=cache)
        assert sum(len(data[number]) for number in range(len(data))) == 20 * MIB
        cache.close()
        monkeypatch.setattr(room, "caches_on_disk_of", lambda _: [])  # as in another process
        with pytest.raises(errors.OutOfSpaceError, match=f"`ai4os-data cache clear {disk}/cache` frees them"):
            local_copy(share.location, disk / "copy", remote=share.remote, progress=False)


def test_inodes_are_reckoned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may have room for bytes, and none for names."""
    plain = os.statvfs(tmp_path)
    shape = namedtuple("shape", "f_frsize f_blocks f_bavail f_files f_favail")  # noqa: PYI024  as os has it
    few = shape(plain.f_frsize, plain.f_blocks, plain.f_bavail, 100, 10)
    monkeypatch.setattr(os, "statvfs", lambda _: few)
    disk = Disk(str(tmp_path))
    disk.check(Need(1, 1, 9, 10, estimated=False), None)
    with pytest.raises(errors.OutOfSpaceError, match="11 more files and folders, and its disk takes 10 more"):
        disk.check(Need(1, 1, 10, 11, estimated=False), None)


def test_what_is_replaced_makes_room_for_what_replaces_it(tmp_path: Path) -> None:
    """A new version of every file fits on a disk that holds little more than one."""
    with tmpfs(tmp_path / "disk", 40 * MIB) as disk:
        store = MemoryStore({f"{number:02}": os.urandom(256 * 1024) for number in range(100)})
        local_copy(store, disk / "copy", progress=False)
        store.files = {key: os.urandom(256 * 1024) for key in store.files}
        copy = local_copy(store, disk / "copy", progress=False)
        assert copy.stats()["fetched"] == 100
        assert all((disk / "copy" / key).read_bytes() == data for key, data in store.files.items())


def test_no_thread_is_left(share: Share, tmp_path: Path) -> None:
    """Nor a staged file, if prepare or the caller is interrupted."""
    share.put({f"{number:03}": b"x" * 100 for number in range(200)})
    before = set(threading.enumerate())

    def show(progress: object) -> None:
        if progress.came_files > 20:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    from ai4os_data.folders import copied_to

    for prepare in (None, half):
        with pytest.raises(KeyboardInterrupt):
            copied_to(share.location, tmp_path / "copy", show, remote=share.remote, prepare=prepare)
        assert set(threading.enumerate()) == before
        assert not list((tmp_path / "copy").glob(".ai4os-data-*"))
    copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, prepare=half, progress=False)
    assert copy.stats()["fetched"] < 200
    assert copy.size_bytes == 200 * 50
