"""The process that serves: a thread for each connection, and as many requests at a time as it is told."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tests.nextcloud.answers import Answer
from tests.nextcloud.cloud import Cloud
from tests.nextcloud.costs import wait_until
from tests.nextcloud.faults import Faults
from tests.nextcloud.settings import Settings
from tests.nextcloud.wire import ClosedError, Connection, Incoming
from tests.support.servers.children import publish_port, read_order
from tests.support.servers.journal import Journal, Request

if TYPE_CHECKING:
    from typing import Any

_BACKLOG = 512
_IDLE_S = 300.0
_SWITCH_S = 0.0005


class Service:
    """Serves connections.

    Args:
        cloud: What answers.
        settings: What it costs.
        journal: Where requests are noted.
        faults: What goes wrong.
        control: The path at which the test says what to change.
    """

    def __init__(self, cloud: Cloud, settings: Settings, journal: Journal, faults: Faults, control: str) -> None:
        self._cloud = cloud
        self._settings = settings
        self._journal = journal
        self._faults = faults
        self._control = control
        concurrency = settings.concurrency
        self._slots: AbstractContextManager[Any] = (
            nullcontext() if concurrency is None else threading.BoundedSemaphore(concurrency)
        )

    def accept(self, listener: socket.socket) -> None:
        """Serve whoever comes, for ever."""
        while True:
            link, _ = listener.accept()
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError, ClosedError):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.settimeout(_IDLE_S)
            connection = Connection(link)
            while (incoming := connection.receive()) is not None:
                if incoming.path == self._control:
                    going_on = connection.send(self._obey(incoming), incoming)
                else:
                    going_on = self._exchange(connection, incoming)
                if not (incoming.body.drop() and going_on):
                    break

    def _exchange(self, connection: Connection, incoming: Incoming) -> bool:
        with self._slots:
            moment_s = time.monotonic() + self._settings.request_cost_s
            if self._settings.request_cost_s:
                wait_until(moment_s)
            try:
                answer = self._cloud.answer(incoming)
            except (ClosedError, ConnectionError, TimeoutError):
                self._note(incoming, 0)
                raise
            except Exception:  # noqa: BLE001  a mistake in the double shows in the test that meets it
                traceback.print_exc()
                answer = Answer(500, {"Content-Type": "text/plain"}, traceback.format_exc().encode())
            self._note(incoming, answer.status)
            if self._faults.loses_answer_to(incoming):
                return False
            return connection.send(answer, incoming)

    def _note(self, incoming: Incoming, status: int) -> None:
        headers = {name: value for name, value in incoming.headers.items() if name != "authorization"}
        if incoming.query:
            headers[":query"] = incoming.query
        self._journal.note(Request(incoming.method, incoming.path, headers, status))

    def _obey(self, incoming: Incoming) -> Answer:
        order = json.loads(incoming.body.read())
        for name, value in order.get("settings", {}).items():
            setattr(self._settings, name, value)
        for fault in order.get("faults", []):
            self._faults.add(**fault)
        if order.get("clear_faults"):
            self._faults.clear()
        if order.get("end_sessions"):
            self._cloud.gate.end_sessions()
        if order.get("open_again"):
            self._cloud.gate.open_again()
        return Answer(204)


def main() -> None:
    """Serve what the order on the command line says, for ever."""
    order, workspace = read_order()
    settings = Settings(**order["settings"])
    faults = Faults()
    cloud = Cloud(Path(order["root"]), workspace, settings, faults)
    service = Service(cloud, settings, Journal(workspace / "requests.jsonl"), faults, order["control"])
    # A thread that computes gives way soon to those that only have to send.
    sys.setswitchinterval(_SWITCH_S)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", order["port"]))
        listener.listen(_BACKLOG)
        publish_port(workspace, listener.getsockname()[1])
        service.accept(listener)
