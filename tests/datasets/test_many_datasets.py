"""Many datasets of one remote in one process: what they hold open is shared; what cannot be opened is told as such."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import ConcatDataset, DataLoader

from ai4os_data import DiskCache, StorageDataset, errors
from ai4os_data.cache import session_of
from ai4os_data.machine import shared_memory
from ai4os_data.stores import open_store
from ai4os_data.telemetry import HITS, Counters
from tests.support.faulty import Faulty
from tests.support.servers import Fault
from tests.support.shares import Share

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from ai4os_data.stores import Store
    from tests.support.servers import FaultServer

FOLDERS = 30


def descriptors() -> int:
    """How many files and connections this process has open."""
    return len(os.listdir("/proc/self/fd"))


def make(share: Share, tmp_path: Path) -> list[StorageDataset]:
    """A dataset for each folder, all over one cache."""
    share.put({f"{folder:02}/{number}.bin": b"x" * 100 for folder in range(FOLDERS) for number in range(4)})
    cache = DiskCache(tmp_path / "cache", "64MiB")
    return [
        StorageDataset(f"{share.location}/{folder:02}", remote=share.remote, cache=cache) for folder in range(FOLDERS)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_datasets_of_one_remote_share_what_they_hold_open(share: Share, tmp_path: Path, workers: int) -> None:
    """Thirty of them take hardly more descriptors than one, before and after an epoch."""
    before = descriptors()
    datasets = make(share, tmp_path)
    assert descriptors() - before < 12
    loader: Any = DataLoader(ConcatDataset(datasets), batch_size=8, shuffle=True, num_workers=workers, collate_fn=len)
    assert sum(loader) == FOLDERS * 4
    assert descriptors() - before < 40
    assert sum(dataset.stats()["requests_propfind"] for dataset in datasets) >= FOLDERS


def test_stores_with_other_credentials_share_nothing(fault: FaultServer) -> None:
    """Stores with other credentials have cookies and connections of their own."""
    share = Share(fault)
    share.put({"a": b"1"})
    one, other = (open_store(share.location, remote) for remote in (share.remote, None))
    assert one.read("a") == b"1"
    with pytest.raises(errors.AuthenticationError):
        other.list()
    assert one.read("a") == b"1"


def test_closing_one_store_leaves_the_others_their_connections(share: Share) -> None:
    """The connections end with the last store that uses them."""
    share.put({"a": b"1"})
    gc.collect()
    before = descriptors()
    one, other = (open_store(share.location, share.remote) for _ in range(2))
    assert one.read("a") == other.read("a") == b"1"
    one.close()
    assert other.read("a") == b"1"
    del one, other
    gc.collect()
    assert descriptors() <= before


def _read_with_few(store: Store, sender: Connection, *, warm: bool) -> None:
    """Read with no descriptor left, and send what is raised."""
    entry = Faulty.listed()
    if warm:  # what holds connections is there already, and no connection
        dict(store.read_many([entry]))
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 1, hard))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    found: list[object] = []
    for ask in (lambda: dict(store.read_many([entry])), lambda: store.stat(entry.key)):
        try:
            answer: Any = ask()
        except errors.StorageError as error:
            answer = {entry: error}
        found += [(type(outcome).__name__, str(outcome)) for outcome in answer.values()]
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    sender.send(found)


@pytest.mark.parametrize("warm", [False, True])
def test_too_many_open_files_are_told_as_such(faulty: Faulty, warm: bool) -> None:  # noqa: FBT001  a parameter
    """Not as a server that is down: with the limit, and how to raise it."""
    faulty.server.always("*", Fault(drop=True))
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_read_with_few, args=(faulty.store, sender), kwargs={"warm": warm})
    process.start()
    assert receiver.poll(30)
    found = receiver.recv()
    process.join()
    assert [name for name, _ in found] == ["OpenFilesError"] * 2
    assert all("ulimit -n" in text for _, text in found)


def test_cache_that_can_open_nothing_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what to do, and samples are read without being stored."""
    cache = DiskCache(tmp_path, "64MiB")
    session_of(cache).budget.trouble(OSError(errno.EMFILE, "Too many open files"))
    assert "ulimit -n" in caplog.text
    assert "without storing more" in caplog.text


# --- waiting costs nothing


def test_waiting_takes_no_cpu(fault: FaultServer) -> None:
    """A try is due, and all slots hang: nothing is to be done until one of them ends."""
    share = Share(fault)
    share.put({f"{number:02}.bin": b"1" for number in range(40)})
    dataset = StorageDataset(share.location, remote=share.remote, cache=None)
    for number in range(3):
        fault.script(f"{share.name}/{number:02}.bin", Fault(status=503))
    for number in range(3, 40):
        fault.script(f"{share.name}/{number:02}.bin", Fault(stall_s=4))
    begin, cpu = time.monotonic(), time.process_time()
    assert len(dataset.__getitems__(list(range(40)))) == 40
    assert time.monotonic() - begin > 4
    assert time.process_time() - cpu < 0.5


# --- counters


def test_counters_hold_no_file_open(tmp_path: Path) -> None:
    """Counters hold one file open for all, whose lock says that their owner lives."""
    before = descriptors()
    held = [Counters() for _ in range(100)]
    assert descriptors() - before <= 1
    for number, counters in enumerate(held):
        counters.row[HITS] += number
    assert [counters.totals()["hits"] for counters in held] == list(range(100))
    del counters, held
    assert descriptors() - before <= 1
    assert tmp_path.exists()


def test_lock_goes_over_when_its_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first counters are gone, and others of the same owner stay."""
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(tmp_path))
    first, second = Counters(), Counters()
    del first
    _elsewhere(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    second.row[HITS] += 1
    assert second.totals()["hits"] == 1


def test_counters_of_another_container_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has numbers of its own for its processes, and shares the memory with ours."""
    program = shutil.which("unshare")
    if program is None or subprocess.run([program, "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody have process numbers of their own")
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(tmp_path))
    counters = Counters()
    _elsewhere(tmp_path, "unshare", "--pid", "--fork", "--mount-proc")
    assert len(list(tmp_path.iterdir())) == 1
    assert counters.totals()["hits"] == 0


def test_counters_that_were_never_finished_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their process was killed before they had their name; what is being made now, or is not ours, stays."""
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(tmp_path))
    names = ["ai4os-data-new-" + "0" * 24, "ai4os-data-new-" + "1" * 24, "ai4os-data-new-x1y2z3w4"]
    for name in names:
        (tmp_path / name).touch()
    for name in names[1:]:
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    counters = Counters()
    assert {path.name for path in tmp_path.iterdir()} == {names[0], names[2], os.path.basename(counters.__getstate__())}


def test_counters_whose_making_is_broken_off_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler may raise at any moment, such as that of a time limit."""
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(tmp_path))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Counters()
    assert list(tmp_path.iterdir()) == []
    Counters().row[HITS] += 1


def _elsewhere(folder: Path, *before: str) -> None:
    """Make and drop counters in another process."""
    program = (
        f"from ai4os_data.machine import shared_memory; shared_memory._SHARED_MEMORY = {str(folder)!r}\n"
        "from ai4os_data import telemetry\n"
        "counters = telemetry.Counters(); counters.row[0] += 1; del counters"
    )
    subprocess.run([*before, sys.executable, "-c", program], check=True)
