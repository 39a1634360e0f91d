"""What the cache holds and how much room is left, agreed between all processes.

The entries and the order of their last use are kept in diskcache, touched only under one lock and in batches. Room is
given out in leases: what a process may still write without asking. So at every moment

    indexed entries + leases + bookkeeping <= limit

and a process that dies leaves a lease whose lock is free: whoever sees that counts its files in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import diskcache

from ai4os_data.cache.claims import is_abandoned
from ai4os_data.cache.objects import DIGEST_DIGITS, Objects, allocated, is_pinned, parsed_name, relative_name
from ai4os_data.errors import CacheError
from ai4os_data.processes import tell_after_fork
from ai4os_data.telemetry import log, tell_once

_ROWS_AT_ONCE = 128  # bounds the write-ahead log of one transaction
_LEASE_PART = 100
_NAME_BYTES = 64
_NAMES_BYTES = 64 * 1024  # so much of names of evicted entries may always stay
_MARGIN_BYTES = 64 * 1024
_LARGEST_MARGIN_BYTES = 4 * 1024 * 1024
_PAGE_BYTES = 4096
_LOG_PAGES = 16
_LEASE = struct.Struct("<q")
_CLEAN, _DIRTY = b"-", b"*"

# What a damaged index may show itself as; each leads to a new one, made from the names of the files.
_DAMAGE = (
    sqlite3.Error,
    diskcache.Timeout,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    OverflowError,
)

# https://www.sqlite.org/rescode.html: SQLITE_FULL, SQLITE_READONLY, SQLITE_CANTOPEN
_DISK_ERRORS = {13: errno.ENOSPC, 8: errno.EROFS, 14: errno.EACCES}

Protected = Callable[[], Iterable[str]]
R = TypeVar("R")


class _Adopting(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Lets diskcache index files that we have written, and nothing that would have to be unpickled."""

    objects: Objects

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.objects = Objects(os.path.dirname(directory))
        self.kept: list[str] = []
        self.adopting: set[str] = set()

    def put(self, key: object) -> tuple[object, bool]:
        if not isinstance(key, str):
            _refuse_pickle(key)
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not raw or not isinstance(key, str):
            _refuse_pickle(key)
        return key

    def store(self, value: object, *_read: object, **_key: object) -> tuple[int, int, str, None]:
        if not isinstance(value, str) or value not in self.adopting:
            _refuse_pickle(value)
        return os.stat(self.objects.path_of(value)).st_blocks * 512, diskcache.core.MODE_RAW, value, None

    def fetch(self, _mode: object, filename: str, *_: object) -> str:
        return filename

    def remove(self, file_path: str) -> None:
        """Evict a file, unless somebody is using it."""
        if parsed_name(file_path) is None or file_path in self.adopting:
            return
        path = self.objects.path_of(file_path)
        if is_pinned(path):
            self.kept.append(file_path)
            return
        with suppress(FileNotFoundError):
            os.unlink(path)


def _refuse_pickle(value: object) -> NoReturn:
    message = f"the cache's index holds names only, not {type(value).__name__}"
    raise TypeError(message)


