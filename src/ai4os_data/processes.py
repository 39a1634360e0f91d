"""What belongs to one process alone: made on first use in each, and never carried across a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Objects of a parent that its child must not tear down: closing a TLS connection would send its
# farewell over the socket that the parent still uses.
_of_the_parent: list[object] = []


class Forkable(Protocol):
    """Something that has to know that it now lives in a forked child."""

    def after_fork(self) -> None:
        """Let go of what belongs to the parent, in the child."""


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def tell_after_fork(target: Forkable) -> None:
    """Call ``target.after_fork()`` in every child that is forked while it lives."""
    _forkables.add(target)


def _after_fork_in_child() -> None:
    for target in list(_forkables):
        target.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


class PerProcess(Generic[T]):
    """A value that each process makes for itself. It pickles as its recipe."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._reset()
        tell_after_fork(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # a lock of the parent may be held for ever in a child
        self._value: T | None = None

    def after_fork(self) -> None:
        """Leave the parent's value alone."""
        _of_the_parent.append(self._value)
        self._reset()

    def get(self) -> T:
        """This process's value."""
        value = self._value
        return value if value is not None else self._made()

    def forget(self) -> None:
        """Drop this process's value; the next one who asks gets a new one."""
        with self._lock:
            self._value = None

    def _made(self) -> T:
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the recipe alone."""
        return type(self), (self._make,)
