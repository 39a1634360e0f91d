"""What the library tells: one logger, and counters that every process of one owner adds to."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import re
import secrets
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import xxhash

from ai4os_data.machine import PerProcess, exhausted, locks, ownership, tell_after_fork

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
_STAGED = "ai4os-data-new-"
_IS_STAGED = re.compile(rf"{_STAGED}[0-9a-f]{{24}}")
_STAGED_S = 60  # it takes a fraction of a millisecond
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a file of random name, mode 0600
_ROWS = 256
_COLUMNS = 24
_PID = _COLUMNS - 1
_ROW_BYTES = 8 * _COLUMNS
_MARKS = 512
_LOOKS = 5  # until an owner is held to be dead
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

    The rows lie in a small shared file, removed with its owner. ``row[HITS] += 1`` is all that counting costs, and no
    file stays open for it.
    """

    def __init__(self) -> None:
        name = self._path = _new_file()
        self._finalizer = weakref.finalize(self, _remove, name, os.getpid())
        self._open()

    def _open(self) -> None:
        with open(self._path, "r+b") as file:
            self._map = _mapped(file.fileno())
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
        with suppress(OSError):  # the owner is gone: the parent's mapping still takes the counts
            self._open()

    def __getstate__(self) -> str:
        """Pickle the place of the shared file."""
        return self._path

    def __setstate__(self, path: str) -> None:
        """Add to the same sum, or to one of our own when the owner is gone, or is another user."""
        self._path = path
        try:
            self._open()
        except OSError:
            self.__init__()  # type: ignore[misc]  # the owner's file is gone, and so is its sum
            return
        self._finalizer = weakref.finalize(self, _remove, path, 0)  # it is the owner's to remove

    def totals(self) -> dict[str, int]:
        """Each number, summed over all processes, those that have ended included."""
        rows = self._map.cast("q")[: _ROWS * _COLUMNS]
        return {field: sum(rows[column::_COLUMNS]) for column, field in enumerate(_FIELDS)}

    def is_first(self, event: str) -> bool:
        """Whether no process of the owner has asked this of the event before. It remembers the first few hundred."""
        mark = xxhash.xxh3_64_intdigest(event.encode("utf-8", "surrogateescape")) >> 1 or 1
        marks = self._map.cast("q")[_ROWS * _COLUMNS : _NOTES_FROM // 8]
        with suppress(OSError), open(self._path, "rb") as file, locks.locked(file.fileno()):  # the owner may be gone
            return _enter(marks, mark)
        return True

    @property
    def noted_bytes(self) -> int:
        """How much the processes of the owner have noted for each other."""
        length: int = self._map.cast("q")[_NOTES_FROM // 8]
        return length

    def note(self, line: str) -> None:
        """Let the other processes know of something. A few KB are remembered."""
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
    """Put a mark into the first free place; False where it is there already."""
    for place, known in enumerate(marks):
        if known == mark:
            return False
        if known == 0:
            marks[place] = mark
            break
    return True


class _Files:
    """This process's files in one folder. A lock on one of them says that their owner lives, in whatever container.

    The kernel takes the lock back when the process ends. Numbers of processes would not do: who shares the folder may
    not see them, or may see others under them.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stem = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self._names: set[str] = set()
        self._locked: tuple[str, int] | None = None  # a name, and the descriptor that has the lock
        self._lock = threading.RLock()  # finalizers come on any thread, this one among them
        self._seen: dict[str, str] = {}  # the file that had the lock of other owners

    def new(self) -> str:
        """The path of a new file, with room behind it."""
        with self._lock:
            self._sweep()
            staged = os.path.join(self._folder, f"{_STAGED}{secrets.token_hex(12)}")
            name = f"{self._stem}-{secrets.token_hex(4)}"
            descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _FILE_BYTES)  # with no room behind it, a mapping ends the process
                if self._locked is None:
                    _lock(descriptor)
                    self._locked = name, os.dup(descriptor)
                os.rename(staged, os.path.join(self._folder, name))  # others look for the name: it is locked by now
                self._names.add(name)
            except BaseException:  # a signal's handler may raise, too
                with suppress(OSError):
                    os.unlink(staged)
                self._unlock(name)
                raise
            finally:
                os.close(descriptor)
            return os.path.join(self._folder, name)

    def remove(self, path: str) -> None:
        """Remove a file; if it had the lock, another one gets it first."""
        name = os.path.basename(path)
        with self._lock:
            self._names.discard(name)
            if self._locked is not None and self._locked[0] == name:
                _, old = self._locked
                self._locked = self._other_locked()
                os.close(old)
            Path(path).unlink(missing_ok=True)

    def _other_locked(self) -> tuple[str, int] | None:
        for name in self._names:
            with suppress(OSError):
                descriptor = os.open(os.path.join(self._folder, name), os.O_RDWR | os.O_CLOEXEC)
                _lock(descriptor)
                return name, descriptor
        return None

    def _unlock(self, name: str) -> None:
        if self._locked is not None and self._locked[0] == name:
            os.close(self._locked[1])
            self._locked = None

    def _sweep(self) -> None:
        """Remove the files of owners that were killed; who still counts there has them mapped."""
        self._sweep_staged()
        for stem, names in self._others().items():
            # Again and again: the lock may have gone over to another file meanwhile.
            if not any(self._lives(stem, self._others().get(stem, []) if look else names) for look in range(_LOOKS)):
                for name in names:
                    with suppress(OSError):
                        os.unlink(os.path.join(self._folder, name))

    def _sweep_staged(self) -> None:
        """Remove files that had no name of their own yet when their owner was killed."""
        for name in filter(_IS_STAGED.fullmatch, os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            with suppress(OSError):
                found = ownership.own_file(path)
                if found is not None and time.time() - found.st_mtime > _STAGED_S:
                    os.unlink(path)

    def _others(self) -> dict[str, list[str]]:
        """The names of the files of other owners, by what they begin with."""
        found: dict[str, list[str]] = {}
        for name in os.listdir(self._folder):
            stem = name.rpartition("-")[0]
            is_another = name.startswith(_PREFIX) and "-" in stem.removeprefix(_PREFIX) and stem != self._stem
            if is_another and ownership.own_file(os.path.join(self._folder, name)) is not None:
                found.setdefault(stem, []).append(name)
        return found

    def _lives(self, stem: str, names: list[str]) -> bool:
        """Whether one of the files has the lock, or cannot be looked at."""
        seen = self._seen.get(stem)
        for name in [seen, *names] if seen in names and seen is not None else names:
            try:
                descriptor = ownership.open_file(os.path.join(self._folder, name), os.O_RDONLY)
            except FileNotFoundError:
                continue
            except OSError:  # it cannot be looked at
                return True
            try:
                if locks.locked_bytes(descriptor, 0):
                    self._seen[stem] = name
                    return True
            finally:
                os.close(descriptor)
        return False


class _Folders:
    """This process's files, by folder."""

    def __init__(self) -> None:
        self._files: dict[str, _Files] = {}

    def of(self, folder: str) -> _Files:
        return self._files.setdefault(folder, _Files(folder))


_folders = PerProcess(_Folders)


def _new_file() -> str:
    """A file for the rows: in shared memory, or beside other temporary files where that is full."""
    with suppress(OSError):
        return _folders.get().of(_SHARED_MEMORY).new()
    with suppress(OSError):  # also where there is no folder for temporary files
        return _folders.get().of(tempfile.gettempdir()).new()
    if (out := exhausted()) is not None:
        raise out
    message = f"no room for {_FILE_BYTES:,} bytes in {_SHARED_MEMORY}, nor in a folder for temporary files (TMPDIR)"
    raise OSError(errno.ENOSPC, message)


def _lock(descriptor: int) -> None:
    """Lock the first byte for as long as this open file lives: not in the way of the locks on the whole file."""
    with suppress(OSError):  # some file systems have no such locks
        locks.lock_bytes(descriptor, 0)


def _mapped(descriptor: int) -> memoryview:
    """The file of the rows in memory.

    Not by mmap.mmap alone, which keeps a descriptor open (until Python 3.13): a process may have 1,024 in all. So it
    maps memory of no file, and the file takes its place; it is unmapped with the last that sees it. A finalizer would
    be too early: in a circle of garbage it is called before a ``__del__`` that still counts.
    """
    if os.fstat(descriptor).st_size < _FILE_BYTES:  # of another version: what is not in the file ends the process
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    memory = mmap.mmap(-1, _FILE_BYTES)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    flags = mmap.MAP_SHARED | _MAP_FIXED
    if _libc.mmap(place, _FILE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0) != place:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return memoryview(memory)


def _system_calls() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    return libc


_libc = _system_calls()
_MAP_FIXED = 0x10  # of Linux; the module mmap has no name for it


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        _folders.get().of(os.path.dirname(path)).remove(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
