"""A claim lets one process of the machine fetch a missing file; a large one goes through it straight to the disk.

A claim is a lock on one byte of the cache's lock file, the byte that the digest names. The kernel releases it when its
process dies, so nobody waits for a dead process.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import xxhash

from ai4os_data.cache.entries import lock_byte
from ai4os_data.cache.staged import BLOCK_BYTES, allocated, read_whole
from ai4os_data.cache.waiting import FULL_FOR_S, Waiting
from ai4os_data.http import LargeBody
from ai4os_data.machine import locks, ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache.staged import Staged
    from ai4os_data.http import Body

_FIRST_BYTE = 1 << 62  # far beyond the end of the file
_GROWTH_BYTES = 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_MOST_PIECES = 512  # half the number that writev(2) takes


class Claims:
    """The claims of one process on the digests of a cache.

    Args:
        path: the cache's lock file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._names: set[str] = set()
        self._threads = threading.Lock()
        tell_after_fork(self)

    def take(self, name: str) -> bool:
        """Claim a digest; False if another has it.

        Raises:
            OSError: the directory cannot be written.
        """
        with self._threads:
            if name in self._names:
                return False
            if self._descriptor < 0:
                self._descriptor = ownership.open_file(self._path, os.O_CREAT | os.O_RDWR)
            if not locks.lock_bytes(self._descriptor, lock_byte(name, _FIRST_BYTE)):
                return False
            self._names.add(name)
            return True

    def release(self, name: str) -> None:
        """Let others claim a digest."""
        with self._threads:
            if name in self._names:
                self._names.discard(name)
                locks.unlock_bytes(self._descriptor, lock_byte(name, _FIRST_BYTE))

    def after_fork(self) -> None:
        """Keep none of the parent's locks alive in a child."""
        self._threads = threading.Lock()
        self._names.clear()
        self.close()

    def close(self) -> None:
        """Let go of all."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        """Let go of all."""
        self.close()


class Claim:
    """The right to fill one entry, and the staged file to fill. It is also the body that takes a large answer.

    Args:
        name: the digest.
        release: ends the claim.
        stage: makes the staged file, unless an evicted one is overwritten.
        grow: reserves room for more bytes; False if there is none.

    Attributes:
        reserved_bytes: what may be written to the file.
        staged: the file, once there is one.
        error: why the file does not take all bytes, if the disk is the reason.
        make_instead: makes the body that takes an answer, from its first byte on, if there is no room for the file.
        instead: that body, if it was needed.
    """

    def __init__(
        self,
        name: str,
        release: Callable[[str], None],
        stage: Callable[[str], Staged],
        grow: Callable[[Claim, int], bool],
    ) -> None:
        self.name = name
        self.reserved_bytes = 0
        self.staged: Staged | None = None
        self.length = 0
        self.error: OSError | None = None
        self.make_instead: Callable[[], Body] = LargeBody
        self.instead: Body | None = None
        self._release: Callable[[str], None] | None = release
        self._stage = stage
        self._grow = grow
        self._hasher = xxhash.xxh3_64()
        tell_after_fork(self)

    @property
    def checksum(self) -> int:
        """The checksum of what has been written."""
        return self._hasher.intdigest()

    @property
    def is_whole(self) -> bool:
        """Whether all that was written is in the file."""
        return self.instead is None

    @property
    def is_ours(self) -> bool:
        """Whether it has not ended, and this is not a forked child."""
        return self._release is not None

    def file(self) -> Staged:
        """The staged file.

        Raises:
            OSError: it cannot be made.
        """
        if self.staged is None:
            self.staged = self._stage(self.name)
        return self.staged

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of an answer: into the file, or, once there is no room for them, somewhere else."""
        self._hasher.update(chunk)
        if self.instead is None and not self._put(chunk):
            self._move()
        if self.instead is not None:
            self.instead.write(chunk)
        self.length += len(chunk)

    def _put(self, chunk: bytes) -> bool:
        """Write to the file; False if that fails."""
        if not self._has_room(len(chunk)):
            return False
        try:
            _write_patiently(self.file().descriptor, chunk)
        except OSError as error:
            self.error = error
            return False
        return True

    def _has_room(self, more_bytes: int) -> bool:
        """Whether there is room for more bytes; a file that is larger than it was listed gets more, if there is any."""
        needed = allocated(self.length + more_bytes) + BLOCK_BYTES
        return needed <= self.reserved_bytes or self._grow(self, max(needed - self.reserved_bytes, _GROWTH_BYTES))

    def _move(self) -> None:
        """Move the bytes that the file holds so far to the body that takes the rest."""
        self.instead = self.make_instead()
        if self.staged is None:
            return
        descriptor = self.staged.descriptor
        moved = 0
        while moved < self.length:
            piece = os.pread(descriptor, min(_PIECE_BYTES, self.length - moved), moved)
            self.instead.write(piece)
            moved += len(piece)
        os.ftruncate(descriptor, 0)

    def write_pieces(self, chunks: list[bytes]) -> None:
        """Take the whole content in pieces.

        Raises:
            OSError: the disk is full.
        """
        for chunk in chunks:
            self._hasher.update(chunk)
        total = sum(map(len, chunks))
        self.length += total
        descriptor = self.file().descriptor
        try:
            written = os.writev(descriptor, chunks[:_MOST_PIECES]) if chunks else 0
        except OSError:  # if the error lasts, the next write raises it
            written = 0
        if written < total:
            _write_patiently(descriptor, b"".join(chunks)[written:])

    def restart(self) -> None:
        """Forget what came so far."""
        if self.staged is not None:
            os.ftruncate(self.staged.descriptor, 0)
            os.lseek(self.staged.descriptor, 0, os.SEEK_SET)
        self._hasher.reset()
        self.length = 0
        self.error = None
        self.instead = None

    def hand_over(self, other: Claim) -> None:
        """Give another claim the written file and its room: the bytes turned out to be those of its entry."""
        other.staged, self.staged = self.staged, None
        other.reserved_bytes, self.reserved_bytes = self.reserved_bytes, 0
        other.length, self.length = self.length, 0
        other.error, other.instead = self.error, self.instead
        other._hasher, self._hasher = self._hasher, other._hasher

    def content(self) -> bytes:
        """All bytes that were written, held in memory once."""
        if self.instead is not None:
            assert isinstance(self.instead, LargeBody)
            return self.instead.getvalue()
        descriptor = self.file().descriptor
        os.ftruncate(descriptor, self.length)  # an evicted file that was overwritten may be longer
        return read_whole(descriptor)

    def give_up(self) -> None:
        """Let others claim it, with nothing published."""
        try:
            if self.staged is not None:
                self.staged.drop()
        finally:
            self.let_go()

    def let_go(self) -> None:
        """End the claim, after the staged file was renamed or removed."""
        release, self._release = self._release, None
        if release is not None:
            release(self.name)

    def after_fork(self) -> None:
        """Leave it to the parent, whose lease its bytes come from."""
        self._release = None
        self.reserved_bytes = 0
        if self.staged is not None:
            self.staged.after_fork()


def _write_patiently(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    waiting = Waiting(FULL_FOR_S)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            if error.errno != errno.ENOSPC or not waiting.pause():
                raise
