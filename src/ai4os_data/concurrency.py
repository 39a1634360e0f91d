"""How many requests to have in flight: as many as the server rewards, and no more.

A fast server 20 ms away gains thirtyfold from 32 at a time; a Nextcloud gains nothing, its requests only wait longer.
So the time to the first byte is watched: while it stays near the best that was seen, the number grows; as requests
begin to queue, it falls to what keeps the server busy with a few in the queue (the gradient rule of Netflix's
concurrency-limits, https://github.com/Netflix/concurrency-limits, after TCP Vegas).
"""

from __future__ import annotations

MOST = 32

_FIRST = 16.0
_FEWEST = 4.0
_QUEUED = 2.0
_WEIGHT = 0.25
_TOLERANCE = 4.0  # answers also wait for this process to read them
_SMOOTHING = 0.1
_WINDOW = 500  # then the best time is sought anew: the way to the server may have become longer


class Concurrency:
    """The number of requests to have in flight to one server."""

    def __init__(self) -> None:
        self._limit = _FIRST
        self._typical_s = 0.0
        self._best_s = self._next_best_s = float("inf")
        self._seen = 0

    @property
    def limit(self) -> int:
        """The number for now."""
        return int(self._limit)

    def observe(self, first_byte_s: float) -> None:
        """Take in how long a request waited for its first byte."""
        first_byte_s = max(first_byte_s, 1e-6)
        self._seen += 1
        self._next_best_s = min(self._next_best_s, first_byte_s)
        self._best_s = min(self._best_s, first_byte_s)
        if self._seen % _WINDOW == 0:
            self._best_s, self._next_best_s = self._next_best_s, float("inf")
        self._typical_s += (_SMOOTHING if self._typical_s else 1.0) * (first_byte_s - self._typical_s)
        wanted = self._limit * min(1.0, _TOLERANCE * self._best_s / self._typical_s) + _QUEUED
        self._limit = min(float(MOST), max(_FEWEST, self._limit + _WEIGHT * (wanted - self._limit)))
