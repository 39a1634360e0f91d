"""What a pass is bound by: the storage, decoding, or the caller's loop; reckoned from what each batch took."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.loader.spent import Spent

if TYPE_CHECKING:
    from collections.abc import Sequence

HARDLY = 0.1  # a loop that waits for less of its time would not gain by batches that come sooner


class Bound(NamedTuple):
    """What a pass is bound by, and the shares of the loop's time that say so; they add up to one.

    Attributes:
        by: ``"storage"``, ``"decode"`` or ``"loop"``; empty as long as it is not known.
        storage_share: waiting for files, from the cache or their store.
        decode_share: waiting for all that makes batches of them.
        loop_share: what the caller does between two batches.
    """

    by: str = ""
    storage_share: float = math.nan
    decode_share: float = math.nan
    loop_share: float = math.nan


class Times(NamedTuple):
    """What an average batch takes, in seconds.

    Attributes:
        loop_s: in the loop of the caller, which waits for it before.
        waiting_s: of the caller.
        storage_s: the part of that in which its files are read.
        moving_s: the part of that in which it is made already, and moves to the caller.
        disk_s: reading what is in the cache, in the process that makes the batch.
        fetching_s: reading what is not, in that process.
        making_s: all else there: decoding, transforming, collating.
    """

    loop_s: float
    waiting_s: float
    storage_s: float
    moving_s: float
    disk_s: float
    fetching_s: float
    making_s: float

    @property
    def work_s(self) -> float:
        """All that the process does that makes the batch."""
        return self.disk_s + self.fetching_s + self.making_s

    def bound(self, workers: int) -> Bound:
        """What so long a batch is bound by.

        Without workers everything takes turns, and the longest of the three is the bound. Workers make batches beside
        the loop: it is the bound only if it hardly waits.
        """
        step_s = self.loop_s + self.waiting_s
        if step_s <= 0:
            return Bound()
        loop, storage = self.loop_s / step_s, self.storage_s / step_s
        decode = max(0.0, 1 - loop - storage)
        is_loop = 1 - loop < HARDLY if workers else loop >= max(storage, decode)
        return Bound("loop" if is_loop else "storage" if storage >= decode else "decode", storage, decode, loop)


class Sums:
    """What the batches of a pass took, added up as the caller is given them."""

    def __init__(self) -> None:
        self._batches = 0
        self._spent: list[int] = list(Spent())
        self._looped_s = self._waited_s = self._for_storage_s = self._moving_s = 0.0
        self._last_s = 0.0

    def add(self, begun_s: float, ended_s: float, spent: Sequence[int]) -> None:
        """Record a batch.

        Args:
            begun_s: when the caller asked for it.
            ended_s: when the caller had it.
            spent: the fields of its `Spent`.
        """
        made_ns, total_ns, reading_ns, *_ = spent
        made_s = max(begun_s, min(ended_s, made_ns / 1e9))
        if self._batches:
            self._looped_s += begun_s - self._last_s
        else:  # workers had to be started for the first one
            begun_s = max(begun_s, made_s - total_ns / 1e9)
        self._batches += 1
        self._waited_s += ended_s - begun_s
        self._moving_s += ended_s - made_s
        self._for_storage_s += (made_s - begun_s) * reading_ns / (total_ns or 1)
        self._spent = list(map(operator.add, self._spent, spent))
        self._last_s = ended_s

    def times(self) -> Times | None:
        """What an average batch took; None before the second, since nothing is known of the loop."""
        number = self._batches
        if number <= 1:
            return None
        _, total_s, reading_s, fetching_s = (one / number / 1e9 for one in self._spent[:4])
        return Times(
            loop_s=self._looped_s / (number - 1),
            waiting_s=self._waited_s / number,
            storage_s=self._for_storage_s / number,
            moving_s=self._moving_s / number,
            disk_s=reading_s - fetching_s,
            fetching_s=fetching_s,
            making_s=total_s - reading_s,
        )

    @property
    def seen(self) -> Spent:
        """The sums over all batches."""
        return Spent(*self._spent)
