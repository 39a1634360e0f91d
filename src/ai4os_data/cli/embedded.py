"""A WebDAV server inside this process, so that the demo needs nothing but Python."""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from cheroot.wsgi import Server
    from wsgidav.error_printer import ErrorPrinter
    from wsgidav.http_authenticator import HTTPAuthenticator
    from wsgidav.request_resolver import RequestResolver
    from wsgidav.wsgidav_app import WsgiDAVApp
except ImportError as error:
    raise ImportError("the embedded WebDAV server needs wsgidav and cheroot: pip install 'ai4os-data[demo]'") from error

from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

_THREADS = 64  # a request that waits for its latency keeps a thread
_IDLE_S = 60
_BLOCK_BYTES = 1 << 20  # a sample leaves in one send; wsgidav's own 8 KiB take fourteen for 110 KB


class _Server(Server):
    """A cheroot server whose port can be taken again right after it stopped."""

    keep_alive_conn_limit = 10_000  # cheroot closes all but ten idle connections otherwise
    expiration_interval = 0.05  # also how long stopping takes

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: Any) -> socket.socket:
        """Bind, and let the connections that outlive a stop give way to the next start."""
        socket_.bind(bind_addr)
        # After the bind: set before it, two servers that ask for port 0 could be given the same one.
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return socket_

    # cheroot's signature, though it takes a bool by position
    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:  # noqa: FBT001, FBT002
        """Log what went wrong with a connection, for those who look for it."""
        log.debug("embedded server: %s (level %d)", msg, level, exc_info=traceback)


class EmbeddedServer:
    """A folder served over WebDAV on 127.0.0.1, at a free port, to one user, until the ``with`` ends.

    Args:
        directory: What is served; made if it is absent.
        user: The only user that may come in, by basic authentication.
        password: Its password.
        latency_s: How long each request waits before it is answered, as a distant server would let it.
        port: The port to listen on; 0 takes a free one.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        user: str,
        password: str,
        latency_s: float = 0.0,
        port: int = 0,
    ) -> None:
        self.root = Path(directory)
        self.user = user
        self.password = password
        self.latency_s = latency_s
        self.port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """The root of what is served, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Answer from now on, at the same port as before if there was one."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._dav = _dav_application(self.root, self.user, self.password)
        server = _Server(
            ("127.0.0.1", self.port),
            self._answer,
            numthreads=_THREADS,
            timeout=_IDLE_S,
            shutdown_timeout=1,
            request_queue_size=1024,
        )
        server.prepare()
        self.port = server.bind_addr[1]
        threading.Thread(target=server.serve, name=f"webdav-{self.port}", daemon=True).start()
        self._server = server

    def stop(self) -> None:
        """Close every connection and free the port."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        if self.latency_s:
            time.sleep(self.latency_s)
        answer: Iterator[bytes] = self._dav(environ, start_response)
        return answer


def _dav_application(root: Path, user: str, password: str) -> Callable[..., Iterator[bytes]]:
    # Its logger would otherwise write to stderr, from a program that has configured no logging.
    logging.getLogger("wsgidav").setLevel(logging.CRITICAL)
    application: Callable[..., Iterator[bytes]] = WsgiDAVApp(
        {
            "provider_mapping": {"/": str(root.resolve())},
            "simple_dc": {"user_mapping": {"*": {user: {"password": password}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            # Neither its HTML listings nor CORS: a GET of a folder is 403.
            "middleware_stack": [ErrorPrinter, HTTPAuthenticator, RequestResolver],
            "lock_storage": False,
            "property_manager": None,
            "block_size": _BLOCK_BYTES,
            "verbose": 0,
        }
    )
    return application
