"""The disk cache as users make it: a directory, a limit, a policy. Shared by threads, workers and processes."""

from __future__ import annotations

import gc
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Literal

from ai4os_data.cache import placement
from ai4os_data.cache.leases import living
from ai4os_data.cache.live import Limit, live_in
from ai4os_data.cache.objects import Objects
from ai4os_data.cache.record import record_in
from ai4os_data.cache.rows import space_of
from ai4os_data.cache.session import Session
from ai4os_data.errors import CacheError
from ai4os_data.machine import PerProcess, is_size
from ai4os_data.telemetry import log, tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Policy = Literal["auto", "lru"]

_CACHES: weakref.WeakSet[DiskCache] = weakref.WeakSet()  # of this process


class DiskCache:
    """A bounded cache on the local disk.

    The directory never takes more than the limit, counted in allocated blocks, whatever number of processes fills it.

    Args:
        directory: where; by default a folder of the user's cache directory. It must be on a local disk.
        size_limit: bytes, a text, or ``"auto"``: what is free, less a reserve of a fifth of the disk. ``"20GiB"`` and
            ``"20G"`` are 20 * 1024**3 bytes, as in rclone; ``"20GB"`` and ``"20 GB"`` are 20 * 1000**3, or 18.6 GiB.
            If several caches of a process use one directory, the smallest of their limits holds for all of them,
            which is logged once. Each process keeps to its own limit: the one with the smaller limit shrinks the
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
            raise ValueError(f"policy is 'auto' or 'lru', not {policy!r}")
        fixed = None if size_limit == "auto" else placement.given_limit(size_limit)
        self.directory = (
            _auto_directory(with_limit=fixed is None)
            if directory is None
            else placement.usable(os.fspath(directory), memory_too=True)
        )
        self.policy: Policy = policy
        try:
            placement.make_root(self.directory)
        except OSError as error:
            raise CacheError(f"{self.directory} cannot be used as a cache: {error.strerror}") from error
        self.size_limit: int = fixed or _auto_limit(self.directory)
        self._is_given = fixed is not None
        self._begin_sessions()
        before = record_in(self.directory).limit_bytes or None
        self._log_unlike_limits(before)
        if before is not None and before > self.size_limit:
            self._session.get().shrink()

    def _log_unlike_limits(self, before: int | None) -> None:
        """Log which limit holds, if the user gave different ones; limits of "auto" differ with the free space."""
        if self._unlike():
            gc.collect()  # a cache that nothing refers to any more, as after a notebook's cell ran twice
        if unlike := self._unlike():
            small, large = sorted([self.size_limit, unlike[0].size_bytes])
            tell_once(
                f"{self.directory}: caches of this process have different limits, {small:,} and {large:,} bytes: the "
                "smaller one holds for both. Give one DiskCache to all datasets, or the same size_limit"
            )
        elif self._is_given and before not in {None, self.size_limit} and living(self.directory) - {os.getpid()}:
            tell_once(
                f"{self.directory} is in use by another process, whose limit is {before:,} bytes; here it is "
                f"{self.size_limit:,}. Each keeps to its own: when the one with the smaller limit stores, the "
                "directory shrinks to that. Give the same size_limit to both, or a directory to each"
            )

    def _unlike(self) -> list[Limit]:
        others = [limit for limit in self._live.limits() if limit.size_bytes != self.size_limit]
        return [limit for limit in others if self._is_given or limit.is_given]

    def _begin_sessions(self) -> None:
        _CACHES.add(self)
        self._live = live_in(self.directory)
        self._live.bind(self, Limit(self.size_limit, self._is_given))
        self._session: PerProcess[Session] = PerProcess(self._open)

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
        self._begin_sessions()

    def __repr__(self) -> str:
        """A short description for people."""
        return f"DiskCache({self.directory!r}, size_limit={self.size_limit}, policy={self.policy!r})"

    # --- what users call

    def stats(self) -> dict[str, int]:
        """``entries``, ``bytes`` (what the directory takes, room leased to processes included) and ``size_limit``.

        The limit is the one that holds: the smallest of the caches of this process that use the directory.
        """
        entries, used = self._session.get().usage()
        return {"entries": entries, "bytes": used, "size_limit": self._live.limit_bytes(self.size_limit)}

    def verify(self) -> dict[str, int]:
        """Read every entry, and remove those that are damaged.

        Returns:
            ``entries`` that were read, and how many were ``damaged``.
        """
        read, damaged = self._session.get().verify()
        return {"entries": read, "damaged": damaged}

    def clear(self) -> None:
        """Remove every entry, those in use as ``decode="path"`` excepted."""
        self._session.get().clear()

    def give_way(self, size_bytes: int) -> None:
        """Free some bytes of the disk for something that needs them more, for an hour.

        It holds for all processes that use the directory. What was used longest ago is removed first.
        """
        self._session.get().give_way(size_bytes)

    def close(self) -> None:
        """Write down what this process has stored and used. Done by itself when the process ends."""
        self._session.get().budget.close()

    def _open(self) -> Session:
        protected = self._live.protected if self.policy == "auto" else None
        limit = partial(self._live.limit_bytes, self.size_limit)
        return Session(self.directory, limit, protected, self._live.plans)


def session_of(cache: DiskCache) -> Session:
    """This process's session of a cache. Ask for it each time: a forked child has another one."""
    return cache._session.get()  # noqa: SLF001  it shows users nothing that is not for them


def caches_on_disk_of(path: str | os.PathLike[str]) -> list[DiskCache]:
    """The caches that this process has on the disk that a path is on."""
    disk = os.stat(path).st_dev
    found = {cache.directory: cache for cache in list(_CACHES) if _disk_of(cache.directory) == disk}
    return list(found.values())


def take_from(caches: Iterable[DiskCache], lacking: Callable[[], int], what: str) -> None:
    """Let caches give way, one after the other, until nothing is lacking on their disk.

    Args:
        caches: the caches.
        lacking: gives how many bytes have to become free still.
        what: is short of room, as the log has it.
    """
    for cache in caches:
        if lacking_bytes := lacking():
            log.warning("%s is short of room: %s gives way by %s bytes", what, cache.directory, f"{lacking_bytes:,}")
            cache.give_way(lacking_bytes)


def cache_for(cache: DiskCache | str | os.PathLike[str] | None, *, local: bool = False) -> DiskCache | None:
    """The cache that a ``cache=`` argument means.

    ``"auto"`` gives none for a store that is local itself, and, with a warning, if no disk can take one.
    """
    if cache is None or isinstance(cache, DiskCache):
        return cache
    if not isinstance(cache, (str, os.PathLike)):
        raise TypeError(f"cache is a DiskCache, a directory, 'auto' or None, not {cache!r}")
    if is_size(cache) or cache in {"none", "off", ""}:
        wanted = "cache=DiskCache(size_limit='20GiB') for a size, or cache=None for none"
        raise CacheError(f"cache={cache!r} is no directory; write {wanted}")
    if cache != "auto":
        return DiskCache(cache)
    if local:
        return None
    try:
        return DiskCache()
    except CacheError as error:
        tell_once(f"no disk cache: {error}. Every epoch is read over the network.")
        return None


def _disk_of(directory: str) -> int | None:
    try:
        return os.stat(directory).st_dev
    except OSError:  # removed by its user
        return None


def _auto_directory(*, with_limit: bool) -> str:
    """The best directory for a cache; one that has room for it, if the room is to give its limit."""
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
    return placement.auto_limit(directory, space_of(Objects(directory).files()))
