"""A spool that is removed during a training is made again, and saving continues."""

from __future__ import annotations

import contextlib
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint.spool import Spool
from ai4os_data.stores import DirectoryStore
from tests.checkpoint.test_spool import ATTEMPT, write
from tests.support.crowd import Warnings
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.stores import Level

PARTS: dict[str, Callable[[StorageCheckpoint], Path]] = {
    "directory": lambda run: run.saver.spool.directory,
    "run": lambda run: run.saver.spool.folder,
    "attempt": lambda run: run.saver.spool.folder / str(run.saver._attempt),
}

ENDS = (errors.LostError, errors.DroppedError)


class Slow(DirectoryStore):
    """A storage that holds a write up until the test lets it continue."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.is_asked, self.goes = threading.Event(), threading.Event()

    def write_confirmed(self, key: str, content: Path | bytes, sha256: str, **more: Any) -> Level:
        """Wait before the first byte of a state."""
        if key.endswith(".pt"):
            self.is_asked.set()
            assert self.goes.wait(30)
        return super().write_confirmed(key, content, sha256, **more)


@pytest.mark.parametrize("part", PARTS)
def test_removed_spool_is_made_anew_with_one_warning(tmp_path: Path, part: str) -> None:
    """The next save arrives, none raises, and a restore finds it."""
    with Warnings() as warnings, open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
        shutil.rmtree(PARTS[part](run))
        save_steps(run, 2, 3)
    assert len(warnings) == 1
    assert "was removed while the run goes on, and is made anew" in warnings[0]
    assert "is lost" not in warnings[0]
    with open_run(tmp_path / "run", tmp_path) as run:
        assert restored_step(run) == 3
        assert steps_of(run) == [3, 2]


def test_spool_that_is_removed_again_and_again(tmp_path: Path) -> None:
    """Each save arrives or says why not, and the last one is there."""
    run = open_run(tmp_path / "run", tmp_path)
    save_steps(run, 1)
    is_over = threading.Event()

    def clean() -> None:
        while not is_over.wait(0.02):
            shutil.rmtree(run.saver.spool.directory, ignore_errors=True)

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    handles = [run.saver.save(state_of(step, 100_000), step) for step in range(2, 20)]
    is_over.set()
    cleaner.join()
    run.saver.save(state_of(20), 20).wait(timeout_s=20)
    assert {type(handle.error) for handle in handles} <= {type(None), errors.CheckpointError, *ENDS}
    assert restored_step(run) == 20
    with contextlib.suppress(errors.CheckpointError):  # of a save that found it removed at each try
        run.close()


@pytest.mark.parametrize("part", ["attempt", "checkpoint", "state", "manifest"])
def test_upload_whose_files_are_removed_ends_clearly(tmp_path: Path, part: str) -> None:
    """Its handle says that it is lost, and where; the next save raises nothing and arrives."""
    store = Slow(tmp_path / "run")
    with open_run(store, tmp_path) as run:
        handle = run.save(state_of(1), 1)
        assert store.is_asked.wait(20)
        (folder,) = run.saver.spool.folder.glob("*/step-*")
        doomed = {"attempt": [folder.parent], "checkpoint": [folder], "manifest": [folder / "MANIFEST.json"]}
        for path in doomed.get(part, [*folder.glob("state-*")]):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        store.goes.set()
        with pytest.raises(errors.LostError, match=r"step 1 is lost.*removed.*before it was on the storage"):
            handle.wait(timeout_s=20)
        assert handle.level is None
        run.save(state_of(2), 2).wait(timeout_s=20)
        assert restored_step(run) == 2


def test_last_save_that_is_lost_is_raised_by_close(tmp_path: Path) -> None:
    """If no newer save has arrived, close raises the loss."""
    store = Slow(tmp_path / "run")
    run = open_run(store, tmp_path)
    run.save(state_of(1), 1)
    assert store.is_asked.wait(20)
    shutil.rmtree(run.saver.spool.directory)
    store.goes.set()
    with pytest.raises(errors.LostError, match="step 1 is lost"):
        run.close()


def test_warning_names_what_was_not_on_the_storage(tmp_path: Path) -> None:
    """A lost checkpoint is no longer listed."""
    spool = Spool(tmp_path / "spool", "run")
    spool.open_attempt(ATTEMPT)
    spool.note(write(spool, 1), "confirmed")
    write(spool, 2)
    shutil.rmtree(spool.directory)
    with Warnings() as warnings:
        spool.scratch()
    assert "What was not on the storage yet is lost: step 2." in warnings[0]
    assert spool.entries() == []
    assert write(spool, 3).is_whole


def test_attempt_of_a_living_process_is_its_own_without_any_file(tmp_path: Path) -> None:
    """The lock is on the folder, so removing old files does not remove it."""
    spool = Spool(tmp_path, "run")
    spool.open_attempt(ATTEMPT)
    spooled = write(spool, 1)
    for path in (spool.folder / str(ATTEMPT)).iterdir():
        if path.is_file():
            path.unlink()
    other = Spool(tmp_path, "run")
    assert other.adopt() == []
    assert spooled.is_whole
    spool.let_go()
    assert [left.name for left in other.adopt()] == [spooled.name]


def test_restore_makes_a_removed_spool_anew(tmp_path: Path) -> None:
    """A restore needs a folder for its download."""
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
        shutil.rmtree(run.saver.spool.directory)
        assert restored_step(run) == 1


def test_run_that_has_nothing_in_the_spool_misses_nothing(tmp_path: Path) -> None:
    """If another object of the run removes the empty folder, nothing is logged."""
    with Warnings() as warnings, open_run(tmp_path / "run", tmp_path) as first:
        with open_run(tmp_path / "run", tmp_path):
            pass
        assert not first.saver.spool.folder.exists()
        save_steps(first, 1)
    assert warnings == []


@pytest.mark.parametrize("is_short", [False, True], ids=["flipped", "short"])
def test_upload_whose_files_are_damaged_ends_clearly(is_short: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """It is not sent again: it counts as lost, close raises that, and the one before is restored."""
    store = Slow(tmp_path / "run")
    run = open_run(store, tmp_path)
    store.goes.set()
    save_steps(run, 1)
    store.is_asked.clear()
    store.goes.clear()
    handle = run.save(state_of(2), 2)
    assert store.is_asked.wait(20)
    (state,) = (tmp_path / "spool").glob("*/*/step-000000002-*/state-*")
    data = state.read_bytes()
    state.write_bytes(data[:-1] if is_short else data[:-1] + b"?")
    store.goes.set()
    with pytest.raises(errors.LostError, match="step 2 is lost: its files are damaged in the spool"):
        handle.wait(timeout_s=20)
    assert handle.level is None
    assert restored_step(run) == 1
    with pytest.raises(errors.LostError):
        run.close(20)
