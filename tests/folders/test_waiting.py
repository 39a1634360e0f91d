"""One copies, the others wait: they see how far it is and whom they wait for, and a dead one's turn ends at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ai4os_data import local_copy
from ai4os_data.folders import Progress, copied_to, record
from ai4os_data.folders.record import Turn
from tests.support.copies import keys_of
from tests.support.crowd import Warnings, Worker, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer
    from tests.support.shares import Share

FILES = {f"{number:02}": b"x" * number for number in range(40)}


@pytest.fixture
def slow(fault: FaultServer) -> Share:
    """Files that take a while to come."""
    from tests.support.shares import Share

    share = Share(fault)
    share.put(FILES)
    fault.change(latency_s=0.3)
    return share


def copy(share: Share, directory: Path) -> tuple[float, int]:
    """Copy; how many files were fetched, and how many requests it took."""
    stats = local_copy(share.location, directory, remote=share.remote, progress=False).stats()
    return stats["fetched"], int(stats["requests_propfind"])


def begun(share: Share, directory: Path) -> Worker:
    """Return a process that copies, once some files have come."""
    worker = Worker(partial(copy, share, directory))
    wait_for(lambda: directory.exists() and keys_of(directory))
    return worker


def test_who_waits_asks_the_server_nothing(slow: Share, tmp_path: Path) -> None:
    """What another has just finished is taken as it is, and its progress is shown with its number."""
    worker = begun(slow, tmp_path / "copy")
    seen: list[Progress] = []
    waited = copied_to(slow.location, tmp_path / "copy", seen.append, remote=slow.remote)
    assert worker.result()[0] == len(FILES)
    assert waited.stats()["requests_propfind"] == waited.stats()["fetched"] == 0
    assert len(waited.files) == len(FILES)
    assert {progress.copier for progress in seen if progress.total_files} == {worker.process.pid}
    assert seen[0].total_files == len(FILES)
    assert [progress.came_files for progress in seen] == sorted(progress.came_files for progress in seen)


def test_another_job_waits_and_then_looks(slow: Share, tmp_path: Path) -> None:
    """Another pattern has a turn of its own."""
    worker = begun(slow, tmp_path / "copy")
    copy = local_copy(slow.location, tmp_path / "copy", remote=slow.remote, pattern="0*", progress=False)
    assert worker.result()[0] == len(FILES)
    assert copy.stats()["fetched"] == 0
    assert copy.stats()["requests_propfind"] > 0
    assert len(copy.files) == 10


def test_a_process_that_is_stopped_is_named(slow: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits logs whom it waits for, and goes on when that one is ended."""
    monkeypatch.setattr(record, "_SILENT_S", 0.5)
    worker = begun(slow, tmp_path / "copy")
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGSTOP)
    fetched: list[float] = []
    with Warnings() as warnings:
        thread = threading.Thread(target=lambda: fetched.append(copy(slow, tmp_path / "copy")[0]))
        thread.start()
        wait_for(lambda: warnings)
        assert f"waiting for process {worker.process.pid}, which makes this copy" in warnings[0]
        worker.kill()
        thread.join(30)
    assert 0 < fetched[0] < len(FILES)
    assert keys_of(tmp_path / "copy") == sorted(FILES)


def test_a_child_does_not_keep_the_turn_of_a_dead_parent(slow: Share, tmp_path: Path) -> None:
    """A process that the copier has forked meanwhile lives on without the lock."""
    pid = os.fork()
    if not pid:
        thread = threading.Thread(target=copy, args=(slow, tmp_path / "copy"), daemon=True)
        thread.start()
        wait_for(lambda: (tmp_path / "copy").exists() and keys_of(tmp_path / "copy"))
        child = os.fork()
        if not child:
            (tmp_path / "child").write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    child = int((tmp_path / "child").read_text())
    try:
        begun_s = time.monotonic()
        fetched, _ = copy(slow, tmp_path / "copy")
        assert fetched < len(FILES)
        assert time.monotonic() - begun_s < 30
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_copy_goes_to_workers(tmp_path: Path, method: str) -> None:
    """A `LocalCopy` pickles, and can look again there."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"1")
    first = local_copy(tmp_path / "source", tmp_path / "copy", progress=False)
    (tmp_path / "source" / "b").write_bytes(b"2")
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert sum(pool.map(_refreshed, [first] * 2)) == 1
    assert keys_of(tmp_path / "copy") == ["a", "b"]


def _refreshed(copy: object) -> float:
    copy.refresh()  # type: ignore[attr-defined]
    found: float = copy.stats()["fetched"]  # type: ignore[attr-defined]
    return found


def test_a_turn_is_one_threads(tmp_path: Path) -> None:
    """Threads of one process take turns as processes do."""
    first, second = Turn(f"{tmp_path}/lock"), Turn(f"{tmp_path}/lock")
    assert first.take()
    assert not second.take()
    first.show(Progress(1, 2, 3, 4))
    assert second.shown() == Progress(1, 2, 3, 4, os.getpid())
    first.release()
    assert second.take()
    second.release()
    second.release()
