"""What belongs to one process alone: made on first use in each, and never carried across a fork."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# Objects of a parent that its child must not tear down: closing a TLS connection sends a
# last message over the socket, which the parent still uses.
_of_the_parent: list[object] = []


class Forkable(Protocol):
    """Something that has to know that it now lives in a forked child."""

    def after_fork(self) -> None:
        """Let go of what belongs to the parent, in the child."""


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def tell_after_fork(target: Forkable) -> None:
    """Call ``target.after_fork()`` in every child that is forked while it lives."""
    _forkables.add(target)


class Preparable(Protocol):
    """Something that has to be put away before this process forks."""

    def before_fork(self) -> None:
        """Put away what a child must not have a copy of."""


class _Gate:
    """Keeps forks and what must not be forked apart, among the threads of this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())  # a handler or a finalizer may enter again
        self._inside: dict[int, int] = {}  # how often each thread went in
        self._forking: list[int] = []

    def enter(self, *, wait: bool) -> bool:
        me = threading.get_ident()
        with self._changed:
            while me not in self._inside and any(thread != me for thread in self._forking):
                if not wait:
                    return False
                self._changed.wait()
            self._inside[me] = self._inside.get(me, 0) + 1
            return True

    def leave(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                self._changed.notify_all()

    def begin_fork(self) -> bool:
        """Wait until no other thread is inside. Returns whether this thread is outside, too."""
        me = threading.get_ident()
        with self._changed:
            self._forking.append(me)
            # A thread that is inside and forks as well waits for us: it is not waited for.
            while any(thread != me and thread not in self._forking for thread in self._inside):
                self._changed.wait()
            return me not in self._inside

    def end_fork(self) -> None:
        with self._changed:
            self._forking.remove(threading.get_ident())
            self._changed.notify_all()

    def renewed(self) -> _Gate:
        """The gate of a child, in which only the thread that forked continues."""
        gate = _Gate()
        me = threading.get_ident()
        if me in self._inside:
            gate._inside[me] = self._inside[me]
        return gate


_gate = _Gate()
_preparables: weakref.WeakSet[Preparable] = weakref.WeakSet()
_adding = threading.Lock()


@contextmanager
def no_fork(*, wait: bool = True) -> Iterator[bool]:
    """Keep all threads from forking during a block: a lock that C code holds at a fork stays locked in the child.

    The block must not wait for another process.

    Args:
        wait: whether to wait for the end of a fork that another thread has begun. Otherwise the block begins with
            False, and forks are not kept off.
    """
    if not _gate.enter(wait=wait):
        yield False
        return
    try:
        yield True
    finally:
        _gate.leave()


def tell_before_fork(target: Preparable) -> None:
    """Call ``target.before_fork()`` ahead of every fork while it lives, with no thread inside `no_fork`."""
    with _adding:
        _preparables.add(target)


def leave_to_parent(value: object) -> None:
    """In a child: never tear down what the parent still uses."""
    _of_the_parent.append(value)


def _before_fork() -> None:
    if _gate.begin_fork():  # a thread that forks from inside still uses what it holds
        with _adding:
            targets = list(_preparables)
        for target in targets:
            target.before_fork()


def _after_fork_in_parent() -> None:
    _gate.end_fork()


def _after_fork_in_child() -> None:
    global _gate, _adding
    # The parent's may be held for ever.
    _gate, _adding = _gate.renewed(), threading.Lock()
    for target in list(_forkables):
        target.after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


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
