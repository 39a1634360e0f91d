"""The record of a copy lies outside of its directory: what was written there, the listing, and whose turn it is."""

from __future__ import annotations

import json
import os
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ai4os_data.folders.journal import Journal, recording
from ai4os_data.folders.progress import Progress
from ai4os_data.folders.room import translated
from ai4os_data.machine import locks, ownership, replace_whole, tell_after_fork
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.folders.progress import Show

_POLL_S = 0.1
_SILENT_S = 20.0  # until those who wait say whom they wait for
_STATE = struct.Struct("<5q")


class Turn:
    """The right to write, which one thread of all processes has at a time. The kernel takes it back from the dead.

    Args:
        path: a file that all of them lock.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = ownership.open_file(path, os.O_CREAT | os.O_RDWR)
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Close it in the child: the lock would outlive the process that has it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def take(self) -> bool:
        """Whether it is ours now."""
        return locks.try_lock(self._descriptor)

    def release(self) -> None:
        """Let the next one begin."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            locks.release(descriptor)

    def show(self, progress: Progress) -> None:
        """Let those who wait see how far it is."""
        with suppress(OSError):  # of a full disk: others see an old state
            os.pwrite(self._descriptor, _STATE.pack(*progress[:4], os.getpid()), 0)

    def shown(self) -> Progress:
        """How far the one is whose turn it is."""
        state = os.pread(self._descriptor, _STATE.size, 0)
        return Progress(*_STATE.unpack(state)) if len(state) == _STATE.size else Progress()


class Record:
    """What is known of one copy; only who has its turn may have it.

    Args:
        folder: where it lies.
        turn: has been taken.
        waited: whether another had it first.

    Attributes:
        journal: what was written.
        waited: whether another process had its turn, and has ended it.
    """

    def __init__(self, folder: str, turn: Turn, *, waited: bool) -> None:
        self.waited = waited
        self.show = turn.show
        self._folder = folder
        self.journal = Journal(f"{folder}/written")

    def kept_listing(self, name: str) -> bytes | None:
        """The listing that was kept."""
        with suppress(OSError), open(f"{self._folder}/{name}", "rb") as file:
            return file.read()
        return None

    def keep_listing(self, name: str, data: bytes) -> None:
        """Keep a listing. If that fails, none is kept: by an old one, newer files would seem to have vanished."""
        path = f"{self._folder}/{name}"
        try:
            replace_whole(path, f"{path}.new", data, mode=0o600)
        except OSError as error:
            log.warning("%s: the listing cannot be kept (%s): every call lists anew", self._folder, error.strerror)
            with suppress(FileNotFoundError):
                os.unlink(path)

    def finished(self, job: str) -> None:
        """Record that everything that a job wants was there at this moment."""
        with suppress(OSError):  # of a full disk: those who wait look for themselves
            path = f"{self._folder}/finished"
            replace_whole(path, f"{path}.new", json.dumps([job, time.time()]).encode(), mode=0o600)
            self.journal.tidy()

    def has_finished(self, job: str, since_s: float) -> bool:
        """Whether somebody has finished a job since a moment."""
        with suppress(OSError, ValueError), open(f"{self._folder}/finished", "rb") as file:
            done, when_s = json.load(file)
            return bool(done == job and when_s >= since_s)
        return False


@contextmanager
def opened(folder: str, show: Show) -> Iterator[Record]:
    """The record in a folder, once no other process or thread copies.

    Args:
        folder: of the record; it is made if it is missing.
        show: is called with how far the other one is.
    """
    with translated(folder, recording):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        turn = Turn(f"{folder}/lock")
    record: Record | None = None
    try:
        waited = _wait(turn, show, folder)
        turn.show(Progress())
        record = Record(folder, turn, waited=waited)
        yield record
    finally:
        if record is not None:
            record.journal.close()
        turn.release()


def _wait(turn: Turn, show: Show, folder: str) -> bool:
    """Wait for the turn; whether another had it first."""
    seen, since_s, waited = Progress(), time.monotonic(), False
    while not turn.take():
        waited = True
        state = turn.shown()
        show(state)
        now_s = time.monotonic()
        if state != seen:
            seen, since_s = state, now_s
        elif now_s - since_s > _SILENT_S:
            log.warning(
                "waiting for process %s, which makes this copy (%d of %d files) and got no further for %d s. If it is "
                "stopped or hangs, end it: what it has copied stays (its lock is %s/lock)",
                state.copier,
                state.came_files,
                state.total_files,
                _SILENT_S,
                folder,
            )
            since_s = now_s + 2 * _SILENT_S  # a line a minute
        time.sleep(_POLL_S)
    return waited
