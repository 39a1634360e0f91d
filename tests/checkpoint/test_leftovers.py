"""Checkpoints of closed runs are swept by age, share and number, and only if they have arrived on a storage."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data.checkpoint import leftovers
from ai4os_data.checkpoint.attempts import note_level, turn
from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.checkpoint.spool import Spool
from tests.checkpoint.test_spool import ATTEMPT, write
from tests.support.runs import drop_sent_of_others, open_run, save_steps

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.stores import Level

DAY_S = 86400.0


def closed_run(tmp_path: Path, run: str, *steps: int, age_s: float = 0.0, level: Level = "confirmed") -> Path:
    """Leave the spool of a closed run, made older; the folder of its attempt."""
    spool = Spool(tmp_path, run)
    spool.open_attempt(ATTEMPT)
    for step in steps:
        spooled = write(spool, step)
        spool.note(spooled, level)
        os.utime(spooled.folder, (time.time() - age_s,) * 2)
    spool.let_go()
    return spool.folder / str(ATTEMPT)


def steps_in(attempt: Path) -> list[int]:
    """The steps of the checkpoints left in an attempt."""
    return sorted(int(path.name.split("-")[1]) for path in attempt.glob("step-*"))


def swept(tmp_path: Path, limit_bytes: int | None = None) -> None:
    """Sweep as another run does at its start."""
    mine = Spool(tmp_path, "mine")
    leftovers.sweep(mine.directory, mine.folder, limit_bytes)


def test_what_has_arrived_goes_when_it_is_old(tmp_path: Path) -> None:
    """Checkpoints go after a day, the newest of each run after a week, and then the empty folders."""
    fresh = closed_run(tmp_path, "fresh", 1, 2)
    older = closed_run(tmp_path, "older", 1, 2, age_s=2 * DAY_S)
    oldest = closed_run(tmp_path, "oldest", 1, 2, age_s=8 * DAY_S)
    swept(tmp_path)
    assert (steps_in(fresh), steps_in(older)) == ([1, 2], [2])
    assert not oldest.parent.exists()


@pytest.mark.parametrize("age_s", [0.0, 1000 * DAY_S])
def test_what_has_not_arrived_stays(tmp_path: Path, age_s: float) -> None:
    """A checkpoint that has not arrived, or that a caching mount may lose, stays however old it is."""
    attempt = closed_run(tmp_path, "run", 1, 2, age_s=age_s, level="local")
    for number in range(9):
        closed_run(tmp_path, f"other {number}", 1)
    swept(tmp_path, 1024 * 1024)
    assert steps_in(attempt) == [1, 2]


def test_what_takes_more_than_its_share_goes_oldest_first(tmp_path: Path) -> None:
    """The share is half of a limit or a tenth of the disk; the newest of each run goes last."""
    first = closed_run(tmp_path, "first", 1, 2, age_s=200)
    second = closed_run(tmp_path, "second", 1, 2, age_s=100)
    one_bytes = sum(path.lstat().st_blocks * 512 for path in next(first.glob("step-000000001-*")).iterdir())
    swept(tmp_path, 6 * one_bytes)
    assert (steps_in(first), steps_in(second)) == ([2], [1, 2])
    swept(tmp_path, 4 * one_bytes)
    assert (steps_in(first), steps_in(second)) == ([2], [2])
    swept(tmp_path, 2 * one_bytes)
    assert not first.exists()
    assert steps_in(second) == [2]


def test_runs_that_are_too_many_go_oldest_first(tmp_path: Path) -> None:
    """Of twelve small closed runs only the newest stay."""
    for number in range(12):
        with open_run(tmp_path / f"run {number}", tmp_path) as run:
            save_steps(run, 1, 2)
    swept(tmp_path / "spool")
    left = [path for path in (tmp_path / "spool").iterdir() if any(path.glob("*/step-*"))]
    assert len(left) == leftovers.MOST_RUNS
    with open_run(tmp_path / "run 0", tmp_path) as run:
        restored = run.restore()
        assert restored is not None
        assert restored.step == 2


def test_living_run_is_left_alone(tmp_path: Path) -> None:
    """A living run's checkpoints stay, also those that it took over from a dead process."""
    attempt = closed_run(tmp_path, "run", 1, age_s=30 * DAY_S)
    living = Spool(tmp_path, "run")
    assert len(living.adopt()) == 1
    swept(tmp_path)
    assert steps_in(attempt) == [1]
    living.let_go()
    swept(tmp_path)
    assert not attempt.exists()


def test_own_run_looks_after_itself(tmp_path: Path) -> None:
    """A start does not sweep its own run, which it may restore."""
    attempt = closed_run(tmp_path, "mine", 1, age_s=30 * DAY_S)
    swept(tmp_path)
    assert steps_in(attempt) == [1]


