"""The disk cache as users name it: a directory, a limit, a policy. Shared by threads, workers and processes."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Literal

from ai4os_data.cache import placement
from ai4os_data.cache.claims import Claim, Claims, Waiting
from ai4os_data.cache.leases import living
from ai4os_data.cache.ledger import LISTING_NAME, Ledger
from ai4os_data.cache.live import live_in
from ai4os_data.cache.objects import Held, Objects, intact
from ai4os_data.cache.record import last_limit
from ai4os_data.cache.staged import BLOCK_BYTES, Spares, allocated
from ai4os_data.errors import CacheError
from ai4os_data.machine import PerProcess, exhausted, is_size, replace_whole
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ai4os_data.cache.live import Limited
    from ai4os_data.cache.plan import Plan

Policy = Literal["auto", "lru"]

_NOTE_USE_EVERY_S = 60.0
_MOST_USED = 50_000  # to be noted: each takes 200 bytes, in every process
_FULL_AGAIN_S = 1.0
_PLANNED_AGAIN_S = 0.02  # with every batch that is used, something can go
_BROKEN_AGAIN_S = 30.0
_LONGEST_WAIT_S = 900.0
_LISTINGS = 32
_NAMED_BYTES = 512  # what an entry takes in its folder, in the file of names and in the index, at most
_LISTING_PARTS = 4  # a listing takes a quarter of the limit at most

_CACHES: weakref.WeakSet[DiskCache] = weakref.WeakSet()  # of this process


class DiskCache:
    """A bounded cache on the local disk.

    The directory never takes more than the limit, counted in allocated blocks, whatever number of processes fills it.

    Args:
        directory: where; by default a folder of the user's cache directory. It must be on a local disk.
        size_limit: bytes, a text, or ``"auto"``: what is free, less a reserve of a fifth of the disk. ``"20GiB"`` and
            ``"20G"`` are 20 * 1024**3 bytes, as in rclone; ``"20GB"`` and ``"20 GB"`` are 20 * 1000**3, or 18.6 GiB.
            If several caches of a process use one directory, the smallest of their limits holds for all of them,
            which is logged once. Processes each keep to their own: the one with the smaller limit shrinks the
            directory whenever it stores.
        policy: ``"lru"`` evicts what was used longest ago. ``"auto"`` does so between datasets, but within a dataset
            that is in use entries do not evict each other: under shuffled epochs LRU would hit almost never. A process
            knows the datasets of its own that use the directory, whichever `DiskCache` they were given, and a forked
            worker those of its parent; a spawned one knows the dataset that was sent to it, and no other.

    Raises:
        CacheError: the directory cannot be used.
        CacheLimitError: the limit is too small to work with.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        size_limit: int | str = "auto",
        policy: Policy = "auto",
    ) -> None:
        if policy not in {"auto", "lru"}:
            message = f"policy is 'auto' or 'lru', not {policy!r}"
            raise ValueError(message)
        fixed = None if size_limit == "auto" else placement.given_limit(size_limit)
        self.directory = (
            _auto_directory(with_limit=fixed is None)
            if directory is None
            else placement.usable(os.fspath(directory), memory_too=True)
        )
        self.policy: Policy = policy
        try:
            Objects(self.directory).make_root()
        except OSError as error:
            message = f"{self.directory} cannot be used as a cache: {error.strerror}"
            raise CacheError(message) from error
        self.size_limit: int = fixed or _auto_limit(self.directory)
        self._is_given = fixed is not None
        self._prepare_processes()
        before = last_limit(self.directory)
        self._log_unlike_limits(before)
        if before is not None and before > self.size_limit:
            self._process.get().shrink()

    def _log_unlike_limits(self, before: int | None) -> None:
        """Log which limit holds, where the user has given unlike ones; those of "auto" differ by what is free."""
        if self._unlike():
            gc.collect()  # one that nobody has any more, as in a notebook whose cell runs a second time
        if unlike := self._unlike():
            tell_once(
                f"{self.directory}: caches of this process have different limits, {_both(self, unlike[0])}: the "
                "smaller one holds for both. Give one DiskCache to all datasets, or the same size_limit"
            )
        elif self._is_given and before not in {None, self.size_limit} and self._is_used_elsewhere():
            tell_once(
                f"{self.directory} is in use by another process, whose limit is {before:,} bytes; here it is "
                f"{self.size_limit:,}. Each keeps to its own: when the one with the smaller limit stores, the "
                "directory shrinks to that. Give the same size_limit to both, or a directory to each"
            )

    def _is_used_elsewhere(self) -> bool:
        return bool(living(f"{self.directory}/leases") - {os.getpid()})

    def _unlike(self) -> list[Limited]:
        others = [cache for cache in self._live.caches() if cache.size_limit != self.size_limit]
        return [cache for cache in others if self._is_given or cache.is_given]

    @property
    def is_given(self) -> bool:
        """Whether the limit was given, and is not what the disk had free."""
        return self._is_given

    def _prepare_processes(self) -> None:
        _CACHES.add(self)
        self._live = live_in(self.directory)
        self._live.bind(self)
        self._process: PerProcess[_Process] = PerProcess(self._open)

    def __getstate__(self) -> dict[str, object]:
        """Pickle what it was made from."""
        return {
            "directory": self.directory,
            "size_limit": self.size_limit,
            "policy": self.policy,
            "_is_given": self._is_given,
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        """Use the same directory."""
        self.__dict__.update(state)
        self._prepare_processes()

    def __repr__(self) -> str:
        """Tell where and how large."""
        return f"DiskCache({self.directory!r}, size_limit={self.size_limit}, policy={self.policy!r})"

    @staticmethod
    def all_on_disk_of(path: str | os.PathLike[str]) -> list[DiskCache]:
        """The caches that this process has on the disk that a path is on."""
        disk = os.stat(path).st_dev
        found = {cache.directory: cache for cache in list(_CACHES) if _disk_of(cache.directory) == disk}
        return list(found.values())

    @classmethod
    def resolve(cls, cache: DiskCache | str | os.PathLike[str] | None, *, local: bool = False) -> DiskCache | None:
        """The cache that a ``cache=`` argument means.

        ``"auto"`` gives none for a store that is local itself, and, with a warning, where no disk can take one.
        """
        if cache is None or isinstance(cache, DiskCache):
            return cache
        if not isinstance(cache, (str, os.PathLike)):
            message = f"cache is a DiskCache, a directory, 'auto' or None, not {cache!r}"  # type: ignore[unreachable]
            raise TypeError(message)
        if is_size(cache) or cache in {"none", "off", ""}:
            wanted = "cache=DiskCache(size_limit='20GiB') for a size, or cache=None for none"
            raise CacheError(f"cache={cache!r} is no directory; write {wanted}")
        if cache != "auto":
            return cls(cache)
        if local:
            return None
        try:
            return cls()
        except CacheError as error:
            tell_once(f"no disk cache: {error}. Every epoch is read over the network.")
            return None

    # --- what users call

    def stats(self) -> dict[str, int]:
        """``entries``, ``bytes`` (what the directory takes, room leased to processes included) and ``size_limit``.

        The limit is the one that holds: the smallest of the caches of this process that use the directory.
        """
        process = self._process.get()
        process.flush()
        entries, used = process.ledger.usage()
        return {"entries": entries, "bytes": used, "size_limit": self._live.limit_bytes(self.size_limit)}

    def verify(self) -> dict[str, int]:
        """Read every entry, and remove those that are damaged.

        Returns:
            ``entries`` that were read, and how many were ``damaged``.
        """
        process = self._process.get()
        process.flush()
        read = 0
        damaged = []
        for held in process.objects.files():
            is_whole = intact(held) or intact(held)  # it may have been evicted, and fetched anew
            if is_whole or os.path.lexists(held.path):
                read += 1
                if not is_whole:
                    damaged.append(held.name)
                    process.objects.discard(held)
        process.forget(damaged)
        return {"entries": read, "damaged": len(damaged)}

    def clear(self) -> None:
        """Remove every entry, those in use as ``decode="path"`` excepted."""
        self._process.get().clear()

    def give_way(self, size_bytes: int) -> None:
        """Let go of so much of the disk, for something that needs it more, and take it back after an hour.

        It holds for all processes that use the directory. What was used longest ago goes first.
        """
        self._process.get().cede(size_bytes)

    def close(self) -> None:
        """Write down what this process has stored and used. Done by itself when the process ends."""
        self._process.get().close()

    # --- what a store in front calls

    def keep_together(self, digests: Callable[[], Iterable[str]]) -> None:
        """Under ``"auto"``: these must not evict each other while the object whose method this is lives."""
        self._live.keep_together(digests)

    def follow(self, plan: Plan) -> None:
        """Under ``"auto"``: while this plan lives, what it has used goes, to make room for what it still needs."""
        self._live.follow(plan)

    @property
    def objects(self) -> Objects:
        """The files, as this process knows them."""
        return self._process.get().objects

    def read(self, held: Held) -> bytes | None:
        """The bytes of a cached file, checked; None, and the file is gone, where it is damaged.

        Raises:
            FileNotFoundError: it was evicted.
        """
        return self._process.get().read(held)

    def note_use(self, held: Held) -> None:
        """Remember that a file was used. It reaches the index with others, some time later."""
        self._process.get().note_use(held.name)

    def claim(self, name: str) -> Claim | Held | None:
        """The right to fill an entry; or the entry, where it is there by now; None where another is filling it."""
        return self._process.get().claim(name)

    def wait(self, name: str) -> Claim | Held | None:
        """As `claim`, after the process that is filling it has finished; None when it takes for ever."""
        waiting = Waiting(_LONGEST_WAIT_S)
        while (found := self.claim(name)) is None:
            if not waiting.pause():
                return None
        return found

    def reserve(self, claim: Claim, size_bytes: int) -> bool:
        """Set room for an entry aside, before it is fetched; False where there is none."""
        return self._process.get().reserve(claim, size_bytes)

    def store(self, claim: Claim, key: str) -> Held | None:
        """Let the filled entry of a claim appear; None, and nothing stays, where its room is not enough."""
        return self._process.get().store(claim, key)

    def give_up(self, claim: Claim) -> None:
        """End a claim with nothing stored."""
        self._process.get().give_up(claim)

    def trouble(self, error: OSError) -> None:
        """Go on without storing for a while, and say so once."""
        self._process.get().trouble(error)

    def keep_listing(self, name: str, data: bytes) -> None:
        """Keep a listing, inside the limit, as far as there is room."""
        self._process.get().keep_listing(name, data)

    def kept_listing(self, name: str) -> bytes | None:
        """A listing that was kept."""
        try:
            with open(f"{self.directory}/listings/{name}", "rb") as file:
                return file.read()
        except OSError:
            return None

    def plans(self) -> list[Plan]:
        """What the loaders of this process need of its directory."""
        return self._live.plans()

    def _open(self) -> _Process:
        is_auto = self.policy == "auto"
        return _Process(
            self.directory,
            partial(self._live.limit_bytes, self.size_limit),
            self._live.protected if is_auto else None,
            self._live.plans,
        )


class _Process:
    """A cache as one process has it: its lease, and what it has not yet told the ledger."""

    def __init__(
        self,
        directory: str,
        limit: Callable[[], int],
        protected: Callable[[], Iterable[str]] | None,
        plans: Callable[[], Iterable[Plan]],
    ) -> None:
        self.directory = directory
        self.objects = Objects(directory)
        self._limit = limit
        self._protected = protected
        self._plans = plans
        self._ledger: Ledger | None = None
        self._claims = Claims(f"{directory}/lock")
        self._spares = Spares()
        self._lock = threading.RLock()
        self._free = 0  # leased, and not set aside
        self._reserved = 0  # leased, and set aside for claims
        self._stored: list[Held] = []
        self._used: dict[str, None] = {}
        self._most_used = _MOST_USED
        self._note_use_at = time.monotonic() + _NOTE_USE_EVERY_S
        self._not_before = 0.0
        self._refused_bytes = 0
        self._closed = False
        # Children of multiprocessing end without atexit, and others without multiprocessing's finalizers.
        reference = weakref.ref(self)
        self._finalizer = Finalize(self, _close, (reference, os.getpid()), exitpriority=10)
        atexit.register(_close, reference, os.getpid())

    @property
    def ledger(self) -> Ledger:
        """Opened on first use: reading alone does not need it."""
        if self._ledger is None:
            try:
                self._ledger = Ledger(
                    self.directory,
                    self._limit,
                    objects=self.objects,
                    protected=self._protected,
                    plans=self._plans,
                    spares=self._spares,
                )
            except OSError as error:
                message = f"{self.directory}: {error.strerror}"
                raise CacheError(message) from error
        return self._ledger

    def read(self, held: Held) -> bytes | None:
        data = self.objects.load(held)
        if data is not None:
            self.note_use(held.name)
        return data

    def note_use(self, name: str) -> None:
        self._used.pop(name, None)  # to the end of the order
        self._used[name] = None
        if time.monotonic() > self._note_use_at or len(self._used) > self._most_used:
            self._note_use_at = time.monotonic() + _NOTE_USE_EVERY_S
            with self._guarded():
                if self._lock.acquire(blocking=False):
                    try:
                        used, self._used = self._used, {}
                        if not self.ledger.note_use(list(used)):
                            self._used.update(used)
                        self._most_used = len(self._used) + _MOST_USED
                    finally:
                        self._lock.release()

    def claim(self, name: str) -> Claim | Held | None:
        if (held := self.objects.find(name)) is not None and self.objects.is_there(held):
            return held
        try:
            is_ours = self._claims.take(name)
        except FileNotFoundError:  # somebody has removed it all
            self.objects.prepare()
            is_ours = self._claims.take(name)
        if not is_ours:
            return None
        if (held := self.objects.find_claimed(name)) is not None:
            self._claims.release(name)
            return held
        return Claim(name, self._claims.release, self.objects.stage, self.reserve)

    def reserve(self, claim: Claim, size_bytes: int) -> bool:
        need = allocated(size_bytes) + BLOCK_BYTES  # a block for the folder, which may grow
        with self._lock, self._guarded():
            if self._is_broken() or (self._free < need and not self._lease(need, claim.name)):
                return False
            self._free -= need
            self._reserved += need
            claim.reserved_bytes += need
            if claim.staged is None:
                claim.staged = self._spares.take(size_bytes, self._free)
            else:
                self._spares.keep_within(self._free)
            return True
        return False

    def _is_broken(self) -> bool:
        return not self._refused_bytes and time.monotonic() < self._not_before

    def _lease(self, need: int, room_for: str = "") -> bool:
        now = time.monotonic()
        if now < self._not_before and need >= self._refused_bytes:
            return False
        granted = self._tell(need - self._free, room_for)
        if not granted:
            pause_s = _FULL_AGAIN_S if not self._plans() else _PLANNED_AGAIN_S
            self._not_before, self._refused_bytes = now + pause_s, need
        return granted > 0

    def store(self, claim: Claim, key: str) -> Held | None:
        is_larger = allocated(claim.length) + BLOCK_BYTES > claim.reserved_bytes  # than was listed
        if (is_larger and not self.reserve(claim, claim.length)) or not claim.is_ours:
            self.give_up(claim)
            return None
        try:
            held = self.objects.publish(claim.name, claim.file(), claim.length, claim.checksum, key)
        except FileNotFoundError:  # somebody has removed the whole directory
            self.give_up(claim)
            return None
        claim.let_go()
        with self._lock:
            spent = allocated(claim.length) + _NAMED_BYTES
            self._reserved -= claim.reserved_bytes
            self._free += claim.reserved_bytes - spent
            claim.reserved_bytes = 0
            self._stored.append(held)
        return held

    def keep_listing(self, name: str, data: bytes) -> None:
        folder = f"{self.directory}/listings"
        need = allocated(len(data)) + BLOCK_BYTES
        with self._lock, self._guarded():
            if need * _LISTING_PARTS > self._limit() or (self._free < need and not self._lease(need)):
                return
            self._free -= need  # from now on it is measured as bookkeeping
            self._spares.keep_within(self._free)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            replace_whole(f"{folder}/{name}", f"{folder}/{name}.{os.getpid()}", data, mode=0o600)
            self._drop_old_listings(folder)

    def _drop_old_listings(self, folder: str) -> None:
        kept = []
        with os.scandir(folder) as items:
            for item in items:
                with suppress(FileNotFoundError):  # dropped by another process
                    if LISTING_NAME.fullmatch(item.name):
                        kept.append((item.stat().st_mtime_ns, item.stat().st_size, item.path))
        total = 0
        for number, (_, size_bytes, path) in enumerate(sorted(kept, reverse=True)):
            total += allocated(size_bytes)
            if number >= _LISTINGS or total * _LISTING_PARTS > self._limit():
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def give_up(self, claim: Claim) -> None:
        claim.give_up()
        with self._lock:
            self._reserved -= claim.reserved_bytes
            self._free += claim.reserved_bytes
            claim.reserved_bytes = 0

    def trouble(self, error: OSError) -> None:
        reason = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else str(error.strerror or error)
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            reason = str(exhausted(error))
        tell_once(f"{self.directory}: {reason}: reading goes on without storing more in the cache")
        self._not_before, self._refused_bytes = time.monotonic() + _BROKEN_AGAIN_S, 0

    def flush(self) -> None:
        """Tell the ledger everything."""
        with self._lock, self._guarded():
            self._tell(0)

    def clear(self) -> None:
        """Remove every entry that nobody uses."""
        with self._lock:
            self._spares.keep_within(0)
        self.flush()
        self.ledger.clear()

    def cede(self, size_bytes: int) -> None:
        """Let go of so much of the disk."""
        with self._lock:
            self._spares.keep_within(0)
        self.flush()
        with self._guarded():
            try:
                self.ledger.cede(size_bytes)
            except (CacheError, OSError):  # a disk that is quite full does not let the index change
                self.ledger.clear()

    def forget(self, names: list[str]) -> None:
        with self._guarded():
            self.ledger.forget(names)

    def shrink(self) -> None:
        """Evict what is above the limit."""
        with self._guarded():
            self.ledger.shrink()

    def _tell(self, need: int, room_for: str = "") -> int:
        """Tell the ledger what was stored and used, and ask for room; what it cannot take stays to be told.

        Returns:
            How much more may be written now.
        """
        removed = self.objects.removed
        stored = [held for held in self._stored if held.name not in removed]
        used, self._stored, self._used = self._used, [], {}
        removed.clear()
        try:
            granted = self.ledger.grant(need, self._free + self._reserved, stored, list(used), room_for=room_for)
        except BaseException:
            self._stored = stored + self._stored
            self._used = {**used, **self._used}
            raise
        self._free += granted
        self._spares.keep_within(self._free)
        return granted

    def close(self) -> None:
        with self._lock, suppress(CacheError, OSError):
            self._spares.keep_within(0)
            if not os.path.isdir(self.directory):  # removed by its user: it is not to come back
                return
            if self._reserved:  # another thread is filling: the lease goes when the process does
                self._tell(0)
            elif self._ledger is not None or self._stored or self._used:
                stored, self._stored = self._stored, []
                used, self._used = self._used, {}
                self.ledger.close(stored, list(used))
                self._ledger = None
                self._free = 0

    def _guarded(self) -> _Guard:
        return _Guard(self)


class _Guard:
    """Turns a failing disk into trouble that is told once, and the operation into a refusal."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, CacheError):
            error = OSError(0, str(error))
        if isinstance(error, OSError):
            self._process.trouble(error)
            return True
        return False


def _both(one: Limited, other: Limited) -> str:
    small, large = sorted([one.size_limit, other.size_limit])
    return f"{small:,} and {large:,} bytes"


def _close(reference: weakref.ref[_Process], owner: int) -> None:
    process = reference()
    if process is not None and os.getpid() == owner:
        process.close()


def _disk_of(directory: str) -> int | None:
    try:
        return os.stat(directory).st_dev
    except OSError:  # removed by its user
        return None


def _auto_directory(*, with_limit: bool) -> str:
    """The best directory for a cache; one that has room for it, where the room is to give its limit."""
    reasons = []
    for candidate in placement.candidates(os.environ):
        try:
            directory = placement.usable(candidate, memory_too=False)
            if with_limit:
                _auto_limit(directory)
        except CacheError as error:
            reasons.append(str(error))
        else:
            return directory
    raise CacheError("; ".join(reasons))


def _auto_limit(directory: str) -> int:
    return placement.auto_limit(directory, sum(allocated(held.size_bytes) for held in Objects(directory).files()))
