"""The embedded server in a process of its own, as a real one would be.

Inside the training process its threads would take turns with the training, and a fork of the DataLoader
would copy them half.
"""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.cli.embedded import EmbeddedServer
from ai4os_data.errors import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

_START_TIMEOUT_S = 60.0  # a cold Python on a slow disk


@contextmanager
def serve(directory: Path, *, user: str, password: str, latency_s: float) -> Iterator[str]:
    """Serve a folder over WebDAV on 127.0.0.1 while the ``with`` lasts; gives the URL of its root.

    Raises:
        ServerUnavailableError: the process did not come up.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve_until_closed,
        args=(theirs, directory, user, password, latency_s),
        name="webdav",
        daemon=True,
    )
    process.start()
    theirs.close()
    try:
        yield _announced(ours)
    finally:
        ours.close()
        process.join(timeout=5)
        process.kill()  # only if it did not end by itself


def _announced(ours: Connection) -> str:
    with suppress(EOFError):
        if ours.poll(_START_TIMEOUT_S):
            return str(ours.recv())
    raise ServerUnavailableError("the embedded WebDAV server did not start; what it said stands above")


def _serve_until_closed(theirs: Connection, directory: Path, user: str, password: str, latency_s: float) -> None:
    with EmbeddedServer(directory, user=user, password=password, latency_s=latency_s) as server:
        theirs.send(server.url)
        # The other end closes with its process, however that ends.
        with suppress(EOFError, KeyboardInterrupt):
            theirs.recv()
