"""How many requests to have in flight: as many as the server rewards, and no more.

A fast server 20 ms away gains thirtyfold from 32 at a time; a Nextcloud gains nothing, its requests only wait longer.
So twice as many are tried, and kept if answers come faster; half as many are tried, and kept if answers come as fast as
before. What was given up is tried again some time later. (The latency of single answers would show it sooner, but on a
busy client it says more about the client.)
"""

from __future__ import annotations

import time

LEAST = 4
MOST = 32

FIRST = 16
_SHORTEST = 16  # answers that make a rate; otherwise as many as are in flight
_REWARD = 1.3  # times the rate, for twice as many
_NO_REWARD = 1.1
_AS_GOOD = 0.95  # times the rate, with half as many
_UNTIL_NEXT_TRIAL = 8  # rates
_UNTIL_FEWER = 48  # rates until fewer are tried without a sign; twice as many after each trial in vain
_UNTIL_FEWER_AT_MOST = 192
_SOON = 1
_WORSE = 0.6  # times the rate: then the server has changed


class Concurrency:
    """The number of requests to have in flight to one server."""

    def __init__(self) -> None:
        self.limit = FIRST
        self._settled = FIRST
        self._rate = 0.0  # answers per second with the settled number in flight
        self._until_trial = 0
        self._until_fewer = self._patience = _UNTIL_FEWER
        self._answers = 0
        self._seconds = 0.0
        self._to_pass = 0  # answers to what was in flight before the number changed
        self._was_idle = False  # while the rate was measured
        self._last_s = time.monotonic()

    def begin(self) -> None:
        """Record that there are requests again, after a time without any."""
        self._last_s = time.monotonic()
        self._was_idle = True

    def answered(self) -> None:
        """Record that a request has ended."""
        now_s = time.monotonic()
        seconds, self._last_s = now_s - self._last_s, now_s
        if self._to_pass > 0:
            self._to_pass -= 1
            return
        self._answers += 1
        self._seconds += seconds
        if self._answers >= max(self.limit, _SHORTEST):
            rate, was_idle = self._answers / max(self._seconds, 1e-9), self._was_idle
            self._answers, self._seconds, self._was_idle = 0, 0.0, False
            self._decide(rate, was_idle=was_idle)

    def _decide(self, rate: float, *, was_idle: bool) -> None:
        if self.limit > self._settled:
            self._decide_on_more(rate)
        elif self.limit < self._settled:
            self._decide_on_fewer(rate, was_idle=was_idle)
        else:
            is_worse = rate < _WORSE * self._rate and not was_idle
            self._rate = rate
            self._until_trial -= 1
            self._until_fewer = min(self._until_fewer - 1, _SOON if is_worse else self._until_fewer)
            if self._until_trial <= 0 and self.limit < MOST:
                self.limit *= 2
            elif self._until_fewer <= 0 and self.limit > LEAST and not was_idle:
                self._try_fewer()

    def _decide_on_more(self, rate: float) -> None:
        if rate < _REWARD * self._rate:
            self.limit, self._until_trial = self._settled, _UNTIL_NEXT_TRIAL
            if rate < _NO_REWARD * self._rate:  # fewer may do as well
                self._until_fewer = min(self._until_fewer, _SOON)
            return
        self._settled, self._rate = self.limit, rate
        self._until_fewer = self._patience = _UNTIL_FEWER
        if self.limit < MOST:
            self.limit *= 2

    def _try_fewer(self) -> None:
        self._to_pass = self.limit
        self.limit //= 2

    def _decide_on_fewer(self, rate: float, *, was_idle: bool) -> None:
        if (
            rate >= _AS_GOOD * self._rate and not was_idle
        ):  # with pauses in between, the rate shows only what was asked for
            self._settled, self._rate = self.limit, rate
            self._until_trial, self._until_fewer, self._patience = _UNTIL_NEXT_TRIAL, _SOON, _UNTIL_FEWER
            return
        self.limit = self._to_pass = self._settled
        self._patience = min(2 * self._patience, _UNTIL_FEWER_AT_MOST)
        self._until_fewer = self._patience
