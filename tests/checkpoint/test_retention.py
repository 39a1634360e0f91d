"""The newest, the best, the milestones and the resume source stay, and so does everything that is not ours."""

from __future__ import annotations

import random
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import errors
from ai4os_data.checkpoint import read_named
from ai4os_data.checkpoint.names import MANIFEST
from ai4os_data.checkpoint.retention import Retention, chosen_mode
from ai4os_data.stores import DirectoryStore, MemoryStore, file_at
from tests.support.crowd import wait_for
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.checkpoint import StorageCheckpoint
    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Level


def test_keep_last_keeps_the_newest(tmp_path: Path) -> None:
    """Nothing is left of the others."""
    with open_run(tmp_path / "run", tmp_path, keep_last=2) as run:
        save_steps(run, 1, 2, 3, 4)
        assert steps_of(run) == [4, 3]
        assert run.saver.counts["removed"] == 2
    assert len(list((tmp_path / "run").glob("*/step-*/*"))) == 4


def test_keep_best_keeps_the_best_beside_them(tmp_path: Path) -> None:
    """Low or high metrics may be good; one that is no number is never the best."""
    for mode, best in (("min", 2), ("max", 3)):
        place = tmp_path / mode
        with open_run(place, tmp_path, keep_last=1, keep_best=1, monitor="loss", mode=mode) as run:
            for step, loss in ((1, 5.0), (2, 1.0), (3, 9.0), (4, float("nan")), (5, 4.0)):
                save_steps(run, step, loss=loss)
            assert steps_of(run) == [5, best]


def test_keep_every_keeps_milestones(tmp_path: Path) -> None:
    """Checkpoints whose step is a multiple stay."""
    with open_run(tmp_path / "run", tmp_path, keep_last=1, keep_every=3) as run:
        save_steps(run, *range(1, 9))
        assert steps_of(run) == [8, 6, 3]


def test_what_was_resumed_from_stays_until_the_next_start(tmp_path: Path) -> None:
    """Another process may depend on it, as W2 says."""
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
    """The newest checkpoint of an unrelated attempt stays; its older ones are removed."""
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
    """Files that a user keeps beside the checkpoints stay."""
    store = DirectoryStore(tmp_path)
    foreign = ["run/notes.txt", "run/000001-x/step-1/a", "run/best/model.pt"]
    for key in foreign:
        store.write(key, b"mine")
    with open_run(tmp_path / "run", tmp_path, keep_last=1) as run:
        save_steps(run, 1, 2, 3)
    assert [key for key in foreign if file_at(store, key) is not None] == foreign


def test_remains_of_own_uploads_go_and_those_of_others_wait(tmp_path: Path) -> None:
    """A folder without a manifest may be another machine's running upload."""
    place = tmp_path / "run"
    remains = "000001-00000000/step-000000001-00000000/state-0.pt"
    DirectoryStore(tmp_path).write(f"run/{remains}", b"half")
    with open_run(place, tmp_path) as run:
        save_steps(run, 5)
        assert (place / remains).exists()
        run.saver.pruning._grace_s = 0.0
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
    """The constructor raises a ValueError."""
    with pytest.raises(ValueError, match=named):
        open_run(tmp_path / "run", tmp_path, **options)


def test_metric_that_decides_has_to_be_given(tmp_path: Path) -> None:
    """Without the monitor's value nothing says which checkpoint is the best."""
    with (
        open_run(tmp_path / "run", tmp_path, keep_best=1, monitor="loss") as run,
        pytest.raises(ValueError, match="loss"),
    ):
        run.save(state_of(1), 1)
    assert Retention(monitor="x").kept([], [], {}) == set()


def test_same_step_again_replaces_the_one_before(tmp_path: Path) -> None:
    """The checkpoint saved last is restored, and the others are removed as older ones."""
    with open_run(tmp_path / "run", tmp_path, keep_last=1) as run:
        for value in range(8):
            run.save({"value": value}, 0).wait(timeout_s=20)
            wait_for(lambda: not run.saver.uploads.unsent())
        restored = run.restore()
        assert restored is not None
        assert restored["value"] == 7
        assert steps_of(run) == [0]
    assert len(list((tmp_path / "spool").glob("*/*/step-*"))) == 1


