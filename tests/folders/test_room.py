"""Room is reckoned before the first byte; a disk that fills up on the way keeps whole files alone."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors, local_copy
from tests.support.copies import MIB, differences, keys_of, missing, put, small_files
from tests.support.crowd import wait_for
from tests.support.disks import allocated_bytes, resize, tmpfs
from tests.support.servers import WsgidavServer
from tests.support.shares import Share
from tests.support.sources import content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MiB."""
    with tmpfs(tmp_path / "disk", 40 * MIB) as disk:
        yield disk


def of_a_mebibyte(count: int) -> dict[str, bytes]:
    """So many files of 1 MiB."""
    return {f"{number:03d}.bin": content(f"{number}", MIB) for number in range(count)}


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(share: Share, disk: Path) -> None:
    """What it needs, what is free, what stays in reserve, and what to do."""
    put(share.root, of_a_mebibyte(50))
    with pytest.raises(errors.OutOfSpaceError) as raised:
        local_copy(share.location, disk / "copy", remote=share.remote, progress=False)
    said = str(raised.value)
    assert raised.value.errno == errno.ENOSPC
    assert f"{50 * MIB:,} bytes" in said
    assert "free" in said
    assert "reserve" in said
    for way_out in ("pattern", "shrink(", "StorageDataset"):
        assert way_out in said
    assert share.requests("GET") == []
    assert not (disk / "copy").exists()
    assert (
        len(local_copy(share.location, disk / "copy", remote=share.remote, pattern="00*", progress=False).files) == 10
    )


def test_many_small_files_are_reckoned_in_blocks(share: Share, disk: Path) -> None:
    """12,000 files of 1 byte take 48 MB of a disk."""
    put(share.root, {f"{number:05d}": b"x" for number in range(12_000)})
    with pytest.raises(errors.OutOfSpaceError, match="12,000 files"):
        local_copy(share.location, disk / "copy", remote=share.remote, progress=False)


def test_size_limit_bounds_a_copy(share: Share, tmp_path: Path) -> None:
    """It counts what is there already too, and is exact at its bound."""
    put(share.root, of_a_mebibyte(5))

    def copy(size_limit: int | str) -> float:
        target = tmp_path / "copy"
        return local_copy(share.location, target, remote=share.remote, size_limit=size_limit, progress=False).stats()[
            "fetched"
        ]

    with pytest.raises(errors.OutOfSpaceError, match="size_limit"):
        copy(5 * MIB - 1)
    assert share.requests("GET") == []
    assert not (tmp_path / "copy").exists()
    assert copy("5MiB") == 5
    put(share.root, {"new.bin": b"x"})
    with pytest.raises(errors.OutOfSpaceError, match="size_limit"):
        copy("5MiB")
    assert keys_of(tmp_path / "copy") == sorted(of_a_mebibyte(5))
    assert copy("6MiB") == 1
    assert (allocated_bytes(tmp_path / "copy") or 0) <= 6 * MIB


def test_with_prepare_room_is_reckoned_from_a_sample(share: Share, disk: Path) -> None:
    """Files that become a tenth fit, and those that stay as large do not, which is known after a few of them."""
    put(share.root, of_a_mebibyte(60))
    with pytest.raises(errors.OutOfSpaceError, match="about"):
        local_copy(share.location, disk / "copy", remote=share.remote, prepare=bytes, progress=False)
    assert 0 < len(share.requests("GET")) <= 20
    assert not (disk / "copy").exists()
    copy = local_copy(share.location, disk / "copy", remote=share.remote, prepare=a_tenth, progress=False)
    assert copy.size_bytes == 60 * (MIB // 10)


def a_tenth(data: bytes) -> bytes:
    """The beginning of some bytes."""
    return data[: len(data) // 10]


class Filler(threading.Thread):
    """Somebody else who fills the disk once some files have come, and takes it back when told."""

    def __init__(self, disk: Path, target: Path, after: int) -> None:
        super().__init__(daemon=True)
        self._disk = disk
        self._target = target
        self._after = after

    def run(self) -> None:
        """Fill it, and keep it full."""
        wait_for(lambda: len(keys_of(self._target)) >= self._after)
        with (self._disk / "filler").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(64 * 1024))
                except OSError:
                    return


@pytest.mark.parametrize("size_bytes", [100_000, 2 * MIB, 17 * MIB], ids=["in memory", "to disk", "in ranges"])
def test_a_disk_that_fills_up_on_the_way_keeps_whole_files(size_bytes: int, disk: Path, tmp_path: Path) -> None:
    """The error says that it is full; what came is whole, nothing else is left, and the next call does the rest."""
    target = disk / "copy"
    files = {f"small/{number:03d}.bin": content(f"{number}", 100_000) for number in range(60)}
    files |= {
        f"z/{number:03d}.bin": content(f"{number}", size_bytes) for number in range(max(1, 20 * MIB // size_bytes))
    }
    with WsgidavServer(tmp_path / "server", latency_s=0.02) as server:
        share = Share(server)
        put(share.root, files)
        filler = Filler(disk, target, 10)
        filler.start()
        with pytest.raises(errors.OutOfSpaceError, match="full") as raised:
            local_copy(share.location, target, remote=share.remote, progress=False)
        assert raised.value.errno == errno.ENOSPC
        assert str(target) in str(raised.value)
        assert not list(target.glob(".ai4os-data-*"))
        for key in keys_of(target):
            assert (target / key).read_bytes() == files[key]
        filler.join()
        (disk / "filler").unlink()
        left = missing(share.root, target)
        assert left
        copy = local_copy(share.location, target, remote=share.remote, progress=False)
        assert copy.stats()["fetched"] == len(left)
        assert differences(share.root, target) == ""


def test_a_full_disk_of_the_record_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file appears that is not on record; with room for the record the next call goes on."""
    source = tmp_path / "source"
    put(source, small_files(3000))
    home = tmp_path / "home"
    target = tmp_path / "copy"
    with tmpfs(home, 256 * 1024) as small:
        monkeypatch.setenv("AI4OS_DATA_COPIES", str(small))
        filler = small / "filler"
        local_copy(source, target, pattern="class-0/000*", progress=False)
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        with pytest.raises(errors.OutOfSpaceError, match=str(small)):
            local_copy(source, target, progress=False)
        assert not list(target.glob(".ai4os-data-*"))
        filler.unlink()
        with pytest.raises(errors.OutOfSpaceError, match=str(small)):  # 3,000 lines take more than it has
            local_copy(source, target, progress=False)
        resize(small, 8 * MIB)
        left = missing(source, target)
        copy = local_copy(source, target, progress=False)
        assert copy.stats()["fetched"] == len(left)
    assert differences(source, target) == ""
