"""HTTP bytes over libcurl: every body that comes out is whole, and of one version of its file.

A `Transport` keeps warm connections for each process. `fetch` drives many requests from the calling thread: it begins
new ones as old ones end, tries again what may be tried again, and goes on with a broken transfer where it stopped
(``Range`` with ``If-Range``, RFC 9110, 13.1.5 and 14.2) or, without a strong ETag, from its start.
"""

from __future__ import annotations

import heapq
import itertools
import os
import re
import select
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import pycurl

from ai4os_data import errors, telemetry
from ai4os_data.http import proxies, redirects, statuses
from ai4os_data.http.answers import (
    compression,
    content_length,
    content_range,
    error_for_status,
    parse_head,
    plain_etag,
    status_meant,
    wrong_credentials,
)
from ai4os_data.http.bodies import Body, MemoryBody, NoBody, Reader, Source
from ai4os_data.http.connections import Connections, account, connections_to
from ai4os_data.http.outages import FLAPPING, LOOK_S, Wait
from ai4os_data.http.refusals import LOOK_AT_DOUBT_S, Credentials, Refusals
from ai4os_data.http.retries import (
    LOCKED_TRIES,
    LONGEST_LOCK_PAUSE_S,
    Patience,
    retry_after_s,
    shortened,
)
from ai4os_data.http.tls import ca_file
from ai4os_data.locations import origin_of
from ai4os_data.machine import PerProcess, descriptors, leave_to_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ai4os_data.locations import Remote

T = TypeVar("T")
R = TypeVar("R")

_TLS_CODES = frozenset({35, 51, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91})
_TLS_DISTRUST = frozenset({51, 60, 77, 82, 83, 90, 91})
_TIMED_OUT = 28
_ABORTED_BY_US = 23
_AWAY_IF_IT_WORKED = frozenset({5, 6, 35, 97})  # names that do not resolve; TLS, or a proxy's words, that go wrong
_BUFFER_BYTES = 256 * 1024
_UPLOAD_BUFFER_BYTES = 2 * 1024 * 1024
_SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name
_PLAIN_HEADERS = (b"Accept-Encoding: identity", b"Expect:", b"Accept: */*")
_CONTINUE = re.compile(rb"HTTP/\S+ +100\b")
_ALONE_AFTER = 2  # failures, then the server is asked for something else
_PROBE_S = 5.0
_KEPT_WARM_S = 55  # servers close idle connections after 5 to 60 s


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Args:
        url: percent-encoded, as it goes on the wire.
        body: takes the answer's bytes.
        method: ``"GET"``, ``"HEAD"`` or ``"PUT"``.
        start: the first byte that is wanted.
        stop: the byte after the last one that is wanted.
        expected_bytes: the size that was listed; it sets the deadline.
        headers: further header lines.
        source: what a PUT sends.
        is_archive: whether the answer holds many files: it is counted so, and ends with what has come of it where it
            breaks off, which the body keeps.
        repeats: whether it is sent again after a try that may have succeeded all the same, such as one whose answer
            was lost; if not, the caller looks first.
        asks_first: whether a PUT sends its body only when the server has seen the head, and not refused it.
        tag: the caller's own.

    Attributes:
        fails_alone: whether it failed as it does where the server is away, while the server answered others.
        was_let: whether the server has said that the body of a PUT which asks first may come.
    """

    url: str
    body: Body = field(default_factory=MemoryBody)
    method: str = "GET"
    start: int | None = None
    stop: int | None = None
    expected_bytes: int | None = None
    headers: tuple[str, ...] = ()
    source: Source | None = None
    is_archive: bool = False
    repeats: bool = True
    asks_first: bool = False
    tag: object = None
    fails_alone: bool = field(default=False, init=False)
    was_let: bool = field(default=False, init=False)


@dataclass(slots=True)
class Response:
    """The head of an answer whose body is complete.

    Attributes:
        status: 200, 201, 204 or 206.
        headers: their names in lower case.
        total_bytes: the size of the whole file, where the server told it.
        received_bytes: how many bytes the body took.
        is_foreign: whether another host answered, to which the server had redirected: its ETags are its own.
    """

    status: int
    headers: dict[str, str]
    total_bytes: int | None = None
    received_bytes: int = 0
    is_foreign: bool = False

    @property
    def etag(self) -> str | None:
        """The ETag, without quotes and mark of weakness."""
        return plain_etag(self.headers.get("etag"))

    @property
    def compression(self) -> str | None:
        """How its bytes are compressed, as its head has it; whether they are, their number tells."""
        return compression(self.headers)


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
    def refusals(self) -> Refusals:
        """What is known of refusals of these credentials."""
        return self.credentials.refusals

    @property
    def connections(self) -> Connections:
        """This process's connections."""
        remote, held = self.remote, self._connections.get()
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

    def fetch(
        self, requests: Iterable[Request], in_flight: int | None = None
    ) -> Generator[tuple[Request, Response | errors.StorageError], None, None]:
        """Carry out requests, and yield each as it ends, with its answer or its error.

        Args:
            requests: taken as there is room for them.
            in_flight: how many at a time; by default as many as the server rewards.
        """
        connections = self.connections
        call = _Call(connections, self.patience, self.counters, self.credentials)
        try:
            lane = connections.lanes.pop()
        except IndexError:
            lane = _new_lane(call)
        try:
            yield from lane.run(iter(requests), in_flight, call)
        finally:
            if lane.is_ours:
                lane.abandon()
                connections.lanes.append(lane)
            else:  # in a forked child: the parent goes on with these sockets, and with the epoll that watches them
                leave_to_parent(lane)

    def send(self, request: Request) -> Response:
        """Carry out one request, and raise its error."""
        ((_, outcome),) = self.fetch([request], 1)
        try:
            if isinstance(outcome, errors.StorageError):
                raise outcome
            return outcome
        finally:
            del outcome  # an error that its own traceback leads to would keep the connections open

    def close(self) -> None:
        """Let go of this process's connections, but for those in use; the next request finds or makes others."""
        self._connections.forget()