def test_what_has_another_name_stays(tmp_path: Path) -> None:
    """Files under other names stay: in the directory, beside attempts, and beside checkpoints."""
    attempt = closed_run(tmp_path, "run", 1, age_s=30 * DAY_S)
    foreign = [tmp_path / "notes", attempt.parent / "restore-me", attempt / "mine.new", tmp_path / ("0" * 25)]
    for folder in foreign:
        folder.mkdir()
        (folder / "file").write_bytes(b"mine")
    swept(tmp_path)
    assert all((folder / "file").exists() for folder in foreign)
    assert steps_in(attempt) == []


def test_what_was_only_begun_goes_with_its_process(tmp_path: Path) -> None:
    """Downloads and half-written checkpoints of dead processes are removed, and those of living ones stay."""
    living = Spool(tmp_path, "living").scratch()
    child = os.fork()
    if child == 0:
        spool = Spool(tmp_path, "dead")
        spool.scratch()
        spool.open_attempt(ATTEMPT)
        (spool.folder / str(ATTEMPT) / "step-000000001-00000000.new").mkdir()
        os._exit(0)
    os.waitpid(child, 0)
    dead = Spool(tmp_path, "dead").folder
    assert len([*dead.iterdir()]) == 2
    swept(tmp_path)
    assert not dead.exists()
    assert living.exists()


def test_run_that_starts_during_a_sweep_takes_over_what_was_left(tmp_path: Path) -> None:
    """It waits for the sweep, and does not take the swept attempt for a living one."""
    closed_run(tmp_path, "run", 1, level="local")
    run = Spool(tmp_path, "run")
    with turn(run.folder) as is_ours:
        assert is_ours
        with turn(run.folder) as is_ours_too:
            assert not is_ours_too
        left: list[int] = []
        starting = threading.Thread(target=lambda: left.extend(one.name.step for one in run.adopt()))
        starting.start()
        time.sleep(0.2)
        assert starting.is_alive()
    starting.join(20)
    assert left == [1]


def test_attempts_in_one_run_are_one_run(tmp_path: Path) -> None:
    """The newest checkpoint of a run is that of its last attempt, whatever the steps are."""
    first = closed_run(tmp_path, "run", 9, age_s=2 * DAY_S)
    spool = Spool(tmp_path, "run")
    second = AttemptName(2, "0123abcd")
    spool.open_attempt(second)
    spool.note(write(spool, 1, second), "confirmed")
    spool.let_go()
    swept(tmp_path)
    assert not first.exists()
    assert steps_in(spool.folder / str(second)) == [1]


def set_aside(attempt: Path) -> None:
    """Record that the checkpoints of an attempt were removed on the storage."""
    for path in attempt.glob("step-*"):
        name = CheckpointName.parse(f"{attempt.name}/{path.name}")
        assert name is not None
        note_level(attempt, name, "deleted")


def test_last_copy_of_what_was_removed_on_the_storage_stays_for_its_time(tmp_path: Path) -> None:
    """Neither share nor number removes it within a week; a save that needs the room does."""
    attempts = [closed_run(tmp_path, run, 1, 2, age_s=6 * DAY_S) for run in ("old", "short of room")]
    for attempt in attempts:
        set_aside(attempt)
    swept(tmp_path, 1024 * 1024)
    assert [steps_in(attempt) for attempt in attempts] == [[1, 2], [1, 2]]
    old, needed = attempts
    for path in (*old.glob("step-*"), old / "journal"):
        os.utime(path, (time.time() - 8 * DAY_S,) * 2)
    swept(tmp_path)
    assert not old.exists()
    assert steps_in(needed) == [1, 2]
    drop_sent_of_others(Spool(tmp_path, "mine"))
    assert not needed.exists()


def test_runs_that_start_side_by_side_take_no_folder_from_each_other(tmp_path: Path) -> None:
    """If a sweep removes the empty folder of a run that is starting, the run makes it again."""
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            leftovers.sweep(directory, directory / "none")

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    try:
        for number in range(300):
            spool = Spool(directory, f"run {number}")
            attempt = AttemptName.new(1)
            spool.open_attempt(attempt)
            assert (spool.folder / str(attempt)).is_dir()
            spool.let_go()
    finally:
        is_over.set()
        for thread in looking:
            thread.join()


def test_start_leaves_alone_what_another_process_adds_to(tmp_path: Path) -> None:
    """While another process has its turn in a run's folder, nothing in it is removed."""
    run = tmp_path / ("0" * 24)
    begun = run / f"{AttemptName.new(1)}.new-00000000"
    begun.mkdir(parents=True, mode=0o700)
    with turn(run):
        swept(tmp_path)
        assert begun.exists()
        begun.rmdir()
        swept(tmp_path)
        assert run.exists()
    swept(tmp_path)
    assert not run.exists()
