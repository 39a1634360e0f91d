"""A file that processes share as memory lives as long as its owner, and is swept up if the owner was killed."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from ai4os_data.machine import locks, ownership
from ai4os_data.machine.descriptors import exhausted
from ai4os_data.machine.processes import PerProcess

_PREFIX = "ai4os-data-counters-"
_STAGED = "ai4os-data-new-"
_IS_STAGED = re.compile(rf"{_STAGED}[0-9a-f]{{24}}")
_STAGED_S = 60  # older ones were left behind: staging takes a fraction of a millisecond
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a file of random name, mode 0600
_LOOKS = 5  # before an owner counts as dead
_MAP_FIXED = 0x10  # of Linux; the module mmap has no name for it


def new_file(size_bytes: int) -> str:
    """The path of a new file: in shared memory, or beside other temporary files if that is full.

    Raises:
        OSError: there is no room, or this process may open no more files.
    """
    with suppress(OSError):
        return _files_in(_SHARED_MEMORY).new(size_bytes)
    with suppress(OSError):  # also if there is no folder for temporary files
        return _files_in(tempfile.gettempdir()).new(size_bytes)
    if (out := exhausted()) is not None:
        raise out
    message = f"no room for {size_bytes:,} bytes in {_SHARED_MEMORY}, nor in a folder for temporary files (TMPDIR)"
    raise OSError(errno.ENOSPC, message)


def remove(path: str) -> None:
    """Remove a file of this process."""
    _files_in(os.path.dirname(path)).remove(path)


def mapped(descriptor: int, size_bytes: int) -> memoryview:
    """Map a file into memory.

    mmap.mmap alone would keep a descriptor open (until Python 3.13), and a process may have 1,024 in all. So memory
    without a file is mapped first, and then the file over it. It is unmapped with the last object that refers to it. A
    finalizer would be too early: in a cycle of garbage it runs before a ``__del__`` that still uses the memory.

    Raises:
        OSError: the file is shorter, or cannot be mapped.
    """
    if os.fstat(descriptor).st_size < size_bytes:  # of another version; access beyond its end would kill the process
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    memory = mmap.mmap(-1, size_bytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    flags = mmap.MAP_SHARED | _MAP_FIXED
    if _libc.mmap(address, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return memoryview(memory)


class _Files:
    """This process's files in one folder. A lock on one of them says that their owner lives, in whatever container.

    The kernel takes the lock back when the process ends. Process numbers would not do: in another container they may
    not exist, or belong to other processes.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stem = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self._names: set[str] = set()
        self._locked: tuple[str, int] | None = None  # a name, and the descriptor that has the lock
        self._lock = threading.RLock()  # finalizers run on any thread, this one included
        self._seen: dict[str, str] = {}  # for each other owner, the file that had its lock

    def new(self, size_bytes: int) -> str:
        """The path of a new file, with room behind it."""
        with self._lock:
            self._sweep()
            staged = os.path.join(self._folder, f"{_STAGED}{secrets.token_hex(12)}")
            name = f"{self._stem}-{secrets.token_hex(4)}"
            descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size_bytes)  # a mapping without room would kill the process
                if self._locked is None:
                    _lock(descriptor)
                    self._locked = name, os.dup(descriptor)
                os.rename(staged, os.path.join(self._folder, name))  # from now on others find it: it is locked
                self._names.add(name)
            except BaseException:  # a signal's handler may raise, too
                with suppress(OSError):
                    os.unlink(staged)
                self.remove(name)
                raise
            finally:
                os.close(descriptor)
            return os.path.join(self._folder, name)

    def remove(self, path: str) -> None:
        """Remove a file; if it had the lock, another one gets it first."""
        name = os.path.basename(path)
        with self._lock:
            self._names.discard(name)
            if self._locked is not None and self._locked[0] == name:
                _, old = self._locked
                self._locked = self._other_locked()
                os.close(old)
            Path(self._folder, name).unlink(missing_ok=True)

    def _other_locked(self) -> tuple[str, int] | None:
        for name in self._names:
            with suppress(OSError):
                descriptor = os.open(os.path.join(self._folder, name), os.O_RDWR | os.O_CLOEXEC)
                _lock(descriptor)
                return name, descriptor
        return None

    def _sweep(self) -> None:
        """Remove the files of owners that were killed; processes that still use them have them mapped."""
        self._sweep_staged()
        for stem, names in self._others().items():
            # Several times: the lock may have moved to another file in between.
            if not any(self._lives(stem, self._others().get(stem, []) if look else names) for look in range(_LOOKS)):
                for name in names:
                    with suppress(OSError):
                        os.unlink(os.path.join(self._folder, name))

    def _sweep_staged(self) -> None:
        """Remove files that had no name of their own yet when their owner was killed."""
        for name in filter(_IS_STAGED.fullmatch, os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            with suppress(OSError):
                found = ownership.own_file(path)
                if found is not None and time.time() - found.st_mtime > _STAGED_S:
                    os.unlink(path)

    def _others(self) -> dict[str, list[str]]:
        """The names of the files of other owners, by what they begin with."""
        found: dict[str, list[str]] = {}
        for name in os.listdir(self._folder):
            stem = name.rpartition("-")[0]
            is_another = name.startswith(_PREFIX) and "-" in stem.removeprefix(_PREFIX) and stem != self._stem
            if is_another and ownership.own_file(os.path.join(self._folder, name)) is not None:
                found.setdefault(stem, []).append(name)
        return found

    def _lives(self, stem: str, names: list[str]) -> bool:
        """Whether one of the files has the lock, or cannot be looked at."""
        seen = self._seen.get(stem)
        for name in [seen, *names] if seen in names and seen is not None else names:
            try:
                descriptor = ownership.open_file(os.path.join(self._folder, name), os.O_RDONLY)
            except FileNotFoundError:
                continue
            except OSError:  # it cannot be looked at
                return True
            try:
                if locks.locked_bytes(descriptor, 0):
                    self._seen[stem] = name
                    return True
            finally:
                os.close(descriptor)
        return False


_folders: PerProcess[dict[str, _Files]] = PerProcess(dict)


def _files_in(folder: str) -> _Files:
    return _folders.get().setdefault(folder, _Files(folder))


def _lock(descriptor: int) -> None:
    """Lock the first byte for as long as this open file lives; locks on the whole file are not affected."""
    with suppress(OSError):  # some file systems have no such locks
        locks.lock_bytes(descriptor, 0)


def _system_calls() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    return libc


_libc = _system_calls()
