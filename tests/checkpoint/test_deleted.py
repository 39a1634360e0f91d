"""A checkpoint that had arrived and was removed on the storage is not sent again from the spool; the log says so."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.stores.directory import DirectoryStore
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of
from tests.support.shares import Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.stores.base import Entry
    from tests.support.servers import WsgidavServer

TOLD = "had arrived there and is not there any more"


def test_run_that_was_deleted_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The removal is logged once, with the path of the copy; later starts resume from the new run and log nothing."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    shutil.rmtree(place)
    with open_run(place, tmp_path) as run:
        assert restored_step(run) is None
        assert steps_of(run) == []
        assert run.latest() is None
        save_steps(run, 5)
    assert caplog.text.count(TOLD) == 1
    assert "step 1 had" in caplog.text
    assert "a new run begins" in caplog.text
    (copy,) = tmp_path.glob("spool/*/000001-*/step-*")
    assert str(copy) in caplog.text
    with open_run(place, tmp_path) as run:
        assert restored_step(run) == 5
        assert steps_of(run) == [5], "nothing of the old one was sent again"
    assert caplog.text.count(TOLD) == 1


def test_deleted_run_on_a_server_begins_anew(
    wsgidav: WsgidavServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run begins anew if its own folder is gone, or the one above it."""
    share = Share(wsgidav)
    for number, doomed in enumerate(("runs/0", "runs")):
        place = f"{share.location}/runs/{number}"
        with open_run(place, tmp_path, remote=share.remote) as run:
            save_steps(run, 1)
        shutil.rmtree(share.root / doomed)
        with open_run(place, tmp_path, remote=share.remote) as run:
            assert restored_step(run) is None
        assert caplog.text.count(TOLD) == number + 1


def test_copy_of_a_deleted_checkpoint_can_be_brought_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy can be put back in the way that the log describes."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    shutil.rmtree(place)
    open_run(place, tmp_path).close()
    (copy,) = tmp_path.glob("spool/*/000001-*/step-*")
    assert f"copy {copy} to {place}/{copy.parent.name}/{copy.name}" in caplog.text
    shutil.copytree(copy, place / copy.parent.name / copy.name)
    with open_run(place, tmp_path) as run:
        assert restored_step(run) == 1


def test_what_never_arrived_is_sent_though_the_rest_was_deleted(tmp_path: Path) -> None:
    """A checkpoint that had never arrived is sent, although the run's folder was removed."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    (journal,) = tmp_path.glob("spool/*/*/journal")
    journal.unlink()  # as if its process had died before it arrived
    shutil.rmtree(place)
    with open_run(place, tmp_path) as again:
        assert restored_step(again) == 1
    with open_run(place, tmp_path, "another machine") as elsewhere:
        assert restored_step(elsewhere) == 1


def test_one_checkpoint_that_was_deleted_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the newest checkpoint was removed, the one before is restored."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1, 2)
    shutil.rmtree(next(place.glob("*/step-000000002-*")))
    with open_run(place, tmp_path) as run:
        assert restored_step(run) == 1
    assert "step 2 had" in caplog.text
    assert "a new run begins" not in caplog.text


def test_all_checkpoints_deleted_under_a_mark_are_no_new_run(tmp_path: Path) -> None:
    """A mark says that its attempt has had some: restore raises, and the log names the copies in the spool."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    shutil.rmtree(next(place.glob("*/step-*")))
    with open_run(place, tmp_path) as run, pytest.raises(errors.DamagedError, match="move the folder away"):
        run.restore()


def test_what_retention_removed_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If another machine has resumed and pruned, the copies that this one still has are removed without a word."""
    place = tmp_path / "run"
    with open_run(place, tmp_path, keep_last=1) as run:
        save_steps(run, 1)
    for before, step in ((1, 2), (2, 3)):  # a source stays for as long as its process works
        with open_run(place, tmp_path, "other", keep_last=1) as run:
            assert restored_step(run) == before
            save_steps(run, step)
    assert not list(place.glob("*/step-000000001-*"))
    with open_run(place, tmp_path, keep_last=1) as run:
        assert restored_step(run) == 3
    assert TOLD not in caplog.text


def test_run_that_is_deleted_while_its_process_lives_does_not_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The living process raises at each restore and can still save; a new process begins a new run."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1, 2)
        shutil.rmtree(place)
        for _ in range(2):
            with pytest.raises(errors.DamagedError, match="had checkpoints when this process looked before"):
                run.restore()
        with pytest.raises(errors.DamagedError):
            run.list()
        save_steps(run, 3)
        assert restored_step(run) == 3
        assert steps_of(run) == [3]
    assert caplog.text.count(TOLD) == 1
    assert "step 2 had" in caplog.text


def test_newest_that_is_deleted_while_its_process_lives_gives_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If somebody removes the newest checkpoint by hand, the living process restores the one before."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1, 2)
        (newest,) = place.glob("*/step-000000002-*")
        shutil.rmtree(newest)
        assert restored_step(run) == 1
        with pytest.raises(errors.CheckpointError, match="no checkpoint of step 2"):
            run.restore(step=2)
    assert caplog.text.count(TOLD) == 1


class Forgetful(DirectoryStore):
    """A storage whose listing is incomplete for a moment."""

    def list_below(self, folder: str) -> list[Entry]:  # noqa: ARG002
        """Give an empty listing."""
        return []


def test_listing_that_lacks_something_is_no_deletion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each file is asked for by name before a checkpoint counts as removed."""
    place = tmp_path / "run"
    with open_run(DirectoryStore(place), tmp_path) as run:
        save_steps(run, 1)
    with open_run(Forgetful(place), tmp_path) as run:
        assert restored_step(run) == 1
    assert TOLD not in caplog.text


def test_copies_of_what_was_deleted_go_in_time(tmp_path: Path) -> None:
    """Copies of removed checkpoints are deleted by the first start after a week."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    shutil.rmtree(place)
    open_run(place, tmp_path).close()
    open_run(place, tmp_path).close()
    (copy,) = tmp_path.glob("spool/*/000001-*/step-*")
    week_ago = time.time() - 8 * 86400
    os.utime(copy.parent / "journal", (week_ago, week_ago))
    with open_run(place, tmp_path) as run:
        run.save(state_of(2), 2).wait(timeout_s=20)
    assert not copy.parent.exists()
