"""What the cache holds and how much room is left, agreed between all processes.

One process at a time has the ledger, in batches. Room is given out in leases: what a process may still write without
asking. So at every moment

    counted entries + leases + bookkeeping <= limit

and a process that dies leaves a lease whose lock is free: whoever sees that counts its files in. What is evicted is
first no longer counted, its room leased, and removed when the next process has the ledger already.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ai4os_data.cache.claims import FULL_FOR_S, Waiting
from ai4os_data.cache.leases import Lease
from ai4os_data.cache.plan import Plan
from ai4os_data.cache.record import CEDED_FOR_S, read_record
from ai4os_data.cache.rows import DAMAGE, SQLITE_FULL, Rows, is_locked, sqlite_code
from ai4os_data.cache.staged import Spares, allocated, remove_if_abandoned
from ai4os_data.errors import CacheError
from ai4os_data.machine import disk_bytes, is_at, no_fork, ownership, tell_after_fork
from ai4os_data.telemetry import log, tell_once

if TYPE_CHECKING:
    from ai4os_data.cache.objects import Held, Objects

LISTING_NAME = re.compile(r"[0-9a-f]{32}(\.\d+)?")

_LEASE_PART = 100
_PLANNED_PART = 16  # of what is evicted in the knowledge of the order, less lies idle in leases
_LARGEST_LEASE_BYTES = 16 * 1024 * 1024  # enough for the lock to cost little, and not more evicted than is needed
_TRIES = 8
_NAME_BYTES = 64
_NAMES_BYTES = 64 * 1024  # so much of names of evicted entries may always stay, and more in a large cache
_MOST_NAMES_BYTES = 2 * 1024 * 1024  # each process reads them once
_MARGIN_BYTES = 64 * 1024
_LARGEST_MARGIN_BYTES = 4 * 1024 * 1024
_FULL_DISK_BYTES = 32 * 1024
_CLEAN, _DIRTY = b"-", b"*"
_LONGEST_UNCHECKED_S = 3600.0
_TIMES_ITS_COST = 50  # what looks at every file is done again after so many times as long as it took

Protected = Callable[[], Iterable[str]]
Plans = Callable[[], Iterable[Plan]]
R = TypeVar("R")


class Ledger:
    """One process's hand on the ledger of a cache directory.

    Args:
        directory: the cache's.
        limit: tells what the directory may take in all.
        objects: the files, as this process knows them.
        protected: gives the digests that must not be evicted to make room (policy ``"auto"``); None evicts by last
            use alone.
        plans: tell which of the protected can be done without for longest.
        spares: take what is evicted to make room for this process.
    """

    def __init__(
        self,
        directory: str,
        limit: Callable[[], int],
        *,
        objects: Objects,
        protected: Protected | None,
        plans: Plans,
        spares: Spares,
    ) -> None:
        self._lock = -1
        self._lease = Lease(f"{directory}/leases", objects.prepare)
        self._directory = directory
        self._limit_now = limit
        self._protected = protected
        self._plans = plans
        self._spares = spares
        self._objects = objects
        self._rows = Rows(directory, limit(), objects)
        self._overhead_bytes = 0
        self._protect_at = 0.0
        self._all_protected_until = 0.0
        self._unmade: list[Plan] = []  # that could have told what to evict
        self._threads = threading.Lock()  # a file lock does not keep the threads of one process apart
        self._open_lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Keep none of the parent's locks alive in a child."""
        self._threads = threading.Lock()
        self._let_go()

    def __del__(self) -> None:
        """Free the lease of a cache that was dropped without a word; whoever sees that counts its files in."""
        self._let_go()

    def _let_go(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with suppress(OSError):
                os.close(lock)
        self._lease.let_go()

    @property
    def _limit(self) -> int:
        return self._limit_now()

    # --- what others call

    def grant(
        self,
        need_bytes: int,
        left_bytes: int,
        stored: Sequence[Held],
        used: Sequence[str],
        *,
        room_for: str = "",
    ) -> int:
        """Count in what was stored, note what was used, and lease more room.

        Args:
            need_bytes: how much is needed at least; 0 for none.
            left_bytes: what of the lease was not written yet.
            stored: since the last call.
            used: digests that were read since the last call.
            room_for: the digest of the entry that needs the room.

        Returns:
            How much more may be written: nothing, or at least ``need_bytes``.
        """
        granted = 0
        unmade: list[Plan] = []
        for attempt in range(_TRIES + 1):
            for plan in unmade:  # here, where nobody waits for the ledger
                plan.make()
            need = max(0, need_bytes - granted) if attempt < _TRIES else 0
            with self._held():
                work = partial(self._grant, need, left_bytes + granted, stored, used, room_for)
                self._unmade.clear()
                granted += self._mended(work)
                evicted = self._rows.taken()
                unmade = self._unmade[:]
            stored, used = self._removed(evicted, self._spares), ()
            if not stored and (granted >= need_bytes or not unmade):
                break
            granted -= sum(allocated(held.size_bytes) for held in stored)  # in use: they are counted in again
        granted = granted if granted >= need_bytes else 0
        if self._lease.size_bytes != left_bytes + granted:
            with self._held():
                self._lease.write(left_bytes + granted)
        return granted

    def note_use(self, used: list[str]) -> bool:
        """Enter what was read, unless another process has the ledger just now."""
        with self._held(wait=False) as held:
            if held:
                self._mended(lambda: self._opened().enter([], used))
            return held

    def close(self, stored: Sequence[Held], used: Sequence[str]) -> None:
        """Enter the rest, and give the lease back."""
        with self._held():
            self._mended(lambda: self._opened().enter(stored, used))
            self._lease.drop()
            self._rows.close()
        self._let_go()

    def shrink(self) -> None:
        """Evict what is above the limit."""
        self._evict_now(self._shrink)

    def cede(self, size_bytes: int) -> None:
        """Take so much less of the disk than now, in all processes, for an hour."""
        self._evict_now(partial(self._cede, size_bytes))

    def clear(self) -> None:
        """Remove every entry that nobody uses."""
        with self._held(reconciles=False):  # it does so itself, when the disk that may be full has room for the index
            self._mended(self._clear)

    def forget(self, names: list[str]) -> None:
        """Take digests out of the index whose files are gone."""
        with self._held():
            self._mended(lambda: self._opened().forget(names))

    def usage(self) -> tuple[int, int]:
        """How many entries are indexed, and the bytes that the directory takes, leases included."""
        with self._held():
            return self._mended(lambda: (len(self._opened()), self._used_bytes() - self._margin_bytes()))

    # --- the lock

    @contextmanager
    def _held(self, *, wait: bool = True, reconciles: bool = True) -> Iterator[bool]:
        """Hold the ledger alone. It is marked while it is held, so that whoever comes after a death sees it.

        This process does not fork meanwhile, but does so while it waits for another one's hold to end.
        """
        threads = self._threads
        if not threads.acquire(blocking=wait):
            yield False
            return
        try:
            if not self._take_lock(wait=wait):
                yield False
                return
            lock = self._lock
            try:
                with no_fork():
                    if reconciles and os.pread(lock, 1, 0) != _CLEAN:
                        self._mended(self._reconcile)
                    os.pwrite(lock, _DIRTY, 0)
                    yield True
                    os.pwrite(lock, _CLEAN, 0)
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            threads.release()

    def _take_lock(self, *, wait: bool) -> bool:
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            if is_at(self._lock, f"{self._directory}/lock"):
                return True
            # Somebody has removed the directory, or the lock in it: ours would exclude nobody.
            self._let_go()
            self._rows.close()
            self._open_lock()

    def _open_lock(self) -> None:
        self._objects.prepare()  # it may have been removed, and be made anew here
        for folder in (self._rows.directory, self._lease.directory):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._objects.make_root()
        self._lock = ownership.open_file(f"{self._directory}/lock", os.O_CREAT | os.O_RDWR)

    def _mended(self, work: Callable[[], R]) -> R:
        """The result of some work; a damaged index is made anew from the files, and the work done again.

        Raises:
            OSError: the disk is full, or cannot be written, or the index is locked by a foreign program.
            CacheError: a new index does not work either.
        """
        try:
            return self._tried(work)
        except DAMAGE as error:
            if self._shrink_to_limit():
                self._tell_new_index("had no room on the full disk")
            else:
                self._raise_disk_error(error, _FULL_DISK_BYTES)
                self._tell_new_index(f"was damaged ({type(error).__name__}: {error})")
        try:
            self._rebuild()
            self._rows.taken()
            return work()
        except DAMAGE as error:
            self._raise_disk_error(error, _MARGIN_BYTES)
            message = f"{self._directory}: the cache's index cannot be made anew: {type(error).__name__}: {error}"
            raise CacheError(message) from error

    def _tried(self, work: Callable[[], R]) -> R:
        """The result of some work, tried for a moment where the disk is full."""
        waiting = Waiting(FULL_FOR_S)
        while True:
            self._rows.taken()  # by what was undone
            begun = time.monotonic()
            try:
                return work()
            except DAMAGE as error:
                if is_locked(error, time.monotonic() - begun):
                    message = "another program holds the cache's index locked"
                    raise OSError(errno.EBUSY, message, self._directory) from error
                if not self._is_full(error, _FULL_DISK_BYTES) or not waiting.pause():
                    raise

    def _is_full(self, error: Exception, too_little_bytes: int) -> bool:
        disk = os.statvfs(self._directory)
        return sqlite_code(error) == SQLITE_FULL or disk.f_bavail * disk.f_frsize < too_little_bytes

    def _raise_disk_error(self, error: Exception, too_little_bytes: int) -> None:
        """Raise what the disk has to say, where that explains an error of the index."""
        if os.statvfs(self._directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._directory) from error
        if self._is_full(error, too_little_bytes):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._directory) from error

    def _tell_new_index(self, reason: str) -> None:
        tell_once(f"{self._directory}: the cache's index {reason}; it is made anew")

    # --- entries

    def _opened(self, *, tell: bool = True) -> Rows:
        if self._rows.open() and self._reconcile()[1] and tell:
            self._tell_new_index("was gone")
        return self._rows

    def _clear(self) -> None:
        for held in self._objects.scan_all().values():  # without the index, which a full disk would not let us change
            with suppress(FileNotFoundError):
                self._objects.evict(held)
        with suppress(FileNotFoundError), os.scandir(f"{self._directory}/listings") as items:
            for item in items:
                if LISTING_NAME.fullmatch(item.name):
                    os.unlink(item.path)
        self._reconcile()

    def _removed(self, evicted: list[Held], spares: Spares | None = None) -> list[Held]:
        """Remove what was evicted, or put it with the spares; what is in use, and stays."""
        in_use, has_missed = [], False
        for held in evicted:
            try:
                if not self._objects.evict(held, spares):
                    in_use.append(held)
            except FileNotFoundError:
                has_missed = True
        if has_missed:  # a damaged name: the file that it meant may still be there
            with self._held():
                self._mended(self._reconcile)
        for plan in self._plans() if in_use else ():
            for held in in_use:
                plan.keep(held.name)
        return in_use

    def _evict_now(self, work: Callable[[], None]) -> None:
        """Evict for nobody's lease."""
        with self._held():
            self._mended(work)
            evicted = self._rows.taken()
        if in_use := self._removed(evicted):
            with self._held():
                self._mended(lambda: self._opened().enter(in_use, []))

    # --- room

    def _grant(
        self, need_bytes: int, left_bytes: int, stored: Sequence[Held], used: Sequence[str], room_for: str
    ) -> int:
        if need_bytes > 0:
            self._check_now_and_then()
        rows = self._opened()
        with rows.transact():
            rows.enter(stored, used)
            self._lease.write(left_bytes)
            return self._leased(need_bytes, left_bytes, room_for) if need_bytes > 0 else 0

    def _leased(self, need_bytes: int, left_bytes: int, room_for: str) -> int:
        wanted = max(need_bytes, min(self._limit // _LEASE_PART, _LARGEST_LEASE_BYTES))
        free = self._free_bytes()
        over = -(free + self._margin_bytes())  # the margin is there to be grown into
        self._forget_names(-over)
        if over > 0:  # the limit was higher once
            free += self._rows.evict(over, 0)
        if free < wanted:
            free = self._make_room(need_bytes, wanted, free, room_for)
        evicted = self._rows.taken_bytes
        granted = min(free, max(wanted, evicted)) if free >= need_bytes else 0
        self._lease.write(left_bytes + max(granted, evicted))  # the room of what is evicted, until it is removed
        return granted

    def _forget_names(self, room_bytes: int) -> None:
        """Write the file of names anew without those of evicted entries, where they are many."""
        of_entries = _NAME_BYTES * len(self._rows)
        of_evicted = max(_NAMES_BYTES, min(_MOST_NAMES_BYTES, self._limit // 2048))
        if self._objects.names.size_bytes > 2 * of_entries + of_evicted and room_bytes > of_entries:
            self._objects.retell()

    def _shrink(self) -> None:
        record = read_record(self._lock)
        self._overhead_bytes = record.overhead_bytes
        rows = self._opened()
        if (free := self._free_bytes()) < 0:
            rows.evict(-free, 0)
        record._replace(limit_bytes=self._limit).write(self._lock)

    def _cede(self, size_bytes: int) -> None:
        now = time.time()
        record = read_record(self._lock)
        rows = self._opened()
        free = self._free_bytes()
        size_bytes += self._margin_bytes()  # the database grows by what is taken out
        ceded = record.ceded_at(now) + size_bytes + max(0, free)
        record._replace(ceded_until=now + CEDED_FOR_S, ceded_bytes=ceded).write(self._lock)
        rows.evict(size_bytes + max(0, -free), 0)

    def _free_bytes(self) -> int:
        now = time.time()
        record = read_record(self._lock)
        if record.is_of_the_future(now):  # or it would hold again, once that time has come
            record = record._replace(ceded_until=0.0, ceded_bytes=0)
            record.write(self._lock)
        return self._limit - record.ceded_at(now) - self._used_bytes()

    def _used_bytes(self) -> int:
        leased = self._lease.size_bytes + self._others_leased_bytes()  # first: it counts the files of the dead in
        bookkeeping = self._bookkeeping_bytes() + self._margin_bytes()
        return leased + self._rows.volume_bytes + self._overhead_bytes + bookkeeping

    def _others_leased_bytes(self) -> int:
        """All leases of other living processes; the files of dead ones are counted in first."""
        total, died = self._lease.others()
        if died:
            self._reconcile()
        return total

    def _bookkeeping_bytes(self) -> int:
        names = self._objects.names
        files = [f"{self._directory}/lock", names.path, names.beside, *self._rows.bookkeeping]
        for folder in (self._lease.directory, f"{self._directory}/listings"):
            with suppress(FileNotFoundError), os.scandir(folder) as items:
                files += [folder, *(item.path for item in items)]
        return sum(map(disk_bytes, files)) + self._objects.folders_bytes()

    def _margin_bytes(self) -> int:
        """What bookkeeping may grow by until it is measured again: the database by the rows of leases, and its log."""
        return self._rows.growth_bytes() + min(_LARGEST_MARGIN_BYTES, _MARGIN_BYTES + self._limit // 512)

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

    def _evict_unprotected(self, need_bytes: int, wanted_bytes: int, free: int, floor_bytes: int) -> int:
        evictable = self._rows.entries_bytes - floor_bytes
        if free >= wanted_bytes or free + evictable < need_bytes:
            return free
        return free + self._rows.evict(min(wanted_bytes - free, evictable), floor_bytes)

    def _evict_planned(self, wanted_bytes: int, free: int, room_for: str) -> int:
        """Take out what the epochs of living loaders have used and do not need any more; what is free then."""
        for plan in self._plans() if room_for else ():
            if free < wanted_bytes and not plan.is_made:
                self._unmade.append(plan)
            elif free < wanted_bytes:
                free += self._rows.evict_those(plan.victims(self._objects, room_for), wanted_bytes - free)
        return free

    def _protected_bytes(self) -> int:
        """Make the protected entries the ones used last, and sum them up."""
        assert self._protected is not None
        here = self._objects.scan_all()
        mine = [here[name] for name in set(self._protected()) if name in here]
        begun = time.monotonic()
        if begun > self._protect_at:
            self._rows.enter([], [held.name for held in mine])
            ended = time.monotonic()
            self._protect_at = ended + _TIMES_ITS_COST * (ended - begun)
        return sum(allocated(held.size_bytes) for held in mine)

    # --- after a death, or damage

    def _reconcile(self, *, count_in: bool = True) -> tuple[dict[str, Held], int]:
        """Count in what the dead have stored, remove what they have begun; what is counted, and how much was missing.

        Args:
            count_in: whether to count in what is not indexed. While others have leases it may be theirs, stored and
                not told yet: their leases stand for it, and counted twice it would evict as much.
        """
        rows = self._opened()
        for path in self._objects.staged():
            remove_if_abandoned(path)
        here: dict[str, Held] = {}
        for held in self._objects.files():
            if here.setdefault(held.name, held) is not held:  # it has been fetched twice, and was not the same
                with suppress(FileNotFoundError):
                    self._objects.evict(held)
        if not self._objects.all_told(here):
            self._objects.retell()
        missing, gone = rows.unlike(here)
        if count_in:
            rows.enter(missing, [])
        rows.forget(gone)
        if not count_in:
            for held in missing:
                del here[held.name]
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
        record = read_record(self._lock)
        self._overhead_bytes = record.overhead_bytes
        if begun < record.check_at < begun + _LONGEST_UNCHECKED_S:
            if record.limit_bytes != self._limit:
                record._replace(limit_bytes=self._limit).write(self._lock)
            return
        if not self._agrees() and not self._agrees():  # an entry may have been found damaged meanwhile
            self._tell_new_index("did not agree with the files")
            self._rebuild()
        ended = time.time()
        record._replace(
            check_at=ended + _TIMES_ITS_COST * (ended - begun),
            overhead_bytes=self._overhead_bytes,
            limit_bytes=self._limit,
        ).write(self._lock)

    def _agrees(self) -> bool:
        """Whether the sum that the index keeps is that of the files; by how much they take more is kept as overhead."""
        here, _ = self._reconcile(count_in=self._others_leased_bytes() == 0)
        expected = taken = 0
        for held in here.values():
            taken += disk_bytes(held.path)
            expected += allocated(held.size_bytes)
        self._overhead_bytes = max(0, taken - expected)
        return self._rows.entries_bytes == expected

    def _rebuild(self) -> None:
        """A new index, from the names of the files."""
        self._rows.close()
        self._rows.remove()
        self._opened(tell=False)
