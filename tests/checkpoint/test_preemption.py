"""A signal becomes a flag, and the rest of the time is used for what can still be done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data.stores import DirectoryStore, Level
from tests.support.runs import open_run, restored_step, save_steps, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


class Slow(DirectoryStore):
    """A directory with limited bandwidth."""

    bytes_per_s = 1e9

    def write_confirmed(self, key: str, content: Path | bytes, *arguments: Any, **options: Any) -> Level:
        """Store a file slowly."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        time.sleep(size / self.bytes_per_s)
        return super().write_confirmed(key, content, *arguments, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_sets_the_flag_and_the_handlers_come_back(number: signal.Signals, tmp_path: Path) -> None:
    """The process runs until its loop reads the flag."""
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with open_run(tmp_path / "run", tmp_path) as run:
        with run.preemption_guard(budget_s=10) as guard:
            assert (guard.requested, guard.remaining_s) == (False, 10)
            os.kill(os.getpid(), number)
            assert guard.requested
            assert 9 < guard.remaining_s < 10
        assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_second_interrupt_interrupts(tmp_path: Path) -> None:
    """A second Ctrl-C interrupts as usual."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as guard:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert guard.requested


def test_save_in_time_reaches_the_store(tmp_path: Path) -> None:
    """With enough bandwidth the save is confirmed."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.save(state_of(1), 1).level == "confirmed"


def test_save_that_cannot_be_sent_in_time_is_left_in_the_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the measured bandwidth it would not arrive, so nothing waits, and the next start sends it."""
    store = Slow(tmp_path / "run")
    run = open_run(store, tmp_path)
    store.bytes_per_s = 20_000
    save_steps(run, 1)
    assert run.saver.delivery.bytes_per_s is not None
    assert 5_000 < run.saver.delivery.bytes_per_s < 21_000
    with run.preemption_guard(budget_s=8.0) as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        begun = time.monotonic()
        handle = guard.save(state_of(2, 50_000), 2)
        assert time.monotonic() - begun < 4
        assert handle.level == "local"
    assert "step 2 is on the local disk; to send it takes" in caplog.text
    store.bytes_per_s = 1e9
    run.close()
    with open_run(store, tmp_path, "other") as again:
        assert restored_step(again) == 2


def test_time_for_the_local_disk_is_part_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The guard returns when the budget is over, and the save continues."""
    with open_run(tmp_path / "run", tmp_path) as run:
        write = run.saver.spool.write

        def write_slowly(*arguments: Any) -> Any:
            time.sleep(3)
            return write(*arguments)

        monkeypatch.setattr(run.saver.spool, "write", write_slowly)
        with run.preemption_guard(budget_s=0.5) as guard:
            os.kill(os.getpid(), signal.SIGTERM)
            begun = time.monotonic()
            handle = guard.save(state_of(1), 1)
            assert 0.4 < time.monotonic() - begun < 2
            assert handle.level is None
        assert "step 1 is not on the local disk yet, and the 0.5 s are over" in caplog.text
        assert handle.wait(timeout_s=20) == "confirmed"


def test_sigterm_ends_a_forked_child(tmp_path: Path) -> None:
    """SIGTERM ends it, as multiprocessing ends its workers, with nested guards and earlier handlers too."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as outer, run.preemption_guard():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(10)
        assert child.exitcode == -signal.SIGTERM
        assert not outer.requested


def test_forked_child_leaves_the_first_interrupt_to_its_parent(tmp_path: Path) -> None:
    """A terminal sends it to workers too, which the loop still needs; the second one ends them."""

    def interrupted_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os._exit(7)

    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as guard:
        child = multiprocessing.get_context("fork").Process(target=interrupted_twice)
        child.start()
        child.join(10)
        assert child.exitcode == 7
        assert not guard.requested


def test_guard_of_a_forked_child_is_its_own(tmp_path: Path) -> None:
    """A training in a forked child can have its own guard, and saves in time."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as guard:

        def train() -> None:
            with run.preemption_guard() as own:
                os.kill(os.getpid(), signal.SIGTERM)
                if own.requested and not guard.requested:
                    os._exit(7)

        child = multiprocessing.get_context("fork").Process(target=train)
        child.start()
        child.join(10)
        assert child.exitcode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_guards_around_a_guard_learn_of_the_signal(number: signal.Signals, tmp_path: Path) -> None:
    """All nested guards show the signal and the time left, also one made afterwards."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as outer:
        with run.preemption_guard() as middle, run.preemption_guard() as inner:
            os.kill(os.getpid(), number)
        assert (outer.requested, middle.requested, inner.requested) == (True, True, True)
        time.sleep(0.2)
        with run.preemption_guard(budget_s=10) as late:
            assert late.requested
            assert late.remaining_s < 9.9


@pytest.fixture
def signals_taken() -> Iterator[list[int]]:
    """The signals that the user's own handler gets, which was set before any guard."""
    taken: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: taken.append(number))
    yield taken
    signal.signal(signal.SIGTERM, before)


def test_guards_may_end_in_any_order(signals_taken: list[int], tmp_path: Path) -> None:
    """The last one puts back the handlers from before the first."""
    mine = signal.getsignal(signal.SIGTERM)
    with open_run(tmp_path / "run", tmp_path) as run:
        guards = [run.preemption_guard() for _ in range(3)]
        for guard in (guards[1], guards[0], guards[2]):
            guard.restore()
            guard.restore()
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signals_taken == []


def test_handler_of_a_guard_that_has_ended_hands_on(signals_taken: list[int], tmp_path: Path) -> None:
    """If somebody has kept it and put it back, it passes signals on."""
    with open_run(tmp_path / "run", tmp_path) as run:
        with run.preemption_guard() as guard:
            kept = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, kept)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals_taken == [signal.SIGTERM]
    assert not guard.requested


def test_guard_that_is_ended_in_another_thread_hands_on(signals_taken: list[int], tmp_path: Path) -> None:
    """Only the main thread can change handlers, so the old one passes signals on."""
    with open_run(tmp_path / "run", tmp_path) as run:
        guard = run.preemption_guard()
        thread = threading.Thread(target=guard.restore)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals_taken == [signal.SIGTERM]
        guard.restore()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_guard_in_another_thread_says_what_it_cannot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Python brings signals to the main thread alone, which the error says."""
    with open_run(tmp_path / "run", tmp_path) as run:
        thread = threading.Thread(target=run.preemption_guard)
        thread.start()
        thread.join()
    assert "main thread" in caplog.text
