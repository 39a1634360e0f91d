"""A WebDAV server that is never the bottleneck: one thread, prepared answers, bodies that are not copied.

The distance is a delay line: each answer leaves one round trip after its request came, whatever else is on its way. A
new connection costs one round trip more. TCP's slow start is not modelled.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import socket
import tempfile
import time
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import xxhash

from tests.support.servers.children import Child, publish_port, read_order, serve_in_python

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_HEAD_END = b"\r\n\r\n"
_SO_SNDBUFFORCE = 32  # the plain one ends at 208 KiB
_SEND_BUFFER_BYTES = 4 * 1024 * 1024
_READ_BYTES = 64 * 1024
_FOLDER_ETAG = "6740f1e2a9c3b"  # nothing changes here
_XML_HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">'
_XML_TAIL = b"</D:multistatus>\n"


class StaticServer:
    """The files of a folder as they were at its start, behind a distance, in a process of its own.

    It stops at the end of the ``with``. It asks for no password, and answers PROPFIND of Depth 0, 1 and infinity, GET
    with and without one range, HEAD and OPTIONS.

    Args:
        root: the folder.
        rtt_s: the round trip.
        canned: a file with the answer to every PROPFIND except Depth 0, whatever is in the folder.
    """

    def __init__(self, root: Path, *, rtt_s: float = 0.0, canned: Path | None = None) -> None:
        self.root = root
        self.port = 0
        self._order = {"root": str(root), "rtt_s": rtt_s, "canned": str(canned) if canned else None}
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The root URL, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/dav/"

    @property
    def pid(self) -> int:
        """The id of the serving process."""
        assert self._child is not None, "it is not running"
        return self._child.pid

    def __enter__(self) -> Self:
        """Start."""
        self._workspace = Path(tempfile.mkdtemp(prefix="ai4os-data-static-"))
        try:
            self._child, self.port = serve_in_python("benchmarks.static_server", self._order, self._workspace)
        except BaseException:
            shutil.rmtree(self._workspace)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        if self._child is not None:
            self._child.stop()
        shutil.rmtree(self._workspace)


def main() -> None:
    """Serve as the command line says, until killed."""
    order, workspace = read_order()
    gc.disable()  # there are no cycles, and a collection would delay what is due
    canned = Path(order["canned"]).read_bytes() if order["canned"] else None
    loop = _Loop(_Files(Path(order["root"]), canned), order["rtt_s"])
    publish_port(workspace, loop.listen())
    while True:
        loop.turn()


class _Answer:
    """A head, and a body: bytes, or a range of the file that holds all bodies."""

    __slots__ = ("begin", "end", "head")

    def __init__(self, head: bytes, begin: int = 0, end: int = 0) -> None:
        self.head = head
        self.begin = begin
        self.end = end


class _Files:
    """The files served: all bodies in one anonymous file, all heads in memory."""

    def __init__(self, root: Path, canned: bytes | None) -> None:
        self.pack = os.memfd_create("bodies")
        self._prefix = "/dav/"
        self._sizes: dict[str, tuple[int, int, str]] = {}
        self._folders: dict[str, list[str]] = {"": []}
        self._heads: dict[bytes, _Answer] = {}
        self._listings: dict[tuple[str, str], _Answer] = {}
        self._modified = formatdate(1_700_000_000, usegmt=True)
        offset = 0
        for folder, names, files in os.walk(root):
            names.sort()
            here = os.path.relpath(folder, root).strip(".").strip("/")
            self._folders.setdefault(here, [])
            for name in names:
                self._folders[here].append(f"{here}/{name}".strip("/") + "/")
            for name in sorted(files):
                key = f"{here}/{name}".strip("/")
                body = Path(folder, name).read_bytes()
                os.pwrite(self.pack, body, offset)
                self._folders[here].append(key)
                self._sizes[key] = (offset, len(body), xxhash.xxh3_64_hexdigest(body))
                offset += len(body)
        self._end = offset
        self._canned = self._multistatus(canned) if canned is not None else None

    def answer(self, head: bytes) -> _Answer:
        """The answer to a request; most are asked for repeatedly, and are kept."""
        first, _, rest = head.partition(b"\r\n")
        method, target, _ = first.split(b" ")
        if method == b"GET" and b"\nRange:" not in head and b"\nrange:" not in head:
            found = self._heads.get(target)
            if found is None:
                found = self._heads[target] = self._get(self._key(target), None)
            return found
        if method == b"GET":
            return self._get(self._key(target), _header(rest, b"range"))
        if method == b"HEAD":
            return _Answer(self._get(self._key(target), None).head)
        if method == b"PROPFIND":
            return self._propfind(self._key(target), (_header(rest, b"depth") or b"infinity").decode())
        if method == b"OPTIONS":
            return _Answer(_head(200, 0, "DAV: 1\r\nAllow: OPTIONS, GET, HEAD, PROPFIND\r\n"))
        return _Answer(_head(405, 0))

    def _key(self, target: bytes) -> str:
        path = unquote(target.decode("ascii").partition("?")[0])
        return path.removeprefix(self._prefix).strip("/") if path.startswith(self._prefix) else path[1:].strip("/")

    def _get(self, key: str, wanted: bytes | None) -> _Answer:
        if key not in self._sizes:
            return _Answer(_head(404, 0))
        begin, size_bytes, etag = self._sizes[key]
        more = f'ETag: "{etag}"\r\nLast-Modified: {self._modified}\r\nAccept-Ranges: bytes\r\n'
        more += "Content-Type: application/octet-stream\r\n"
        if wanted is None:
            return _Answer(_head(200, size_bytes, more), begin, begin + size_bytes)
        first_text, _, last_text = wanted.decode().partition("=")[2].partition("-")
        first = int(first_text)
        last = min(int(last_text), size_bytes - 1) if last_text else size_bytes - 1
        if first > last:
            return _Answer(_head(416, 0, f"Content-Range: bytes */{size_bytes}\r\n"))
        more += f"Content-Range: bytes {first}-{last}/{size_bytes}\r\n"
        return _Answer(_head(206, last - first + 1, more), begin + first, begin + last + 1)

    def _propfind(self, key: str, depth: str) -> _Answer:
        if self._canned is not None and depth != "0":
            return self._canned
        if key not in self._folders and key not in self._sizes:
            return _Answer(_head(404, 0))
        found = self._listings.get((key, depth))
        if found is None:
            body = _XML_HEAD + b"".join(map(self._properties, self._members(key, depth))) + _XML_TAIL
            found = self._listings[key, depth] = self._multistatus(body)
        return found

    def _multistatus(self, body: bytes) -> _Answer:
        begin, self._end = self._end, self._end + len(body)
        os.pwrite(self.pack, body, begin)
        return _Answer(_head(207, len(body), 'Content-Type: application/xml; charset="utf-8"\r\n'), begin, self._end)

    def _members(self, key: str, depth: str) -> list[str]:
        if key in self._sizes:
            return [key]
        below = {"0": [], "1": self._folders[key]}.get(depth)
        if below is None:
            inside = key + "/" if key else ""
            below = [name + "/" for name in self._folders if name.startswith(inside) and name != key]
            below += [name for name in self._sizes if name.startswith(inside)]
        return [key + "/" if key else "", *below]

    def _properties(self, member: str) -> bytes:
        if member.endswith("/") or not member:
            inside = f'<D:resourcetype><D:collection/></D:resourcetype><D:getetag>"{_FOLDER_ETAG}"</D:getetag>'
        else:
            _, size_bytes, etag = self._sizes[member]
            inside = (
                f'<D:resourcetype/><D:getcontentlength>{size_bytes}</D:getcontentlength><D:getetag>"{etag}"</D:getetag>'
            )
        return (
            f"<D:response><D:href>{self._prefix}{quote(member)}</D:href><D:propstat><D:prop>{inside}"
            f"<D:getlastmodified>{self._modified}</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status>"
            f"</D:propstat></D:response>"
        ).encode()


class _Connection:
    """One client, whose answers leave in the order of its requests."""

    __slots__ = ("blocked", "buffer", "is_new", "socket", "unsent")

    def __init__(self, socket_: socket.socket) -> None:
        self.socket = socket_
        self.buffer = b""
        self.is_new = True
        self.blocked = False
        self.unsent: deque[_Answer] = deque()


class _Loop:
    """Takes requests, delays each answer, and sends it."""

    def __init__(self, files: _Files, rtt_s: float) -> None:
        self._files = files
        self._rtt_s = rtt_s
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        # Two lines, each in the order of time, in the place of a heap.
        self._usual: deque[tuple[float, _Connection, _Answer]] = deque()
        self._first: deque[tuple[float, _Connection, _Answer]] = deque()

    def listen(self) -> int:
        """Take connections at a free port, and return it."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.settimeout(0)
        self._epoll.register(self._listener, select.EPOLLIN)
        port: int = self._listener.getsockname()[1]
        return port

    def turn(self) -> None:
        """Wait for a request, or for an answer that is due, and handle it."""
        due = min((line[0][0] for line in (self._usual, self._first) if line), default=None)
        timeout_s = None if due is None else max(0.0, due - time.monotonic())
        # Not the time-out of epoll, which counts in milliseconds.
        select.select([self._epoll], [], [], timeout_s)
        for descriptor, event in self._epoll.poll(0):
            connection = self._connections.get(descriptor)
            if connection is None:
                self._accept()
            elif event & ~select.EPOLLOUT:
                self._read(connection)
            else:
                self._send(connection)
        now = time.monotonic()
        for line in (self._usual, self._first):
            while line and line[0][0] <= now:
                _, connection, answer = line.popleft()
                connection.unsent.append(answer)
                if len(connection.unsent) == 1:
                    self._send(connection)

    def _accept(self) -> None:
        try:
            socket_, _ = self._listener.accept()
        except BlockingIOError:
            return
        socket_.settimeout(0)
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A whole answer fits, so that it takes one call.
        with contextlib.suppress(PermissionError):
            socket_.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        self._connections[socket_.fileno()] = _Connection(socket_)
        self._epoll.register(socket_, select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.buffer += data
        while (end := connection.buffer.find(_HEAD_END)) >= 0:
            head = connection.buffer[:end]
            whole = end + len(_HEAD_END) + int(_header(head, b"content-length") or 0)
            if len(connection.buffer) < whole:
                return
            connection.buffer = connection.buffer[whole:]
            answer = self._files.answer(head)
            now = time.monotonic()
            if connection.is_new:
                connection.is_new = False
                self._first.append((now + 2 * self._rtt_s, connection, answer))
            else:
                self._usual.append((now + self._rtt_s, connection, answer))

    def _send(self, connection: _Connection) -> None:
        unsent = connection.unsent
        descriptor = connection.socket.fileno()
        try:
            while unsent:
                answer = unsent[0]
                if answer.head:
                    sent = connection.socket.send(answer.head, socket.MSG_MORE if answer.end > answer.begin else 0)
                    answer = unsent[0] = _Answer(answer.head[sent:], answer.begin, answer.end)
                    if answer.head:
                        continue
                while answer.begin < answer.end:
                    answer.begin += os.sendfile(descriptor, self._files.pack, answer.begin, answer.end - answer.begin)
                unsent.popleft()
        except BlockingIOError:
            if not connection.blocked:
                connection.blocked = True
                self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
            return
        except OSError:
            self._close(connection)
            return
        if connection.blocked:
            connection.blocked = False
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _close(self, connection: _Connection) -> None:
        if connection.socket.fileno() >= 0:
            del self._connections[connection.socket.fileno()]
            self._epoll.unregister(connection.socket)
            connection.socket.close()


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of one header among the lines of a head."""
    lower = head.lower()
    at = lower.find(b"\n" + name + b":")
    if at < 0:
        if not lower.startswith(name + b":"):
            return None
        at = -1
    end = head.find(b"\r\n", at + 1)
    return head[at + len(name) + 2 : len(head) if end < 0 else end].strip()


def _head(status: int, length: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {length}\r\n{more}\r\n".encode()
