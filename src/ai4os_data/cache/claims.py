"""Who fetches what: a claim on a digest, so that a miss is fetched once on a node.

The claim is a lock on the staged file. The kernel lets go of it when its process dies, so nobody waits for the dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress

import xxhash

from ai4os_data.processes import tell_after_fork

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02
_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
FULL_FOR_S = 0.25  # an evicted file that is just being read takes its room until its reader closes it


class Claim:
    """The right to fill one entry, and the staged file to fill. It is also the body that takes a large answer.

    Attributes:
        reserved_bytes: what may be written; more than that goes to memory.
        error: why the file does not take it all, where the disk is the reason.
    """

    def __init__(self, name: str, path: str, descriptor: int) -> None:
        self.name = name
        self.path = path
        self.descriptor = descriptor
        self.reserved_bytes = 0
        self.length = 0
        self.error: OSError | None = None
        self._in_memory: list[bytes] | None = None
        self._hasher = xxhash.xxh3_64()

    @classmethod
    def take(cls, name: str, path: str) -> Claim | None:
        """Claim a digest; None where another has it.

        Raises:
            FileNotFoundError: there is no folder for it yet.
            OSError: the directory cannot be written.
        """
        while True:
            try:
                descriptor, is_new = os.open(path, _FLAGS | os.O_EXCL, 0o600), True
            except FileExistsError:
                descriptor, is_new = os.open(path, _FLAGS, 0o600), False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            # A new one may have been taken for an abandoned one before it was locked.
            if os.fstat(descriptor).st_nlink if is_new else _is_at(descriptor, path):
                if not is_new:
                    os.ftruncate(descriptor, 0)  # it may have been begun by a process that died
                claim = cls(name, path, descriptor)
                _held.claims.add(claim)
                return claim
            os.close(descriptor)  # published or given up between our open and our lock

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
        """Whether the staged file is still where it was: somebody may have removed the whole directory."""
        return self.descriptor >= 0 and os.fstat(self.descriptor).st_nlink > 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of an answer: into memory, once there is no more room for them on the disk."""
        self._hasher.update(chunk)
        if self._in_memory is None and self.length + len(chunk) <= self.reserved_bytes:
            try:
                _write_all(self.descriptor, chunk)
            except OSError as error:
                self.error = error
                os.ftruncate(self.descriptor, self.length)
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
        written = 0
        with suppress(OSError):  # it is said by the next write, if it lasts
            written = os.writev(self.descriptor, chunks[:512]) if chunks else 0
        if written < total:
            _write_all(self.descriptor, b"".join(chunks)[written:])

    def restart(self) -> None:
        """Forget what came so far."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self._hasher.reset()
        self.length = 0
        self.error = None
        self._in_memory = None

    def content(self) -> bytes:
        """What has been written."""
        in_memory = self._in_memory or []
        in_file = self.length - sum(map(len, in_memory))
        pieces: list[bytes] = []
        while in_file > 0 and (piece := os.pread(self.descriptor, in_file, sum(map(len, pieces)))):
            pieces.append(piece)  # one read(2) ends at 2 GiB
            in_file -= len(piece)
        pieces += in_memory
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def give_up(self) -> None:
        """Let others claim it, with nothing published."""
        if self.is_ours:
            with suppress(OSError):
                os.unlink(self.path)
        self.let_go()

    def let_go(self) -> None:
        """End the claim, after the staged file was renamed or removed."""
        if self.descriptor >= 0:
            _held.claims.discard(self)
            # Not close alone: a forked child may hold a copy of the descriptor, and with it the lock.
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self.descriptor)
            self.descriptor = -1


class _HeldClaims:
    """The claims of this process; a child must not keep its parent's locks alive."""

    def __init__(self) -> None:
        self.claims: set[Claim] = set()
        tell_after_fork(self)

    def after_fork(self) -> None:
        for claim in self.claims:
            with suppress(OSError):
                os.close(claim.descriptor)
            claim.descriptor = -1
            claim.reserved_bytes = 0  # it is the parent's lease
        self.claims.clear()


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


def remove_if_abandoned(path: str) -> None:
    """Remove a staged file that belongs to no living process."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # Held while the file is removed: who claims it meanwhile sees that it is gone.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            os.unlink(path)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    waiting = Waiting(FULL_FOR_S)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            if error.errno != errno.ENOSPC or not waiting.pause():
                raise
