"""The names of entries in the order they appeared: by them a process learns what others have stored, without a search.

It is one file. Every process appends a line for each entry that it publishes, and reads on from where it last
stopped. It is a hint: a lost line costs a second fetch, a false line an `open` that fails. Only the files' own names
count.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.machine import ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_HEAD = re.compile(rb"[0-9a-f]{16}\n")
_NO_NEWS = (False, 0, b"")
_LONGEST_LINE = 256  # digests, size, checksum and suffix take 130 at most
_SHORTEST_LINE = 52  # digest, size and checksum, and a line end
_HEAD_BYTES = 17  # sixteen digits that change when the lines are written anew, and a line end


class Names:
    """The file of names, as one process reads it.

    Args:
        path: the file; it appears with the first name.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1
        self._head = b""
        self._read_up_to = 0
        self._threads = threading.Lock()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Read and append through a descriptor of the child's own."""
        self._threads = threading.Lock()  # the parent's lock may be held for ever
        self._close()

    def append(self, name: str) -> int | None:
        """Let other processes know of an entry whose file is there. If the name is lost, the file is fetched again.

        Returns:
            The position of its line; None if `news` will give it.
        """
        line = f"{name}\n".encode()
        with self._threads:
            try:
                descriptor = self._opened() if self._descriptor < 0 else self._descriptor
                os.write(descriptor, line)
                found = os.fstat(descriptor)
                if found.st_nlink == 0:  # somebody has removed or replaced the file
                    os.write(self._opened(), line)
                elif found.st_size == self._read_up_to + len(line):
                    self._read_up_to += len(line)  # our line is the only new one
                    return self._read_up_to - len(line)
            except OSError:
                pass
        return None

    def news(self) -> tuple[bool, int, bytes]:
        """What was appended since the last look, our own names included; nothing if it cannot be read.

        Returns:
            Whether these are all names, because the file was written anew; the position of the first; and the whole
            lines.
        """
        try:
            if self._descriptor >= 0:
                found = os.fstat(self._descriptor)
                if found.st_size == self._read_up_to and found.st_nlink:
                    return _NO_NEWS
            elif not os.path.exists(self.path):
                return _NO_NEWS
            with self._threads:
                return self._read_on()
        except OSError:
            return _NO_NEWS

    def line_at(self, position: int) -> str:
        """The line that begins at a position; an empty one if it cannot be read."""
        try:
            descriptor = self._descriptor
            if descriptor < 0:
                with self._threads:
                    descriptor = self._opened()
            line, end, _ = os.pread(descriptor, _LONGEST_LINE, position).partition(b"\n")
        except OSError:
            return ""
        return line.decode("ascii", "replace") if end else ""

    def _read_on(self) -> tuple[bool, int, bytes]:
        descriptor = self._opened()
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        length = os.fstat(descriptor).st_size
        is_other = head != self._head or length < self._read_up_to
        is_anew = is_other and self._head != b""
        if is_other:
            self._head, self._read_up_to = head, len(head)
        begin = self._read_up_to
        data = os.pread(descriptor, length - begin, begin)
        complete = data.rfind(b"\n") + 1
        self._read_up_to += complete
        return is_anew, begin, data[:complete]

    def rewrite(self, look: Callable[[], Iterable[str]]) -> None:
        """Write the file anew, with the names that a look at the files gives and those that are appended during it.

        A new file replaces the old one. A process that appends a name checks afterwards whether it wrote to the present
        file; what was appended to the old one before that is carried over. The caller has the ledger, so that nobody
        else rewrites the file.

        Raises:
            OSError: the new file cannot be written.
        """
        with self._threads:
            old = self._opened()
            begin = os.fstat(old).st_size
            new = os.open(
                self.beside, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            try:
                os.write(new, _head() + "".join(f"{name}\n" for name in look()).encode())
                os.rename(self.beside, self.path)
                os.write(new, os.pread(old, os.fstat(old).st_size - begin, begin))
            finally:
                os.close(new)

    @property
    def beside(self) -> str:
        """The path at which the new file is written; one that a killed process left is overwritten the next time."""
        return f"{self.path}.new"

    def may_hold(self, count: int) -> bool:
        """Whether the file is long enough to name this many entries."""
        return self.size_bytes >= count * _SHORTEST_LINE

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        with suppress(FileNotFoundError):
            return os.stat(self.path).st_size
        return 0

    def _opened(self) -> int:
        """A descriptor of the file: of a new one, if somebody has removed the one that we have open."""
        if self._descriptor < 0 or os.fstat(self._descriptor).st_nlink == 0:
            if self._descriptor >= 0 and (reason := ownership.refusal(os.path.dirname(self.path))) is not None:
                raise PermissionError(errno.EACCES, f"its folder {reason}", self.path)
            self._close()
            try:
                self._descriptor = ownership.open_file(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND)
            except OSError:  # the cache can only be read
                self._descriptor = ownership.open_file(self.path, os.O_RDONLY)
            if os.fstat(self._descriptor).st_size == 0:
                os.write(self._descriptor, _head())
            if os.pread(self._descriptor, _HEAD_BYTES, 0) != self._head:  # else it is the one read so far
                self._read_up_to = 0
        return self._descriptor

    def _close(self, close: Callable[[int], None] = os.close) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:  # noqa: SIM105  suppress may be gone when the process ends
                close(descriptor)
            except OSError:
                pass

    def __del__(self) -> None:
        """Leave no descriptor open."""
        self._close()


def _head() -> bytes:
    return f"{secrets.token_hex(8)}\n".encode()


def is_ours(path: str) -> bool:
    """Whether a file begins as a file of names does, or is empty."""
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        return head == b"" or _HEAD.fullmatch(head) is not None
    return False
