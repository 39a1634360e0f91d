"""Who fetches what: a claim on a digest, so that a miss is fetched once on a node.

A claim is a lock on one byte of the cache's lock file, the byte that the digest names. The kernel lets go of it when
its process dies, so nobody waits for the dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import xxhash

from ai4os_data.processes import tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache.staged import Staged

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02
FULL_FOR_S = 0.25  # an evicted file that is just being read takes its room until its reader closes it

_RANGE = struct.Struct("hhqqi4x")  # struct flock of fcntl(2), on 64-bit Linux
_FIRST_BYTE = 1 << 62  # far behind whatever the file holds
_MOST_PIECES = 512  # half of what writev(2) takes
_DIGITS = 15  # of a digest: 60 bits


class Claims:
    """The claims of one process on the digests of a cache.

    Its locks are of the open file (`F_OFD_SETLK`_), so that others of the same process exclude each other as well.

    .. _F_OFD_SETLK: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html

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
        """Claim a digest; False where another has it.

        Raises:
            OSError: the directory cannot be written.
        """
        with self._threads:
            if name in self._names:
                return False
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                self._set(name, fcntl.F_WRLCK)
            except BlockingIOError:
                return False
            self._names.add(name)
            return True

    def release(self, name: str) -> None:
        """Let others claim a digest."""
        with self._threads:
            if name in self._names:
                self._names.discard(name)
                self._set(name, fcntl.F_UNLCK)

    def _set(self, name: str, kind: int) -> None:
        place = _FIRST_BYTE + int(name[:_DIGITS], 16)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _RANGE.pack(kind, os.SEEK_SET, place, 1, 0))

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
        stage: makes the staged file, where there is none to write over.

    Attributes:
        reserved_bytes: what may be written; more than that goes to memory.
        staged: the file, once there is one.
        error: why the file does not take it all, where the disk is the reason.
    """

    def __init__(self, name: str, release: Callable[[str], None], stage: Callable[[str], Staged]) -> None:
        self.name = name
        self.reserved_bytes = 0
        self.staged: Staged | None = None
        self.length = 0
        self.error: OSError | None = None
        self._release: Callable[[str], None] | None = release
        self._stage = stage
        self._in_memory: list[bytes] | None = None
        self._hasher = xxhash.xxh3_64()
        _held.add(self)

    @property
    def checksum(self) -> int:
        """The checksum of what has been written."""
        return self._hasher.intdigest()

    @property
    def is_whole(self) -> bool:
        """Whether all that was written is in the file."""
        return self._in_memory is None

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
        """Take the next bytes of an answer: into memory, once there is no more room for them on the disk."""
        self._hasher.update(chunk)
        if self._in_memory is None and self.length + len(chunk) <= self.reserved_bytes:
            try:
                _write_all(self.file().descriptor, chunk)
            except OSError as error:
                self.error = error
                if self.staged is not None:
                    os.ftruncate(self.staged.descriptor, self.length)
                self._in_memory = [chunk]
        elif self._in_memory is None:
            self._in_memory = [chunk]
        else:
            self._in_memory.append(chunk)
        self.length += len(chunk)

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
        except OSError:  # it is said by the next write, if it lasts
            written = 0
        if written < total:
            _write_all(descriptor, b"".join(chunks)[written:])

    def restart(self) -> None:
        """Forget what came so far."""
        if self.staged is not None:
            os.ftruncate(self.staged.descriptor, 0)
            os.lseek(self.staged.descriptor, 0, os.SEEK_SET)
        self._hasher.reset()
        self.length = 0
        self.error = None
        self._in_memory = None

    def content(self) -> bytes:
        """What has been written."""
        in_memory = self._in_memory or []
        in_file = self.length - sum(map(len, in_memory))
        pieces: list[bytes] = []
        while in_file > 0 and (piece := os.pread(self.file().descriptor, in_file, sum(map(len, pieces)))):
            pieces.append(piece)  # one read(2) ends at 2 GiB
            in_file -= len(piece)
        pieces += in_memory
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def give_up(self) -> None:
        """Let others claim it, with nothing published."""
        if self.staged is not None:
            self.staged.drop()
        self.let_go()

    def let_go(self) -> None:
        """End the claim, after the staged file was renamed or removed."""
        _held.discard(self)
        release, self._release = self._release, None
        if release is not None:
            release(self.name)

    def after_fork(self) -> None:
        """Leave it to the parent, with the lease that it is written from."""
        self._release = None
        self.reserved_bytes = 0
        if self.staged is not None:
            self.staged.after_fork()


class _HeldClaims:
    """The claims of this process; a child must not end its parent's."""

    def __init__(self) -> None:
        self._claims: set[Claim] = set()
        self.add = self._claims.add
        self.discard = self._claims.discard
        tell_after_fork(self)

    def after_fork(self) -> None:
        for claim in self._claims:
            claim.after_fork()
        self._claims.clear()


_held = _HeldClaims()


class Waiting:
    """Pauses that grow, until a deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._until = time.monotonic() + deadline_s
        self._pause_s = _FIRST_PAUSE_S

    def pause(self) -> bool:
        """Wait a little; False when the deadline has passed."""
        if time.monotonic() > self._until:
            return False
        time.sleep(self._pause_s)
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        return True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    waiting = Waiting(FULL_FOR_S)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            if error.errno != errno.ENOSPC or not waiting.pause():
                raise
