"""How far a transfer is: a bar at a terminal, elsewhere a line that the log shows now and then."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ai4os_data.folders import Progress, bar
from ai4os_data.machine import disk_bytes
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.folders import Show

_LOOK_S = 0.2


@contextmanager
def shown(what: str, *, quiet: bool) -> Iterator[Show]:
    """A function that shows how far a transfer is; what the log has to say about it is shown too.

    Args:
        what: comes, in a word.
        quiet: show nothing but warnings.
    """
    if not quiet:
        log.setLevel(logging.INFO)
    with bar(what, shown=not quiet) as show:
        yield show


class Steps:
    """Adds up what comes.

    Args:
        show: shows how much that is.
        total_bytes: how much is to come.
        total_files: in how many files.
    """

    def __init__(self, show: Show, total_bytes: int, total_files: int) -> None:
        self._show = show
        self._progress = Progress(0, total_bytes, 0, total_files)

    def came(self, size_bytes: int) -> None:
        """Count a file."""
        before = self._progress
        self._progress = before._replace(came_bytes=before.came_bytes + size_bytes, came_files=before.came_files + 1)
        self._show(self._progress)


@contextmanager
def growing(path: Path, total_bytes: int, show: Show) -> Iterator[None]:
    """Show meanwhile how much of a file is on the disk."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            show(Progress(min(disk_bytes(path), total_bytes), total_bytes, 0, 1))

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
