"""wsgidav on cheroot, the embedded server of the demo, in a process of its own.

In the process of the tests it would share the interpreter lock with the client that is measured.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from ai4os_data.cli.embedded import EmbeddedServer, Request
from servers.base import PASSWORD, USER, Server
from servers.children import Child, stopping


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
        started = self._workspace / "port"
        started.unlink(missing_ok=True)
        order = {
            "directory": str(self.root),
            "workspace": str(self._workspace),
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "latency_s": self.latency_s,
        }
        child = Child(
            [sys.executable, "-c", "from servers.wsgidav import main; main()", json.dumps(order)],
            workspace=self._workspace,
            environ={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with stopping(child):
            child.wait_until(started.exists)
        self.port = int(started.read_text())
        return child

    def _all_requests(self) -> list[Request]:
        lines = (self._workspace / "requests.jsonl").read_text().splitlines()
        return [Request(*json.loads(line)) for line in lines]


def main() -> None:
    """Serve what the order on the command line says, for ever."""
    order = json.loads(sys.argv[1])
    workspace = order.pop("workspace")
    journal = os.open(f"{workspace}/requests.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(request: Request) -> None:
        # In one write, so that lines of different threads never mix.
        os.write(journal, json.dumps(request).encode() + b"\n")

    with EmbeddedServer(**order, on_request=note) as server:
        unfinished = Path(workspace, "port.new")
        unfinished.write_text(str(server.port))
        unfinished.rename(Path(workspace, "port"))
        threading.Event().wait()
