"""A TCP proxy that makes a server as distant, and its line as narrow, as one wants.

It is a delay line: every piece waits for itself, so that a distance costs no throughput. What it does not
model is TCP's slow start: a new connection costs one round trip, and is at full speed after it.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import select
import shutil
import socket
import struct
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.servers.children import publish_port, read_order, serve_in_python

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from tests.support.servers.children import Child

_LEAST_PIECE_BYTES = 16 * 1024
_MOST_PIECE_BYTES = 256 * 1024
_LEAST_WINDOW_BYTES = 1024 * 1024
_UNSHAPED_BYTE_S = 1e9  # what one connection is let through where no rate is set
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the close sends RST


class ShapedProxy:
    """A way to a server that takes time, in a process of its own, until the ``with`` ends.

    Args:
        upstream_host: Where the server is.
        upstream_port: Its port there.
        rtt_s: The round trip: half of it each way, and one for each new connection.
        rate_bit_s: The most that all connections together get through, each way.
    """

    def __init__(
        self, upstream_host: str, upstream_port: int, *, rtt_s: float = 0.0, rate_bit_s: float | None = None
    ) -> None:
        self._order = {"upstream": [upstream_host, upstream_port], "rtt_s": rtt_s, "rate_bit_s": rate_bit_s}
        self.port = 0
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The root of the server behind it, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Take connections from now on; after a ``stop`` at the same port."""
        self._child, self.port = serve_in_python(
            "tests.support.servers.proxy", {**self._order, "port": self.port}, self._workspace
        )

    def stop(self) -> None:
        """Cut every connection, and refuse new ones."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def __enter__(self) -> Self:
        """Start."""
        self._workspace = Path(tempfile.mkdtemp(prefix="ai4os-data-proxy-"))
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._workspace)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
        shutil.rmtree(self._workspace)


def main() -> None:
    """Carry what the order on the command line says, for ever."""
    order, workspace = read_order()
    gc.disable()  # there are no cycles, and a collection would delay what is due
    host, port = order["upstream"]
    line = _Line((host, port), order["rtt_s"], order["rate_bit_s"])
    publish_port(workspace, line.listen(order["port"]))
    while True:
        line.turn()


class _Link:
    """One direction of the line, which all connections share: it says when a piece arrives."""

    def __init__(self, delay_s: float, rate_bit_s: float | None) -> None:
        self._delay_s = delay_s
        self._s_per_byte = 8 / rate_bit_s if rate_bit_s else 0.0
        self._free_at = 0.0

    def arrival(self, size_bytes: int, opens_at: float) -> float:
        left_at = time.monotonic()
        if self._s_per_byte:
            left_at = self._free_at = max(left_at, self._free_at) + size_bytes * self._s_per_byte
        return max(left_at, opens_at) + self._delay_s


class _Way:
    """One direction of one connection: what was read, waits until it is due, and is written."""

    def __init__(self, source: socket.socket, sink: socket.socket, link: _Link, opens_at: float) -> None:
        self.source = source
        self.sink = sink
        self.link = link
        self.opens_at = opens_at
        self.waiting: deque[bytes] = deque()  # not yet due; b"" is the end, in its place
        self.due: deque[memoryview] = deque()
        self.held_bytes = 0
        self.exhausted = False  # the source has ended
        self.paused = False  # the window is full
        self.ended = False  # the sink has been told so

    def reads(self) -> bool:
        return not (self.exhausted or self.paused)

    def flush(self) -> None:
        """Write what is due, as far as the sink takes it."""
        while self.due:
            piece = self.due[0]
            if not piece:
                self.due.popleft()
                self.ended = True
                with contextlib.suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.sink.send(piece)
            except BlockingIOError:
                return
            self.held_bytes -= sent
            if sent == len(piece):
                self.due.popleft()
            else:
                self.due[0] = piece[sent:]


class _Appointment(NamedTuple):
    at: float
    number: int  # of two at the same time the first comes first
    way: _Way


class _Line:
    """All connections between the clients and the server."""

    def __init__(self, upstream: tuple[str, int], rtt_s: float, rate_bit_s: float | None) -> None:
        self._upstream = upstream
        self._rtt_s = rtt_s
        self._up = _Link(rtt_s / 2, rate_bit_s)
        self._down = _Link(rtt_s / 2, rate_bit_s)
        byte_s = rate_bit_s / 8 if rate_bit_s else _UNSHAPED_BYTE_S
        self._window_bytes = max(_LEAST_WINDOW_BYTES, int(byte_s * rtt_s))
        self._epoll = select.epoll()
        self._into: dict[int, _Way] = {}  # by the socket that a way writes to
        self._out_of: dict[int, _Way] = {}  # by the socket that it reads from
        self._watched: dict[int, int] = {}  # the events that each socket is watched for
        self._appointments: list[_Appointment] = []
        self._numbers = itertools.count()
        # Of a narrow line, no more at once than a millisecond's worth.
        piece_bytes = int(min(_MOST_PIECE_BYTES, max(_LEAST_PIECE_BYTES, byte_s / 1000)))
        self._buffer = memoryview(bytearray(piece_bytes))

    def listen(self, port: int) -> int:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.settimeout(0)
        self._epoll.register(self._listener, select.EPOLLIN)
        bound: int = self._listener.getsockname()[1]
        return bound

    def turn(self) -> None:
        """Wait for what comes first, something to carry or something that is due, and see to it."""
        timeout_s = max(0.0, self._appointments[0].at - time.monotonic()) if self._appointments else None
        # Not the time-out of epoll, which counts in milliseconds.
        select.select([self._epoll], [], [], timeout_s)
        for descriptor, event in self._epoll.poll(0):
            if descriptor == self._listener.fileno():
                self._accept()
                continue
            if event & select.EPOLLOUT:
                self._write(self._into.get(descriptor))
            if event & ~select.EPOLLOUT:
                self._read(self._out_of.get(descriptor))
        self._keep_appointments()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        opens_at = time.monotonic() + self._rtt_s
        try:
            server = socket.create_connection(self._upstream, timeout=5)
        except OSError:
            _reset(client)
            return
        for end in (client, server):
            end.settimeout(0)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for way in (_Way(client, server, self._up, opens_at), _Way(server, client, self._down, opens_at)):
            self._into[way.sink.fileno()] = way
            self._out_of[way.source.fileno()] = way
        self._watch(client)
        self._watch(server)

    def _read(self, way: _Way | None) -> None:
        if way is None or not way.reads():
            return
        try:
            size_bytes = way.source.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            self._close(way, reset=True)
            return
        way.waiting.append(bytes(self._buffer[:size_bytes]))
        way.held_bytes += size_bytes
        at = way.link.arrival(size_bytes, way.opens_at)
        heapq.heappush(self._appointments, _Appointment(at, next(self._numbers), way))
        way.exhausted = not size_bytes
        way.paused = way.held_bytes > self._window_bytes
        if way.exhausted or way.paused:
            self._watch(way.source)

    def _keep_appointments(self) -> None:
        now = time.monotonic()
        while self._appointments and self._appointments[0].at <= now:
            way = heapq.heappop(self._appointments).way
            way.due.append(memoryview(way.waiting.popleft()))
            self._write(way)

    def _write(self, way: _Way | None) -> None:
        if way is None or way.sink.fileno() < 0:
            return
        blocked = bool(way.due)
        try:
            way.flush()
        except OSError:
            self._close(way, reset=True)
            return
        if way.ended and self._into[way.source.fileno()].ended:
            self._close(way, reset=False)
            return
        if blocked or way.due:
            self._watch(way.sink)
        if way.paused and way.held_bytes < self._window_bytes // 2:
            way.paused = False
            self._watch(way.source)

    def _watch(self, end: socket.socket) -> None:
        """Look for what can be done with one end. Where that is nothing, not for its hanging up either."""
        descriptor = end.fileno()
        events = select.EPOLLIN if self._out_of[descriptor].reads() else 0
        events |= select.EPOLLOUT if self._into[descriptor].due else 0
        before = self._watched.get(descriptor, 0)
        if events and before:
            self._epoll.modify(descriptor, events)
        elif events:
            self._epoll.register(descriptor, events)
        elif before:
            self._epoll.unregister(descriptor)
        self._watched[descriptor] = events

    def _close(self, way: _Way, *, reset: bool) -> None:
        for end in (way.source, way.sink):
            if end.fileno() >= 0:
                del self._into[end.fileno()], self._out_of[end.fileno()]
                if self._watched.pop(end.fileno()):
                    self._epoll.unregister(end)
                if reset:
                    _reset(end)
                else:
                    end.close()


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
