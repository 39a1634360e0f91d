"""What stays: the newest, the best, the milestones, what was resumed from; and everything that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data.checkpoint.names import MANIFEST
from ai4os_data.checkpoint.retention import Retention
from ai4os_data.stores import DirectoryStore
from cache.crowd import wait_for
from checkpoint.runs import open_run, restored_step, save_steps, state_of, steps_of

if TYPE_CHECKING:
    from pathlib import Path


def test_keep_last_keeps_the_newest(tmp_path: Path) -> None:
    """And nothing is left of the others."""
    with open_run(tmp_path / "run", tmp_path, keep_last=2) as run:
        save_steps(run, 1, 2, 3, 4)
        assert steps_of(run) == [4, 3]
        assert run.stats()["removed"] == 2
    assert len(list((tmp_path / "run").glob("*/step-*/*"))) == 4


def test_keep_best_keeps_the_best_beside_them(tmp_path: Path) -> None:
    """By the metric, low or high; what has no number is never the best."""
    for mode, best in (("min", 2), ("max", 3)):
        place = tmp_path / mode
        with open_run(place, tmp_path, keep_last=1, keep_best=1, monitor="loss", mode=mode) as run:
            for step, loss in ((1, 5.0), (2, 1.0), (3, 9.0), (4, float("nan")), (5, 4.0)):
                save_steps(run, step, loss=loss)
            assert steps_of(run) == [5, best]


def test_keep_every_keeps_milestones(tmp_path: Path) -> None:
    """Steps that are a multiple of it."""
    with open_run(tmp_path / "run", tmp_path, keep_last=1, keep_every=3) as run:
        save_steps(run, *range(1, 9))
        assert steps_of(run) == [8, 6, 3]


def test_what_was_resumed_from_stays_until_the_next_start(tmp_path: Path) -> None:
    """It may be the only one that another process can still use, and W2 says so."""
    place = tmp_path / "run"
    with open_run(place, tmp_path, keep_last=1) as run:
        save_steps(run, 1, 2)
    with open_run(place, tmp_path, keep_last=1) as run:
        assert restored_step(run) == 2
        save_steps(run, 3, 4)
        assert steps_of(run) == [4, 2]
    with open_run(place, tmp_path, keep_last=1) as run:
        assert restored_step(run) == 4
        save_steps(run, 5)
        assert steps_of(run) == [5, 4]


def test_abandoned_branch_goes_and_newest_of_a_stranger_stays(tmp_path: Path) -> None:
    """A run that was begun anew beside it is none of our business but for its older ones."""
    place = tmp_path / "run"
    with open_run(place, tmp_path, keep_last=5) as run:
        save_steps(run, 1, 2, 3)
    with open_run(place, tmp_path, keep_last=1) as run:
        restored = run.restore(step=1)
        assert restored is not None
        save_steps(run, 2)
        assert [(c.attempt, c.step) for c in run.list()] == [(2, 2), (1, 1)]
    with open_run(place, tmp_path, keep_last=1) as stranger:
        save_steps(stranger, 7)
        assert [(c.attempt, c.step) for c in stranger.list()] == [(3, 7), (2, 2), (1, 1)]


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    """Whatever a user keeps beside the checkpoints."""
    store = DirectoryStore(tmp_path)
    foreign = ["run/notes.txt", "run/000001-x/step-1/a", "run/best/model.pt"]
    for key in foreign:
        store.write(key, b"mine")
    with open_run(tmp_path / "run", tmp_path, keep_last=1) as run:
        save_steps(run, 1, 2, 3)
    assert [key for key in foreign if store.exists(key)] == foreign


def test_remains_of_own_uploads_go_and_those_of_others_wait(tmp_path: Path) -> None:
    """A folder without a manifest may be an upload that another machine is at."""
    place = tmp_path / "run"
    remains = "000001-00000000/step-000000001-00000000/state-0.pt"
    DirectoryStore(tmp_path).write(f"run/{remains}", b"half")
    with open_run(place, tmp_path) as run:
        save_steps(run, 5)
        assert (place / remains).exists()
        run._pruning._grace_s = 0.0
        save_steps(run, 6)
        assert not (place / remains).exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep_last": 0}, "keep_last"),
        ({"keep_best": -1}, "keep_best"),
        ({"keep_best": 1}, "monitor"),
        ({"keep_every": 0}, "keep_every"),
        ({"mode": "low"}, "mode"),
        ({"durability": "safe"}, "durability"),
        ({"spool_limit": "much"}, "spool limit"),
    ],
)
def test_option_that_makes_no_sense_is_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    """At construction, as a ValueError."""
    with pytest.raises(ValueError, match=named):
        open_run(tmp_path / "run", tmp_path, **options)


def test_metric_that_decides_has_to_be_given(tmp_path: Path) -> None:
    """Else the best could not be told."""
    with (
        open_run(tmp_path / "run", tmp_path, keep_best=1, monitor="loss") as run,
        pytest.raises(ValueError, match="loss"),
    ):
        run.save(state_of(1), 1)
    assert Retention(monitor="x").kept([], [], {}) == set()


def test_same_step_again_replaces_the_one_before(tmp_path: Path) -> None:
    """What was saved last is restored, and the others go as older ones do."""
    with open_run(tmp_path / "run", tmp_path, keep_last=1) as run:
        for value in range(8):
            run.save({"value": value}, 0).wait(timeout_s=20)
            wait_for(lambda: not run._uploads.unsent())
        restored = run.restore()
        assert restored is not None
        assert restored["value"] == 7
        assert steps_of(run) == [0]
    assert len(list((tmp_path / "spool").glob("*/*/step-*"))) == 1


def test_steps_that_fall_leave_the_highest_and_the_newest(tmp_path: Path) -> None:
    """The highest is what is restored; what lies between them goes."""
    with open_run(tmp_path / "run", tmp_path, keep_last=1) as run:
        save_steps(run, *range(9, 0, -1))
        assert steps_of(run) == [9, 1]


def test_manifest_that_a_listing_misses_is_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has confirmed stays, whatever one answer says."""
    with open_run(tmp_path / "run", tmp_path, keep_last=5) as run:
        save_steps(run, 1, 2)
        complete = DirectoryStore.list_below
        hidden = f"step-{1:09d}"

        def list_below(store: DirectoryStore, folder: str) -> Any:
            entries = complete(store, folder)
            return [entry for entry in entries if hidden not in entry.key or not entry.key.endswith(MANIFEST)]

        monkeypatch.setattr(DirectoryStore, "list_below", list_below)
        save_steps(run, 3)
        monkeypatch.undo()
        assert steps_of(run) == [3, 2, 1]
        assert run.verify() == {}
