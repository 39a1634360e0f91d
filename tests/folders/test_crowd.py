"""Processes, threads and ranks that copy the same at once: one fetches, the others wait, and a dead one is no bar."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from torch.utils.data import DataLoader, Dataset

from ai4os_data import Remote, local_copy
from ai4os_data.folders import Progress, copied_to
from tests.support.copies import differences, keys_of, put, small_files
from tests.support.crowd import Worker, together, wait_for
from tests.support.ranks import run_by_ranks
from tests.support.servers import WsgidavServer
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_FLIGHT = 32  # the most files that a dead one may have been at


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Share]:
    """120 files on a server that takes a moment for each answer."""
    with WsgidavServer(tmp_path / "server", latency_s=0.05) as server:
        share = Share(server)
        put(share.root, small_files(120))
        yield share


def copy_to(location: str, remote: Remote | None, target: str) -> tuple[float, int]:
    """Copy; how many files came with this call, and how many there are."""
    copy = local_copy(location, target, remote=remote, progress=False)
    return copy.stats()["fetched"], len(copy.files)


class Copier:
    """The same as a task of a process."""

    def __init__(self, share: Share, target: Path) -> None:
        self._arguments = (share.location, share.remote, str(target))

    def __call__(self) -> tuple[float, int]:
        """Do it."""
        return copy_to(*self._arguments)


def check_fetched_once(share: Share, target: Path, answers: list[tuple[float, int]]) -> None:
    """Hold that every file came once over the network, by one of them, and that all had all."""
    assert Counter(share.read_keys()) == Counter(dict.fromkeys(keys_of(share.root), 1))
    assert sum(fetched for fetched, _ in answers) == 120
    assert [there for _, there in answers] == [120] * len(answers)
    assert differences(share.root, target) == ""


@pytest.mark.parametrize("count", [2, 4])
def test_processes_at_once_fetch_each_file_once(far: Share, count: int, tmp_path: Path) -> None:
    """One copies, the others wait for it."""
    answers = together([Copier(far, tmp_path / "copy")] * count)
    check_fetched_once(far, tmp_path / "copy", answers)


@pytest.mark.parametrize("count", [2, 4])
def test_threads_at_once_fetch_each_file_once(far: Share, count: int, tmp_path: Path) -> None:
    """The same in one process."""
    with ThreadPoolExecutor(count) as pool:
        answers = [*pool.map(lambda _: Copier(far, tmp_path / "copy")(), range(count))]
    check_fetched_once(far, tmp_path / "copy", answers)


def test_ranks_fetch_each_file_once(far: Share, tmp_path: Path) -> None:
    """Processes that torchrun starts, none of which knows of a process group yet."""
    answers = run_by_ranks(copy_to, far.location, far.remote, str(tmp_path / "copy"), ranks=3)
    check_fetched_once(far, tmp_path / "copy", answers)


class CopyingDataset(Dataset[int]):
    """A dataset that copies in its worker, on first use."""

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._found = -1

    def __len__(self) -> int:
        """Two for each worker."""
        return 4

    def __getitem__(self, index: int) -> int:
        """How many files there are."""
        if self._found < 0:
            self._found = self._copier()[1]
        return self._found


def test_workers_of_a_loader_fetch_each_file_once(far: Share, tmp_path: Path) -> None:
    """Two workers of a DataLoader, each of which begins by copying."""
    dataset = CopyingDataset(Copier(far, tmp_path / "copy"))
    assert [int(found) for found in DataLoader(dataset, batch_size=None, num_workers=2)] == [120] * 4
    assert Counter(far.read_keys()) == Counter(dict.fromkeys(keys_of(far.root), 1))


def test_a_dead_copier_is_no_bar(tmp_path: Path) -> None:
    """Three wait for one that is killed: one of them goes on at once, and fetches just what is missing."""
    target = tmp_path / "copy"
    with WsgidavServer(tmp_path / "server", latency_s=0.5) as server:
        share = Share(server)
        put(share.root, small_files(120))
        first = Worker(Copier(share, target))
        wait_for(lambda: len(keys_of(target)) > 5)
        others = [Worker(Copier(share, target)) for _ in range(3)]
        first.kill()
        begun = time.monotonic()
        answers = [other.result() for other in others]
        assert time.monotonic() - begun < 20
        asked = Counter(share.read_keys())
    assert [there for _, there in answers] == [120] * 3
    assert differences(share.root, target) == ""
    assert set(asked) == set(keys_of(share.root))
    assert max(asked.values()) <= 2
    assert asked.total() <= 120 + IN_FLIGHT
    assert sum(fetched > 0 for fetched, _ in answers) == 1


def test_who_waits_sees_how_far_it_is(tmp_path: Path) -> None:
    """It is shown what part has come by now, and to which process."""
    with WsgidavServer(tmp_path / "server", latency_s=0.2) as server:
        share = Share(server)
        put(share.root, small_files(120))
        copier = Worker(Copier(share, tmp_path / "copy"))
        wait_for(lambda: len(keys_of(tmp_path / "copy")) > 5)
        shown: list[Progress] = []
        copied_to(share.location, tmp_path / "copy", shown.append, remote=share.remote)
        assert copier.result() == (120, 120)
        assert Counter(share.read_keys()) == Counter(dict.fromkeys(keys_of(share.root), 1))
    total_bytes = sum(map(len, small_files(120).values()))
    seen = [one for one in shown if 0 < one.came_files < 120]
    assert seen
    assert {(one.total_files, one.total_bytes, one.copier) for one in seen} == {(120, total_bytes, copier.process.pid)}
    assert all(0 < one.came_bytes < total_bytes for one in seen)
