"""What carries bytes to and from a store: bodies take them, sources give them."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ai4os_data.machine import write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

Content = bytes | bytearray | memoryview | Path


class Body(Protocol):
    """Where the bytes of an answer go."""

    @property
    def length(self) -> int:
        """How many bytes there are."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def restart(self) -> None:
        """Forget what came so far."""


class MemoryBody:
    """The bytes of an answer, kept as the pieces they came in."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    @property
    def length(self) -> int:
        """How many bytes there are."""
        return sum(map(len, self.chunks))

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.chunks.append(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        self.chunks.clear()

    def getvalue(self) -> bytes:
        """All of them in one piece."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


class CappedBody(MemoryBody):
    """As much of an answer as was expected, kept in memory. What comes beyond that is counted and not kept.

    Args:
        most_bytes: how much is kept.
    """

    __slots__ = ("_left_bytes", "_most_bytes", "_seen_bytes")

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most_bytes = self._left_bytes = most_bytes
        self._seen_bytes = 0

    @property
    def length(self) -> int:
        """How many bytes have come."""
        return self._seen_bytes

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._seen_bytes += len(chunk)
        if self._left_bytes:
            piece = chunk[: self._left_bytes]
            self._left_bytes -= len(piece)
            self.chunks.append(piece)

    def restart(self) -> None:
        """Forget what came so far."""
        super().restart()
        self._left_bytes = self._most_bytes
        self._seen_bytes = 0


class LargeBody:
    """The bytes of a large answer in one piece of memory, which is given out as it is: never twice in memory."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    @property
    def length(self) -> int:
        """How many bytes there are."""
        return self._buffer.tell()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._buffer.write(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        self._buffer = io.BytesIO()

    def getvalue(self) -> bytes:
        """All of them."""
        return self._buffer.getvalue()


class NoBody:
    """The length of an answer, whose bytes are dropped."""

    def __init__(self) -> None:
        self.length = 0

    def write(self, chunk: bytes) -> None:
        """Count the next bytes."""
        self.length += len(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        self.length = 0


class HashBody:
    """No more of an answer than its length and its sha256."""

    def __init__(self) -> None:
        self.length = 0
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._digest.update(chunk)
        self.length += len(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        self.length = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The sha256 of all bytes so far, in hexadecimal."""
        return self._digest.hexdigest()


class FileBody(HashBody):
    """The bytes of an answer in a local file, hashed on their way.

    Args:
        file: open for writing, empty.

    Attributes:
        error: what the local disk said, if it could not take them; curl's callbacks cannot raise.
    """

    def __init__(self, file: FileIO) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._file = file

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self.error is None:
            try:
                write_all(self._file.fileno(), chunk)
            except OSError as error:
                self.error = error
        super().write(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        self._file.seek(0)
        self._file.truncate()
        super().restart()


def write_all_at(file: FileIO, data: bytes, position: int) -> None:
    """Write all of it at a position."""
    written = os.pwrite(file.fileno(), data, position)
    while written < len(data):
        written += os.pwrite(file.fileno(), memoryview(data)[written:], position + written)


class Source:
    """What an upload sends: bytes in memory, or a local file, or a part of it; from the start on each try.

    Args:
        content: the bytes, or the file.
        start: the first byte that is sent.
        stop: the byte after the last one; by default all there is.
        on_bytes: called with the number of bytes taken each time; what is sent again counts again.
    """

    def __init__(
        self,
        content: Content,
        start: int = 0,
        stop: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self.content = content
        self.on_bytes = on_bytes
        self._start = start
        if stop is None:
            stop = content.stat().st_size if isinstance(content, Path) else memoryview(content).nbytes
        self.size_bytes = stop - start

    def open(self) -> SourceReader:
        """A reader at the first byte, to be closed."""
        return SourceReader(self.content, self._start, self.size_bytes, self.on_bytes)

    def part(self, start: int, stop: int) -> Source:
        """The bytes from ``start`` up to ``stop`` (exclusive) of this."""
        return Source(self.content, self._start + start, self._start + min(stop, self.size_bytes), self.on_bytes)


class SourceReader:
    """Reads one stretch of a file or of memory, of which it makes no copy as a whole, as `io.BytesIO` would of a view.

    Args:
        content: the bytes, or the file.
        start: the first byte that is read.
        size_bytes: the length of the stretch.
        on_bytes: called with the number of bytes taken each time.
    """

    def __init__(self, content: Content, start: int, size_bytes: int, on_bytes: Callable[[int], None] | None) -> None:
        self._file = content.open("rb", buffering=0) if isinstance(content, Path) else None
        self._view = memoryview(b"" if isinstance(content, Path) else content).cast("B")
        self._position = start
        self._stop = start + size_bytes
        self._on_bytes = on_bytes
        if self._file is not None:
            self._file.seek(start)

    def read(self, size: int, /) -> bytes:
        """At most this many of the next bytes."""
        stop = min(self._position + size, self._stop)
        if self._file is not None:
            piece = self._file.read(stop - self._position)
        else:
            piece = bytes(self._view[self._position : stop])
        self._position += len(piece)
        if piece and self._on_bytes is not None:
            self._on_bytes(len(piece))
        return piece

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