def test_steps_that_fall_leave_the_highest_and_the_newest(tmp_path: Path) -> None:
    """The highest step is restored; those in between are removed."""
    with open_run(tmp_path / "run", tmp_path, keep_last=1) as run:
        save_steps(run, *range(9, 0, -1))
        assert steps_of(run) == [9, 1]


def test_manifest_that_a_listing_misses_is_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that this process has confirmed stays, whatever one listing shows."""
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


# --- over the whole run


BEST: dict[str, Any] = {"keep_last": 1, "keep_best": 1, "monitor": "acc", "mode": "max"}


def measured(run: StorageCheckpoint) -> list[tuple[int, int, float]]:
    """Attempt, step and metric of each checkpoint, newest first."""
    return [(one.attempt, one.step, one.metrics["acc"]) for one in run.list()]


def save_measured(run: StorageCheckpoint, *scores: float, begin: int = 0) -> None:
    """Save one step for each score."""
    for step, acc in enumerate(scores, start=begin):
        save_steps(run, step, acc=acc)


@pytest.mark.parametrize("restart", ["anew", "from a place of its own", "from itself", "from an old one"])
def test_best_stays_through_every_restart(tmp_path: Path, restart: str) -> None:
    """The best one stays through two restarts, wherever they resumed from."""
    with open_run(tmp_path / "run", tmp_path, **BEST) as run:
        save_measured(run, 0.5, 0.9, 0.6, 0.7)
    for score in (0.4, 0.3):
        with open_run(tmp_path / "run", tmp_path, **BEST) as run:
            if restart == "from itself":
                assert run.restore() is not None
            elif restart == "from an old one":
                run.saver.go_on_from(run.list()[-1].name)
            elif restart == "from a place of its own":
                with open_run(tmp_path / "other", tmp_path) as other:
                    save_steps(other, 3)
                    assert restored_step(other) == 3
            save_measured(run, score, score - 0.1, begin=4)
            found = measured(run)
            assert found[0] == (found[0][0], 5, score - 0.1)
            assert (1, 1, 0.9) in found


def test_best_of_a_line_gives_way_to_the_best_of_the_run(tmp_path: Path) -> None:
    """keep_best counts over the run; of equal ones the newest stays, and unmeasured ones do not count."""
    for scores in ((0.5, 0.95, 0.6), (0.8, float("nan"), 0.7), (0.95, 0.9, 0.1)):
        with open_run(tmp_path / "run", tmp_path, **{**BEST, "keep_best": 2}) as run:
            save_measured(run, *scores)
    with open_run(tmp_path / "run", tmp_path) as run:
        assert measured(run) == [(3, 2, 0.1), (3, 0, 0.95), (2, 2, 0.7), (1, 2, 0.6), (1, 1, 0.95)]
    with open_run(tmp_path / "run", tmp_path, **BEST) as run:
        save_measured(run, 0.3, 0.2)
        assert measured(run)[:3] == [(4, 1, 0.2), (3, 2, 0.1), (3, 0, 0.95)]
        assert (1, 1, 0.95) not in measured(run)


@pytest.mark.parametrize("lost", ["manifest", "state", "all"])
def test_best_stays_where_the_line_is_broken(tmp_path: Path, lost: str) -> None:
    """It stays if the parent of an attempt is damaged or gone."""
    for scores in ((0.9, 0.5), (0.4, 0.3), (0.35, 0.25)):
        with open_run(tmp_path / "run", tmp_path, **BEST) as run:
            run.restore()
            save_measured(run, *scores)
    for folder in (tmp_path / "run").glob("000002-*/step-*"):
        if lost == "all":
            shutil.rmtree(folder)
        for path in folder.glob({"manifest": "MANIFEST.json", "state": "state-*", "all": "x"}[lost]):
            path.write_bytes(b"?")
    with open_run(tmp_path / "run", tmp_path, "other", **BEST) as run:
        run.restore()
        save_measured(run, 0.2, 0.1)
        assert (1, 0, 0.9) in measured(run)
        assert measured(run)[0] == (4, 1, 0.1)


def test_damaged_one_is_not_the_best(tmp_path: Path) -> None:
    """A checkpoint that is cut off on the storage displaces no intact one, and stays to be examined."""
    with open_run(tmp_path / "run", tmp_path, **BEST) as run:
        save_measured(run, 0.9, 0.8)
        (state,) = (tmp_path / "run").glob("*/step-000000000-*/state-*")
        state.write_bytes(state.read_bytes()[:-1])
        save_measured(run, 0.7, 0.6, begin=2)
        assert measured(run) == [(1, 3, 0.6), (1, 1, 0.8), (1, 0, 0.9)]


def test_milestones_stay_whatever_attempt(tmp_path: Path) -> None:
    """Multiples of keep_every stay in all attempts; with 1 all checkpoints do."""
    for steps in ((1, 2, 3), (4, 5, 6)):
        with open_run(tmp_path / "run", tmp_path, keep_last=1, keep_every=2) as run:
            save_steps(run, *steps)
    with open_run(tmp_path / "run", tmp_path, keep_last=1, keep_every=2) as run:
        save_steps(run, 7)
        assert steps_of(run) == [7, 6, 4, 3, 2]
    for _ in range(3):
        with open_run(tmp_path / "all", tmp_path, keep_last=1, keep_every=1) as run:
            save_steps(run, 1, 2)
    with open_run(tmp_path / "all", tmp_path) as run:
        assert len(run.list()) == 6


def test_best_of_two_writers_stays(tmp_path: Path) -> None:
    """Two writers save and prune at once, and the best of all checkpoints is there at the end."""
    begun = threading.Barrier(2)

    def write(number: int) -> None:
        chance = random.Random(number)
        with open_run(tmp_path / "run", tmp_path, f"spool-{number}", **{**BEST, "keep_best": 2}) as run:
            begun.wait(20)
            for step in range(12):
                score = chance.random()
                scores.append(score)
                save_steps(run, step, acc=score)

    scores: list[float] = []
    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with open_run(tmp_path / "run", tmp_path) as run:
        assert set(sorted(scores)[-2:]) <= {score for _, _, score in measured(run)}
        assert run.verify() == {}


def test_later_one_of_the_step_that_was_gone_on_from_is_abandoned(tmp_path: Path) -> None:
    """If a step was saved twice, the other checkpoint of the resumed step is abandoned."""
    with open_run(tmp_path / "run", tmp_path, keep_last=9) as run:
        for value in (1, 2):
            run.save({"value": value}, 5).wait(timeout_s=20)
            wait_for(lambda: not run.saver.uploads.unsent())
        second, first = run.list()
    with open_run(tmp_path / "run", tmp_path, keep_last=9) as run:
        assert read_named(run.saver, first.name)["value"] == 1
        assert read_named(run.saver, second.name)["value"] == 2
        run.saver.go_on_from(first.name)
        run.save({"value": 3}, 6).wait(timeout_s=20)
        wait_for(lambda: not run.saver.uploads.unsent())
        assert [one.name for one in run.list()][1:] == [first.name]


def test_restored_is_the_first_of_its_step_where_that_was_gone_on_from(tmp_path: Path) -> None:
    """If what came after is damaged, the checkpoint that was resumed from is restored."""
    with open_run(tmp_path / "run", tmp_path, keep_every=5) as run:
        for value in (1, 2):
            run.save({"value": value}, 5).wait(timeout_s=20)
            wait_for(lambda: not run.saver.uploads.unsent())
        first = run.list()[1].name
    with open_run(tmp_path / "run", tmp_path, keep_every=5) as run:
        run.saver.go_on_from(first)
        run.save({"value": 3}, 6).wait(timeout_s=20)
    for state in (tmp_path / "run").glob("000002-*/*/state-*"):
        state.write_bytes(b"?")
    with open_run(tmp_path / "run", tmp_path, "other") as run:
        restored = run.restore()
        assert restored is not None
        assert (restored.name, restored["value"]) == (first, 1)


def test_step_is_that_of_the_branch_that_is_gone_on_with(tmp_path: Path) -> None:
    """Those of abandoned branches come later; of a step saved twice, the later one counts."""
    options: dict[str, Any] = {"keep_every": 1}
    with open_run(tmp_path / "run", tmp_path, **options) as run:
        for step, value in ((1, "a"), (4, "b"), (4, "c"), (5, "d")):
            run.save({"value": value}, step).wait(timeout_s=20)
    with open_run(tmp_path / "run", tmp_path, **options) as run:
        run.restore(step=1)
        for step, value in ((4, "e"), (7, "f")):
            run.save({"value": value}, step).wait(timeout_s=20)
    with open_run(tmp_path / "run", tmp_path, **options) as run:
        run.restore()
        first = next(one.name for one in run.list() if (one.attempt, one.step) == (1, 5))
        run.saver.go_on_from(first)
        run.save({"value": "g"}, 8).wait(timeout_s=20)
    with open_run(tmp_path / "run", tmp_path) as run:
        found = [run.restore(step=step) for step in (4, 5, 7, 8)]
        assert [one and one["value"] for one in found] == ["c", "d", "f", "g"]


def test_reading_one_by_name_changes_nothing(tmp_path: Path) -> None:
    """Later saves belong to the same attempt as before; the error names a missing one."""
    with open_run(tmp_path / "run", tmp_path, keep_last=9) as run:
        save_steps(run, 1, 2)
        oldest = run.list()[-1].name
        assert read_named(run.saver, oldest).step == 1
        save_steps(run, 3)
        assert [(one.attempt, one.parent) for one in run.list()] == [(1, None)] * 3
        shutil.rmtree(tmp_path / "run" / str(oldest))
        shutil.rmtree(tmp_path / "spool")
    with (
        open_run(tmp_path / "run", tmp_path) as run,
        pytest.raises(errors.CheckpointError, match=f"no checkpoint {oldest}"),
    ):
        read_named(run.saver, oldest)


# --- whether high is good


@pytest.mark.parametrize(
    "monitor",
    ["loss", "val_loss", "val/loss", "valLoss", "MSELoss", "LOSS", "loss/dataloader_idx_0", "val-error.1", "error2"],
)
def test_loss_or_error_is_good_when_it_is_low(tmp_path: Path, monitor: str) -> None:
    """The name of the metric says so; mode="max" overrides it."""
    assert chosen_mode(monitor, None) == "min"
    assert chosen_mode(monitor, "max") == "max"
    with open_run(tmp_path / monitor.replace("/", "-"), tmp_path, keep_last=1, keep_best=1, monitor=monitor) as run:
        for step, value in enumerate((0.9, 0.2, 0.5)):
            save_steps(run, step, **{monitor: value})
        assert steps_of(run) == [2, 1]


@pytest.mark.parametrize(
    "monitor", ["acc", "score", "val_map", "val_los", "lossless", "terror", "neg_mean_squared_error", "", "val_f1"]
)
def test_other_metric_needs_a_mode(tmp_path: Path, monitor: str) -> None:
    """The constructor's error shows both modes; without a rule that uses the metric there is none."""
    with pytest.raises(ValueError, match=rf"monitor='{monitor}' needs a mode.*mode='max'.*mode='min'"):
        open_run(tmp_path / "run", tmp_path, keep_best=1, monitor=monitor)
    with open_run(tmp_path / "run", tmp_path, monitor=monitor) as run:
        save_steps(run, 1)


