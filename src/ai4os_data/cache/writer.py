"""Puts what was fetched into the cache: beside the sockets, where the disk is slow, in a thread of its own.

On ext4 creating and writing a file of 110 KB takes 0.1 to 0.7 ms, most of it waiting for the journal; meanwhile 32
connections would stand still. More than one thread gains nothing. Where the disk is quick, the way to the other thread
would cost more than it saves.
"""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ai4os_data.processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], bool]

_MOST_BYTES = 32 * 1024 * 1024
_QUICK_S_PER_MIB = 0.0015
_SMOOTHING = 0.1
_LOOK_EVERY = 64  # jobs of a slow disk: is it quick by now?


class _Writer:
    """The thread, and the jobs that wait for it."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[tuple[Keeping, Job, int]] = SimpleQueue()
        self._s_per_mib = 0.0
        self._since_look = 0
        self._thread: threading.Thread | None = None

    def is_quick(self) -> bool:
        """Whether the next job is better done at once."""
        self._since_look += 1
        if self._s_per_mib <= _QUICK_S_PER_MIB or self._since_look >= _LOOK_EVERY:
            self._since_look = 0
            return True
        return False

    def took(self, seconds: float, size_bytes: int) -> None:
        """Take in how long a job took that was done at once."""
        self._s_per_mib += _SMOOTHING * (seconds / (size_bytes / 2**20 + 0.1) - self._s_per_mib)

    def put(self, keeping: Keeping, job: Job, size_bytes: int) -> None:
        """Have a job done by the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ai4os-data-writer", daemon=True)
            self._thread.start()
        self.jobs.put((keeping, job, size_bytes))

    def _run(self) -> None:
        while True:
            keeping, job, size_bytes = self.jobs.get()
            keeping.done(job, size_bytes)
            del keeping, job  # what was fetched is not kept until the next job comes


_of_this_process = PerProcess(_Writer)


class Keeping:
    """The entries of one fetch on their way to the disk: a bounded number of bytes, counted when they have arrived.

    Args:
        inline: store them at once, since nobody reads sockets meanwhile.
    """

    def __init__(self, *, inline: bool) -> None:
        self.kept = self.not_kept = 0
        self._inline = inline
        self._owner = os.getpid()
        self._pending = self._pending_bytes = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def add(self, job: Job, size_bytes: int) -> None:
        """Have an entry stored; wait where too much is waiting already.

        Args:
            job: stores it and ends its claim; tells whether it was kept.
            size_bytes: what it holds in memory until then.
        """
        writer = _of_this_process.get()
        if self._inline or writer.is_quick():
            begun_s = time.monotonic()
            kept = job()
            with self._changed:
                self._count(kept)
            writer.took(time.monotonic() - begun_s, size_bytes)
            return
        with self._changed:
            while self._pending_bytes and self._pending_bytes + size_bytes > _MOST_BYTES:
                self._changed.wait()
            self._pending += 1
            self._pending_bytes += size_bytes
        writer.put(self, job, size_bytes)

    def done(self, job: Job, size_bytes: int) -> None:
        """Carry out a job, in the writer's thread."""
        kept = False
        try:
            kept = job()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that fetches
            self._error = error
        with self._changed:
            self._count(kept)
            self._pending -= 1
            self._pending_bytes -= size_bytes
            self._changed.notify_all()

    def _count(self, kept: bool) -> None:  # noqa: FBT001  one number of two
        self.kept += kept
        self.not_kept += not kept

    def finish(self) -> None:
        """Wait until everything is stored, and raise what went wrong there."""
        with self._changed:
            while self._pending and os.getpid() == self._owner:  # a forked child has no such thread
                self._changed.wait()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
