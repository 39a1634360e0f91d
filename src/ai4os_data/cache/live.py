"""What this process uses of a cache directory, through whichever `DiskCache`: entries that stay together, and plans."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.machine import PerProcess, no_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.cache.plan import Plan

    Digests = Callable[[], Iterable[str]]


class Limit(NamedTuple):
    """How much a cache may take, and whether the user gave that limit or it follows from the free space."""

    size_bytes: int
    is_given: bool


class Live:
    """The live datasets, plans and caches of one directory. A forked child begins with its parent's datasets."""

    def __init__(self) -> None:
        self._limits: weakref.WeakKeyDictionary[object, Limit] = weakref.WeakKeyDictionary()  # by cache
        self._together: list[weakref.WeakMethod[Digests]] = []
        self._plans: PerProcess[weakref.WeakSet[Plan]] = PerProcess(weakref.WeakSet)

    def keep_together(self, digests: Digests) -> None:
        """Protect these entries from each other for as long as the method's object lives (policy ``"auto"``)."""
        self._together = [reference for reference in self._together if reference() is not None]
        self._together.append(weakref.WeakMethod(digests))

    def protected(self) -> Iterator[str]:
        """All that must not evict each other."""
        for reference in self._together:
            if (digests := reference()) is not None:
                yield from digests()

    def bind(self, cache: object, limit: Limit) -> None:
        """Keep to the limit of this cache too, as long as it lives."""
        self._limits[cache] = limit

    def limits(self) -> list[Limit]:
        """Those of the caches that live."""
        return list(self._limits.values())

    def limit_bytes(self, otherwise: int) -> int:
        """The smallest limit of the caches that live: it holds for all of them."""
        return min((limit.size_bytes for limit in self.limits()), default=otherwise)

    def follow(self, plan: Plan) -> None:
        """As long as this plan lives, evict what it has used, to make room for what it still needs."""
        self._plans.get().add(plan)

    def plans(self) -> list[Plan]:
        """The plans that live."""
        return list(self._plans.get())


_by_directory: weakref.WeakValueDictionary[str, Live] = weakref.WeakValueDictionary()
_threads = threading.Lock()


def live_in(directory: str) -> Live:
    """The `Live` of a directory, whatever path leads there; it exists as long as somebody holds it."""
    path = os.path.realpath(directory)
    with no_fork(), _threads:
        live = _by_directory.get(path)
        if live is None:
            live = _by_directory[path] = Live()
        return live
