"""One call of `Transport.fetch`: new requests begin as old ones end, and what the caller does holds up no other."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ai4os_data import errors, telemetry
from ai4os_data.http.bodies import NoBody
from ai4os_data.http.outages import LOOK_S
from ai4os_data.http.outcomes import outcome_of
from ai4os_data.http.requests import PART, Request, Response
from ai4os_data.http.transfers import Transfer
from ai4os_data.http.waiting import WaitingTransfers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ai4os_data.http.concurrency import Concurrency
    from ai4os_data.http.curl import Lane
    from ai4os_data.http.policy import CallPolicy

_PROBE_S = 5.0


class Fetch:
    """The requests of one call.

    Args:
        lane: sends them.
        concurrency: how many the server rewards.
        policy: that of the call.
        requests: taken as there is room for them.
        in_flight: how many at a time; by default as many as the server rewards.
    """

    def __init__(
        self,
        lane: Lane,
        concurrency: Concurrency,
        policy: CallPolicy,
        requests: Iterator[Request],
        in_flight: int | None,
    ) -> None:
        self._lane = lane
        self._concurrency = concurrency
        self._policy = policy
        self._wait = policy.wait
        self._waiting = WaitingTransfers(requests, policy)
        self._in_flight = in_flight
        self._streams = False

    def run(self) -> Generator[tuple[Request, Response | errors.StorageError], None, None]:
        """Carry out the requests, and yield each as it ends.

        What ended makes room for the next request at once, and sockets are served between two yields: what the caller
        does with an answer, such as storing it, does not hold up the others.
        """
        ready: deque[tuple[Request, Response | errors.StorageError]] = deque()
        waiting, lane = self._waiting, self._lane
        while True:
            limit = self._in_flight or self._concurrency.limit
            while lane.in_flight < limit and len(ready) <= limit:
                transfer = waiting.next()
                if transfer is None:
                    break
                error = self._begin_in_turn(transfer)
                if error is not None:
                    ready.append((transfer.request, error))
            if ready:
                yield ready.popleft()
            elif not lane.in_flight and waiting.is_over:
                return
            if lane.in_flight == limit and not ready:
                waiting.plan()
            self._await(is_pressed=bool(ready), has_room=lane.in_flight < limit)
            ready.extend(() if ready else self._parts())
            for transfer, outcome in self._ended():
                if isinstance(outcome, float):
                    waiting.put_back(transfer, outcome)
                else:
                    ready.append((transfer.request, outcome))

    def _await(self, *, is_pressed: bool, has_room: bool) -> None:
        """Wait until something happens on the network, or something may be sent."""
        lane, wait = self._lane, self._wait
        if not lane.is_ours:
            raise RuntimeError("these requests are another process's: begin them anew after a fork")
        pause_s = self._waiting.longest_s()
        if pause_s and wait.has_begun:
            wait.outage.log_waiting(wait.outage_s)
            pause_s = min(pause_s, LOOK_S)
        if lane.in_flight:
            # Without room for another, none can begin before one on its way has ended.
            lane.step(0.0 if is_pressed else pause_s if has_room else None)
        elif pause_s and not is_pressed:
            lane.step(pause_s)
        if wait.outage.is_on and lane.is_answered:
            wait.outage.answered()  # with the first bytes: the last ones may take minutes

    def _parts(self) -> list[tuple[Request, Response | errors.StorageError]]:
        """What stands for the answers that are taken out part by part."""
        return [(request, PART) for request in self._lane.streams()] if self._streams else []

    def _begin_in_turn(self, transfer: Transfer) -> errors.StorageError | None:
        """Send a request, or put it back for a moment; the error if it is not sent at all."""
        verdict = transfer.tries.turn(transfer.what)
        if isinstance(verdict, errors.StorageError):
            transfer.body.restart()
            return verdict
        if verdict is not None:
            self._waiting.put_back(transfer, 0.0)
            self._waiting.close_for(verdict)
            return None
        self._begin(transfer)
        return None

    def _begin(self, transfer: Transfer) -> None:
        if self._in_flight is None and not self._lane.in_flight:
            self._concurrency.begin()
        self._lane.begin(transfer, self._policy.credentials.remote, self._policy.patience)
        request = transfer.request
        self._streams = self._streams or request.streams
        counted = telemetry.REQUESTS_PUT if request.method == "PUT" else telemetry.REQUESTS_GET
        self._policy.counters.row[telemetry.REQUESTS_ARCHIVE if request.is_archive else counted] += 1

    def _ended(self) -> Iterator[tuple[Transfer, Response | errors.StorageError | float]]:
        """Each transfer that has ended: with its answer, its error, or the pause before it is tried again."""
        for transfer, ending in self._lane.ended():
            if self._in_flight is None and not self._wait.is_held:
                self._concurrency.answered()
            outcome = outcome_of(transfer, ending)
            if transfer.is_probe:
                continue
            if isinstance(outcome, float) and transfer.tries.is_stuck and not self._lane.in_flight:
                self._probe(transfer)
            elif isinstance(outcome, errors.StorageError):
                transfer.request.fails_alone = transfer.tries.fails_alone
            yield transfer, outcome

    def _probe(self, stuck: Transfer) -> None:
        """Ask for one byte of another file: an answer shows that only this file fails."""
        url = next((url for url in self._wait.outage.other_urls if url != stuck.request.url), None)
        if url is not None:
            request = Request(url, NoBody(), start=0, stop=1, expected_bytes=0)
            self._begin(Transfer(request, self._policy, probes_s=_PROBE_S))
