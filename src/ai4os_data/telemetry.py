"""What the library logs and counts: one logger, and counters that every process of one owner adds to."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from contextlib import suppress

import xxhash

from ai4os_data.machine import locks, shared_memory, tell_after_fork

log = logging.getLogger("ai4os_data")

_FIELDS = (
    "hits",
    "misses",
    "bytes_from_cache",
    "bytes_from_network",
    "requests_get",
    "requests_archive",
    "requests_propfind",
    "requests_put",
    "requests_other",
    "retries",
    "waited_ns",
    "stored",
    "passed_through",
    "damaged",
    "skipped",
    "changed",
)
HITS, MISSES, BYTES_FROM_CACHE, BYTES_FROM_NETWORK = range(4)
REQUESTS_GET, REQUESTS_ARCHIVE, REQUESTS_PROPFIND, REQUESTS_PUT, REQUESTS_OTHER = range(4, 9)
RETRIES, WAITED_NS, STORED, PASSED_THROUGH, DAMAGED, SKIPPED, CHANGED = range(9, 16)

_ROWS = 256
_COLUMNS = 24
_PID = _COLUMNS - 1
_ROW_BYTES = 8 * _COLUMNS
_MARKS = 512
_NOTES_FROM = _ROWS * _ROW_BYTES + 8 * _MARKS
_NOTES_BYTES = 4096  # the first eight hold how many are in use
_FILE_BYTES = _NOTES_FROM + _NOTES_BYTES

_told: set[str] = set()


def tell_once(message: str) -> None:
    """Log a warning, unless this process has logged it before."""
    if message not in _told:
        _told.add(message)
        log.warning(message)


class Reading(threading.local):
    """How long each thread has read what samples are made of, in nanoseconds.

    It is one clock for all that a thread reads: a loader asks it before a batch and after it, and so sees what a
    dataset inside somebody else's reads, too, and what a function of the user's own reads from another one.

    Attributes:
        total_ns: the time until files were there, from the cache or from their store.
        fetching_ns: the part of it for files that were not in the cache.
    """

    total_ns: int = 0
    fetching_ns: int = 0

    def add(self, taken_ns: int, *, fetching: bool, since_ns: int | None = None) -> None:
        """Record that a file was read.

        Args:
            taken_ns: how long it took.
            fetching: whether it was not in the cache.
            since_ns: the total before it; what was recorded since then is part of the same time.
        """
        self.total_ns = (self.total_ns if since_ns is None else since_ns) + taken_ns
        if fetching:
            self.fetching_ns += taken_ns


reading = Reading()


class Counters:
    """Numbers that all processes of one owner add to, each in a row of its own; any of them reads the sum.

    The rows lie in a small shared file, removed with its owner. ``row[HITS] += 1`` is all that counting costs, and no
    file stays open for it.
    """

    def __init__(self) -> None:
        name = self._path = shared_memory.new_file(_FILE_BYTES)
        self._finalizer = weakref.finalize(self, _remove, name, os.getpid())
        self._open()

    def _open(self) -> None:
        with open(self._path, "r+b") as file:
            self._map = shared_memory.mapped(file.fileno(), _FILE_BYTES)
            self.row = self._claim(file.fileno())
        tell_after_fork(self)

    def _claim(self, descriptor: int) -> memoryview:
        """A row that no living process adds to; what it already holds stays in the sum."""
        rows = self._map.cast("q")
        with locks.locked(descriptor):
            for begin in range(0, _ROWS * _COLUMNS, _COLUMNS):
                owner = rows[begin + _PID]
                if owner == 0 or not _alive(owner):
                    rows[begin + _PID] = os.getpid()
                    return rows[begin : begin + _COLUMNS]
            return rows[:_COLUMNS]  # more processes than rows: counts may be lost, nothing else

    def after_fork(self) -> None:
        """Count in a row of the child's own."""
        self._finalizer.detach()
        with suppress(OSError):  # the owner is gone: count in the parent's mapping
            self._open()

    def __getstate__(self) -> str:
        """Pickle the path of the shared file."""
        return self._path

    def __setstate__(self, path: str) -> None:
        """Add to the same sum; to a new one if the owner is gone, or is another user."""
        self._path = path
        try:
            self._open()
        except OSError:
            self.__init__()  # type: ignore[misc]  # the owner's file is gone, and so is its sum
            return
        self._finalizer = weakref.finalize(self, _remove, path, 0)  # the owner removes it

    def totals(self) -> dict[str, int]:
        """Each number, summed over all processes, those that have ended included."""
        rows = self._map.cast("q")[: _ROWS * _COLUMNS]
        return {field: sum(rows[column::_COLUMNS]) for column, field in enumerate(_FIELDS)}

    def is_first(self, event: str) -> bool:
        """Whether this call is the owner's first for an event, in any process. It remembers a few hundred events."""
        mark = xxhash.xxh3_64_intdigest(event.encode("utf-8", "surrogateescape")) >> 1 or 1
        marks = self._map.cast("q")[_ROWS * _COLUMNS : _NOTES_FROM // 8]
        with suppress(OSError), open(self._path, "rb") as file, locks.locked(file.fileno()):  # the owner may be gone
            return _enter(marks, mark)
        return True

    @property
    def noted_bytes(self) -> int:
        """How many bytes the processes of the owner have noted for each other."""
        length: int = self._map.cast("q")[_NOTES_FROM // 8]
        return length

    def note(self, line: str) -> None:
        """Leave a line for the other processes of the owner. A few KB are kept."""
        data = f"{line}\n".encode()
        with suppress(OSError), open(self._path, "rb") as file, locks.locked(file.fileno()):  # the owner may be gone
            begin = self.noted_bytes
            if begin + len(data) <= _NOTES_BYTES - 8:
                start = _NOTES_FROM + 8 + begin
                self._map[start : start + len(data)] = data
                self._map.cast("q")[_NOTES_FROM // 8] = begin + len(data)

    def noted(self) -> list[str]:
        """What has been noted, by this process or another."""
        begin = _NOTES_FROM + 8
        return bytes(self._map[begin : begin + self.noted_bytes]).decode().splitlines()


def _enter(marks: memoryview, mark: int) -> bool:
    """Put a mark into the first free slot; False if it is there already."""
    known = marks.tolist()
    if mark in known:
        return False
    if 0 in known:
        marks[known.index(0)] = mark
    return True


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        shared_memory.remove(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
