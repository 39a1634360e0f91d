"""Paths that this process is writing or removing: its file systems show them as they will be, whatever a server shows.

A save that is under way exists for everybody who asks for its name, so that the next one gets another name; what is
about to be removed does not exist. A path is one of `ai4os://`, without the protocol: ``REMOTE/PATH``.
"""

from __future__ import annotations

import threading
import weakref


class Underway:
    """The paths of one object that saves; they are forgotten with it.

    Attributes:
        coming: folders that are being written.
        going: paths that are about to be removed.
    """

    def __init__(self) -> None:
        self.coming: frozenset[str] = frozenset()  # replaced, never changed: other threads read it
        self.going: frozenset[str] = frozenset()
        with _guard:
            _all.add(self)


_all: weakref.WeakSet[Underway] = weakref.WeakSet()
_guard = threading.Lock()


def is_coming(path: str) -> bool:
    """Whether a folder is being written, or one below it."""
    return any(_is_at_or_below(coming, path) for coming in _paths("coming"))


def is_going(path: str) -> bool:
    """Whether a path, or a folder above it, is about to be removed, and is not being written again."""
    return not is_coming(path) and any(_is_at_or_below(path, going) for going in _paths("going"))


def coming_in(folder: str) -> set[str]:
    """The folders directly in a folder that are being written, or hold such folders."""
    above = f"{folder}/" if folder else ""
    below = [path.removeprefix(above) for path in _paths("coming") if path.startswith(above)]
    return {f"{above}{path.partition('/')[0]}" for path in below if path}


def _paths(which: str) -> set[str]:
    with _guard:
        everyone = list(_all)
    return {path for one in everyone for path in getattr(one, which)}


def _is_at_or_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
