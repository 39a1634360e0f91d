"""The local path that a user is given: its file stays as long as the path object lives, in whatever process."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.cache.objects import READ_FLAGS, share
from ai4os_data.cache.pins import Pin
from ai4os_data.machine import is_at

if TYPE_CHECKING:
    from ai4os_data.cache.pins import Receipt


class LocalPath(str):
    """The path of a local file that stays while this object lives.

    In the cache, a pin keeps it from eviction. Sent to another process, it is pinned again there; the sender keeps its
    own pin until then.
    """

    __slots__ = ("_pin",)
    _pin: Pin | _Temporary | None

    @classmethod
    def in_place(cls, path: str) -> LocalPath:
        """The path of a user's own file, which stays as long as the user keeps it."""
        local = cls(path)
        local._pin = None
        return local

    @classmethod
    def in_cache(cls, path: str, receipt: Receipt | None = None) -> LocalPath:
        """The path of a cached file, which is pinned; with a receipt for the process that sent the path.

        Raises:
            FileNotFoundError: it is not there any more.
        """
        local = cls(path)
        local._pin = Pin(path, receipt)
        return local

    @classmethod
    def temporary(cls, path: str) -> LocalPath:
        """The path of a temporary file, removed with its last user."""
        local = cls(path)
        local._pin = _Temporary(path)
        return local

    def __copy__(self) -> LocalPath:
        """A path is a value."""
        return self

    def __deepcopy__(self, _memo: object) -> LocalPath:
        """A path is a value."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pin it in the process that it is sent to."""
        if self._pin is None:
            return LocalPath.in_place, (str(self),)
        if isinstance(self._pin, Pin):
            return LocalPath.in_cache, (str(self), self._pin.sent())
        self._pin.sent()
        return LocalPath.temporary, (str(self),)


class _Temporary:
    """A file outside the cache, removed by the process that has it last; a shared lock says that it is in use."""

    def __init__(self, path: str) -> None:
        self._path: str | None = None
        self._descriptor = -1
        self._owner = os.getpid()
        self._descriptor = opened_shared(path)
        self._path = path

    def sent(self) -> None:
        self._path = None  # the receiver will remove it

    def __del__(self) -> None:
        if self._path is not None and self._owner == os.getpid():
            with suppress(OSError):
                os.unlink(self._path)
        if self._descriptor >= 0:
            os.close(self._descriptor)


def opened_shared(path: str) -> int:
    """A file that stays while this descriptor is open.

    Raises:
        FileNotFoundError: it has been swept up.
    """
    descriptor = os.open(path, READ_FLAGS)
    try:
        share(descriptor, path)
        if is_at(descriptor, path):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise FileNotFoundError(path)
