"""A signal becomes a flag, and what time is left is spent on what can still be done."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data.stores import DirectoryStore, Level
from checkpoint.runs import open_run, restored_step, save_steps, state_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


class Slow(DirectoryStore):
    """A directory behind a line of so many bytes per second."""

    bytes_per_s = 1e9

    def write_confirmed(self, key: str, content: Path | bytes, *arguments: Any, **options: Any) -> Level:
        """Store a file, slowly."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        time.sleep(size / self.bytes_per_s)
        return super().write_confirmed(key, content, *arguments, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_sets_the_flag_and_the_handlers_come_back(number: signal.Signals, tmp_path: Path) -> None:
    """The process goes on until its loop looks."""
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with open_run(tmp_path / "run", tmp_path) as run:
        with run.preemption_guard(budget_s=10) as guard:
            assert (guard.requested, guard.remaining_s) == (False, 10)
            os.kill(os.getpid(), number)
            assert guard.requested
            assert 9 < guard.remaining_s < 10
        assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_second_interrupt_interrupts(tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice means it."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as guard:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert guard.requested


def test_save_in_time_reaches_the_store(tmp_path: Path) -> None:
    """Where the line is fast enough."""
    with open_run(tmp_path / "run", tmp_path) as run, run.preemption_guard() as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.save(state_of(1), 1).level == "confirmed"


def test_save_that_cannot_be_sent_in_time_is_left_in_the_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reckoned from the bandwidth that was measured; the budget is kept, and the next start sends it."""
    store = Slow(tmp_path / "run")
    run = open_run(store, tmp_path)
    store.bytes_per_s = 20_000
    save_steps(run, 1)
    assert run._uploads.bytes_per_s is not None
    assert 5_000 < run._uploads.bytes_per_s < 21_000
    with run.preemption_guard(budget_s=1.0) as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        begun = time.monotonic()
        handle = guard.save(state_of(2, 20_000), 2)
        assert time.monotonic() - begun < 2
        assert handle.level == "local"
    assert "step 2 is on the local disk; to send it takes" in caplog.text
    store.bytes_per_s = 1e9
    run.close()
    with open_run(store, tmp_path, "other") as again:
        assert restored_step(again) == 2


def test_guard_in_another_thread_says_what_it_cannot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Python brings signals to the main thread alone."""
    with open_run(tmp_path / "run", tmp_path) as run:
        thread = threading.Thread(target=run.preemption_guard)
        thread.start()
        thread.join()
    assert "main thread" in caplog.text
