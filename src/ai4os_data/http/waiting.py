"""The transfers of a call that are not on their way: each new, paused or held one is begun when its time has come."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING

from ai4os_data.http.outages import LOOK_S
from ai4os_data.http.transfers import Transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http.policy import CallPolicy
    from ai4os_data.http.requests import Request


class WaitingTransfers:
    """Chooses the transfer that a call begins next.

    Args:
        requests: taken as there is room for them.
        policy: that of the call.
    """

    def __init__(self, requests: Iterator[Request], policy: CallPolicy) -> None:
        self._requests = requests
        self._policy = policy
        self._wait = policy.wait
        self._paused: list[tuple[float, int, Transfer]] = []
        self._held: deque[Transfer] = deque()
        self._order = itertools.count()
        self._is_exhausted = False
        self._planned: Request | None = None
        self._plans = False
        self._closed_until_s = 0.0

    def next(self) -> Transfer | None:
        """The transfer to begin now, if any: one that has waited long enough, or a new one."""
        wait = self._wait
        if self.is_over or time.monotonic() < self._closed_until_s:
            return None
        if wait.is_held and not wait.is_over:
            if not wait.outage.may_ask():
                wait.hold()
                return None
            found = self._held.popleft() if self._held else heapq.heappop(self._paused)[2] if self._paused else None
            found = found or self._new()
            if found is None:
                wait.outage.asks_not()
            return found
        if self._held:
            return self._held.popleft()
        if self._paused and self._paused[0][0] <= time.monotonic():
            return heapq.heappop(self._paused)[2]
        return self._new()

    def _new(self) -> Transfer | None:
        request, self._planned = self._planned, None
        if request is None:
            request = self._taken()
        self._plans = request is not None and request.is_archive
        return None if request is None else Transfer(request, self._policy)

    def _taken(self) -> Request | None:
        request = None if self._is_exhausted else next(self._requests, None)
        self._is_exhausted = request is None
        return request

    def plan(self) -> None:
        """Have the next archive planned while others are on their way: it takes some milliseconds for many files."""
        if self._plans and self._planned is None and not self._wait.is_held:
            self._planned = self._taken()

    def put_back(self, transfer: Transfer, pause_s: float) -> None:
        """Send it again later: after a pause, or when the server is back."""
        if transfer.tries.found_away and self._wait.is_held:
            self._held.append(transfer)
        else:
            heapq.heappush(self._paused, (time.monotonic() + pause_s, next(self._order), transfer))

    def close_for(self, pause_s: float) -> None:
        """Let nothing begin for a while."""
        self._closed_until_s = time.monotonic() + pause_s

    @property
    def is_over(self) -> bool:
        """Whether no transfer is left to begin."""
        return self._is_exhausted and self._planned is None and not (self._held or self._paused)

    def longest_s(self) -> float | None:
        """The seconds until the next transfer may begin: 0 for now, None if none is left."""
        if self.is_over:
            return None
        now_s = time.monotonic()
        if self._wait.is_held:
            return LOOK_S
        if now_s < self._closed_until_s:
            return self._closed_until_s - now_s
        if self._held or self._planned is not None or not (self._paused and self._is_exhausted):
            return 0.0
        return max(0.0, self._paused[0][0] - now_s)