class _Call:
    """What the transfers of one `Transport.fetch` have in common."""

    __slots__ = ("concurrency", "counters", "credentials", "patience", "wait")

    def __init__(
        self, connections: Connections, patience: Patience, counters: telemetry.Counters, credentials: Credentials
    ) -> None:
        self.concurrency = connections.concurrency
        self.wait = Wait(connections.outage, patience)
        self.patience = patience
        self.counters = counters
        self.credentials = credentials


class _Transfer:
    """One request on its way: its tries, and what has come of it so far."""

    __slots__ = (
        "away",
        "began_s",
        "body",
        "deadline",
        "etag",
        "failed_s",
        "failures",
        "first",
        "head_lines",
        "hops",
        "is_first",
        "is_foreign",
        "is_probe",
        "is_redirect",
        "judged",
        "last_error",
        "length_before",
        "offset",
        "raised",
        "reader",
        "refused",
        "request",
        "resumed",
        "sent_with",
        "share",
        "url",
    )

    def __init__(self, request: Request, patience: Patience) -> None:
        self.request = request
        self.body = request.body
        self.deadline = patience.deadline(request.expected_bytes)
        self.failures = 0
        self.away = 0  # tries that found the server away
        self.refused = 0  # tries that were answered with 401
        self.is_first = False  # others wait for the answer to it
        self.is_probe = False  # only whether an answer comes is of interest
        self.failed_s = self.began_s = 0.0
        self.last_error: errors.StorageError | None = None
        self.sent_with: Remote | None = None
        self.share: pycurl.CurlShare | None = None  # of the credentials that it was sent with
        self.length_before = 0
        self.etag: str | None = None
        self.head_lines: list[bytes] = []
        self.judged = False
        self.offset = 0
        self.resumed = False
        self.reader: Reader | None = None
        self.raised: BaseException | None = None  # by what takes or gives the bytes
        self.is_redirect = False
        self.start_over()

    def start_over(self) -> None:
        """Ask the server itself: where it redirected to may be out of date."""
        self.url = self.request.url
        self.hops = 0
        self.is_foreign = False

    def range_header(self) -> str | None:
        """The range to ask for in this try."""
        first = (self.request.start or 0) + self.offset
        if self.request.start is None and not self.offset:
            return None
        last = "" if self.request.stop is None else str(self.request.stop - 1)
        return f"Range: bytes={first}-{last}"

    def begin(self) -> None:
        """Forget the last try, keep what may be gone on with."""
        self.head_lines = []
        self.judged = False
        self.first = b""
        self.resumed = self.offset > 0
        if not self.resumed:
            self.body.restart()
        self.began_s = time.monotonic()
        self.length_before = self.body.length

    def waits(self, patience: Patience) -> bool:
        """Whether it waits for a server that is away."""
        return patience.outage_s > 0 and self.request.method == "GET" and not self.is_foreign

    @property
    def has_heard(self) -> bool:
        """Whether this try has brought bytes of the file."""
        return self.judged or self.body.length > self.length_before

    def end(self) -> None:
        """Let go of what this try sent."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def writer(self) -> Callable[[bytes], int | None]:
        """Takes the pieces of this try's body."""
        if self.request.start is None and not self.resumed and type(self.body) is MemoryBody:
            return self.body.chunks.append  # the usual case, without a Python frame for each piece
        return self.guarded(self._write, failed=0)

    def guarded(self, callback: Callable[[T], R], failed: R) -> Callable[[T], R]:
        """The same callback for curl, which prints what one raises and calls it a broken connection."""

        def call(argument: T) -> R:
            try:
                return callback(argument)
            except BaseException as error:  # noqa: BLE001  it is raised when curl is left
                self.raised = error
                return failed

        return call

    def raise_again(self) -> None:
        """Raise what a callback raised."""
        raised, self.raised = self.raised, None
        try:
            if raised is not None:
                raise raised
        finally:
            del raised  # an error that its own traceback leads to would keep the connections open

    def said(self) -> bytes:
        """The begin of the page that came with an error."""
        return b"".join(self.body.chunks[:1]) if type(self.body) is MemoryBody else self.first

    def _write(self, chunk: bytes) -> int | None:
        if not self.judged:
            self.judged = True
            status, headers = parse_head(self.head_lines)
            self.first = chunk if status >= 400 else b""
            self.is_redirect = status in redirects.STATUSES
            if status == 206:
                if not self.continues(headers):
                    return 0
            elif not self.is_redirect:
                self.body.restart()
                self.offset = 0
                self.resumed = False
        if self.is_redirect:  # the page that comes with it is not the file
            return None
        if self.request.start is not None and not self._from_wanted_start(chunk):
            return 0
        if self.request.start is None:
            self.body.write(chunk)
        return None

    def continues(self, headers: dict[str, str]) -> bool:
        """Whether a partial answer begins where it was asked to, in the version that the first part is of."""
        served = content_range(headers)
        if served is None or served[0] != (self.request.start or 0) + self.offset:
            return False
        # A server may send 206 whatever If-Range says; RFC 9110, 15.3.7, has it tell the ETag.
        if self.resumed:
            return headers.get("etag") == self.etag
        return self.request.start is not None or served[1] is not None  # all of it, as a part

    def _from_wanted_start(self, chunk: bytes) -> bool:
        """Cut the wanted range out of what comes; False when it is complete."""
        status, _ = parse_head(self.head_lines)
        if status != 200:
            self.body.write(chunk)
            return True
        begin, self.offset = self.offset, self.offset + len(chunk)  # a server that ignores Range sends all
        start, stop = self.request.start or 0, self.request.stop
        piece = chunk[max(0, start - begin) : None if stop is None else max(0, stop - begin)]
        if piece:
            self.body.write(piece)
        return stop is None or self.offset < stop


