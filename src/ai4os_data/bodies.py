"""What carries bytes to and from a store: bodies take them, sources give them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

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


class Reader(Protocol):
    """Where an upload takes its bytes."""

    def read(self, size: int, /) -> bytes:
        """At most so many of the next bytes."""

    def close(self) -> None:
        """Let go of the file."""


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


class Source:
    """What an upload sends: bytes in memory, or a local file; from the start on each try."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.size_bytes = content.stat().st_size if isinstance(content, Path) else memoryview(content).nbytes

    def open(self) -> Reader:
        """A reader at the first byte, to be closed."""
        if isinstance(self._content, Path):
            return self._content.open("rb")
        return _MemoryReader(memoryview(self._content).cast("B"))


class _MemoryReader:
    """Reads without a copy of the whole, which `io.BytesIO` would make of a view."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._place = 0

    def read(self, size: int, /) -> bytes:
        """At most so many of the next bytes."""
        piece = bytes(self._view[self._place : self._place + size])
        self._place += len(piece)
        return piece

    def close(self) -> None:
        """There is nothing to close."""
