"""Leases: how much each process may still write into a cache without asking.

A lease is a locked file. The kernel frees the lock of a process that dies, so a lease that is not locked belongs to a
dead process.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import struct
from contextlib import suppress

from ai4os_data.cache import placement
from ai4os_data.machine import is_at, locks, ownership, tell_after_fork

_LEASE = struct.Struct("<3q")  # three times the same: the middle one is right even if a byte was flipped
_HIGH_DESCRIPTOR = 900  # the kernel closes the files of a killed process from the lowest up
_NAME = re.compile(r"\d+-[0-9a-f]{8}")


class Lease:
    """The lease of one process, among those of the others.

    Args:
        directory: the cache's, which is made if somebody has removed it.

    Attributes:
        size_bytes: what it allows.
    """

    def __init__(self, directory: str) -> None:
        self._cache = directory
        self._folder = f"{directory}/leases"
        self.size_bytes = 0
        self._path = ""
        self._descriptor = -1
        tell_after_fork(self)

    def write(self, size_bytes: int) -> None:
        """Set what it allows."""
        self.size_bytes = size_bytes
        if self._descriptor >= 0 and not is_at(self._descriptor, self._path):  # removed by somebody
            os.close(self._descriptor)
            self._descriptor = -1
        if self._descriptor < 0:
            if size_bytes == 0:
                return
            placement.make(self._cache)
            self._path = f"{self._folder}/{os.getpid()}-{secrets.token_hex(4)}"
            self._descriptor = _last_to_close(ownership.open_file(self._path, os.O_CREAT | os.O_RDWR))
            locks.lock(self._descriptor)
        os.pwrite(self._descriptor, _LEASE.pack(size_bytes, size_bytes, size_bytes), 0)

    def drop(self) -> None:
        """Give it back."""
        self.size_bytes = 0
        if self._descriptor >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        self.after_fork()

    def __del__(self) -> None:
        """Close it; the process that finds it unlocked counts its files in."""
        self.after_fork()

    def after_fork(self) -> None:
        """Close it; in a child it stays the parent's."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def others(self) -> tuple[int, bool]:
        """How much other living processes have leased, and whether a dead process's lease was found and removed."""
        total, died = 0, False
        with suppress(FileNotFoundError), os.scandir(self._folder) as items:
            for item in items:
                if not _NAME.fullmatch(item.name) or (self._descriptor >= 0 and item.path == self._path):
                    continue
                leased = _read(item.path)
                if leased is None:
                    died = True
                    with suppress(FileNotFoundError):
                        os.unlink(item.path)
                else:
                    total += leased
        return total, died


def living(directory: str) -> set[int]:
    """The numbers of the living processes that have a lease in a cache; leases of dead ones are left alone."""
    with suppress(FileNotFoundError), os.scandir(f"{directory}/leases") as items:
        held = [item.name for item in items if _NAME.fullmatch(item.name) and locks.is_held(item.path)]
        return {int(name.partition("-")[0]) for name in held}
    return set()


def _read(path: str) -> int | None:
    """How much a living process has leased; None for a dead one."""
    try:
        descriptor = ownership.open_file(path, os.O_RDWR)
    except OSError:  # removed by now, or not ours
        return 0
    try:
        if locks.try_lock(descriptor):
            return None
        data = os.pread(descriptor, _LEASE.size, 0)
        return int(sorted(_LEASE.unpack(data))[1]) if len(data) == _LEASE.size else 0
    finally:
        os.close(descriptor)


def _last_to_close(descriptor: int) -> int:
    """The same file under a high number, so that a killed process's staged files are unlocked before its lease is."""
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
    except OSError:  # this process may open only few files
        return descriptor
    os.close(descriptor)
    return high
