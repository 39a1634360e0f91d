"""What is reported as confirmed is on a real Nextcloud, whatever was killed, full or written at the same time."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.stores import file_at
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.nextcloud_urls import NextcloudUrls
from ai4os_data.stores.trashbin import TrashBin
from tests.checkpoint.test_writers import in_a_child
from tests.support.live_cloud import wanted
from tests.support.runs import open_run, restored_step, save_steps, state_of
from tests.support.sources import content, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.live_cloud import Cloud

MIB = 2**20


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, str]:
    """A file of many chunks, and its sha256."""
    path = tmp_path / "large.bin"
    path.write_bytes(data := content("large", 64 * MIB))
    return path, hashlib.sha256(data).hexdigest()


@pytest.fixture
def chunked(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> NextcloudStore:
    """A store that sends all but small files in chunks."""
    monkeypatch.setattr(NextcloudStore, "single_put_bytes", 6 * MIB)
    monkeypatch.setattr(NextcloudStore, "chunk_bytes", 5 * MIB)
    store = cloud.store("chunks")
    assert isinstance(store, NextcloudStore)
    return store


def test_a_chunked_upload_is_confirmed_by_the_servers_hash(chunked: NextcloudStore, large: tuple[Path, str]) -> None:
    """Whole, and verified."""
    path, sha256 = large
    begun_s = time.perf_counter()
    assert chunked.write_confirmed("large.bin", path, sha256) == "confirmed"
    tell(f"64 MiB in chunks, confirmed: {64 / (time.perf_counter() - begun_s):.0f} MiB/s")
    assert hashlib.sha256(chunked.read("large.bin")).hexdigest() == sha256


def test_an_upload_killed_in_its_chunks_goes_on_from_the_last_one(
    chunked: NextcloudStore, large: tuple[Path, str]
) -> None:
    """What had arrived is not sent again."""
    path, sha256 = large
    read, write = os.pipe()

    def note(size: int) -> None:
        os.write(write, b"." * (size // MIB))

    def upload() -> None:
        chunked.write_confirmed("large.bin", path, sha256, on_bytes=note)

    child = in_a_child(upload)
    arrived = 0
    while arrived < 20:
        arrived += len(os.read(read, 4096))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert file_at(chunked, "large.bin") is None
    sent: list[int] = []
    assert chunked.write_confirmed("large.bin", path, sha256, on_bytes=sent.append) == "confirmed"
    tell(f"killed after {arrived} MiB; then {sum(sent) / MIB:.0f} of 64 MiB were sent")
    assert sum(sent) <= 64 * MIB - 10 * MIB
    assert hashlib.sha256(chunked.read("large.bin")).hexdigest() == sha256


def test_a_full_quota_is_named_and_the_last_checkpoint_stays(cloud: Cloud, tmp_path: Path) -> None:
    """507; what was confirmed before is restored meanwhile, and what waits is sent when there is room again."""
    wanted("_OCC")
    with open_run(cloud.store("run"), tmp_path) as run:
        save_steps(run, 1)
    with cloud.quota("1 B"), pytest.raises(errors.OutOfSpaceError):
        cloud.store().write_confirmed("more.bin", b"more", hashlib.sha256(b"more").hexdigest())
    run = open_run(cloud.store("run"), tmp_path, "two")
    run.restore()
    with cloud.quota("1 B"):
        saved = run.save(state_of(2), 2)
        with pytest.raises((errors.OutOfSpaceError, errors.DeadlineError)):
            saved.wait("confirmed", timeout_s=10)
        assert restored_step(open_run(cloud.store("run"), tmp_path, "three")) == 1
    saved.wait("confirmed", timeout_s=120)
    run.close()
    assert restored_step(open_run(cloud.store("run"), tmp_path, "four")) == 2


def test_a_full_server_gets_no_bytes_of_chunks(cloud: Cloud, chunked: NextcloudStore, large: tuple[Path, str]) -> None:
    """It refuses the head of the first one; with room again the upload arrives."""
    wanted("_OCC")
    path, sha256 = large
    chunked.write("first.bin", b"1")  # the folder is there: 29 forbids a new one on a full account
    sent: list[int] = []
    with cloud.quota("1 B"):
        for _ in range(3):
            with pytest.raises(errors.OutOfSpaceError):
                chunked.write_confirmed("large.bin", path, sha256, on_bytes=sent.append)
        with pytest.raises(errors.OutOfSpaceError):
            chunked.write_confirmed("new/large.bin", path, sha256, on_bytes=sent.append)
    assert sent == []
    assert chunked.write_confirmed("large.bin", path, sha256) == "confirmed"


def test_removed_checkpoints_do_not_stay_in_the_trash_bin(cloud: Cloud, tmp_path: Path) -> None:
    """Whether the server skips it for a header, or not; what is deleted otherwise is in it."""
    store = cloud.store("binned")
    with open_run(store, tmp_path, keep_last=1) as run:
        save_steps(run, 1, 2, 3)
        urls = NextcloudUrls.of(cloud.remote)
        assert urls is not None
        assert isinstance(store, NextcloudStore)
        trash = TrashBin(store.dav, urls)
        store.write("by-hand", b"1")
        store.delete("by-hand")
        there = [one.location for one in trash.entries() if one.location.startswith(f"{cloud.folder}/")]
        assert there == [f"{cloud.folder}/binned/by-hand"]
        assert restored_step(run) == 3


def test_two_writers_lose_nothing_of_each_other(cloud: Cloud, tmp_path: Path) -> None:
    """Two processes save to one run at the same time; each of their checkpoints is intact."""

    def work(name: str) -> None:
        with open_run(cloud.store("both"), tmp_path, name, keep_last=10) as run:
            for step in range(1, 6):
                run.save(state_of(step), step).wait("confirmed", timeout_s=120)

    children = [in_a_child(lambda name=name: work(name)) for name in ("one", "two")]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    run = open_run(cloud.store("both"), tmp_path, "reader")
    assert sorted(checkpoint.step for checkpoint in run.list()) == sorted([*range(1, 6)] * 2)
    assert restored_step(run) == 5
