"""The number of requests in flight follows what the server rewards, up and down."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

import pytest

from ai4os_data.http import concurrency
from ai4os_data.http.concurrency import FIRST, LEAST, MOST, Concurrency

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """The time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The module's clock."""
    clock = Clock()
    monkeypatch.setattr(concurrency, "time", clock)
    return clock


class Server:
    """A simulated server, asked for one file after another with as many in flight as are wanted.

    Args:
        clock: moves on with it.
        rtt_s: what each request takes at least.
        cost_s: what each request takes of the one thread that it has, given how many it has at hand.
    """

    def __init__(self, clock: Clock, rtt_s: float, cost_s: Callable[[int], float]) -> None:
        self.rtt_s, self.cost_s = rtt_s, cost_s
        self._clock = clock
        self._free_s = 0.0
        self._ends: list[float] = []

    def serve(self, wanted: Concurrency | int, answers: int) -> float:
        """Answer a number of requests; the answers per second."""
        begun_s = self._clock.now_s
        for _ in range(answers):
            limit = wanted if isinstance(wanted, int) else wanted.limit
            while len(self._ends) < limit:
                self._free_s = max(self._free_s, self._clock.now_s) + self.cost_s(len(self._ends) + 1)
                heapq.heappush(self._ends, max(self._free_s, self._clock.now_s + self.rtt_s))
            self._clock.now_s = max(self._clock.now_s, heapq.heappop(self._ends))
            if isinstance(wanted, Concurrency):
                wanted.answered()
        return answers / max(self._clock.now_s - begun_s, 1e-9)


def begun() -> Concurrency:
    """The number of requests in flight at the beginning."""
    found = Concurrency()
    found.begin()
    return found


def test_a_fast_server_far_away_gets_all_that_may_be(clock: Clock) -> None:
    """It gets the highest number soon and for ever; trying fewer costs next to nothing."""
    wanted = begun()
    server = Server(clock, 0.02, lambda _: 0.0001)
    assert wanted.limit == FIRST
    server.serve(wanted, 64)
    assert wanted.limit == MOST
    reached = server.serve(wanted, 2000)
    assert wanted.limit == MOST
    assert reached >= 0.95 * 32 / 0.02


def test_what_a_cold_epoch_of_a_thousand_files_takes(clock: Clock) -> None:
    """It takes hardly longer than with the highest number from the beginning."""
    fixed = Server(clock, 0.02, lambda _: 0.0001).serve(MOST, 1000)
    assert Server(clock, 0.02, lambda _: 0.0001).serve(begun(), 1000) >= 0.94 * fixed


def test_a_server_that_works_on_one_at_a_time_is_asked_for_few(clock: Clock) -> None:
    """It answers as fast with few requests, and each answer comes sooner."""
    wanted = begun()
    server = Server(clock, 0.005, lambda _: 0.03)
    server.serve(wanted, 300)
    assert wanted.limit == LEAST
    limits = []
    for _ in range(60):
        server.serve(wanted, 10)
        limits.append(wanted.limit)
    assert max(limits) <= 2 * LEAST
    assert server.serve(wanted, 300) >= 0.99 / 0.03


def test_a_server_that_suffers_from_many_is_asked_for_few(clock: Clock) -> None:
    """The number falls when the server is busy with others, and rises again afterwards."""
    wanted = begun()
    server = Server(clock, 0.02, lambda _: 0.0001)
    server.serve(wanted, 500)
    assert wanted.limit == MOST
    server.cost_s = lambda at_hand: 0.002 * at_hand
    server.serve(wanted, 800)
    assert wanted.limit <= 2 * LEAST, "as many, or half as many, as are being tried"
    server.cost_s = lambda _: 0.0001
    server.serve(wanted, 1500)
    assert wanted.limit == MOST


def test_answers_that_scatter_do_not_mislead_for_long(clock: Clock) -> None:
    """With files of all sizes the number is right most of the time."""
    draws = random.Random(1)
    wanted = begun()
    server = Server(clock, 0.02, lambda _: 0.0002 * draws.paretovariate(2.5))
    limits = []
    for _ in range(300):
        server.serve(wanted, 10)
        limits.append(wanted.limit)
    assert sum(limits) / len(limits) >= 0.8 * MOST


def test_pauses_of_the_caller_do_not_bring_it_down(clock: Clock) -> None:
    """Small batches with work between them do not show that fewer requests would do."""
    wanted = begun()
    server = Server(clock, 0.02, lambda _: 0.0001)
    server.serve(wanted, 300)
    for _ in range(200):
        clock.now_s += 0.5
        wanted.begin()
        for _ in range(4):
            clock.now_s += 0.005
            wanted.answered()
    assert wanted.limit == MOST
