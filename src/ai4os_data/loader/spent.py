"""What a batch took in the process that made it: it travels with the batch, as plain numbers."""

from __future__ import annotations

import time
from typing import NamedTuple

from ai4os_data.datasets import Look
from ai4os_data.telemetry import reading


class Spent(NamedTuple):
    """The time that batches took, in nanoseconds, and what was seen of their samples.

    Attributes:
        made_ns: when a batch was made, by a clock that all processes of a machine share.
        total_ns: until they were made.
        reading_ns: the part of it in which files were read, from the cache or from their store.
        fetching_ns: the part of that for files that were not in the cache.
        looked: how many samples were looked at, one of each batch.
        decoding_ns: how long these took to decode.
        transforming_ns: how long they took to transform.
        decoded_width: of their decoded pictures, summed; 0 if they are none.
        decoded_height: the same.
        given_width: of what their transform gave.
        given_height: the same.
    """

    made_ns: int = 0
    total_ns: int = 0
    reading_ns: int = 0
    fetching_ns: int = 0
    looked: int = 0
    decoding_ns: int = 0
    transforming_ns: int = 0
    decoded_width: int = 0
    decoded_height: int = 0
    given_width: int = 0
    given_height: int = 0


class Stopwatch:
    """Runs while a batch is made.

    Attributes:
        look: for a sample of the batch.
    """

    __slots__ = ("_begun_ns", "_fetching_ns", "_reading_ns", "look")

    def __init__(self) -> None:
        self.look = Look()
        self._reading_ns = reading.total_ns
        self._fetching_ns = reading.fetching_ns
        self._begun_ns = time.perf_counter_ns()

    def spent(self) -> tuple[int, ...]:
        """The fields of `Spent`, up to now."""
        made_ns = time.perf_counter_ns()
        total_ns = made_ns - self._begun_ns
        reading_ns = min(total_ns, reading.total_ns - self._reading_ns)
        fetching_ns = min(reading_ns, reading.fetching_ns - self._fetching_ns)
        look = self.look
        seen = look.samples, look.decoding_ns, look.transforming_ns, *look.decoded, *look.given
        return made_ns, total_ns, reading_ns, fetching_ns, *seen