class Ledger:
    """One process's hand on the ledger of a cache directory.

    Args:
        directory: the cache's.
        limit_bytes: what the directory may take in all.
        protected: gives the digests that must not be evicted to make room (policy ``"auto"``); None evicts by last
            use alone.
    """

    def __init__(self, directory: str, limit_bytes: int, protected: Protected | None) -> None:
        self._directory = directory
        self._limit = limit_bytes
        self._protected = protected
        self._objects = Objects(directory)
        self._index_directory = f"{directory}/index"
        self._leases_directory = f"{directory}/leases"
        for folder in (self._index_directory, self._leases_directory, self._objects.root):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._lock = os.open(f"{directory}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._index: diskcache.Cache | None = None
        self._lease_path = ""
        self._lease = -1
        self._checked = False
        self._protected_touched = False
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Keep none of the parent's locks alive in a child."""
        for descriptor in (self._lock, self._lease):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
        self._lock = self._lease = -1

    # --- what others call

    def grant(self, need_bytes: int, left_bytes: int, names: list[str], used: list[str]) -> int:
        """Enter what was stored and used, and lease more room.

        Args:
            need_bytes: how much is needed at least; 0 for none.
            left_bytes: what of the lease is still in hand, reservations included.
            names: stored since the last call, relative to ``objects``.
            used: digests that were read since the last call.

        Returns:
            How much more may be written: nothing, or at least ``need_bytes``.
        """
        with self._held():
            return self._mended(lambda: self._grant(need_bytes, left_bytes, names, used))

    def note_use(self, used: list[str]) -> bool:
        """Enter what was read, unless another process has the ledger just now."""
        with self._held(wait=False) as held:
            if held:
                self._mended(lambda: self._enter([], used))
            return held

    def close(self, names: list[str], used: list[str]) -> None:
        """Enter the rest, and give the lease back."""
        with self._held():
            self._mended(lambda: self._enter(names, used))
            self._drop_lease()
            self._close_index()
        os.close(self._lock)
        self._lock = -1

    def clear(self) -> None:
        """Remove every entry that nobody uses."""
        with self._held():
            self._mended(self._clear)

    def forget(self, names: Iterable[str]) -> None:
        """Take digests out of the index whose files are gone."""
        with self._held():
            self._mended(lambda: self._delete(names))

    def usage(self) -> tuple[int, int]:
        """How many entries are indexed, and the bytes that the directory takes, leases included."""
        with self._held():
            return self._mended(lambda: (len(self._open()), self._used_bytes() - self._margin_bytes()))

    # --- the lock

    @contextmanager
    def _held(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the ledger alone. It is marked while it is held, so that whoever comes after a death sees it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            if os.pread(self._lock, 1, 0) == _DIRTY:
                self._mended(self._reconcile)
            os.pwrite(self._lock, _DIRTY, 0)
            yield True
            os.pwrite(self._lock, _CLEAN, 0)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _mended(self, work: Callable[[], R]) -> R:
        """The result of some work; a damaged index is made anew from the files, and the work done again.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        try:
            return work()
        except _DAMAGE as error:
            _raise_for_disk(error)
            tell_once(
                f"{self._directory}: the cache's index was damaged ({type(error).__name__}: {error}); it is made anew"
            )
        try:
            self._rebuild()
            return work()
        except _DAMAGE as error:
            _raise_for_disk(error)
            raise CacheError(f"{self._directory}: the cache's index cannot be made anew: {error}") from error

    # --- entries

    def _open(self) -> diskcache.Cache:
        if self._index is None:
            self._index = diskcache.Cache(
                self._index_directory,
                disk=_Adopting,
                timeout=60,
                eviction_policy="least-recently-used",
                cull_limit=0,
                statistics=0,
                size_limit=self._limit,
                sqlite_synchronous=0,  # the cache dies with the machine; kill -9 leaves the page cache intact
                sqlite_mmap_size=0,  # a truncated file would end the process with SIGBUS
                sqlite_auto_vacuum=0,  # pages of evicted rows are used again
                sqlite_wal_autocheckpoint=_LOG_PAGES,
                sqlite_journal_size_limit=0,
            )
        return self._index

    def _enter(self, names: list[str], used: list[str]) -> None:
        index = self._open()
        disk = index.disk
        for begin in range(0, max(len(names), len(used)), _ROWS_AT_ONCE):
            disk.adopting = set(names[begin : begin + _ROWS_AT_ONCE])
            with index.transact(retry=True):
                for name in names[begin : begin + _ROWS_AT_ONCE]:
                    with suppress(FileNotFoundError):  # found damaged since
                        index.set(name.rpartition("/")[2][:DIGEST_DIGITS], name)
                for digest in used[begin : begin + _ROWS_AT_ONCE]:
                    index.get(digest)
        disk.adopting = set()

    def _delete(self, names: Iterable[str]) -> None:
        index = self._open()
        with index.transact(retry=True):
            for name in names:
                index.delete(name)

    def _clear(self) -> None:
        index = self._open()
        index.clear()
        self._keep_pinned(index)
        for folder in ("listings",):
            shutil.rmtree(f"{self._directory}/{folder}", ignore_errors=True)

    def _keep_pinned(self, index: diskcache.Cache) -> None:
        """Index again what could not be evicted because it is in use."""
        kept, index.disk.kept = index.disk.kept, []
        self._enter(kept, [])

    # --- room

    def _grant(self, need_bytes: int, left_bytes: int, names: list[str], used: list[str]) -> int:
        self._enter(names, used)
        self._write_lease(left_bytes)
        if need_bytes == 0:
            return 0
        self._check_once()
        if self._objects.names.size_bytes > _NAMES_BYTES + 2 * _NAME_BYTES * len(self._open()):
            self._objects.names.rewrite(os.path.basename(held.path) for held in self._objects.scan_all().values())
        wanted = max(need_bytes, self._limit // _LEASE_PART)
        free = self._limit - self._used_bytes()
        if free < wanted:
            self._evict(wanted - free)
            free = self._limit - self._used_bytes()
        if free < need_bytes:
            return 0
        granted = min(free, wanted)
        self._write_lease(left_bytes + granted)
        return granted

    def _used_bytes(self) -> int:
        return self._entries_bytes() + self._bookkeeping_bytes() + self._margin_bytes() + self._lease_bytes()

    def _entries_bytes(self) -> int:
        """What diskcache sums up: the files, and its database."""
        return int(self._open().volume())

    def _bookkeeping_bytes(self) -> int:
        files = [
            f"{self._directory}/lock",
            f"{self._directory}/names",
            f"{self._index_directory}/cache.db-wal",
            f"{self._index_directory}/cache.db-shm",
        ]
        for folder in (self._leases_directory, f"{self._directory}/listings"):
            with suppress(FileNotFoundError):
                files += [folder, *(item.path for item in os.scandir(folder))]
        return sum(map(_disk_bytes, files)) + self._objects.folders_bytes()

    def _margin_bytes(self) -> int:
        """What bookkeeping may grow by until it is measured again: the database by the rows of leases, and its log."""
        database = _disk_bytes(f"{self._index_directory}/cache.db")
        log_now = _disk_bytes(f"{self._index_directory}/cache.db-wal")
        longest_log = _PAGE_BYTES * _LOG_PAGES + min(database, _PAGE_BYTES * 4 * _ROWS_AT_ONCE)
        growth = min(_LARGEST_MARGIN_BYTES, _MARGIN_BYTES + self._limit // 128)
        return max(0, longest_log - log_now) + growth

    def _evict(self, bytes_: int) -> None:
        """Remove the entries used longest ago, those that are protected excepted."""
        index = self._open()
        floor = 0
        if self._protected is not None:
            floor = self._protected_bytes()
            database = _disk_bytes(f"{self._index_directory}/cache.db")
            if self._entries_bytes() - database - floor < bytes_:
                return
        index.size_limit = max(self._entries_bytes() - bytes_, floor)
        index.cull(retry=True)
        self._keep_pinned(index)

    def _protected_bytes(self) -> int:
        """Make the protected entries the ones used last, and sum them up."""
        assert self._protected is not None
        here = self._objects.scan_all()
        mine = [name for name in self._protected() if name in here]
        if not self._protected_touched:  # what comes later is recent by itself
            self._protected_touched = True
            self._enter([], mine)
        return sum(allocated(here[name].size_bytes) for name in mine)

    # --- leases

    def _write_lease(self, bytes_: int) -> None:
        if self._lease < 0:
            if bytes_ == 0:
                return
            self._lease_path = f"{self._leases_directory}/{os.getpid()}-{secrets.token_hex(4)}"
            self._lease = os.open(self._lease_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._lease, _LEASE.pack(bytes_), 0)

    def _drop_lease(self) -> None:
        if self._lease >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self._lease_path)
            os.close(self._lease)
            self._lease = -1

    def _lease_bytes(self) -> int:
        """All leases of living processes; the files of dead ones are counted in first."""
        total, died = 0, False
        for item in os.scandir(self._leases_directory):
            if item.path == self._lease_path:
                total += _LEASE.unpack(os.pread(self._lease, _LEASE.size, 0))[0]
                continue
            leased = _read_lease(item.path)
            if leased is None:
                died = True
                with suppress(FileNotFoundError):
                    os.unlink(item.path)
            else:
                total += leased
        if died:
            self._reconcile()
        return total

    # --- after a death, or damage

    def _reconcile(self) -> None:
        """Make index and files agree: count in what the dead have stored, remove what they have begun."""
        index = self._open()
        for path in self._objects.staged():
            if is_abandoned(path):
                with suppress(FileNotFoundError):
                    os.unlink(path)
        here = self._objects.scan_all()
        self._objects.names.rewrite(os.path.basename(held.path) for held in here.values())
        indexed = set(index.iterkeys())
        self._enter([relative_name(held) for name, held in here.items() if name not in indexed], [])
        self._delete([name for name in indexed if name not in here])
        log.debug("%s: counted in %d files of a process that died", self._directory, len(here.keys() - indexed))

    def _check_once(self) -> None:
        """Hold the index against the names of the files, once in each process: a flipped bit may have changed a sum."""
        if self._checked:
            return
        self._checked = True
        here = self._objects.scan_all()
        on_disk = sum(allocated(held.size_bytes) for held in here.values())
        indexed = int(self._open().reset("size"))
        leased = self._lease_bytes()
        slack = _MARGIN_BYTES + len(here) * 512
        if not indexed - slack <= on_disk <= indexed + leased + slack:
            log.debug("%s: the index says %d bytes, the files %d", self._directory, indexed, on_disk)
            self._rebuild()

    def _rebuild(self) -> None:
        """A new index, from the names of the files."""
        self._close_index()
        for item in os.scandir(self._index_directory):
            if item.name.startswith("cache.db"):
                os.unlink(item.path)
        self._reconcile()

    def _close_index(self) -> None:
        if self._index is not None:
            with suppress(*_DAMAGE):
                self._index.close()
            self._index = None


def _raise_for_disk(error: Exception) -> None:
    """Raise what SQLite says of the disk as the operating system would have said it."""
    code = getattr(error, "sqlite_errorcode", None)  # since Python 3.11
    if code in _DISK_ERRORS:
        number = _DISK_ERRORS[code]
        raise OSError(number, os.strerror(number)) from error


def _read_lease(path: str) -> int | None:
    """What a living process has leased; None for a dead one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        data = os.pread(descriptor, _LEASE.size, 0)
        return int(_LEASE.unpack(data)[0]) if len(data) == _LEASE.size else 0
    finally:
        os.close(descriptor)
    return None


def _disk_bytes(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
