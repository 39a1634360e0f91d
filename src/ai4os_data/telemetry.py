"""What the library tells: one logger, and counters that every process of one owner adds to."""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import xxhash

from ai4os_data.processes import tell_after_fork

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

_PREFIX = "ai4os-data-counters-"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a file of random name, mode 0600
_ROWS = 256
_COLUMNS = 24
_PID = _COLUMNS - 1
_ROW_BYTES = 8 * _COLUMNS
_MARKS = 512
_NOTES_FROM = _ROWS * _ROW_BYTES + 8 * _MARKS
_NOTES_BYTES = 4096  # eight of them tell how much is noted
_FILE_BYTES = _NOTES_FROM + _NOTES_BYTES

_told: set[str] = set()


def tell_once(message: str) -> None:
    """Log a warning, the first time that this process has it to say."""
    if message not in _told:
        _told.add(message)
        log.warning(message)


class Counters:
    """Numbers that all processes of one owner add to, each in a row of its own; any of them reads the sum.

    The rows lie in a small shared file, removed with its owner. ``row[HITS] += 1`` is all that counting costs.
    """

    def __init__(self) -> None:
        name = self._path = _new_file()
        self._finalizer = weakref.finalize(self, _remove, name, os.getpid())
        self._open()

    def _open(self) -> None:
        with open(self._path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FILE_BYTES)
            self.row = self._claim(file.fileno())
        tell_after_fork(self)

    def _claim(self, descriptor: int) -> memoryview:
        """A row that no living process adds to; what it already holds stays in the sum."""
        rows = memoryview(self._map).cast("q")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            for begin in range(0, _ROWS * _COLUMNS, _COLUMNS):
                owner = rows[begin + _PID]
                if owner == 0 or not _alive(owner):
                    rows[begin + _PID] = os.getpid()
                    return rows[begin : begin + _COLUMNS]
            return rows[:_COLUMNS]  # more processes than rows: counts may be lost, nothing else
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # the mapping keeps the descriptor open

    def after_fork(self) -> None:
        """Count in a row of the child's own."""
        self._finalizer.detach()
        with suppress(OSError):  # the owner is gone: the parent's mapping still takes the counts
            self._open()

    def __getstate__(self) -> str:
        """Pickle the place of the shared file."""
        return self._path

    def __setstate__(self, path: str) -> None:
        """Add to the same sum, or to one of our own when the owner is gone."""
        if not os.path.exists(path):
            self.__init__()  # type: ignore[misc]  # the owner's file is gone, and so is its sum
            return
        self._path = path
        self._finalizer = weakref.finalize(self, _remove, path, 0)  # it is the owner's to remove
        self._open()

    def totals(self) -> dict[str, int]:
        """Each number, summed over all processes, those that have ended included."""
        rows = memoryview(self._map).cast("q")[: _ROWS * _COLUMNS]
        return {field: sum(rows[column::_COLUMNS]) for column, field in enumerate(_FIELDS)}

    def is_first(self, event: str) -> bool:
        """Whether no process of the owner has asked this of the event before. It remembers the first few hundred."""
        mark = xxhash.xxh3_64_intdigest(event.encode("utf-8", "surrogateescape")) >> 1 or 1
        marks = memoryview(self._map).cast("q")[_ROWS * _COLUMNS : _NOTES_FROM // 8]
        with suppress(OSError), open(self._path, "rb") as file:  # the owner may be gone
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                return _enter(marks, mark)
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked just now has the descriptor too
        return True

    @property
    def noted_bytes(self) -> int:
        """How much the processes of the owner have noted for each other."""
        length: int = memoryview(self._map).cast("q")[_NOTES_FROM // 8]
        return length

    def note(self, line: str) -> None:
        """Let the other processes know of something. A few KB are remembered."""
        data = f"{line}\n".encode()
        with suppress(OSError), open(self._path, "rb") as file:  # the owner may be gone
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                begin = self.noted_bytes
                if begin + len(data) <= _NOTES_BYTES - 8:
                    place = _NOTES_FROM + 8 + begin
                    self._map[place : place + len(data)] = data
                    memoryview(self._map).cast("q")[_NOTES_FROM // 8] = begin + len(data)
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def noted(self) -> list[str]:
        """What has been noted, by this process or another."""
        begin = _NOTES_FROM + 8
        return self._map[begin : begin + self.noted_bytes].decode().splitlines()


def _enter(marks: memoryview, mark: int) -> bool:
    """Put a mark into the first free place; False where it is there already."""
    for place, known in enumerate(marks):
        if known == mark:
            return False
        if known == 0:
            marks[place] = mark
            break
    return True


def _new_file() -> str:
    """A file for the rows: in shared memory, or beside other temporary files where that is full."""
    for folder in (_SHARED_MEMORY, tempfile.gettempdir()):
        with suppress(OSError):
            _sweep(folder)
            descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder)
            try:
                os.posix_fallocate(descriptor, 0, _FILE_BYTES)  # with no room behind it, a mapping ends the process
            except OSError:
                os.unlink(name)
                raise
            finally:
                os.close(descriptor)
            return name
    message = f"no room for {_FILE_BYTES:,} bytes in {_SHARED_MEMORY}, nor in {tempfile.gettempdir()}"
    raise OSError(errno.ENOSPC, message)


def _sweep(folder: str) -> None:
    """Remove the files of owners that were killed; who still counts there has them mapped."""
    for name in os.listdir(folder):
        owner = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and owner.isdecimal() and not _alive(int(owner)):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _remove(name: str, owner: int) -> None:
    if os.getpid() == owner:
        Path(name).unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
