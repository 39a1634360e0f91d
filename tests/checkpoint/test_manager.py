"""A run saves and resumes; what it says of a save is what was reached."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.checkpoint.restoring import Restoring
from ai4os_data.stores import DirectoryStore, Level, MemoryStore
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.stores.base import Entries


class Held(DirectoryStore):
    """A directory whose uploads wait for a gate, and fail if a test wants that."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate = threading.Event()
        self.asked: list[str] = []
        self.failures: list[errors.StorageError] = []

    def write_confirmed(self, key: str, *arguments: Any, **options: Any) -> Level:
        """Store a file once the gate is open."""
        self.asked.append(key)
        self.gate.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        return super().write_confirmed(key, *arguments, **options)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    """A closed gate."""
    return Held(tmp_path / "held")


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


class Training:
    """A model, an optimizer and a scheduler, trained on random numbers."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 50)

    @property
    def state(self) -> dict[str, Any]:
        """Everything that has to be saved."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def step(self) -> float:
        """Train one step; the loss."""
        loss = self.model(torch.randn(16, 4)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return float(loss.item())


def test_new_run_has_nothing_to_restore(tmp_path: Path) -> None:
    """The location of a new run need not exist."""
    with open_run(tmp_path / "not" / "yet", tmp_path) as run:
        assert run.restore() is None
        assert run.latest() is None
        assert run.list() == []
        assert run.verify() == {}


@pytest.mark.parametrize("spool_is_lost", [False, True])
def test_training_goes_on_bit_for_bit(spool_is_lost: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Weights, moments, learning rates and random numbers are those of a training without an interruption."""
    first = Training(0)
    with open_run(tmp_path / "run", tmp_path) as run:
        for _ in range(5):
            first.step()
        run.save({**first.state, "epoch": 3}, 5, {"loss": 0.5})
        expected = [first.step() for _ in range(5)]
    second = Training(1)
    with open_run(tmp_path / "run", tmp_path, "other" if spool_is_lost else "spool") as run:
        restored = run.restore(into=second.state)
        assert restored is not None
        assert (restored.step, restored.metrics, restored.attempt, restored["epoch"]) == (5, {"loss": 0.5}, 1, 3)
        assert set(restored) == {"model", "optimizer", "scheduler", "epoch"}
        assert [second.step() for _ in range(5)] == expected


def test_random_states_can_be_left_alone(tmp_path: Path) -> None:
    """A user who saves random states elsewhere can leave them out."""
    with open_run(tmp_path / "run", tmp_path, save_random_states=False) as run:
        run.save({"x": torch.zeros(1)}, 1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with open_run(tmp_path / "run", tmp_path) as run:
        run.restore(into={"x": torch.zeros(1)})
    assert torch.equal(torch.rand(1), expected)


def test_restore_fills_tensors_and_nested_objects(tmp_path: Path) -> None:
    """Tensors are filled and objects loaded, however the state is nested."""
    weight = torch.arange(3.0)
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save({"w": weight, "nets": {"g": torch.nn.Linear(1, 1), "d": torch.nn.Linear(1, 2)}}, 1)
    target, net = torch.zeros(3), torch.nn.Linear(1, 2)
    with open_run(tmp_path / "run", tmp_path) as run:
        restored = run.restore(into={"w": target, "nets": {"d": net}})
        assert restored is not None
        assert torch.equal(target, weight)
        assert torch.equal(net.weight, restored["nets"]["d"]["weight"])


@pytest.mark.parametrize("step", ["8", 8.5, -1, True])
def test_step_that_is_none_is_refused_by_restore_too(tmp_path: Path, step: Any) -> None:
    """A text that reads like a number is refused; the error once said that this step was missing."""
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save({"step": 8}, 8)
        with pytest.raises(ValueError, match="a step is a number from 0 up, not "):
            run.restore(step=step)
        assert run.restore(step=8) is not None


def test_what_cannot_be_saved_is_named_as_the_caller_wrote_it(tmp_path: Path) -> None:
    """The path in the error begins with the caller's names, and not with those of our file."""
    with open_run(tmp_path / "run", tmp_path) as run:
        with pytest.raises(errors.StateError, match=r"^state\['f'\] is a "):
            run.save({"f": print}, 1)
        with pytest.raises(errors.StateError, match=r"^state\['state'\]\['f'\] is a "):
            run.save({"state": {"f": print}}, 1)


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (lambda: {"modle": torch.nn.Linear(2, 2)}, "the checkpoint holds no modle, but model, step"),
        (lambda: {"model": torch.nn.Linear(2, 3)}, r"model.weight is \(3, 2\), and was saved as \(2, 2\)"),
        (lambda: {"model": torch.nn.Linear(2, 2, bias=False)}, "model.bias was saved, and is not there"),
        (lambda: {"step": 3}, "step is of the type int, and nothing can be loaded into that"),
        (lambda: {"model": torch.zeros(2)}, "model is a tensor of"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_changed(
    into: Callable[[], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    """A mismatch changes neither half of a model nor the random states."""
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save({"model": torch.nn.Linear(2, 2), "step": 1}, 1)
        good = torch.nn.Linear(2, 2)
        bad = into()
        before = good.weight.clone()
        random_state = torch.get_rng_state()
        with pytest.raises(errors.StateMismatchError, match=message):
            run.restore(into={"model": good, **bad})
        assert "model" in bad or torch.equal(good.weight, before)
        assert torch.equal(torch.get_rng_state(), random_state)


def test_level_is_what_has_been_reached(held: Held, tmp_path: Path) -> None:
    """The level is None, then that of the local disk, then that of the store; it is never ahead."""
    run = open_run(held, tmp_path)
    handle = run.save(state_of(1), 1)
    assert handle.wait("local", timeout_s=10) == "local"
    wait_for(lambda: len(held.asked) == 1)
    with pytest.raises(errors.DeadlineError, match=r"step 1 is local after 0\.1 s, and not yet confirmed"):
        handle.wait(timeout_s=0.1)
    assert handle.level == "local"
    held.gate.set()
    assert handle.wait(timeout_s=10) == "confirmed"
    run.close()


def test_intermediate_saves_make_way_and_say_so(held: Held, tmp_path: Path) -> None:
    """One save is in flight and the newest waits; the others are dropped, and take no room."""
    run = open_run(held, tmp_path, keep_last=9)
    handles = [run.save(state_of(1), 1)]
    wait_for(lambda: len(held.asked) == 1)
    for step in (2, 3, 4):
        handles.append(run.save(state_of(step), step))
        handles[-1].wait("local", timeout_s=10)
    wait_for(lambda: handles[2].error is not None)
    with pytest.raises(errors.DroppedError, match="step 2 was dropped: step 3 came"):
        handles[1].wait(timeout_s=10)
    assert [handle.level for handle in handles] == ["local", None, None, "local"]
    held.gate.set()
    run.close()
    assert [handle.level for handle in handles] == ["confirmed", None, None, "confirmed"]
    with open_run(held, tmp_path, "other") as again:
        assert steps_of(again) == [4, 1]
    assert run.stats()["dropped"] == 2


def test_save_never_waits_for_the_store(held: Held, tmp_path: Path) -> None:
    """While an upload hangs, a save takes as long as its copy; the handle has the wait."""
    run = open_run(held, tmp_path)
    begun = time.monotonic()
    for step in range(10):
        run.save(state_of(step), step).wait("local", timeout_s=10)
    assert time.monotonic() - begun < 5
    assert run.stats()["saves"] == 10
    assert 0 < run.stats()["stall_s"] < 5
    held.gate.set()
    run.close()


def test_passing_failure_is_tried_again(held: Held, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error that passes, such as a full server's, is only logged."""
    held.failures = [errors.ServerUnavailableError("down"), errors.OutOfSpaceError("507: full")]
    held.gate.set()
    with open_run(held, tmp_path) as run:
        assert run.save(state_of(1), 1).wait(timeout_s=30) == "confirmed"
    assert "507: full" in caplog.text


def test_lasting_failure_reaches_the_next_save_and_close(held: Held, tmp_path: Path) -> None:
    """Each error is raised once, by a save that still goes on; the next start sends what is in the spool."""
    held.failures = [errors.AuthenticationError("401: the password")]
    held.gate.set()
    run = open_run(held, tmp_path)
    handle = run.save(state_of(1), 1)
    with pytest.raises(errors.AuthenticationError, match="401"):
        handle.wait(timeout_s=10)
    assert handle.level == "local"
    with pytest.raises(errors.AuthenticationError, match="401"):
        run.save(state_of(2), 2)
    wait_for(lambda: run.saver.counts["sent"] == 1)
    held.failures = [errors.PermissionDeniedError("403: read only")]
    run.save(state_of(3), 3)
    with pytest.raises(errors.PermissionDeniedError, match="403"):
        run.close()
    run.close()
    with open_run(held, tmp_path) as again:
        assert restored_step(again) == 3
        wait_for(lambda: again.saver.counts["sent"] == 1)
    with open_run(held, tmp_path, "other") as elsewhere:
        assert restored_step(elsewhere) == 3


def test_what_was_not_sent_is_sent_by_the_next_start(held: Held, tmp_path: Path) -> None:
    """It is sent first and in the background; until then it is restored from the spool."""
    run = open_run(held, tmp_path)
    run.saver.uploads.closing_s = 0.0
    held.failures = [errors.ServerUnavailableError("down")] * 3
    held.gate.set()
    run.save(state_of(7), 7).wait("local", timeout_s=10)
    with pytest.raises(errors.ServerUnavailableError, match="down"):
        run.close()
    assert held.list_below("") == []
    held.failures = []
    held.gate.clear()
    with open_run(held, tmp_path) as again:
        assert restored_step(again) == 7
        held.gate.set()
    with open_run(held, tmp_path, "other") as elsewhere:
        assert restored_step(elsewhere) == 7


def test_two_processes_share_a_spool(tmp_path: Path) -> None:
    """A process does not take over the waiting checkpoints of a living one."""
    slow = Held(tmp_path / "run")
    one = open_run(slow, tmp_path)
    one.save(state_of(1), 1).wait("local", timeout_s=10)
    fast = DirectoryStore(tmp_path / "run")
    with open_run(fast, tmp_path) as two:
        assert two.saver.counts["sent"] == 0
        save_steps(two, 2)
    slow.gate.set()
    one.close()
    with open_run(fast, tmp_path, "other", keep_last=9) as run:
        assert sorted(steps_of(run)) == [1, 2]


class Capped(DirectoryStore):
    """A store that reaches no higher level than a mount."""

    level: Level = "mount"

    def best_level(self) -> Level:
        """The level of a mount."""
        return self.level


def test_level_that_cannot_be_reached_is_refused_at_construction(tmp_path: Path) -> None:
    """The error says which level can be reached."""
    with pytest.raises(errors.DurabilityError, match="reaches the level 'mount' at most, not 'confirmed'"):
        open_run(Capped(tmp_path), tmp_path, durability="confirmed")
    with open_run(Capped(tmp_path), tmp_path, durability="mount") as run:
        assert run.save(state_of(1), 1).wait(timeout_s=10) == "mount"


def test_nothing_is_removed_for_what_a_caching_mount_says(tmp_path: Path) -> None:
    """A caching mount may lose what it accepted, so older checkpoints stay, and the next start sends again."""
    store = Capped(tmp_path / "run")
    store.level = "local"
    with open_run(store, tmp_path, keep_last=1) as run:
        for step in (1, 2, 3):
            run.save(state_of(step), step)
            wait_for(lambda sent=step: run.saver.counts["sent"] == sent)  # type: ignore[misc]
        assert steps_of(run) == [3, 2, 1]
        wait_for(lambda: [spooled.name.step for spooled in run.saver.spool.entries()] == [3])
    for path in (tmp_path / "run").glob("*/step-000000003-*/*"):
        path.unlink()  # as if it had died in the mount's cache
    with open_run(store, tmp_path, keep_last=1) as run:
        wait_for(lambda: run.saver.counts["sent"] == 1)
    with open_run(store, tmp_path, "other") as run:
        assert steps_of(run) == [3, 2, 1]


def test_branch_that_was_abandoned_does_not_come_back(tmp_path: Path) -> None:
    """A run that reached 200, resumed from 100 and trained to 150, restores 150."""
    place = tmp_path / "run"
    with open_run(place, tmp_path, "a", keep_last=9) as run:
        save_steps(run, 50, 100, 150, 200)
    with open_run(place, tmp_path, "b", keep_last=9) as run:
        assert run.restore(step=100) is not None
        save_steps(run, 125, 150)
    with open_run(place, tmp_path, "c", keep_last=9) as run:
        restored = run.restore()
        assert restored is not None
        assert (restored.attempt, restored.step) == (2, 150)
        latest = run.latest()
        assert latest is not None
        assert latest.parent is not None
        assert (latest.attempt, latest.step, latest.parent.step) == (2, 150, 100)
    for path in place.glob("000002-*/*/state-*"):
        path.write_bytes(b"damaged")
    with open_run(place, tmp_path, "d", keep_last=9) as run:
        restored = run.restore()
        assert restored is not None
        assert (restored.attempt, restored.step) == (1, 100)


def test_rollback_in_mid_run_begins_a_branch(tmp_path: Path) -> None:
    """A process that restores an older step and trains on leaves the newer ones behind."""
    with open_run(tmp_path / "run", tmp_path, keep_last=9) as run:
        save_steps(run, 1, 2, 3)
        assert run.restore(step=1) is not None
        save_steps(run, 2)
    with open_run(tmp_path / "run", tmp_path, "other", keep_last=9) as run:
        restored = run.restore()
        assert restored is not None
        assert (restored.attempt, restored.step) == (2, 2)


def test_step_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The error lists the steps that are there."""
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1, 2)
        with pytest.raises(errors.CheckpointError, match=r"no checkpoint of step 3, but of \[1, 2\]"):
            run.restore(step=3)


def test_listing_that_fails_raises(tmp_path: Path) -> None:
    """A failed listing never looks like a run without checkpoints."""

    class Unlisted(DirectoryStore):
        broken = False

        def list_below(self, folder: str) -> Entries:
            if self.broken:
                raise errors.ServerUnavailableError("no listing")
            return super().list_below(folder)

    store = Unlisted(tmp_path / "run")
    run = open_run(store, tmp_path)
    save_steps(run, 1)
    store.broken = True
    with pytest.raises(errors.ServerUnavailableError):
        run.restore()
    with pytest.raises(errors.ServerUnavailableError):
        open_run(store, tmp_path)
    store.broken = False
    run.close()


def test_clock_plays_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that is an hour ahead, and then right, the order is that of the attempts."""
    place = tmp_path / "run"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    with open_run(place, tmp_path, "a") as run:
        save_steps(run, 1)
    for path in place.rglob("*"):
        os.utime(path, (now() + 3600, now() + 3600))
    monkeypatch.undo()
    with open_run(place, tmp_path, "b") as run:
        assert restored_step(run) == 1
        save_steps(run, 2)
    with open_run(place, tmp_path, "c") as run:
        assert restored_step(run) == 2


def test_state_of_the_training_may_change_after_save(held: Held, tmp_path: Path) -> None:
    """The state is copied before save returns."""
    held.gate.set()
    weights = torch.zeros(1_000_000)
    with open_run(held, tmp_path) as run:
        for step in range(5):
            run.save({"weights": weights}, step)
            weights += 1
        last = run.save({"weights": weights}, 5)
        weights += 1
        last.wait(timeout_s=20)
        restored = run.restore()
        assert restored is not None
        assert restored["weights"].unique().tolist() == [5.0]


def test_forked_child_leaves_everything_to_its_parent(held: Held, tmp_path: Path) -> None:
    """A forked child, such as a worker, can neither save nor close, and its end harms no upload."""
    run = open_run(held, tmp_path)
    handle = run.save(state_of(1), 1)
    handle.wait("local", timeout_s=10)
    child = os.fork()
    if child == 0:
        try:
            run.save(state_of(2), 2)
        except errors.CheckpointError:
            run.close()
            del run
            gc.collect()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    held.gate.set()
    assert handle.wait(timeout_s=10) == "confirmed"
    run.close()


def test_closed_run_saves_no_more(tmp_path: Path) -> None:
    """A save of a closed run raises; a second close does nothing."""
    run = open_run(tmp_path / "run", tmp_path)
    run.close()
    run.close()
    with pytest.raises(errors.CheckpointError, match="is closed"):
        run.save(state_of(1), 1)


def test_error_in_the_training_is_not_hidden_by_that_of_the_close(held: Held, tmp_path: Path) -> None:
    """The training's error is raised, and the last state is still sent."""
    held.failures = [errors.AuthenticationError("401")]
    held.gate.set()
    run = open_run(held, tmp_path)
    handle = run.save(state_of(1), 1)
    with pytest.raises(ZeroDivisionError), run:
        _ = 1 // 0
    assert isinstance(handle.error, errors.AuthenticationError)


def test_step_and_metrics_are_checked(tmp_path: Path) -> None:
    """Steps are numbers from 0 up; metrics may be tensors."""
    with open_run(tmp_path / "run", tmp_path) as run:
        for step in (-1, True, 1.5):
            with pytest.raises(ValueError, match="a step is a number"):
                run.save(state_of(1), step)  # type: ignore[arg-type]
        run.save(state_of(1), 1, {"loss": torch.tensor(0.5)}).wait(timeout_s=10)
        latest = run.latest()
        assert latest is not None
        assert latest.metrics == {"loss": 0.5}


def test_same_step_twice_is_two_checkpoints(tmp_path: Path) -> None:
    """Two saves of one step do not overwrite each other."""
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1, 1)
        assert steps_of(run) == [1, 1]
        assert len({checkpoint.name for checkpoint in run.list()}) == 2


def test_run_in_memory_works_too(tmp_path: Path) -> None:
    """A store in memory serves like any other."""
    with open_run(MemoryStore(), tmp_path) as run:
        save_steps(run, 1, 2)
        assert restored_step(run) == 2


def test_repr_tells_where(tmp_path: Path) -> None:
    """The repr shows the location and nothing else."""
    with StorageCheckpoint(tmp_path / "run", spool=tmp_path / "spool") as run:
        assert repr(run) == f"StorageCheckpoint('{tmp_path / 'run'}')"


def test_best_one_waits_beside_the_newest(held: Held, tmp_path: Path) -> None:
    """A waiting checkpoint that a rule keeps is not dropped for a newer one; others are."""
    run = open_run(held, tmp_path, keep_last=1, keep_best=2, monitor="loss")
    run.save(state_of(0), 0, {"loss": 9.0})
    wait_for(lambda: bool(held.asked))
    losses = (5.0, 1.0, 4.0, 2.0, 8.0, 7.0)
    handles = [run.save(state_of(step), step, {"loss": loss}) for step, loss in enumerate(losses, start=1)]
    run.saver.write_out()
    held.gate.set()
    run.close()
    assert [handle.step for handle in handles if handle.level == "confirmed"] == [2, 4, 6]
    with open_run(held, tmp_path, "other") as again:
        assert steps_of(again) == [6, 4, 2]


def test_what_waits_is_weighed_against_the_whole_run(held: Held, tmp_path: Path) -> None:
    """A better checkpoint of an earlier attempt displaces it, but not one that somebody has removed."""
    options: dict[str, Any] = {"keep_last": 1, "keep_best": 1, "monitor": "loss"}
    held.gate.set()
    with open_run(held, tmp_path, **options) as run:
        save_steps(run, 1, loss=0.1)
    for is_removed in (False, True):
        run = open_run(held, tmp_path, **options)
        if is_removed:
            for folder in (tmp_path / "held").glob("000001-*"):
                shutil.rmtree(folder)
        save_steps(run, 2, loss=0.9)
        held.gate.clear()
        held.asked.clear()
        handles = [run.save(state_of(3), 3, {"loss": 0.8})]
        wait_for(lambda: bool(held.asked))
        handles += [run.save(state_of(step), step, {"loss": loss}) for step, loss in ((4, 0.3), (5, 0.7))]
        run.saver.write_out()
        held.gate.set()
        run.close()
        assert [handle.level for handle in handles] == ["confirmed", "confirmed" if is_removed else None, "confirmed"]


def test_best_one_that_could_not_be_sent_waits_for_the_next_start(held: Held, tmp_path: Path) -> None:
    """It stays in the spool when newer, worse checkpoints arrive; the others are removed."""
    options: dict[str, Any] = {"keep_last": 1, "keep_best": 1, "monitor": "loss"}
    held.failures = [errors.PermissionDeniedError("403"), errors.PermissionDeniedError("403")]
    held.gate.set()
    with open_run(held, tmp_path, **options) as run:
        for step, loss in ((1, 0.5), (2, 0.1)):
            handle = run.saver.save(state_of(step), step, {"loss": loss})
            with pytest.raises(errors.PermissionDeniedError):
                handle.wait(timeout_s=20)
        with pytest.raises(errors.PermissionDeniedError):
            run.save(state_of(3), 3, {"loss": 0.7})
        wait_for(lambda: run.saver.counts["sent"] == 1 and not run.saver.uploads.unsent())
        assert steps_of(run) == [3, 2]
    with open_run(held, tmp_path, **options) as run:
        wait_for(lambda: run.saver.counts["sent"] == 1)
    with open_run(held, tmp_path, "other") as elsewhere:
        assert steps_of(elsewhere) == [3, 2]


def test_nothing_goes_while_a_checkpoint_is_read(held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that is being read stays even if a newer one is confirmed, since it becomes a parent."""
    held.gate.set()
    with open_run(held, tmp_path, keep_last=9) as run:
        save_steps(run, 1, 2)
    held.gate.clear()
    run = open_run(held, tmp_path, keep_last=9)
    assert restored_step(run) == 2
    run.save(state_of(3), 3)
    run.saver.write_out()
    with pytest.raises(errors.DeadlineError):
        run.close(0.1)
    run.saver.spool.let_go()
    again = open_run(held, tmp_path, "spool", keep_last=1)
    wait_for(lambda: bool(again.saver.uploads.unsent()))
    payload = Restoring._payload

    def slow(*arguments: Any, **options: Any) -> dict[str, Any]:
        held.gate.set()
        time.sleep(0.5)
        return payload(*arguments, **options)

    monkeypatch.setattr(Restoring, "_payload", slow)
    restored = again.restore(step=1)
    assert restored is not None
    assert restored.step == 1
    again.close()
    assert steps_of(open_run(held, tmp_path, "other"))[-1] == 1


def test_save_after_a_close_that_took_too_long_is_sent(held: Held, tmp_path: Path) -> None:
    """A run whose close timed out is not closed."""
    run = open_run(held, tmp_path)
    run.save(state_of(1), 1)
    with pytest.raises(errors.DeadlineError):
        run.close(0.1)
    held.gate.set()
    wait_for(lambda: not run.saver.uploads.unsent())
    assert run.save(state_of(2), 2).wait(timeout_s=20) == "confirmed"
    run.close()


def test_damaged_one_in_the_spool_is_not_sent_for_the_one_before(held: Held, tmp_path: Path) -> None:
    """The next start sends the newest intact one."""
    with pytest.raises(errors.DeadlineError):
        leave_unsent(held, tmp_path, 8, 9)
    (newest,) = (tmp_path / "spool").glob("*/*/step-000000009-*/state-*")
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    held.gate.set()
    with open_run(held, tmp_path) as run:
        assert restored_step(run) == 8
        wait_for(lambda: run.saver.counts["sent"] == 1)
    with open_run(held, tmp_path, "other") as elsewhere:
        assert restored_step(elsewhere) == 8


def leave_unsent(held: Held, tmp_path: Path, *steps: int) -> None:
    """Leave unsent checkpoints in the spool, as a killed process does."""
    run = open_run(held, tmp_path, keep_every=1)
    for step in steps:
        run.save(state_of(step), step).wait("local", timeout_s=20)
    try:
        run.close(0.1)
    finally:
        run.saver.spool.let_go()


def test_run_that_is_gone_all_at_once_is_no_new_run(tmp_path: Path) -> None:
    """A listing without the checkpoints that this process has seen is not believed."""
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
    with open_run(tmp_path / "run", tmp_path, "other") as run:
        (tmp_path / "run").rename(tmp_path / "hidden")
        with pytest.raises(errors.DamagedError, match="had checkpoints when this process looked before"):
            run.restore()
        (tmp_path / "hidden").rename(tmp_path / "run")
        assert restored_step(run) == 1


def test_verify_reads_manifests_too(tmp_path: Path) -> None:
    """Manifests are read anew, also by the process that wrote them."""
    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
        (manifest,) = (tmp_path / "run").glob("*/*/MANIFEST.json")
        manifest.write_bytes(manifest.read_bytes().replace(b"1", b"2"))
        assert list(run.verify()) == [str(run.list()[0].name)]


def test_spool_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """If it cannot be made again, the save raises, and later ones are not blocked."""
    with open_run(tmp_path / "run", tmp_path) as run:
        shutil.rmtree(tmp_path / "spool")
        assert run.save(state_of(1), 1).wait(timeout_s=20) == "confirmed"
    with open_run(tmp_path / "run", tmp_path) as run:
        shutil.rmtree(tmp_path / "spool")
        (tmp_path / "spool").write_text("a file")
        for _ in range(2):
            with pytest.raises(errors.CheckpointError, match="cannot be used as a spool"):
                run.save(state_of(2), 2)
        (tmp_path / "spool").unlink()
        assert run.save(state_of(2), 2).wait(timeout_s=20) == "confirmed"


def test_guard_saves_whatever_failed_before(held: Held, tmp_path: Path) -> None:
    """A guard's save is the last one, so earlier errors are left to `close`."""
    held.failures = [errors.AuthenticationError("401: the password")]
    held.gate.set()
    run = open_run(held, tmp_path)
    with pytest.raises(errors.AuthenticationError, match="401"):
        run.save(state_of(1), 1).wait(timeout_s=10)
    with run.preemption_guard() as guard:
        assert guard.save(state_of(2), 2).level == "confirmed"
    with pytest.raises(errors.AuthenticationError, match="401"):
        run.close()


def test_state_dict_as_a_whole_keeps_its_versions(tmp_path: Path) -> None:
    """The versions are there for `load_state_dict`, which reads them."""
    model = torch.nn.BatchNorm1d(3)
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save(model.state_dict(), 1)
        restored = run.restore()
    assert restored is not None
    assert torch.nn.BatchNorm1d(3).load_state_dict(restored) is not None
    assert restored._metadata[""] == {"version": 2}


def test_run_is_neither_pickled_nor_copied(tmp_path: Path) -> None:
    """The error says what to pass on to another process, and the run still works."""
    with open_run(tmp_path / "run", tmp_path) as run:
        for way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(
                TypeError, match=r"StorageCheckpoint\('.*/run'\) belongs to the process.* hand the location"
            ):
                way(run)
        save_steps(run, 1)


def test_saves_of_several_threads_are_told_apart(tmp_path: Path) -> None:
    """Each save has a number of its own, however long others take to return."""
    with open_run(tmp_path / "run", tmp_path, keep_every=1) as run:
        begun = run.saver._begun

        def slowly(*arguments: Any) -> Any:
            handle = begun(*arguments)
            time.sleep(0.3)
            return handle

        vars(run)["_begun"] = slowly
        threads = [threading.Thread(target=run.save, args=(state_of(step), step)) for step in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.saver.newest is not None
        run.saver.newest.wait(timeout_s=60)
        assert sorted(checkpoint.name.nonce[:6] for checkpoint in run.list()) == [
            f"{number:06x}" for number in range(4)
        ]
