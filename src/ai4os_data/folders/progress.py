"""How far a copy is, for whoever shows it: a bar, or the command line."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.machine import shown_size
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY_S = 0.05
_LOG_EVERY_S = 10.0


class Progress(NamedTuple):
    """How far a copy is.

    Attributes:
        came_bytes: how many bytes have come.
        total_bytes: how many are to come in all; 0 until that is known.
        came_files: how many files are in their places.
        total_files: how many are to come in all.
        copier: the process that copies, if this one waits for another.
    """

    came_bytes: int = 0
    total_bytes: int = 0
    came_files: int = 0
    total_files: int = 0
    copier: int | None = None


Show = Callable[[Progress], None]
"""Is called now and then with how far a copy is, from the thread that copies."""


@contextmanager
def bar(name: str, *, shown: bool) -> Iterator[Show]:
    """A bar that shows how many bytes have come of those that are to come.

    If nobody sits at a terminal or a notebook, a line is logged now and then instead.
    """
    from tqdm import tqdm

    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    if shown and not seen:
        yield _logging(name)
        return
    with tqdm(
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not shown,
        desc=name,
        delay=0.2,
        dynamic_ncols=True,  # in a narrow terminal, and in one that changes
    ) as line:

        def show(progress: Progress) -> None:
            line.total = progress.total_bytes
            line.set_postfix_str(_files(progress), refresh=False)
            line.update(progress.came_bytes - line.n)

        yield show


def _logging(name: str) -> Show:
    """Logs how far it is, ten seconds apart."""
    begun_s = said_s = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal said_s
        now_s, came, total = time.monotonic(), progress.came_bytes, progress.total_bytes
        if now_s - said_s < _LOG_EVERY_S or not total:
            return
        said_s = now_s
        parts = [f"{shown_size(came)} of {shown_size(total)} ({came / total:.0%})", _files(progress)]
        per_s = came / (now_s - begun_s)
        if per_s > 0 and progress.copier is None:
            parts += [f"{shown_size(int(per_s))}/s", f"{shown_time((total - came) / per_s)} left"]
        log.info("%s: %s", name, ", ".join(filter(None, parts)))

    return show


def shown_time(seconds: float) -> str:
    """A time for people to read."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _files(progress: Progress) -> str:
    files = f"{progress.came_files:,} of {progress.total_files:,} files" if progress.total_files > 1 else ""
    waits = f"waiting for process {progress.copier}" if progress.copier else ""
    return ", ".join(filter(None, (files, waits)))


class Tally:
    """Counts what comes, and shows it now and then.

    Args:
        shows: are called with how far it is, from the thread that made this.
    """

    def __init__(self, *shows: Show) -> None:
        self._shows = shows
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._counts = [0, 0, 0, 0]
        self._shown_s = 0.0

    def expect(self, files: int, size_bytes: int) -> None:
        """Count what is to come."""
        self._counts[1] += size_bytes
        self._counts[3] += files
        self._show(at_once=True)

    def came(self, size_bytes: int) -> None:
        """Count bytes that have come, in whatever thread; a negative number, if they are to come again."""
        with self._lock:
            self._counts[0] += size_bytes
        self._show()

    def placed(self) -> None:
        """Count a file that is in its place."""
        self._counts[2] += 1
        self._show(at_once=self._counts[2] == self._counts[3])

    def _show(self, *, at_once: bool = False) -> None:
        now_s = time.monotonic()
        if (at_once or now_s - self._shown_s > _EVERY_S) and threading.get_ident() == self._thread:
            self._shown_s = now_s
            for show in self._shows:
                show(Progress(*self._counts))
