"""How many requests to have in flight: as many as the server rewards, and no more.

A fast server 20 ms away gains thirtyfold from 32 at a time; a Nextcloud gains nothing, its requests only wait longer.
So twice as many are tried, and kept where answers come faster; if not, they are tried again some time later. (The time
of an answer would say it sooner. But on a busy client that says more about the client.)
"""

from __future__ import annotations

import time

MOST = 32

_FIRST = 16
_ANSWERS = 1  # times the number in flight: so many make a rate
_REWARD = 1.3
_UNTIL_NEXT_TRIAL = 8  # rates


class Concurrency:
    """The number of requests to have in flight to one server."""

    def __init__(self) -> None:
        self.limit = _FIRST
        self._settled = _FIRST
        self._rate = 0.0  # answers per second with so many in flight
        self._until_trial = 0
        self._answers = 0
        self._seconds = 0.0
        self._last_s = time.monotonic()

    def begin(self) -> None:
        """Take in that there are requests again, after a time without any."""
        self._last_s = time.monotonic()

    def answered(self) -> None:
        """Take in that a request has ended."""
        now_s = time.monotonic()
        self._answers += 1
        self._seconds += now_s - self._last_s
        self._last_s = now_s
        if self._answers >= _ANSWERS * self.limit:
            self._decide(self._answers / max(self._seconds, 1e-9))
            self._answers, self._seconds = 0, 0.0

    def _decide(self, rate: float) -> None:
        is_trial = self.limit > self._settled
        if is_trial and rate < _REWARD * self._rate:
            self.limit, self._until_trial = self._settled, _UNTIL_NEXT_TRIAL
            return
        self._settled, self._rate = self.limit, rate
        self._until_trial -= 1
        if (is_trial or self._until_trial <= 0) and self.limit < MOST:
            self.limit *= 2