class _Sockets:
    """The sockets and the timer that libcurl asks to be watched. It knows no lane, so that a lane goes when dropped."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.watched: set[int] = set()
        self.timeout_s: float | None = None

    def watch(self, event: int, descriptor: int, _multi: object, _data: object) -> None:
        """Watch a socket from now on, or no more."""
        if event == pycurl.POLL_REMOVE:
            if descriptor in self.watched:
                self.watched.discard(descriptor)
                with suppress(OSError):  # closing the socket may have taken it out
                    self.epoll.unregister(descriptor)
            return
        mask = (select.EPOLLIN if event & pycurl.POLL_IN else 0) | (select.EPOLLOUT if event & pycurl.POLL_OUT else 0)
        if descriptor in self.watched:
            with suppress(FileNotFoundError):  # a new socket under an old number
                self.epoll.modify(descriptor, mask)
                return
        self.watched.add(descriptor)
        self.epoll.register(descriptor, mask)

    def set_timer(self, timeout_ms: int) -> None:
        """Wait no longer than this."""
        self.timeout_s = None if timeout_ms < 0 else timeout_ms / 1000


class _Queue:
    """The transfers of a call that are not on their way: new ones, those in a pause, those that wait for the server."""

    def __init__(self, requests: Iterator[Request], call: _Call) -> None:
        self._requests = requests
        self._call = call
        self._paused: list[tuple[float, int, _Transfer]] = []
        self._held: deque[_Transfer] = deque()
        self._order = itertools.count()
        self._is_exhausted = False
        self._planned: Request | None = None
        self._plans = False
        self._closed_until_s = 0.0

    def next(self) -> _Transfer | None:
        """The transfer to begin with now, if any: one that has waited long enough, or a new one."""
        wait = self._call.wait
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

    def _new(self) -> _Transfer | None:
        request, self._planned = self._planned, None
        if request is None:
            request = self._taken()
        self._plans = request is not None and request.is_archive
        return None if request is None else _Transfer(request, self._call.patience)

    def _taken(self) -> Request | None:
        request = None if self._is_exhausted else next(self._requests, None)
        self._is_exhausted = request is None
        return request

    def plan(self) -> None:
        """Have the next archive planned while others are on their way: it takes some milliseconds for many files."""
        if self._plans and self._planned is None and not self._call.wait.is_held:
            self._planned = self._taken()

    def put_back(self, transfer: _Transfer, pause_s: float) -> None:
        """Send it again later: after a pause, or when the server is back."""
        if transfer.away and self._call.wait.is_held:
            self._held.append(transfer)
        else:
            heapq.heappush(self._paused, (time.monotonic() + pause_s, next(self._order), transfer))

    def close_for(self, pause_s: float) -> None:
        """Let nothing begin for a while."""
        self._closed_until_s = time.monotonic() + pause_s

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to begin with."""
        return self._is_exhausted and self._planned is None and not (self._held or self._paused)

    def longest_s(self) -> float | None:
        """How long until something can be begun with: 0 for now; None where nothing is left."""
        if self.is_over:
            return None
        now_s = time.monotonic()
        if self._call.wait.is_held:
            return LOOK_S
        if now_s < self._closed_until_s:
            return self._closed_until_s - now_s
        if self._held or self._planned is not None or not (self._paused and self._is_exhausted):
            return 0.0
        return max(0.0, self._paused[0][0] - now_s)


def _new_lane(call: _Call) -> _Lane:
    try:
        return _Lane(call)
    except (OSError, pycurl.error) as error:
        if (out := descriptors.exhausted(error)) is not None:
            raise out from error
        raise


