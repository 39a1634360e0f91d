"""The names of entries in the order they appeared: how a process learns what others have stored, without a search.

One file, to which every process appends a line for each entry that it publishes, and which each reads on from where
it last ended. It is a hint: a lost line costs a second fetch, a false one an `open` that fails. The files' own names
are what counts.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.processes import tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_HEAD = re.compile(rb"[0-9a-f]{16}\n")
_HEAD_BYTES = 17  # sixteen digits that change when the lines are written anew, and a line end


class Names:
    """The file of names, as one process reads it.

    Args:
        path: the file; it appears with the first name.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._head = b""
        self._read_up_to = 0
        self._threads = threading.Lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Read and append through a descriptor of the child's own."""
        self._close()

    def tell(self, name: str, appear: Callable[[], None]) -> None:
        """Let an entry's file appear, and tell the others of it. A lost name is a second fetch, no more."""
        with self._threads:
            is_locked = self._lock(fcntl.LOCK_SH)  # a rewriting looks at the files before, or after
            try:
                appear()
                self._append(f"{name}\n".encode())
            finally:
                if is_locked:
                    self._lock(fcntl.LOCK_UN)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._opened() if self._descriptor < 0 else self._descriptor, kind)
        except OSError:
            return False
        return True

    def _append(self, line: bytes) -> None:
        try:
            os.write(self._descriptor, line)
            found = os.fstat(self._descriptor)
            if found.st_nlink == 0:  # somebody has removed the file
                os.write(self._opened(), line)
            elif found.st_size == self._read_up_to + len(line):
                self._read_up_to += len(line)  # ours alone is new
        except OSError:
            return

    def news(self) -> list[str]:
        """What was appended since the last look, our own names included; nothing where it cannot be read."""
        try:
            if self._descriptor >= 0:
                found = os.fstat(self._descriptor)
                if found.st_size == self._read_up_to and found.st_nlink:
                    return []
            elif not os.path.exists(self._path):
                return []
            with self._threads:
                return self._read_on()
        except OSError:
            return []

    def _read_on(self) -> list[str]:
        descriptor = self._opened()
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        length = os.fstat(descriptor).st_size
        if head != self._head or length < self._read_up_to:
            self._head, self._read_up_to = head, len(head)
        data = os.pread(descriptor, length - self._read_up_to, self._read_up_to)
        complete = data.rfind(b"\n") + 1
        self._read_up_to += complete
        return data[:complete].decode("ascii", "replace").splitlines()

    def rewrite(self, look: Callable[[], Iterable[str]]) -> None:
        """Keep those names alone that a look at the files gives, and those that are appended after it."""
        with self._threads:
            descriptor = self._opened()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                data = "".join(f"{name}\n" for name in look())
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{secrets.token_hex(8)}\n{data}".encode())
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        with suppress(FileNotFoundError):
            return os.stat(self._path).st_size
        return 0

    def _opened(self) -> int:
        """A descriptor of the file: of a new one, where somebody has removed the one that we have open."""
        if self._descriptor < 0 or os.fstat(self._descriptor).st_nlink == 0:
            self._close()
            self._head, self._read_up_to = b"", 0
            try:
                self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except OSError:  # a cache that can be read, and no more
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(self._descriptor).st_size == 0:
                os.write(self._descriptor, f"{secrets.token_hex(8)}\n".encode())
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        """Leave no descriptor open."""
        self._close()


def is_ours(path: str) -> bool:
    """Whether a file begins as a file of names does, or is empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return head == b"" or _HEAD.fullmatch(head) is not None
