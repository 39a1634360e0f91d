"""HTTP/1.1 on a socket: requests come in, answers go out, connections stay open.

As Apache does, it refuses a request line that is too long before anyone else sees it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from tests.nextcloud.answers import Answer, Slice, TornError, decoded

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_REQUEST_LINE_LIMIT = 8190
_HEAD_LIMIT = 128 << 10
_BLOCK_BYTES = 512 << 10
_NO_BODY = (204, 304)
_REASONS = {
    412: "Precondition failed",
    414: "Request-URI Too Long",
    416: "Requested Range Not Satisfiable",
}
_TOO_LONG = (
    b'<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">\n'
    b"<html><head>\n<title>414 Request-URI Too Long</title>\n</head><body>\n<h1>Request-URI Too Long</h1>\n"
    b"<p>The requested URL's length exceeds the capacity\nlimit for this server.<br />\n</p>\n</body></html>\n"
)


class ClosedError(Exception):
    """The client went away in the middle of a request."""


@dataclass
class Incoming:
    """One request, whose body is still to be read."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Body
    refused: Answer | None = None


@dataclass
class Body:
    """The body of a request, read from the connection as it is asked for."""

    connection: Connection
    left_bytes: int = 0
    chunked: bool = False
    expected: bool = False
    size_bytes: int | None = field(init=False)

    def __post_init__(self) -> None:
        """Keep the size, which is told beforehand unless it comes in chunks."""
        self.size_bytes = None if self.chunked else self.left_bytes

    def pieces(self) -> Iterator[bytes]:
        """Read all of it."""
        if self.expected:
            self.expected = False
            self.connection.continue_()
        while self.chunked:
            line, _, _ = self.connection.line().partition(b";")
            self.left_bytes = int(line, 16)
            self.chunked = self.left_bytes > 0
            yield from self._known()
            if self.chunked:
                self.connection.line()
            else:
                while self.connection.line():
                    pass
        yield from self._known()

    def read(self) -> bytes:
        """Read all of it at once."""
        return b"".join(self.pieces())

    def drop(self) -> bool:
        """Read what nobody has read; say whether the next request can follow."""
        if self.expected:
            return False
        for _ in self.pieces():
            pass
        return True

    def _known(self) -> Iterator[bytes]:
        while self.left_bytes:
            piece = self.connection.some(min(self.left_bytes, _BLOCK_BYTES))
            self.left_bytes -= len(piece)
            yield piece


class Connection:
    """One connection of a client."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = b""

    def receive(self) -> Incoming | None:
        """Wait for the next request; None when there is none."""
        try:
            head = self._head()
        except ClosedError:
            return None
        request_line, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        if request_line.count(" ") != 2:
            return None
        method, target, protocol = request_line.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.lower()
            value = value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if protocol == "HTTP/1.0":
            headers.setdefault("connection", "close")
        body = Body(
            self,
            left_bytes=int(headers.get("content-length", 0)),
            chunked=headers.get("transfer-encoding", "").lower() == "chunked",
            expected=headers.get("expect", "").lower() == "100-continue",
        )
        target, _, query = target.partition("?")
        if target.startswith("http://"):
            target = "/" + target.split("/", 3)[3]
        refused = None
        if len(request_line) > _REQUEST_LINE_LIMIT:
            refused = Answer(414, {"Content-Type": "text/html; charset=iso-8859-1", "Connection": "close"}, _TOO_LONG)
        return Incoming(method, decoded(target), query, headers, body, refused)

    def send(self, answer: Answer, incoming: Incoming) -> bool:
        """Send an answer, and say whether the connection goes on."""
        going_on = (
            incoming.headers.get("connection", "").lower() != "close" and answer.headers.get("Connection") != "close"
        )
        if incoming.body.expected:  # and not asked for: whether the client sends it is not known
            going_on = False
        body = answer.body
        headers = dict(answer.headers)
        if answer.status not in _NO_BODY:
            if isinstance(body, bytes):
                headers.setdefault("Content-Length", str(len(body)))
            elif isinstance(body, Slice):
                headers["Content-Length"] = str(body.size_bytes)
            else:
                headers["Transfer-Encoding"] = "chunked"
        if not going_on:
            headers["Connection"] = "close"
        reason = _REASONS.get(answer.status) or HTTPStatus(answer.status).phrase
        lines = [f"HTTP/1.1 {answer.status} {reason}", f"Date: {formatdate(usegmt=True)}", "Server: Apache"]
        lines += [f"{name}: {line}" for name, value in headers.items() for line in value.split("\n")]
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        if incoming.method == "HEAD" or answer.status in _NO_BODY:
            if isinstance(body, Slice):
                os.close(body.descriptor)
            self._link.sendall(head)
            return going_on
        if isinstance(body, bytes):
            self._link.sendall(head + body)
        elif isinstance(body, Slice):
            self._send_slice(head, body)
        else:
            going_on = self._send_chunks(head, body) and going_on
        return going_on

    def continue_(self) -> None:
        """Ask for the body."""
        self._link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def some(self, limit_bytes: int) -> bytes:
        """Read at least one byte."""
        if self._buffer:
            piece, self._buffer = self._buffer[:limit_bytes], self._buffer[limit_bytes:]
            return piece
        piece = self._link.recv(limit_bytes)
        if not piece:
            raise ClosedError
        return piece

    def line(self) -> bytes:
        """Read a line, without its end."""
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT:
                raise ClosedError
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def _more(self) -> None:
        piece = self._link.recv(_HEAD_LIMIT)
        if not piece:
            raise ClosedError
        self._buffer += piece

    def _send_slice(self, head: bytes, body: Slice) -> None:
        try:
            place, end = body.start, body.start + body.size_bytes
            while place < end:
                piece = os.pread(body.descriptor, min(_BLOCK_BYTES, end - place), place)
                if not piece:
                    raise ClosedError  # the file became shorter: there is nothing better left than to hang up
                place += len(piece)
                self._link.sendall(head + piece)
                head = b""
            if head:
                self._link.sendall(head)
        finally:
            os.close(body.descriptor)

    def _send_chunks(self, head: bytes, pieces: Iterator[bytes]) -> bool:
        self._link.sendall(head)
        try:
            for piece in pieces:
                self._link.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        except TornError:
            return False
        self._link.sendall(b"0\r\n\r\n")
        return True
