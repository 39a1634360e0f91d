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
import re
import secrets
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import diskcache
import xxhash

from ai4os_data.cache import placement
from ai4os_data.cache.claims import FULL_FOR_S, Waiting
from ai4os_data.cache.objects import Held, Objects, relative_name
from ai4os_data.cache.plan import Plan
from ai4os_data.cache.staged import Spares, allocated, remove_if_abandoned
from ai4os_data.errors import CacheError
from ai4os_data.processes import tell_after_fork
from ai4os_data.telemetry import log, tell_once

LISTING_NAME = re.compile(r"[0-9a-f]{32}(\.\d+)?")

_ROWS_AT_ONCE = 128  # bounds the write-ahead log of one transaction
_LEASE_PART = 100
_PLANNED_PART = 16  # of what is evicted in the knowledge of the order, less lies idle in leases
_LARGEST_LEASE_BYTES = 16 * 1024 * 1024  # enough for the lock to cost little, and not more evicted than is needed
_TRIES = 8
_NAME_BYTES = 64
_NAMES_BYTES = 64 * 1024  # so much of names of evicted entries may always stay
_MARGIN_BYTES = 64 * 1024
_LARGEST_MARGIN_BYTES = 4 * 1024 * 1024
_FULL_DISK_BYTES = 32 * 1024
_PAGE_BYTES = 4096
_LOG_PAGES = 16
_LEASE = struct.Struct("<3q")  # three times the same: the middle one is right even where a byte was flipped
_HIGH_DESCRIPTOR = 900  # the kernel closes the files of a killed process from the lowest up
_LEASE_NAME = re.compile(r"\d+-[0-9a-f]{8}")
_SQLITE_FULL = 13  # https://www.sqlite.org/rescode.html
_CLEAN, _DIRTY = b"-", b"*"
_INDEX_FILES = ("cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal")
_CHECK = struct.Struct("<dqq")  # when it is due again, the overhead that was found, the limit that held then
_LONGEST_UNCHECKED_S = 3600.0
_TIMES_ITS_COST = 50  # what looks at every file is done again after so many times as long as it took

# Ten at a time, as diskcache does it, would empty a small cache of large files, and take from those that are protected.
_LRU, _AT_ONCE = "least-recently-used", 10
_ONE_BY_ONE = "least-recently-used, one by one"
diskcache.EVICTION_POLICY[_ONE_BY_ONE] = {
    **diskcache.EVICTION_POLICY["least-recently-used"],
    "cull": "SELECT {fields} FROM Cache ORDER BY access_time LIMIT min(?, 1)",
}

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

Protected = Callable[[], Iterable[str]]
Plans = Callable[[], Iterable[Plan]]
R = TypeVar("R")


