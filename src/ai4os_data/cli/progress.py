"""How far a transfer is: a bar for people, and a line now and then where nobody sits at a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ai4os_data.cli.output import note
from ai4os_data.folders import Progress
from ai4os_data.machine import disk_bytes, shown_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Show = Callable[[Progress], None]

_EVERY_S = 10.0
_LOOK_S = 0.2
_DELAY_S = 0.3  # what is quicker needs no bar


@contextmanager
def shown(what: str, *, quiet: bool) -> Iterator[Show]:
    """A function that shows how far a transfer is.

    Args:
        what: comes, in a word.
        quiet: show nothing.
    """
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(what) as show:
            yield show
    else:
        yield Lines(what).show


@contextmanager
def _bar(what: str) -> Iterator[Show]:
    from tqdm import tqdm

    with tqdm(
        desc=what, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True, delay=_DELAY_S, leave=False
    ) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total_bytes
            bar.set_postfix_str(_files(progress), refresh=False)
            bar.update(progress.came_bytes - bar.n)

        yield show


def _files(progress: Progress) -> str:
    files = f"{progress.came_files:,} of {progress.total_files:,} files" if progress.total_files > 1 else ""
    return f"process {progress.copier} copies: {files}".rstrip(": ") if progress.copier else files


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


class Lines:
    """Lines about a transfer, ten seconds apart.

    Args:
        what: comes, in a word.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun_s = self._said_s = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Print a line, if it is time for one."""
        came, total = progress.came_bytes, progress.total_bytes
        now = time.monotonic()
        if now - self._said_s < _EVERY_S or total <= 0:
            return
        self._said_s = now
        per_s = came / (now - self._begun_s)
        left = f", {shown_time((total - came) / per_s)} left" if per_s > 0 else ""
        files = f", {_files(progress)}" if _files(progress) else ""
        note(
            f"{self._what}: {shown_size(came)} of {shown_size(total)} ({came / total:.0%}){files}, "
            f"{shown_size(int(per_s))}/s{left}"
        )


def shown_time(seconds: float) -> str:
    """A time for people to read."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