class _Lane:
    """One thread's transfers: a libcurl multi handle, driven through epoll, and its idle handles."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._owner = os.getpid()
        self._idle: list[pycurl.Curl] = []
        self._active: dict[pycurl.Curl, _Transfer] = {}
        self._sockets = _Sockets()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._sockets.watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._sockets.set_timer)
        self._counts_answers = True
        self._is_of(call.credentials.remote)

    @property
    def is_ours(self) -> bool:
        """Whether it is of this process, and not of one that this one was forked from."""
        return os.getpid() == self._owner

    def _is_of(self, remote: Remote) -> None:
        """Send these credentials from now on, and none of the cookies that came for others."""
        self._remote = remote
        self._account = account(remote)
        for handle in self._idle:
            handle.close()
        self._idle = []
        self._share = pycurl.CurlShare()
        self._share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_COOKIE)  # a session cookie saves 250 ms a request
        self._headers = [*_PLAIN_HEADERS, *(f"{name}: {value}".encode() for name, value in remote.sent_headers())]

    def run(
        self, requests: Iterator[Request], in_flight: int | None, call: _Call
    ) -> Generator[tuple[Request, Response | errors.StorageError], None, None]:
        """Carry out the requests, and yield each as it ends.

        What ended gives its place to the next request at once, and sockets are served between two yields: what the
        caller does with an answer, such as storing it, does not hold up the others.
        """
        ready: deque[tuple[Request, Response | errors.StorageError]] = deque()
        queue = _Queue(requests, call)
        self._call = call
        self._counts_answers = in_flight is None
        while True:
            limit = in_flight or call.concurrency.limit
            while len(self._active) < limit and len(ready) <= limit:
                transfer = queue.next()
                if transfer is None:
                    break
                error = self._begin_in_turn(transfer, queue)
                if error is not None:
                    ready.append((transfer.request, error))
            if ready:
                yield ready.popleft()
            elif not self._active and queue.is_over:
                return
            if len(self._active) == limit and not ready:
                queue.plan()
            self._await(queue, is_pressed=bool(ready), has_room=len(self._active) < limit)
            for transfer, outcome in self._ended():
                if isinstance(outcome, float):
                    queue.put_back(transfer, outcome)
                else:
                    ready.append((transfer.request, outcome))

    def _await(self, queue: _Queue, *, is_pressed: bool, has_room: bool) -> None:
        """Wait until something happens on the network, or something may be sent."""
        if not self.is_ours:
            raise RuntimeError("these requests are another process's: begin them anew after a fork")
        pause_s = queue.longest_s()
        if pause_s and self._call.wait.has_begun:
            self._call.wait.outage.tell(self._call.wait.outage_s)
            pause_s = min(pause_s, LOOK_S)
        if self._active:
            # With no room for another, what waits has to wait for the end of one that is on its way.
            self._step(0.0 if is_pressed else pause_s if has_room else None)
        elif pause_s and not is_pressed:
            self._step(pause_s)
        if self._call.wait.outage.is_on and any(map(_is_answered, self._active.values())):
            self._call.wait.outage.answered()  # with the first bytes: the last ones may take minutes

    def _begin_in_turn(self, transfer: _Transfer, queue: _Queue) -> errors.StorageError | None:
        """Send a request, or put it back for a moment; or the error of one that is not sent at all."""
        call = self._call
        turn = "go" if transfer.is_first else call.credentials.turn()
        if turn == "refused" or (transfer.is_first and transfer.refused and call.credentials.is_hopeless()):
            return errors.AuthenticationError(wrong_credentials(self._remote))
        if turn == "wait":
            queue.put_back(transfer, 0.0)
            queue.close_for(LOOK_AT_DOUBT_S)
            return None
        if call.wait.is_over:
            return self._given_up(transfer)
        transfer.is_first = transfer.is_first or turn == "first"
        self._begin(transfer)
        return None

    def _given_up(self, transfer: _Transfer) -> errors.StorageError:
        """The error of a request that waited for a server that is away still."""
        transfer.body.restart()
        wait, error = self._call.wait, transfer.last_error
        return wait.error(self._what(transfer)) if error is None else wait.gave_up(error)

    def abandon(self) -> None:
        """Stop what is still on its way, and close its connections."""
        for handle, transfer in self._active.items():
            self._multi.remove_handle(handle)
            handle.close()
            transfer.end()
        self._active.clear()
        del self._call  # it would keep the counters of a dataset that is gone

    def _step(self, longest_s: float | None) -> None:
        limits = [limit for limit in (longest_s, self._sockets.timeout_s) if limit is not None]
        timeout_s = max(0.0, min(limits)) if limits else 1.0
        if not self._active:
            time.sleep(timeout_s)
            return
        events = self._sockets.epoll.poll(timeout_s) if timeout_s or self._sockets.watched else []
        if not events:
            self._sockets.timeout_s = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            return
        for descriptor, mask in events:
            flags = (pycurl.CSELECT_IN if mask & (select.EPOLLIN | select.EPOLLHUP) else 0) | (
                pycurl.CSELECT_OUT if mask & select.EPOLLOUT else 0
            )
            if mask & select.EPOLLERR:
                flags |= pycurl.CSELECT_ERR
            self._multi.socket_action(descriptor, flags)
        if self._sockets.timeout_s == 0:
            self._sockets.timeout_s = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _begin(self, transfer: _Transfer) -> None:
        remote = self._call.credentials.remote
        if remote is not self._remote:
            if account(remote) != self._account:
                self._is_of(remote)
            self._remote = remote  # that of another store, maybe: its requests need no comparison from now on
        if transfer.is_foreign:
            handle = self._new_handle(transfer.url)
        else:
            handle = self._idle.pop() if self._idle else self._own_handle()
        patience, transfer.sent_with, transfer.share = self._call.patience, remote, self._share
        transfer.begin()
        request = transfer.request
        handle.setopt(pycurl.URL, transfer.url)
        handle.setopt(pycurl.HEADERFUNCTION, transfer.head_lines.append)
        handle.setopt(pycurl.WRITEFUNCTION, transfer.writer())
        remaining_s = max(1.0, transfer.deadline - time.monotonic())
        handle.setopt(pycurl.TIMEOUT_MS, int(remaining_s * 1000))
        handle.setopt(pycurl.HTTPHEADER, self._head_of(transfer))
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(patience.connect_s * 1000))
        handle.setopt(pycurl.LOW_SPEED_TIME, patience.hears_within_s)
        if request.method == "PUT":
            source = request.source
            assert source is not None
            handle.setopt(pycurl.UPLOAD, 1)
            handle.setopt(pycurl.INFILESIZE_LARGE, source.size_bytes)
            transfer.reader = source.open()
            handle.setopt(pycurl.READFUNCTION, transfer.guarded(transfer.reader.read, pycurl.READFUNC_ABORT))
            silence_s = min(remaining_s, patience.silence_s(source.size_bytes))
            handle.setopt(pycurl.LOW_SPEED_TIME, max(1, int(silence_s)))
        elif request.method == "HEAD":
            handle.setopt(pycurl.NOBODY, 1)
        if self._counts_answers and not self._active:
            self._call.concurrency.begin()
        counted = telemetry.REQUESTS_PUT if request.method == "PUT" else telemetry.REQUESTS_GET
        counted = telemetry.REQUESTS_ARCHIVE if request.is_archive else counted
        self._call.counters.row[counted] += 1
        self._active[handle] = transfer
        self._multi.add_handle(handle)
        self._sockets.timeout_s = 0.0
        if request.is_archive:  # it is sent before the caller takes its time with the files of the last one
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _head_of(self, transfer: _Transfer) -> list[bytes]:
        """The header lines of a try."""
        request = transfer.request
        headers = [*(_PLAIN_HEADERS if transfer.is_foreign else self._headers)]
        if request.asks_first:  # its body follows the server's consent, or comes after a second without an answer
            headers[headers.index(b"Expect:")] = b"Expect: 100-continue"
        headers += [header.encode("latin-1", "replace") for header in request.headers]
        if (range_header := transfer.range_header()) is not None:
            headers.append(range_header.encode())
            if transfer.resumed:
                headers.append(f"If-Range: {transfer.etag}".encode("latin-1"))
        return headers

    def _own_handle(self) -> pycurl.Curl:
        """A handle for our server: with credentials, and the cookies of its sessions."""
        handle = self._new_handle(self._remote.url)
        handle.setopt(pycurl.SHARE, self._share)
        handle.setopt(pycurl.COOKIEFILE, "")
        if self._remote.sends_password:
            handle.setopt(pycurl.HTTPAUTH, pycurl.HTTPAUTH_BASIC)
            handle.setopt(pycurl.USERNAME, (self._remote.user or "").encode())
            handle.setopt(pycurl.PASSWORD, (self._remote.password or "").encode())
        return handle

    def _new_handle(self, url: str) -> pycurl.Curl:
        """A handle for the server of a URL, which knows no secret but those of the proxy."""
        handle = pycurl.Curl()
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        handle.setopt(pycurl.PATH_AS_IS, 1)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        handle.setopt(pycurl.UPLOAD_BUFFERSIZE, _UPLOAD_BUFFER_BYTES)
        handle.setopt(pycurl.LOW_SPEED_LIMIT, 1)
        handle.setopt(pycurl.MAXAGE_CONN, _KEPT_WARM_S)
        handle.setopt(pycurl.TCP_KEEPALIVE, 1)
        handle.setopt(pycurl.CAINFO, ca_file(self._remote.ca_file))
        handle.setopt(pycurl.USERAGENT, "ai4os-data")
        handle.setopt(pycurl.NOPROXY, "")  # the variables are read by us alone, so that listings go the same way
        proxy = proxies.proxy_for(url, os.environ)
        handle.setopt(pycurl.PROXY, "" if proxy is None else proxy.url)
        if proxy is not None:
            handle.setopt(_SUPPRESS_CONNECT_HEADERS, 1)  # its head is not the server's
            handle.setopt(pycurl.PROXY_CAINFO, ca_file(self._remote.ca_file))
            handle.setopt(pycurl.PROXYUSERNAME, (proxy.user or "").encode())
            handle.setopt(pycurl.PROXYPASSWORD, (proxy.password or "").encode())
        return handle

    def _ended(self) -> Iterator[tuple[_Transfer, Response | errors.StorageError | float]]:
        """Each transfer that has ended: with its answer, its error, or the pause before it is tried again."""
        while True:
            queued, good, bad = self._multi.info_read()
            ended = [(handle, 0, "") for handle in good] + bad
            yield from (each for each in itertools.starmap(self._end, ended) if not each[0].is_probe)
            if not queued:
                return

    def _end(
        self, handle: pycurl.Curl, code: int, message: str
    ) -> tuple[_Transfer, Response | errors.StorageError | float]:
        transfer = self._active.pop(handle)
        self._multi.remove_handle(handle)
        transfer.end()
        if transfer.raised is not None:
            handle.close()
            transfer.raise_again()
        if self._counts_answers and not self._call.wait.is_held:
            self._call.concurrency.answered()
        error_number = handle.getinfo(pycurl.OS_ERRNO) if code else 0
        if code and (refused := handle.getinfo(pycurl.HTTP_CONNECTCODE)) >= 400:
            handle.close()
            return transfer, self._refused_by_proxy(transfer, refused)
        if transfer.request.method == "GET" and not transfer.is_foreign and transfer.share is self._share:
            self._idle.append(handle)
        else:
            # Its options, such as a password that is good no more, do not fit the next request; the connection stays
            # with the multi handle.
            handle.close()
        if code and not transfer.head_lines and (out := descriptors.exhausted(error_number=error_number)) is not None:
            return transfer, self._again(transfer, out, None)
        return transfer, self._judge(transfer, code, message)

    # --- what an ended try means

    def _judge(self, transfer: _Transfer, code: int, message: str) -> Response | errors.StorageError | float:
        status, headers = parse_head(transfer.head_lines)
        status = status_meant(status, transfer.said()) if status == 503 else status
        if (pause := self._taken_in(transfer, code, status, headers)) is not None:
            return pause
        if code == _ABORTED_BY_US and status == 206:
            return self._other_range(transfer, headers)
        if code == _ABORTED_BY_US and status == 200 and transfer.request.start is not None:
            # The wanted range was cut out of the whole.
            total = content_length(headers)
            return Response(status, headers, total, transfer.body.length, transfer.is_foreign)
        if code and status < 400:  # an error stands, whatever becomes of the page that comes with it
            return self._broken(transfer, code, message, status, headers)
        if 200 <= status < 300:
            return self._complete(transfer, status, headers)
        if status in redirects.STATUSES and transfer.request.method != "PUT":
            return self._redirected(transfer, headers)
        if transfer.is_foreign and status in {401, 403}:
            transfer.body.restart()
            return errors.PermissionDeniedError(
                f"{self._what(transfer)}: refused there ({status}). No credentials are sent to another host than "
                f"{self._remote.origin}"
            )
        if status == 401 and (pause_s := self._refused(transfer)) is not None:
            return pause_s
        if status == 416 and transfer.resumed:
            transfer.offset = 0
            return self._again(transfer, errors.ChangedError(f"{self._what(transfer)} changed while it was read"), None)
        return self._judge_status(transfer, status, headers)

    def _judge_status(self, transfer: _Transfer, status: int, headers: dict[str, str]) -> errors.StorageError | float:
        """What an answer that is an error means: the error, or the pause before another try."""
        error = error_for_status(
            status,
            self._what(transfer),
            headers,
            self._remote,
            is_upload=transfer.request.method == "PUT",
            page=transfer.said(),
        )
        transfer.offset = 0
        transfer.body.restart()
        asked_s = retry_after_s(headers.get("retry-after"))
        if status in statuses.UNCERTAIN and not transfer.request.repeats:
            error.retry_after_s = asked_s  # type: ignore[attr-defined]  # these three are ServerUnavailableError
            return error
        if status == 423 and transfer.request.method == "GET":
            return self._locked(transfer, error, asked_s)
        if status in statuses.RETRIED:
            return self._again(transfer, error, asked_s, away=status in statuses.AWAY)
        return error

    def _taken_in(
        self, transfer: _Transfer, code: int, status: int, headers: dict[str, str]
    ) -> errors.StorageError | float | None:
        """What an answer tells of the server; the outcome where it counts for nothing else, or is not yet believed."""
        if not code and transfer.waits(self._call.patience) and self._call.wait.outage.doubts(status):
            transfer.offset = 0
            error = error_for_status(status, self._what(transfer), headers, self._remote)
            return 0.0 if transfer.is_probe else self._again(transfer, error, None, away=True)
        if not transfer.is_foreign and (not code or status >= 400 or transfer.has_heard):
            self._answered(transfer, status)
        return 0.0 if transfer.is_probe else None

    def _answered(self, transfer: _Transfer, status: int) -> None:
        """Record that the server is there, and whether it takes the credentials."""
        if status in statuses.AWAY:
            return
        self._call.wait.outage.answered(healed=bool(transfer.away) and status < 300)
        if status != 401:
            self._call.credentials.accepted(was_doubted=transfer.is_first)
            transfer.is_first = False

    def _refused(self, transfer: _Transfer) -> float | None:
        """The pause before a request that was answered with 401 is sent again; None where nobody asks any more."""
        assert transfer.sent_with is not None
        transfer.refused += 1
        transfer.offset = 0
        transfer.body.restart()
        again = self._call.credentials.refused(transfer.sent_with, transfer.refused, was_first=transfer.is_first)
        if again is None:
            return None
        transfer.start_over()
        transfer.is_first, pause_s = again
        self._call.counters.row[telemetry.RETRIES] += 1
        return pause_s

    def _locked(
        self, transfer: _Transfer, error: errors.StorageError, asked_s: float | None
    ) -> errors.StorageError | float:
        """A lock concerns one file, and lasts for a moment or for an hour: a few tries tell."""
        if transfer.request.is_archive or transfer.failures + 1 >= LOCKED_TRIES:
            return error
        return self._again(transfer, error, shortened(asked_s, LONGEST_LOCK_PAUSE_S))

    def _complete(
        self, transfer: _Transfer, status: int, headers: dict[str, str]
    ) -> Response | errors.StorageError | float:
        """An answer that ended well: its body, if it is what was asked for, and all of it."""
        request = transfer.request
        received = transfer.body.length
        self._call.counters.row[telemetry.BYTES_FROM_NETWORK] += received
        total = content_length(headers)
        if request.method != "GET":
            request.was_let = any(_CONTINUE.match(line) for line in transfer.head_lines)
            return Response(status, headers, total, received, transfer.is_foreign)
        if status == 206:
            if not transfer.continues(headers):
                return self._other_range(transfer, headers)
            _, total = content_range(headers) or (0, None)
        if request.start is None:
            promised = total
        elif status == 206 and request.stop is not None and total is not None:
            promised = min(request.stop, total) - request.start
        else:
            promised = None
        if promised is not None and received != promised:
            if (kind := compression(headers)) is not None:
                return errors.ProtocolError(f"{self._what(transfer)}: {compressed(kind)}")
            return self._short(transfer, promised)
        total = received if request.start is None else total
        if not (transfer.is_foreign or request.is_archive):
            self._call.wait.outage.came(request.url)
        return Response(status, headers, total, received, transfer.is_foreign)

    def _redirected(self, transfer: _Transfer, headers: dict[str, str]) -> errors.StorageError | float:
        """Ask where the server says that the file is: at once, since nothing has failed."""
        try:
            there = redirects.target(transfer.url, headers.get("location", ""), self._what(transfer))
            proxies.proxy_for(there, os.environ)
        except errors.StorageError as error:
            transfer.body.restart()
            return error
        transfer.hops += 1
        if transfer.hops > redirects.MOST_HOPS:
            transfer.body.restart()
            return errors.ProtocolError(f"{self._what(transfer)}: redirected more than {redirects.MOST_HOPS} times")
        transfer.url = there
        transfer.is_foreign = origin_of(there) != self._remote.origin
        return 0.0

    def _refused_by_proxy(self, transfer: _Transfer, status: int) -> errors.StorageError | float:
        """What it means that a proxy opens no way to the server."""
        way = proxies.through(transfer.url, os.environ)
        what = f"{self._what(transfer)}: the proxy opens no connection ({status}){way}"
        if status in statuses.RETRIED:
            return self._again(transfer, errors.ServerUnavailableError(what), None)
        transfer.body.restart()
        if status == 407:
            return error_for_status(status, self._what(transfer), {}, self._remote)
        return errors.PermissionDeniedError(what)

    def _other_range(self, transfer: _Transfer, headers: dict[str, str]) -> errors.StorageError | float:
        transfer.offset = 0
        error = errors.ProtocolError(
            f"{self._what(transfer)}: the server answered another range than the one asked for: "
            f"{headers.get('content-range')!r}"
        )
        return self._again(transfer, error, None)

    def _short(self, transfer: _Transfer, promised: int) -> errors.StorageError | float:
        got = transfer.body.length
        transfer.offset = 0
        error = errors.IntegrityError(f"{self._what(transfer)}: {got:,} bytes came where {promised:,} were promised")
        return self._again(transfer, error, None)

    def _broken(
        self, transfer: _Transfer, code: int, message: str, status: int, headers: dict[str, str]
    ) -> errors.StorageError | float:
        """A try that broke off: keep what came of it if it can be gone on with, and try again if that may help."""
        what = self._what(transfer)
        message = message or f"the connection fails (curl {code})"
        progressed = False
        if status in {200, 206} and transfer.request.start is None:
            length = transfer.body.length
            etag = headers.get("etag", "")
            if (
                etag.startswith('"')
                and headers.get("accept-ranges") != "none"
                and self._is_plain(transfer, status, headers)
                and (transfer.continues(headers) if status == 206 else not transfer.resumed)
            ):
                progressed = length > transfer.offset
                transfer.etag, transfer.offset = etag, length
            else:
                transfer.offset = 0
        else:
            transfer.offset = (
                0 if status not in {0, 200, 206} or transfer.request.start is not None else transfer.offset
            )
        if transfer.request.start is not None:
            transfer.body.restart()
        if code in _TLS_CODES:
            tls = errors.TLSError(
                f"{what}: no trusted connection to {origin_of(transfer.url)} ({message}). If it uses an authority of "
                "your own, "
                f"pass Remote(…, ca_file='authority.pem') or set SSL_CERT_FILE"
            )
            if code in _TLS_DISTRUST:
                return tls
            return self._again(transfer, tls, None, away=code in _AWAY_IF_IT_WORKED and self._has_answered)
        error: errors.StorageError
        if code == _TIMED_OUT:
            error = errors.DeadlineError(f"{what}: {message}{proxies.through(transfer.url, os.environ)}")
        else:
            error = errors.ServerUnavailableError(
                f"{what}: {message}. Is {origin_of(transfer.url)} up, and reachable from this machine?"
                f"{proxies.through(transfer.url, os.environ)}"
            )
        if not transfer.request.repeats or (transfer.request.is_archive and transfer.body.length):
            return error  # what has come of an archive is of use
        if progressed:
            transfer.failures = 0
        # Who sends something breaks off for a reason of its own; and a deadline for all tries is no silence.
        is_away = not transfer.has_heard and time.monotonic() < transfer.deadline
        return self._again(
            transfer, error, None, away=is_away and (code not in _AWAY_IF_IT_WORKED or self._has_answered)
        )

    @property
    def _has_answered(self) -> bool:
        """Whether the server has answered before: then its name and its certificate are right."""
        return self._call.credentials.answers > 0 or self._call.wait.outage.has_answered

    def _again(
        self, transfer: _Transfer, error: errors.StorageError, asked_s: float | None, *, away: bool = False
    ) -> errors.StorageError | float:
        """The pause before the next try, or the error when there is none.

        Args:
            transfer: what failed.
            error: how.
            asked_s: the pause that the server asked for.
            away: whether it may be that the server is away.
        """
        patience = self._call.patience
        outcome: errors.StorageError | float
        if away and transfer.waits(patience):
            outcome = self._wait_out(transfer, error, asked_s)
        else:
            transfer.failures += 1
            outcome = patience.pause_s(transfer.failures, asked_s)
            if transfer.failures >= patience.tries or time.monotonic() + outcome > transfer.deadline:
                outcome = error
        if isinstance(outcome, errors.StorageError):
            transfer.body.restart()
            return outcome
        transfer.start_over()
        row = self._call.counters.row
        row[telemetry.RETRIES] += 1
        row[telemetry.WAITED_NS] += int(outcome * 1e9)
        return outcome

    def _wait_out(
        self, transfer: _Transfer, error: errors.StorageError, asked_s: float | None
    ) -> errors.StorageError | float:
        """The pause after a request that found the server away; while others get answers, its tries count."""
        patience, wait = self._call.patience, self._call.wait
        if transfer.away == 0 or wait.outage.progress_s > transfer.failed_s:
            transfer.failures += 1
            transfer.away = 0
        transfer.failed_s = time.monotonic()
        transfer.away += 1
        transfer.last_error = error
        if transfer.failures >= max(2, patience.tries) * (FLAPPING if wait.outage.flaps else 1):
            transfer.request.fails_alone = True
            return error
        pause_s = wait.failed(transfer.began_s, error, asked_s=asked_s, failures=max(transfer.away, transfer.failures))
        if pause_s is None:
            return wait.gave_up(error)
        if transfer.away + transfer.failures > _ALONE_AFTER and not self._active:
            probe = self._probe(transfer)
            if probe is not None:
                self._begin(probe)
        # What is waited for does not count against the time that the transfer itself may take.
        transfer.deadline = max(transfer.deadline, patience.deadline(transfer.request.expected_bytes) + pause_s)
        return pause_s

    def _probe(self, transfer: _Transfer) -> _Transfer | None:
        """A question for a byte of another file, whose answer tells that it is this file alone that fails."""
        others = self._call.wait.outage.other_urls
        url = next((url for url in others if url != transfer.request.url), None)
        if url is None:
            return None
        request = Request(url, NoBody(), start=0, stop=1, expected_bytes=0)
        probe = _Transfer(request, self._call.patience)
        probe.is_probe, probe.deadline = True, time.monotonic() + _PROBE_S
        return probe

    def _what(self, transfer: _Transfer) -> str:
        moved = f" (redirected to {redirects.shown(transfer.url)})" if transfer.hops else ""
        return f"{transfer.request.method} {transfer.request.url}{moved}"

    @staticmethod
    def _is_plain(transfer: _Transfer, status: int, headers: dict[str, str]) -> bool:
        """Whether places in the body are places in the file: no compression, or one that the file itself has."""
        if compression(headers) is None:
            return True
        total = (content_range(headers) or (0, None))[1] if status == 206 else content_length(headers)
        return total is not None and total == transfer.request.expected_bytes


def _is_answered(transfer: _Transfer) -> bool:
    """Whether a request under way has brought bytes of its file from our own server."""
    if transfer.is_foreign or not transfer.has_heard:
        return False
    status, _ = parse_head(transfer.head_lines)
    return status in {200, 206}


def compressed(kind: str) -> str:
    """What to say of bytes that the server has compressed on their way."""
    return (
        f"the server compresses it ({kind}) although the plain file was asked for; turn compression off for this path "
        "on the server"
    )
