"""Workers that are forked while another thread is busy with the cache go their way, however often that happens."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai4os_data import StorageDataLoader, StorageDataset
from ai4os_data.cache import CachedStore, DiskCache, index, session_of
from ai4os_data.machine.processes import no_fork
from tests.support.crowd import Warnings, Worker, together, wrong_keys
from tests.support.sources import content, source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from tests.support.shares import Share

KiB = 1024
MiB = 1024 * KiB
SECONDS = 6.0
ENOUGH = 5  # children, however slow the machine is


@dataclass
class Forking:
    """Forks again and again while other threads use the ledger of the same cache, as look-ahead does."""

    directory: str

    def __call__(self) -> tuple[int, list[str]]:
        """Do it; how many children came to their end, and what was warned of."""
        cache = DiskCache(self.directory, 16 * MiB)
        files = source([4 * KiB] * 100, "forking")
        is_over = threading.Event()
        with Warnings() as warnings:
            threads = [threading.Thread(target=self._tell, args=(cache, is_over)) for _ in range(2)]
            for thread in threads:
                thread.start()
            until = time.monotonic() + SECONDS
            ended = 0
            while time.monotonic() < until or ended <= ENOUGH:
                (wrong,) = together([Child(files, cache)])
                assert wrong == []
                ended += 1
            is_over.set()
            for thread in threads:
                thread.join()
        return ended, warnings

    def _tell(self, cache: DiskCache, is_over: threading.Event) -> None:
        while not is_over.is_set():
            cache.stats()


@dataclass
class Child:
    """Fills the cache, and asks the ledger."""

    files: Any
    cache: DiskCache

    def __call__(self) -> list[str]:
        """Do it; what was read wrongly."""
        wrong = wrong_keys(CachedStore(self.files, self.cache), self.files, self.files.list())
        self.cache.stats()
        return wrong


def test_fork_while_threads_have_the_ledger(tmp_path: Path) -> None:
    """A child finds neither a lock that nobody will open, nor an index that looks damaged."""
    worker = Worker(Forking(str(tmp_path)), daemon=False)
    try:
        ended, warnings = worker.result()
    finally:
        worker.kill()
    assert ended > ENOUGH
    assert warnings == []


@dataclass
class Validating:
    """Trains with look-ahead, and validates with workers of its own after every step."""

    location: str
    remote: Any
    directory: str

    def __call__(self) -> list[str]:
        """Do it; what was warned of."""
        with Warnings() as warnings:
            cache = DiskCache(self.directory, 64 * MiB)
            train, valid = (
                StorageDataset(f"{self.location}/{part}", remote=self.remote, cache=cache) for part in ("t", "v")
            )
            loader = StorageDataLoader(train, batch_size=10, shuffle=True, num_workers=2, collate_fn=plain_batch)
            checks = StorageDataLoader(valid, batch_size=10, num_workers=2, collate_fn=plain_batch)
            for _ in range(2):
                for _ in loader:
                    assert sum(map(len, checks)) == 20
                cache.clear()
        return warnings


def plain_batch(items: Sequence[Any]) -> list[Any]:
    """Leave a batch as it is."""
    return list(items)


def test_validation_workers_start_in_the_midst_of_training(share: Share, tmp_path: Path) -> None:
    """Each validation forks workers while look-ahead fills the cache for training."""
    share.put({f"t/{number:03d}.bin": content(f"t{number}", 50_000) for number in range(150)})
    share.put({f"v/{number:03d}.bin": content(f"v{number}", 50_000) for number in range(20)})
    worker = Worker(Validating(share.location, share.remote, str(tmp_path)), daemon=False)
    try:
        assert worker.result() == []
    finally:
        worker.kill()


def test_fork_waits_for_who_must_not_be_forked() -> None:
    """A fork waits for nobody else; a thread inside `no_fork` may fork, and its child can enter at once."""
    steps = []
    has_begun = threading.Event()

    def inside() -> None:
        with no_fork():
            has_begun.set()
            time.sleep(0.2)
            steps.append("left")

    thread = threading.Thread(target=inside)
    thread.start()
    has_begun.wait()
    assert fork_and_enter() == 0
    steps.append("forked")
    thread.join()
    assert steps == ["left", "forked"]
    with no_fork():
        assert fork_and_enter() == 0


def test_finalizer_does_not_wait_for_a_fork() -> None:
    """While a fork waits, no other thread enters `no_fork`; one that must not wait gets False."""
    has_begun = threading.Event()
    children: list[int] = []

    def forking() -> None:
        has_begun.set()
        children.append(fork_and_enter())

    thread = threading.Thread(target=forking)
    with no_fork():
        thread.start()
        has_begun.wait()
        time.sleep(0.1)
        others: list[bool] = []
        other = threading.Thread(target=lambda: others.append(no_fork(wait=False).__enter__()))
        other.start()
        other.join()
        with no_fork(wait=False) as inside:
            assert inside
        assert children == []
    thread.join()
    assert others == [False]
    assert children == [0]


def fork_and_enter() -> int:
    """Fork a child that goes in; its exit code."""
    child = os.fork()
    if child == 0:
        with no_fork():
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_locked_index_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds it locked, reading goes on and nothing is stored; afterwards it is the same index."""
    if sys.version_info >= (3, 11):  # before that diskcache waits for a minute when it opens the index
        monkeypatch.setattr(index, "LOCKED_FOR_S", 0.2)
    files = source([100 * KiB] * 60, "locked")
    cache = DiskCache(tmp_path, 4 * MiB, "lru")
    cached = CachedStore(files, cache)
    assert wrong_keys(cached, files, files.list()[:10]) == []
    cache.close()
    path = tmp_path / "index" / "cache.db"
    before = path.stat().st_ino
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with Warnings() as warnings:
        assert wrong_keys(cached, files, files.list()) == []
    foreign.execute("COMMIT")
    foreign.close()
    assert [message for message in warnings if "made anew" in message] == []
    assert any("locked" in message and "without storing" in message for message in warnings), warnings
    session_of(cache).budget._not_before = 0.0
    assert wrong_keys(cached, files, files.list()) == []
    assert cache.stats()["entries"] > 20
    assert path.stat().st_ino == before
