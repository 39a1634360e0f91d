"""The names of entries in the order they appeared: how a process learns what others have stored, without a search.

One file, to which every process appends a line for each entry that it publishes, and which each reads on from where
it last ended. It is a hint: a lost line costs a second fetch, a false one an `open` that fails. The files' own names
are what counts.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.processes import tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Read and append through a descriptor of the child's own."""
        self._close()

    def append(self, name: str) -> None:
        """Tell the others of an entry."""
        os.write(self._opened(), f"{name}\n".encode())

    def news(self) -> list[str]:
        """What was appended since the last look, our own names included."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return []
        if found.st_size == self._read_up_to:
            return []
        descriptor = self._opened()
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        if head != self._head or found.st_size < self._read_up_to:
            self._head, self._read_up_to = head, len(head)
        data = os.pread(descriptor, found.st_size - self._read_up_to, self._read_up_to)
        complete = data.rfind(b"\n") + 1
        self._read_up_to += complete
        return data[:complete].decode("ascii", "replace").splitlines()

    def rewrite(self, names: Iterable[str]) -> None:
        """Keep these alone. What another process appends at this very moment may be lost."""
        descriptor = self._opened()
        data = "".join(f"{name}\n" for name in names)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{secrets.token_hex(8)}\n{data}".encode())

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        with suppress(FileNotFoundError):
            return os.stat(self._path).st_size
        return 0

    def _opened(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
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
