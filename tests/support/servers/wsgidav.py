"""wsgidav on cheroot, the embedded server of the demo, in a process of its own.

In the process of the tests it would share the interpreter lock with the client that is measured.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ai4os_data.cli.embedded import EmbeddedServer
from tests.support.servers.base import PASSWORD, USER, Server
from tests.support.servers.children import publish_port, read_order, serve_in_python
from tests.support.servers.journal import Journal, read_journal

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.cli.embedded import Request
    from tests.support.servers.children import Child


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


def main() -> None:
    """Serve what the order on the command line says, for ever."""
    order, workspace = read_order()
    journal = Journal(workspace / "requests.jsonl")
    with EmbeddedServer(**order, on_request=journal.note) as server:
        publish_port(workspace, server.port)
        threading.Event().wait()
