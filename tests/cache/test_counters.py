"""The numbers that all processes of a dataset add to lie in shared memory, and must not end one where that is full."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai4os_data.machine import shared_memory
from ai4os_data.telemetry import HITS, Counters
from tests.support.crowd import Worker, together, wait_for
from tests.support.disks import tmpfs

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


@dataclass
class Count:
    """Counts one hit."""

    counters: Counters | None = None

    def __call__(self) -> int:
        """Do it; how many there are."""
        counters = self.counters or Counters()
        counters.row[HITS] += 1
        return counters.totals()["hits"]


def test_full_shared_memory_does_not_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders fill the shared memory of a container easily: the numbers then lie beside other temporary files."""
    with tmpfs(tmp_path / "shm", 1024 * 1024) as shm:
        (shm / "full").write_bytes(bytes(1024 * 1024))
        monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(shm))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert together([Count()]) == [1]
        counters = Counters()
        assert together([Count(counters), Count(counters)], "spawn")[0] >= 1
        assert counters.totals()["hits"] == 2
        assert [path.name for path in shm.iterdir()] == ["full"]


@dataclass
class Hold:
    """Keeps counters, and tells when it does."""

    mark: str

    def __call__(self) -> None:
        """Do it."""
        counters = Counters()
        with open(self.mark, "w"):
            pass
        time.sleep(600)
        del counters


def test_numbers_of_the_killed_are_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed leaves its file until the next one counts; those of the living stay."""
    shm = tmp_path / "shm"
    shm.mkdir()
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", str(shm))
    worker = Worker(Hold(str(tmp_path / "mark")))
    wait_for((tmp_path / "mark").exists)
    first = Counters()
    assert len(list(shm.iterdir())) == 2
    worker.kill()
    second = Counters()
    assert len(list(shm.iterdir())) == 2
    first.row[HITS] += 1
    second.row[HITS] += 2
    assert (first.totals()["hits"], second.totals()["hits"]) == (1, 2)
    del first, second
    assert list(shm.iterdir()) == []


_CIRCLES = """
import gc
from ai4os_data.telemetry import HITS, Counters

class Circle:
    def __init__(self):
        self.counters, self.me = Counters(), self

    def __del__(self):
        self.counters.row[HITS] += 1
        print(self.counters.totals()["hits"])

for _ in range(3):
    Circle()
gc.collect()
"""


def test_what_ends_in_a_circle_of_garbage_counts_to_its_end() -> None:
    """A loader's pass that an error keeps in a reference cycle still counts: it once caused a segmentation fault."""
    ended = subprocess.run([sys.executable, "-c", _CIRCLES], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["1", "1", "1"])


@dataclass
class Unpickle:
    """Counts into a file that somebody else is said to have."""

    path: str

    def __call__(self) -> int:
        """Do it; how many hits there are."""
        counters = Counters.__new__(Counters)
        counters.__setstate__(self.path)
        counters.row[HITS] += 1
        return counters.totals()["hits"]


def test_counters_whose_file_is_gone_or_another_one_are_new(tmp_path: Path) -> None:
    """A file that is too short would end the process with the first number behind its end."""
    (tmp_path / "short").write_bytes(bytes(10))
    (tmp_path / "folder").mkdir()
    paths = [str(tmp_path / name) for name in ("short", "folder", "gone")]
    assert together([Unpickle(path) for path in paths]) == [1, 1, 1]