class Late(MemoryStore):
    """A store that waits for its gate, and is away once for some steps."""

    def __init__(self, *away: int) -> None:
        super().__init__()
        self.is_open = threading.Event()
        self.away = set(away)

    def write_confirmed(self, key: str, *arguments: Any, **options: Any) -> Level:
        """Wait, then fail or store."""
        self.is_open.wait(60)
        for step in list(self.away):
            if f"/step-{step:09d}-" in key:
                self.away.discard(step)
                raise errors.ServerUnavailableError("it is away")
        return super().write_confirmed(key, *arguments, **options)


def test_outage_drops_no_newest_for_an_older_best(patience: Patience, tmp_path: Path) -> None:
    """A waiting best checkpoint displaces only older ones, also if an earlier process left both."""
    store = Late(3)
    rules: dict[str, Any] = {"keep_best": 1, "monitor": "accuracy", "mode": "max"}
    with open_run(store, tmp_path, **rules) as run:
        run.saver.sender.tries.patience = patience
        handles = []
        for step, accuracy in ((1, 0.1), (2, 0.9), (3, 0.3)):
            handles.append(run.save(state_of(step), step, {"accuracy": accuracy}))
            handles[-1].wait("local")
        wait_for(lambda: len(run.saver.uploads._pending) == 2)
        store.is_open.set()
        assert [handle.wait(timeout_s=20) for handle in handles] == ["confirmed"] * 3
    with open_run(store, tmp_path, "another machine", **rules) as run:
        assert restored_step(run) == 3
        assert steps_of(run) == [3, 2]
