"""Work is done on all processors that this process may use, and no faster than it is asked for."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ai4os_data.machine import in_threads, processors, usable_processors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_processors_are_those_of_the_container(
    quota: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A quota of two processors makes two of eight, however many the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_processors(str(tmp_path / "cpu.max")) == expected
    assert usable_processors(str(tmp_path / "none")) == 8


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use three processors."""
    monkeypatch.setattr(processors, "usable_processors", lambda: 3)


@pytest.mark.usefixtures("three")
def test_everything_is_done_once_and_three_at_a_time() -> None:
    """Three threads are inside together, and none of them is the caller's."""
    together = threading.Barrier(3, timeout=20)

    def work(number: int) -> tuple[int, bool]:
        together.wait()
        return number, threading.current_thread() is threading.main_thread()

    assert sorted(in_threads(work, range(30))) == [(number, False) for number in range(30)]


@pytest.mark.usefixtures("three")
def test_no_more_is_taken_than_can_be_worked_on() -> None:
    """What waits is held in memory: while nothing is done, six items are taken and no seventh."""
    taken: list[int] = []
    seen: list[int] = []
    may_work = threading.Event()

    def look() -> None:
        seen.append(len(taken))
        may_work.set()

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            if number == 5:
                threading.Timer(0.3, look).start()
            yield number

    assert len(list(in_threads(lambda _: may_work.wait(20), items()))) == 100
    assert seen == [6]


@pytest.mark.usefixtures("three")
def test_an_end_in_the_middle_leaves_no_thread() -> None:
    """Who takes no more results waits for those under way, and for nothing else."""

    def work(number: int) -> int:
        time.sleep(0.01)
        return number

    before = threading.active_count()
    with closing(in_threads(work, range(10**6))) as results:
        assert next(results) < 6
    assert threading.active_count() == before


@pytest.mark.usefixtures("three")
def test_an_error_of_the_work_comes_to_the_caller() -> None:
    """Only what the function handles itself is handled."""
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (number - 4), range(10)))


@pytest.mark.usefixtures("three")
def test_without_threads_the_work_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no more threads, or an interpreter that ends, slows it down."""

    def none_left(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert sorted(in_threads(abs, range(10))) == list(range(10))


def names(pipe: object) -> None:
    """Send the names of the threads that work in this process."""
    pipe.send(list(in_threads(lambda _: threading.current_thread().name, range(3))))  # type: ignore[attr-defined]


@pytest.mark.usefixtures("three")
def test_a_worker_uses_its_own_thread() -> None:
    """Workers of a loader are daemonic: eight of them with eight threads each would be in each other's way."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=names, args=(theirs,), daemon=True)
    process.start()
    assert ours.recv() == ["MainThread"] * 3
    process.join()
