"""Requests for bytes to one remote: every body that comes out is whole, and of one version of its file.

A `Transport` keeps warm connections for each process. `fetch` drives many requests from the calling thread: it begins
new ones as old ones end, tries again what may be tried again, and continues a broken transfer where it stopped
(``Range`` with ``If-Range``, RFC 9110, 13.1.5 and 14.2) or, without a strong ETag, from its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import errors, telemetry
from ai4os_data.http.connections import Connections, connections_to
from ai4os_data.http.curl import new_lane
from ai4os_data.http.fetching import Fetch
from ai4os_data.http.outages import Wait
from ai4os_data.http.policy import CallPolicy
from ai4os_data.http.refusals import Credentials
from ai4os_data.http.retries import Patience
from ai4os_data.machine import PerProcess, leave_to_parent

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from ai4os_data.http.requests import Request, Response
    from ai4os_data.locations import Remote


class Transport:
    """Sends requests to one remote. Safe to use from many threads; each process has connections of its own.

    Those are shared by all transports to the same server with the same credentials.
    """

    def __init__(
        self, remote: Remote, *, patience: Patience | None = None, counters: telemetry.Counters | None = None
    ) -> None:
        self.credentials = Credentials(remote)
        self.patience = patience or Patience()
        self.counters = counters or telemetry.Counters()
        self._connections: PerProcess[dict[Remote, Connections]] = PerProcess(dict)

    @property
    def remote(self) -> Remote:
        """The server, and the credentials as they are now."""
        return self.credentials.remote

    @property
    def connections(self) -> Connections:
        """This process's connections."""
        return self.connections_with(self.remote)

    def connections_with(self, remote: Remote) -> Connections:
        """This process's connections for the credentials of a remote, which another thread may read anew meanwhile."""
        held = self._connections.get()
        found = held.get(remote)
        if found is None:
            found = connections_to(remote)
            held.clear()  # of credentials that were read anew since
            held[remote] = found
        return found

    def patient(self, patience: Patience) -> Transport:
        """The same with another patience."""
        other = Transport(self.remote, patience=patience, counters=self.counters)
        other.credentials, other._connections = self.credentials, self._connections
        return other

    def policy(self) -> CallPolicy:
        """What each outcome of a new call means."""
        wait = Wait(self.connections.outage, self.patience)
        return CallPolicy(self.credentials, self.patience, self.counters, wait)

    def fetch(
        self, requests: Iterable[Request], in_flight: int | None = None
    ) -> Generator[tuple[Request, Response | errors.StorageError], None, None]:
        """Carry out requests, and yield each as it ends, with its answer or its error.

        Args:
            requests: taken as there is room for them.
            in_flight: how many at a time; by default as many as the server rewards.
        """
        connections = self.connections
        try:
            lane = connections.lanes.pop()
        except IndexError:
            lane = new_lane(self.remote)
        try:
            yield from Fetch(lane, connections.concurrency, self.policy(), iter(requests), in_flight).run()
        finally:
            if lane.is_ours:
                lane.abandon()
                connections.lanes.append(lane)
            else:  # in a forked child: the parent still uses these sockets, and the epoll that watches them
                leave_to_parent(lane)

    def send(self, request: Request) -> Response:
        """Carry out one request, and raise its error."""
        ((_, outcome),) = self.fetch([request], 1)
        try:
            if isinstance(outcome, errors.StorageError):
                raise outcome
            return outcome
        finally:
            del outcome  # an error that its own traceback refers to would keep the connections open

    def close(self) -> None:
        """Let go of this process's connections, but for those in use; the next request finds or makes others."""
        self._connections.forget()
