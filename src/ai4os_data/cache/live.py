"""What this process uses of a cache directory, whichever `DiskCache` it was told to: what stays together, and plans."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from ai4os_data.machine import PerProcess, no_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.cache.plan import Plan

    Digests = Callable[[], Iterable[str]]


class Limited(Protocol):
    """A cache, as far as it matters here: it says how much it may take."""

    size_limit: int

    @property
    def is_given(self) -> bool:
        """Whether the limit was given by the user."""


class Live:
    """The live datasets, plans and caches of one directory. A forked child begins with its parent's datasets."""

    def __init__(self) -> None:
        self._caches: weakref.WeakSet[Limited] = weakref.WeakSet()
        self._together: list[weakref.WeakMethod[Digests]] = []
        self._plans: PerProcess[weakref.WeakSet[Plan]] = PerProcess(weakref.WeakSet)

    def keep_together(self, digests: Digests) -> None:
        """Record what must not evict each other while the object whose method this is lives."""
        self._together = [reference for reference in self._together if reference() is not None]
        self._together.append(weakref.WeakMethod(digests))

    def protected(self) -> Iterator[str]:
        """All that must not evict each other."""
        for reference in self._together:
            if (digests := reference()) is not None:
                yield from digests()

    def bind(self, cache: Limited) -> None:
        """Keep to the limit of this cache too, while it lives."""
        self._caches.add(cache)

    def caches(self) -> list[Limited]:
        """The caches that live."""
        return list(self._caches)

    def limit_bytes(self, otherwise: int) -> int:
        """The smallest limit of the caches that live: it holds for all of them."""
        return min((cache.size_limit for cache in self.caches()), default=otherwise)

    def follow(self, plan: Plan) -> None:
        """Take in a plan, for as long as it lives."""
        self._plans.get().add(plan)

    def plans(self) -> list[Plan]:
        """The plans that live."""
        return list(self._plans.get())


_by_directory: weakref.WeakValueDictionary[str, Live] = weakref.WeakValueDictionary()
_threads = threading.Lock()


def live_in(directory: str) -> Live:
    """What is known of a directory, under any name; it is known for as long as somebody keeps it."""
    path = os.path.realpath(directory)
    with no_fork(), _threads:
        live = _by_directory.get(path)
        if live is None:
            live = _by_directory[path] = Live()
        return live
