"""A proxy that opens ways for others: by CONNECT (RFC 9110, 9.3.6) or by SOCKS 5 (RFC 1928, 1929)."""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import threading
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

_PIECE_BYTES = 64 * 1024
_VERSION, _NO_PASSWORD, _PASSWORD, _IPV4, _NAME = 5, 0, 2, 1, 3


class TunnelProxy:
    """A proxy in threads of this process, until the ``with`` ends. Every way leads to one port of this machine.

    Args:
        kind: What it speaks.
        port: Where all its ways lead, whatever was asked for.
        credentials: The user and the password that it asks for.
        status: What it answers to every CONNECT, if not by opening a way.
        certificate: The files of a certificate and its key, to be asked by ``https``.

    Attributes:
        asked: The hosts and ports that it was asked for.
    """

    def __init__(
        self,
        kind: Literal["connect", "socks5"],
        port: int,
        *,
        credentials: tuple[str, str] | None = None,
        status: int = 200,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.kind = kind
        self.target_port = port
        self.credentials = credentials
        self.status = status
        self.certificate = certificate
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Start."""
        self._server = _Server(("127.0.0.1", 0), _Connect if self.kind == "connect" else _Socks)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    proxy: TunnelProxy

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Greet by TLS, where it has a certificate."""
        if self.proxy.certificate is None:
            super().finish_request(request, client_address)
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.proxy.certificate)
        with context.wrap_socket(request, server_side=True) as greeted:
            super().finish_request(greeted, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Tunnel(StreamRequestHandler):
    server: _Server

    def open_way(self) -> None:
        """Carry bytes both ways until one end has no more."""
        with socket.create_connection(("127.0.0.1", self.server.proxy.target_port)) as there:
            back = threading.Thread(target=_carry, args=(there, self.connection), daemon=True)
            back.start()
            _carry(self.connection, there)
            back.join()


class _Connect(_Tunnel):
    def handle(self) -> None:
        proxy = self.server.proxy
        method, target, *_ = self.rfile.readline().decode().split()
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        proxy.asked.append(f"{method} {target}")
        status = proxy.status
        if proxy.credentials is not None:
            basic = base64.b64encode(":".join(proxy.credentials).encode()).decode()
            status = status if headers.get("proxy-authorization") == f"Basic {basic}" else 407
        self.wfile.write(f"HTTP/1.1 {status} told\r\n\r\n".encode())
        if status == 200:
            self.open_way()


class _Socks(_Tunnel):
    def handle(self) -> None:
        proxy = self.server.proxy
        _, count = self.rfile.read(2)
        self.rfile.read(count)
        wanted = _NO_PASSWORD if proxy.credentials is None else _PASSWORD
        self.wfile.write(bytes([_VERSION, wanted]))
        if proxy.credentials is not None:
            self.rfile.read(1)
            user, password = self._text(), self._text()
            is_known = (user, password) == proxy.credentials
            self.wfile.write(bytes([1, not is_known]))
            if not is_known:
                return
        *_, kind = self.rfile.read(4)
        host = socket.inet_ntoa(self.rfile.read(4)) if kind == _IPV4 else self._text()
        (port,) = struct.unpack(">H", self.rfile.read(2))
        proxy.asked.append(f"{host}:{port}")
        self.wfile.write(bytes([_VERSION, 0, 0, _IPV4]) + bytes(6))
        self.open_way()

    def _text(self) -> str:
        (length,) = self.rfile.read(1)
        return self.rfile.read(length).decode()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