class _Adopting(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Lets diskcache index files that we have written, and nothing that would have to be unpickled."""

    objects: Objects

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.objects = Objects(os.path.dirname(directory))
        self.kept: list[str] = []
        self.adopting: dict[str, int] = {}
        self.has_missed = False
        self.spares: Spares | None = None

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
        return self.adopting[value], diskcache.core.MODE_RAW, value, None

    def fetch(self, _mode: object, filename: str, *_: object) -> str:
        return filename

    def remove(self, file_path: str) -> None:
        """Evict a file, unless somebody is using it."""
        if file_path in self.adopting:
            return
        try:
            if not self.objects.evict(self.objects.named(file_path), self.spares):
                self.kept.append(file_path)
        except FileNotFoundError:
            self.has_missed = True


def _refuse_pickle(value: object) -> NoReturn:
    message = f"the cache's index holds names only, not {type(value).__name__}"
    raise TypeError(message)


class Ledger:
    """One process's hand on the ledger of a cache directory.

    Args:
        directory: the cache's.
        limit_bytes: what the directory may take in all.
        objects: the files, as this process knows them.
        protected: gives the digests that must not be evicted to make room (policy ``"auto"``); None evicts by last
            use alone.
        plans: tell which of the protected can be done without for longest.
        spares: take what is evicted to make room for this process.
    """

    def __init__(
        self,
        directory: str,
        limit_bytes: int,
        *,
        objects: Objects,
        protected: Protected | None,
        plans: Plans,
        spares: Spares,
    ) -> None:
        self._lock = self._lease = -1
        self._directory = directory
        self._limit = limit_bytes
        self._protected = protected
        self._plans = plans
        self._spares = spares
        self._objects = objects
        self._index_directory = f"{directory}/index"
        self._leases_directory = f"{directory}/leases"
        self._index: diskcache.Cache | None = None
        self._index_file: tuple[int, int] | None = None
        self._lease_path = ""
        self._leased_bytes = 0
        self._overhead_bytes = 0
        self._protect_at = 0.0
        self._all_protected_until = 0.0
        self._threads = threading.Lock()  # a file lock does not keep the threads of one process apart
        self._open_lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Keep none of the parent's locks alive in a child."""
        self._let_go()

    def __del__(self) -> None:
        """Free the lease of a cache that was dropped without a word; whoever sees that counts its files in."""
        self._let_go()

    def _let_go(self) -> None:
        for descriptor in (self._lock, self._lease):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
        self._lock = self._lease = -1

    # --- what others call

    def grant(
        self,
        need_bytes: int,
        free_bytes: int,
        reserved_bytes: int,
        names: list[str],
        used: list[str],
        *,
        room_for: str = "",
    ) -> int:
        """Enter what was stored and used, and lease more room.

        Args:
            need_bytes: how much is needed at least; 0 for none.
            free_bytes: what of the lease is still in hand.
            reserved_bytes: what of the lease is set aside for what is being written.
            names: stored since the last call, relative to ``objects``.
            used: digests that were read since the last call.
            room_for: the digest of the entry that needs the room.

        Returns:
            How much more may be written: nothing, or at least ``need_bytes``.
        """
        with self._held():
            granted = self._mended(lambda: self._grant(need_bytes, free_bytes + reserved_bytes, names, used, room_for))
            self._spares.keep_within(free_bytes + granted)
            return granted

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
        self._let_go()

    def shrink(self) -> None:
        """Evict what is above the limit."""
        with self._held():
            self._mended(self._shrink)

    def clear(self) -> None:
        """Remove every entry that nobody uses."""
        with self._held():
            self._mended(self._clear)

    def forget(self, names: list[str]) -> None:
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
        if not self._threads.acquire(blocking=wait):
            yield False
            return
        try:
            if not self._take_lock(wait=wait):
                yield False
                return
            try:
                if os.pread(self._lock, 1, 0) != _CLEAN:
                    self._mended(self._reconcile)
                os.pwrite(self._lock, _DIRTY, 0)
                yield True
                os.pwrite(self._lock, _CLEAN, 0)
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _take_lock(self, *, wait: bool) -> bool:
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            ours = os.fstat(self._lock)
            if _identity(f"{self._directory}/lock") == (ours.st_dev, ours.st_ino):
                return True
            # Somebody has removed the directory, or the lock in it: ours would exclude nobody.
            self._let_go()
            self._close_index()
            self._open_lock()

    def _open_lock(self) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        placement.mark(self._directory)  # it may have been removed, and be made anew here
        for folder in (self._index_directory, self._leases_directory, self._objects.root):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._lock = os.open(f"{self._directory}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def _mended(self, work: Callable[[], R]) -> R:
        """The result of some work; a damaged index is made anew from the files, and the work done again.

        Raises:
            OSError: the disk is full, or cannot be written.
            CacheError: a new index does not work either.
        """
        try:
            return self._tried(work)
        except _DAMAGE as error:
            if self._shrink_to_limit():
                self._tell_new_index("had no room on the full disk")
            else:
                self._raise_disk_error(error, _FULL_DISK_BYTES)
                self._tell_new_index(f"was damaged ({type(error).__name__}: {error})")
        try:
            self._rebuild()
            return work()
        except _DAMAGE as error:
            self._raise_disk_error(error, _MARGIN_BYTES)
            message = f"{self._directory}: the cache's index cannot be made anew: {type(error).__name__}: {error}"
            raise CacheError(message) from error

    def _tried(self, work: Callable[[], R]) -> R:
        """The result of some work, tried for a moment where the disk is full."""
        waiting = Waiting(FULL_FOR_S)
        while True:
            try:
                return work()
            except _DAMAGE as error:
                if not self._is_full(error, _FULL_DISK_BYTES) or not waiting.pause():
                    raise

    def _is_full(self, error: Exception, too_little_bytes: int) -> bool:
        disk = os.statvfs(self._directory)
        said = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
        return said == _SQLITE_FULL or disk.f_bavail * disk.f_frsize < too_little_bytes

    def _raise_disk_error(self, error: Exception, too_little_bytes: int) -> None:
        """Raise what the disk has to say, where that explains an error of the index."""
        if os.statvfs(self._directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._directory) from error
        if self._is_full(error, too_little_bytes):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._directory) from error

    def _tell_new_index(self, reason: str) -> None:
        tell_once(f"{self._directory}: the cache's index {reason}; it is made anew")

    # --- entries

    def _open(self, *, tell: bool = True) -> diskcache.Cache:
        path = f"{self._index_directory}/cache.db"
        found = _identity(path)
        if self._index is not None and found == self._index_file:
            return self._index
        self._close_index()  # of a file that somebody has put a new one in place of, or removed
        if found is None:
            self._objects.prepare()
            os.makedirs(self._index_directory, mode=0o700, exist_ok=True)
            self._remove_index()
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._index = diskcache.Cache(
            self._index_directory,
            disk=_Adopting,
            timeout=60,
            eviction_policy=_ONE_BY_ONE,
            cull_limit=0,
            statistics=0,
            size_limit=self._limit,
            sqlite_synchronous=0,  # the cache dies with the machine; kill -9 leaves the page cache intact
            sqlite_mmap_size=0,  # a truncated file would end the process with SIGBUS
            sqlite_auto_vacuum=0,  # pages of evicted rows are used again
            sqlite_wal_autocheckpoint=_LOG_PAGES,
            sqlite_journal_size_limit=0,
        )
        self._index_file = _identity(path)
        if found is None and self._reconcile()[1] and tell:
            self._tell_new_index("was gone")
        return self._index

    def _enter(self, names: list[str], used: list[str]) -> None:
        index = self._open()
        disk = index.disk
        for begin in range(0, max(len(names), len(used)), _ROWS_AT_ONCE):
            entered = {name: self._objects.named(name) for name in names[begin : begin + _ROWS_AT_ONCE]}
            disk.adopting = {name: allocated(held.size_bytes) for name, held in entered.items()}
            with index.transact():
                for name, held in entered.items():
                    index.set(held.name, name)
                for digest in used[begin : begin + _ROWS_AT_ONCE]:
                    index.get(digest)
        disk.adopting = {}

    def _delete(self, names: list[str]) -> None:
        index = self._open()
        for begin in range(0, len(names), _ROWS_AT_ONCE):
            with index.transact():
                for name in names[begin : begin + _ROWS_AT_ONCE]:
                    index.delete(name)
        self._keep_pinned(index)

    def _clear(self) -> None:
        for held in self._objects.scan_all().values():  # without the index, which a full disk would not let us change
            with suppress(FileNotFoundError):
                self._objects.evict(held)
        with suppress(FileNotFoundError), os.scandir(f"{self._directory}/listings") as items:
            for item in items:
                if LISTING_NAME.fullmatch(item.name):
                    os.unlink(item.path)
        self._reconcile()

    def _keep_pinned(self, index: diskcache.Cache) -> None:
        """Index again what could not be evicted because it is in use."""
        kept, index.disk.kept = index.disk.kept, []
        self._enter(kept, [])

    # --- room

    def _grant(self, need_bytes: int, left_bytes: int, names: list[str], used: list[str], room_for: str) -> int:
        if need_bytes > 0:
            self._check_now_and_then()
        with self._open().transact():  # one commit for all of it: they touch the same pages
            self._enter(names, used)
            self._write_lease(left_bytes)
            return self._leased(need_bytes, left_bytes, room_for) if need_bytes > 0 else 0

    def _leased(self, need_bytes: int, left_bytes: int, room_for: str) -> int:
        if self._objects.names.size_bytes > _NAMES_BYTES + 2 * _NAME_BYTES * len(self._open()):
            self._objects.retell()
        wanted = max(need_bytes, min(self._limit // _LEASE_PART, _LARGEST_LEASE_BYTES))
        free = self._free_bytes()
        over = -(free + self._margin_bytes())  # the margin is there to be grown into
        if over > 0:  # the limit was higher once
            free = self._evict(over, 0, free)
        if free < wanted:
            free = self._make_room(need_bytes, wanted, free, room_for)
        if free < need_bytes:
            return 0
        granted = min(free, wanted)
        self._write_lease(left_bytes + granted)
        return granted

    def _shrink(self) -> None:
        due, self._overhead_bytes, _ = _read_check(self._lock)
        if (free := self._free_bytes()) < 0:
            self._evict(-free, 0, free)
        self._write_check(due)

    def _free_bytes(self) -> int:
        return self._limit - self._used_bytes()

    def _used_bytes(self) -> int:
        leased = self._lease_bytes()  # first: it counts the files of dead processes in
        bookkeeping = self._bookkeeping_bytes() + self._margin_bytes()
        return leased + self._entries_bytes() + self._overhead_bytes + bookkeeping

    def _entries_bytes(self) -> int:
        """What diskcache sums up: the files, and its database."""
        return int(self._open().volume())

    def _bookkeeping_bytes(self) -> int:
        files = [f"{self._directory}/{name}" for name in ("lock", "names")]
        files += (f"{self._index_directory}/{name}" for name in _INDEX_FILES[1:])
        for folder in (self._leases_directory, f"{self._directory}/listings"):
            with suppress(FileNotFoundError), os.scandir(folder) as items:
                files += [folder, *(item.path for item in items)]
        return sum(map(_disk_bytes, files)) + self._objects.folders_bytes()

    def _margin_bytes(self) -> int:
        """What bookkeeping may grow by until it is measured again: the database by the rows of leases, and its log."""
        database = _disk_bytes(f"{self._index_directory}/cache.db")
        log_now = _disk_bytes(f"{self._index_directory}/cache.db-wal")
        longest_log = _PAGE_BYTES * _LOG_PAGES + min(database, _PAGE_BYTES * 4 * _ROWS_AT_ONCE)
        growth = min(_LARGEST_MARGIN_BYTES, _MARGIN_BYTES + self._limit // 512)
        return max(0, longest_log - log_now) + growth

    def _make_room(self, need_bytes: int, wanted_bytes: int, free: int, room_for: str) -> int:
        """Evict until what is wanted is free, or needed at least; nothing where that cannot be. Tells what is free."""
        if self._protected is None:
            return self._evict_unprotected(need_bytes, wanted_bytes, free, 0)
        begun = time.monotonic()
        if begun > self._all_protected_until or not self._plans():
            free = self._evict_unprotected(need_bytes, wanted_bytes, free, self._protected_bytes())
            ended = time.monotonic()
            if free < wanted_bytes:
                self._all_protected_until = ended + _TIMES_ITS_COST * (ended - begun)
        return self._evict_planned(max(need_bytes, wanted_bytes // _PLANNED_PART), free, room_for)

    def _evict_unprotected(self, need_bytes: int, wanted_bytes: int, free: int, floor: int) -> int:
        for _ in range(_TRIES):  # what is in use stays; the next ones go in its place
            evictable = int(self._open().reset("size")) - floor
            if free >= wanted_bytes or free + evictable < need_bytes:
                break
            free = self._evict(min(wanted_bytes - free, evictable), floor, free)
        return free

    def _evict_planned(self, wanted_bytes: int, free: int, room_for: str) -> int:
        """Remove what has its next use furthest away, as far as that is known; tell what is free then."""
        index = self._open()
        for plan in self._plans() if room_for else ():
            before, expected = self._entries_bytes(), free
            in_use = []
            index.disk.spares = self._spares
            with index.transact():
                for name in plan.victims(self._objects.known, room_for) if free < wanted_bytes else ():
                    if index.delete(name):
                        expected += allocated(self._objects.known[name].size_bytes)
                    if index.disk.kept:
                        in_use.append(name)
                        self._keep_pinned(index)
                    if expected >= wanted_bytes:
                        break
            index.disk.spares = None
            for name in in_use:
                plan.keep(name)
            index.disk.has_missed = False  # its row is gone, as it is
            free += before - self._entries_bytes()
        return free

    def _evict(self, bytes_: int, floor_bytes: int, free: int) -> int:
        """Remove the entries used longest ago, and tell what is free then."""
        index = self._open()
        before = self._entries_bytes()
        database = before - int(index.reset("size"))
        index.size_limit = max(before - bytes_, floor_bytes + database)
        index.eviction_policy = _LRU if floor_bytes == 0 and self._can_overshoot(before - database) else _ONE_BY_ONE
        index.disk.spares = self._spares
        try:
            with index.transact():
                index.cull()
        finally:
            index.disk.spares = None
        self._keep_pinned(index)
        if index.disk.has_missed:  # a damaged name: the file that it meant is still there
            self._reconcile()
            return self._free_bytes()
        return free + before - self._entries_bytes()

    def _can_overshoot(self, entries_bytes: int) -> bool:
        """Whether ten entries are so little of the limit that it does not matter to evict some too many."""
        return _AT_ONCE * entries_bytes < max(1, len(self._open())) * self._limit // _LEASE_PART

    def _protected_bytes(self) -> int:
        """Make the protected entries the ones used last, and sum them up."""
        assert self._protected is not None
        here = self._objects.scan_all()
        mine = [here[name] for name in set(self._protected()) if name in here]
        begun = time.monotonic()
        if begun > self._protect_at:
            self._enter([], [held.name for held in mine])
            ended = time.monotonic()
            self._protect_at = ended + _TIMES_ITS_COST * (ended - begun)
        return sum(allocated(held.size_bytes) for held in mine)

    # --- leases

    def _write_lease(self, bytes_: int) -> None:
        self._leased_bytes = bytes_
        if self._lease >= 0:
            ours = os.fstat(self._lease)
            if _identity(self._lease_path) != (ours.st_dev, ours.st_ino):  # removed by somebody
                os.close(self._lease)
                self._lease = -1
        if self._lease < 0:
            if bytes_ == 0:
                return
            self._objects.prepare()
            os.makedirs(self._leases_directory, mode=0o700, exist_ok=True)
            self._lease_path = f"{self._leases_directory}/{os.getpid()}-{secrets.token_hex(4)}"
            self._lease = _last_to_close(os.open(self._lease_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._lease, _LEASE.pack(bytes_, bytes_, bytes_), 0)

    def _drop_lease(self) -> None:
        self._leased_bytes = 0
        if self._lease >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self._lease_path)
            os.close(self._lease)
            self._lease = -1

    def _lease_bytes(self) -> int:
        """All leases of living processes; the files of dead ones are counted in first."""
        total, died = self._leased_bytes, False
        with suppress(FileNotFoundError), os.scandir(self._leases_directory) as items:
            for item in items:
                if not _LEASE_NAME.fullmatch(item.name) or (self._lease >= 0 and item.path == self._lease_path):
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

    def _reconcile(self, *, count_in: bool = True) -> tuple[dict[str, Held], int]:
        """Count in what the dead have stored, remove what they have begun; what is counted, and how much was missing.

        Args:
            count_in: whether to count in what is not indexed. While others have leases it may be theirs, stored and
                not told yet: their leases stand for it, and counted twice it would evict as much.
        """
        index = self._open()
        for path in self._objects.staged():
            remove_if_abandoned(path)
        here: dict[str, Held] = {}
        for held in self._objects.files():
            if here.setdefault(held.name, held) is not held:  # it has been fetched twice, and was not the same
                with suppress(FileNotFoundError):
                    self._objects.evict(held)
        if not self._objects.all_told(here):
            self._objects.retell()
        indexed = set(index.iterkeys())
        missing = [name for name in here if name not in indexed]
        if count_in:
            self._enter([relative_name(here[name]) for name in missing], [])
        index.disk.adopting = {relative_name(held): allocated(held.size_bytes) for held in here.values()}
        self._delete([name for name in indexed if name not in here])
        index.disk.has_missed = False
        if not count_in:
            for name in missing:
                del here[name]
        log.debug("%s: %d files were not indexed", self._directory, len(missing))
        return here, len(missing)

    def _shrink_to_limit(self) -> bool:
        """Remove the files stored longest ago, with no help from the index; False where all are inside the limit."""
        found = []
        for held in self._objects.scan_all().values():
            with suppress(FileNotFoundError):
                found.append((os.stat(held.path).st_mtime_ns, allocated(held.size_bytes), held))
        surplus = sum(size_bytes for _, size_bytes, _ in found) + self._bookkeeping_bytes() - self._limit
        if surplus <= 0:
            return False
        for _, size_bytes, held in sorted(found):
            with suppress(FileNotFoundError):
                if surplus > 0 and self._objects.evict(held):
                    surplus -= size_bytes
        return True

    def _check_now_and_then(self) -> None:
        """Hold the index against the files: a flipped bit may have changed a sum, or what keeps it.

        It takes milliseconds for each thousand entries. So the lock file tells all processes when it is due again.
        """
        begun = time.time()
        due, self._overhead_bytes, _ = _read_check(self._lock)
        if begun < due < begun + _LONGEST_UNCHECKED_S:
            return
        if not self._agrees() and not self._agrees():  # an entry may have been found damaged meanwhile
            self._tell_new_index("did not agree with the files")
            self._rebuild()
        ended = time.time()
        self._write_check(ended + _TIMES_ITS_COST * (ended - begun))

    def _write_check(self, due: float) -> None:
        record = _CHECK.pack(due, self._overhead_bytes, self._limit)
        os.pwrite(self._lock, record + xxhash.xxh3_64_digest(record), 1)

    def _agrees(self) -> bool:
        """Whether the sum that the index keeps is that of the files; by how much they take more is kept as overhead."""
        others = self._lease_bytes() - self._leased_bytes
        here, _ = self._reconcile(count_in=others == 0)
        expected = taken = 0
        for held in here.values():
            with suppress(FileNotFoundError):
                taken += os.lstat(held.path).st_blocks * 512
            expected += allocated(held.size_bytes)
        self._overhead_bytes = max(0, taken - expected)
        return int(self._open().reset("size")) == expected

    def _rebuild(self) -> None:
        """A new index, from the names of the files."""
        self._close_index()
        self._remove_index()
        self._open(tell=False)

    def _remove_index(self) -> None:
        for name in _INDEX_FILES:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._index_directory}/{name}")

    def _close_index(self) -> None:
        if self._index is not None:
            with suppress(*_DAMAGE):
                self._index.close()
            self._index = None


def last_limit(directory: str) -> int | None:
    """The limit that was held in a directory when its index was last checked; None where that is not known."""
    try:
        descriptor = os.open(f"{directory}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_check(descriptor)[2] or None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _read_check(lock: int) -> tuple[float, int, int]:
    """What the lock file says of the last check; a check is due where that is damaged."""
    data = os.pread(lock, _CHECK.size + 8, 1)
    record = data[: _CHECK.size]
    if len(data) != _CHECK.size + 8 or xxhash.xxh3_64_digest(record) != data[_CHECK.size :]:
        return 0.0, 0, 0
    due, overhead_bytes, limit_bytes = _CHECK.unpack(record)
    return due, overhead_bytes, limit_bytes


def _read_lease(path: str) -> int | None:
    """What a living process has leased; None for a dead one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # gone by now, or nothing of ours
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        data = os.pread(descriptor, _LEASE.size, 0)
        return int(sorted(_LEASE.unpack(data))[1]) if len(data) == _LEASE.size else 0
    finally:
        os.close(descriptor)
    return None


def _last_to_close(descriptor: int) -> int:
    """The same file under a high number: of a killed process, who sees the lease free sees its staged files free."""
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
    except OSError:  # a process that may have few open files
        return descriptor
    os.close(descriptor)
    return high


def _disk_bytes(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
