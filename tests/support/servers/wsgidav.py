"""wsgidav on cheroot, the embedded server of the demo, in a process of its own.

In the process of the tests it would share the interpreter lock with the client that is measured.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ai4os_data.cli.embedded import EmbeddedServer
from tests.support.servers.base import PASSWORD, USER, Server
from tests.support.servers.children import publish_port, read_order, serve_in_python
from tests.support.servers.journal import Journal, Request, read_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers.children import Child

_CONTENT = ("CONTENT_LENGTH", "CONTENT_TYPE")


class WsgidavServer(Server):
    """wsgidav. Its ETag is inode, whole seconds and size, and it lists a Depth of infinity.

    Args:
        root: The folder that it serves; made if it is absent.
        user: The only user that may come in, by basic authentication.
        password: Its password.
        latency_s: How long each request waits before it is answered.
    """

    name = "wsgidav"

    def __init__(self, root: Path, *, user: str = USER, password: str = PASSWORD, latency_s: float = 0.0) -> None:
        super().__init__(root, user=user, password=password)
        self.latency_s = latency_s

    def _launch(self) -> Child:
        order = {
            "directory": str(self.root),
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "latency_s": self.latency_s,
        }
        child, self.port = serve_in_python("tests.support.servers.wsgidav", order, self._workspace)
        return child

    def _all_requests(self) -> list[Request]:
        return read_journal(self._workspace / "requests.jsonl")


class JournalledServer(EmbeddedServer):
    """The embedded server, with a journal that has each request before the first byte of its answer leaves."""

    def __init__(self, journal: Journal, directory: Path | str, **options: Any) -> None:
        super().__init__(directory, **options)
        self._journal = journal

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        # wsgidav rewrites the environment, so the request is read before.
        method, path, headers = _request_line(environ)

        def note_and_start(status: str, fields: list[tuple[str, str]], exc_info: object = None) -> object:
            self._journal.note(Request(method, path, headers, int(status[:3])))
            return start_response(status, fields, exc_info)

        return super()._answer(environ, note_and_start)


def _request_line(environ: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    headers = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and name != "HTTP_AUTHORIZATION"
    }
    headers.update((name.replace("_", "-").lower(), environ[name]) for name in _CONTENT if name in environ)
    # WSGI hands over the bytes of a path as Latin-1.
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "surrogateescape")
    return environ["REQUEST_METHOD"], path, headers


def main() -> None:
    """Serve what the order on the command line says, for ever."""
    order, workspace = read_order()
    journal = Journal(workspace / "requests.jsonl")
    with JournalledServer(journal, **order) as server:
        publish_port(workspace, server.port)
        threading.Event().wait()
