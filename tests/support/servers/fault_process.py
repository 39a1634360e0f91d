"""The process behind the fault server: healthy answers, and how they are spoilt."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import shutil
import socket
import ssl
import struct
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Listener
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.servers.children import publish_port, read_order
from tests.support.servers.fault import Fault, Habits, control_address
from tests.support.servers.journal import Journal, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

_ANY = "*"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the close sends RST
_RESET_PAUSE_S = 0.05  # a RST takes back what the client has not read yet


def main() -> None:
    """Serve what the order on the command line says, for ever, and do what the control says."""
    order, workspace = read_order()
    with (
        Listener(control_address(workspace)) as listener,
        _HttpServer(Journal(workspace / "requests.jsonl"), **order) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        publish_port(workspace, server.server_address[1])
        while True:
            with suppress(EOFError, OSError), listener.accept() as connection:
                _obey(server, connection)


def _obey(server: _HttpServer, connection: Connection) -> None:
    word, *rest = connection.recv()
    connection.send(getattr(server, f"do_{word}")(*rest))


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    allow_reuse_address = True

    def __init__(
        self, journal: Journal, *, root: str, port: int, accepted: list[str], certificate: list[str] | None
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.journal = journal
        self.root = Path(root)
        self.accepted = set(accepted)
        self.habits = Habits()
        self.lock = threading.Lock()
        self.to_reset: set[object] = set()
        self.scheme = "https" if certificate else "http"
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*certificate)
        self._connections = 0
        self._in_flight = 0
        self._most_in_flight = 0
        self.do_heal()

    def server_bind(self) -> None:
        """Bind, without the look for a host name that the base class would wait for."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def do_script(self, method: str, path: str, faults: tuple[Fault, ...]) -> None:
        self._scripts[method, path].extend(faults)

    def do_always(self, method: str, path: str, fault: Fault) -> None:
        self._lasting[method, path] = fault

    def do_heal(self) -> None:
        self._scripts: defaultdict[tuple[str, str], deque[Fault]] = defaultdict(deque)
        self._lasting: dict[tuple[str, str], Fault] = {}

    def do_change(self, habits: Habits) -> None:
        self.habits = habits

    def do_connections(self) -> int:
        return self._connections

    def do_most_in_flight(self) -> int:
        return self._most_in_flight

    def next_fault(self, method: str, path: str) -> Fault | None:
        places = [(method, path), (_ANY, path), (method, _ANY), (_ANY, _ANY)]
        with self.lock:
            for place in places:
                if self._scripts[place]:
                    return self._scripts[place].popleft()
            return next((self._lasting[place] for place in places if place in self._lasting), None)

    def count_in_flight(self, change: int) -> None:
        with self.lock:
            self._in_flight += change
            self._most_in_flight = max(self._most_in_flight, self._in_flight)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self._connections += 1
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        # Here, in the thread of the connection: a client that is slow to greet stops nobody else.
        # A client that does not like our certificate ends it with an OSError.
        with suppress(OSError), self._tls.wrap_socket(request, server_side=True) as greeted:
            super().finish_request(greeted, client_address)

    def shutdown_request(self, request: Any) -> None:
        if request.fileno() in self.to_reset:
            self.to_reset.discard(request.fileno())
            self.close_request(request)  # a shutdown would send FIN first
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; that is what they are here for."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "fault"
    server: _HttpServer
    _depths: ClassVar = {"0": 0, "1": 1, "infinity": 1 << 30}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Keep quiet: the journal tells."""

    def _handle(self) -> None:
        self.server.count_in_flight(1)
        try:
            self._answer_request()
        except OSError:
            self.close_connection = True
        finally:
            self.server.count_in_flight(-1)

    def _answer_request(self) -> None:
        size_bytes = int(self.headers.get("Content-Length") or 0)
        self._sent_body = self.rfile.read(size_bytes)
        if len(self._sent_body) < size_bytes:
            raise ConnectionAbortedError
        path = unquote(urlsplit(self.path).path, errors="surrogateescape")
        key = path.strip("/")
        if self.server.habits.latency_s:
            time.sleep(self.server.habits.latency_s)
        fault = self.server.next_fault(self.command, key) or Fault()
        if fault.drop:
            self._note(path, 0)
            self._hang_up(fault)
            return
        self._fault = fault
        answer = _spoil(self._healthy(key), fault)
        self._note(path, answer.status)
        if fault.rewrite is not None:  # before the answer leaves, for a client that asks again at once
            (self.server.root / key).write_bytes(fault.rewrite)
        if fault.unanswered:
            self._hang_up(fault)
            return
        self._send(answer, fault)

    def _note(self, path: str, status: int) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.journal.note(Request(self.command, path, headers, status))

    # What a healthy server would answer.

    def _healthy(self, key: str) -> _Answer:
        habits = self.server.habits
        accepted = self.server.accepted if habits.authorization is None else [habits.authorization]
        is_known = habits.public or self.headers.get("Authorization") in accepted
        if habits.expired or not is_known:
            return _Answer(401, {"WWW-Authenticate": 'Basic realm="fault", charset="UTF-8"'})
        place = self.server.root / key
        if ".." in key.split("/"):
            return _Answer(400, {})
        methods: dict[str, Callable[[Path], _Answer]] = {
            "GET": self._get,
            "HEAD": self._get,
            "PROPFIND": self._propfind,
            "PUT": self._put,
            "DELETE": self._delete,
            "MKCOL": self._mkcol,
        }
        method = methods.get(self.command)
        return method(place) if method else _Answer(405, {"Allow": ", ".join(methods)})

    def _get(self, place: Path) -> _Answer:
        if place.is_dir():
            return _Answer(403, {})
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            return _Answer(404, {})
        headers = {
            "Content-Type": mimetypes.guess_type(place.name)[0] or "application/octet-stream",
            "Last-Modified": formatdate(place.stat().st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        etag = self._etag(place)
        if etag is not None:
            headers["ETag"] = etag
        wanted = None if self._fault.ignore_range else self.headers.get("Range")
        condition = self.headers.get("If-Range")
        # RFC 9110, 13.1.5 and 14.2: a weak tag never matches; several ranges may be ignored.
        outdated = condition is not None and (condition != etag or condition.startswith("W/"))
        if wanted is None or "," in wanted or outdated:
            return _Answer(200, headers, content)
        return _partial(wanted, content, headers)

    def _etag(self, place: Path) -> str | None:
        kind = self.server.habits.etags
        if kind == "none":
            return None
        if kind == "seconds":
            status = place.stat()
            return f'"{int(status.st_mtime):x}-{status.st_size:x}"'
        digest = hashlib.sha256(place.read_bytes()).hexdigest()[:16]
        return f'W/"{digest}"' if kind == "weak" else f'"{digest}"'

    def _propfind(self, place: Path) -> _Answer:
        if not place.exists():
            return _Answer(404, {})
        depth = self._depths.get(self.headers.get("Depth", "infinity").lower())
        if depth is None:
            return _Answer(400, {})
        if depth > 1 and self.server.habits.depth_infinity == "refused":
            return _Answer(403, {"Content-Type": "application/xml"}, _FINITE_DEPTH)
        if depth > 1 and self.server.habits.depth_infinity == "clamped":
            depth = 1
        responses = [self._response(member) for member in _members(place, depth)]
        responses += [_RESPONSE.format(href=escape(href), properties=_STRANGER) for href in self._fault.hrefs]
        body = _MULTISTATUS.format(responses="".join(responses))
        return _Answer(207, {"Content-Type": "application/xml; charset=utf-8"}, body.encode())

    def _response(self, place: Path) -> str:
        href = "/" + quote(place.relative_to(self.server.root).as_posix(), errors="surrogateescape")
        if href == "/.":
            href = "/"
        elif place.is_dir():
            href += "/"
        if self.server.habits.absolute_hrefs:
            href = f"{self.server.scheme}://{self.headers['Host']}{href}"
        modified = f"<d:getlastmodified>{formatdate(place.stat().st_mtime, usegmt=True)}</d:getlastmodified>"
        if place.is_dir():
            properties = "<d:resourcetype><d:collection/></d:resourcetype>"
        else:
            etag = self._etag(place)
            properties = f"<d:resourcetype/><d:getcontentlength>{place.stat().st_size}</d:getcontentlength>"
            properties += f"<d:getetag>{escape(etag)}</d:getetag>" if etag else ""
        return _RESPONSE.format(href=escape(href), properties=properties + modified)

    def _put(self, place: Path) -> _Answer:
        if not place.parent.is_dir():
            return _Answer(409, {})
        status = 204 if place.exists() else 201
        body = self._sent_body[: self._fault.kept_bytes]
        if self._fault.flipped:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        place.write_bytes(body)
        etag = self._etag(place)
        return _Answer(status, {"ETag": etag} if etag else {})

    def _delete(self, place: Path) -> _Answer:
        if not place.exists() or place == self.server.root:
            return _Answer(403 if place.exists() else 404, {})
        if place.is_dir() and not urlsplit(self.path).path.endswith("/"):
            return _Answer(409, {})  # as nginx: a collection is named with its slash
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        return _Answer(204, {})

    def _mkcol(self, place: Path) -> _Answer:
        if place.exists() or not place.parent.is_dir():
            return _Answer(405 if place.exists() else 409, {})
        place.mkdir()
        return _Answer(201, {})

    # How it leaves.

    def _send(self, answer: _Answer, fault: Fault) -> None:
        if fault.stall_s and fault.stall_after_bytes is None:
            time.sleep(fault.stall_s)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = answer.body[: fault.cut_after_bytes]
        stop = fault.stall_after_bytes if fault.stall_s else None
        if stop is not None:
            self._send_body(sent[:stop], fault)
            time.sleep(fault.stall_s)
            sent = sent[stop:]
        self._send_body(sent, fault)
        if fault.cut_after_bytes is not None or fault.close or fault.reset:
            self._hang_up(fault)
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send_body(self, part: bytes, fault: Fault) -> None:
        if fault.chunked and part:
            part = b"%x\r\n%b\r\n" % (len(part), part)
        self.wfile.write(part)

    def _hang_up(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.reset:
            time.sleep(_RESET_PAUSE_S)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.server.to_reset.add(self.connection.fileno())


def _spoil(answer: _Answer, fault: Fault) -> _Answer:
    status = answer.status if fault.status is None else fault.status
    headers = dict(answer.headers)
    body = answer.body
    if fault.status is not None and fault.status >= HTTPStatus.MULTIPLE_CHOICES:
        headers, body = {}, b""
    if fault.body is not None:
        body = fault.body
    if status == HTTPStatus.NOT_MODIFIED:  # a client reads none, and would take it for the next answer
        body = b""
    if fault.gzip:
        body = gzip.compress(body)
        headers["Content-Encoding"] = "gzip"
    if fault.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif status != HTTPStatus.NO_CONTENT:
        headers["Content-Length"] = str(len(body))
    for name, value in fault.headers.items():
        headers.pop(name, None)
        if value is not None:
            headers[name] = value
    return _Answer(status, headers, body)


def _partial(wanted: str, content: bytes, headers: dict[str, str]) -> _Answer:
    first, last = _range(wanted, len(content))
    if first > last:
        return _Answer(416, {"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return _Answer(206, headers, content[first : last + 1])


def _range(wanted: str, size_bytes: int) -> tuple[int, int]:
    """First and last byte of a single range; the first is after the last where there is nothing to give."""
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size_bytes - int(last)), size_bytes - 1
    return int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1


_MULTISTATUS = '<?xml version="1.0" encoding="utf-8"?><d:multistatus xmlns:d="DAV:">{responses}</d:multistatus>'
_RESPONSE = (
    "<d:response><d:href>{href}</d:href><d:propstat><d:prop>{properties}</d:prop>"
    "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
)
_FINITE_DEPTH = b'<?xml version="1.0"?><d:error xmlns:d="DAV:"><d:propfind-finite-depth/></d:error>'
_STRANGER = "<d:resourcetype/><d:getcontentlength>5</d:getcontentlength>"


def _members(place: Path, depth: int) -> Iterator[Path]:
    yield place
    if depth and place.is_dir():
        for member in sorted(place.iterdir()):
            yield from _members(member, depth - 1)
