"""Pins: entries in use as local paths, in this process or on the way to another one, are not evicted.

A pin is a shared lock on one byte of the cache's lock file, the byte that the digest names, as a claim is. So a process
can pin thousands of files with one open file. A path that it sends stays pinned until it was received: the receiver
locks a byte with the number that the sender gave it, and the sender asks the kernel for that lock. The locks of dead
processes are gone, so nothing has to be cleaned up.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data.cache.entries import lock_byte
from ai4os_data.machine import is_at, locks, no_fork, ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_SENT = 16_384  # each makes the kernel's list of locks longer, which is searched for every lock

_FIRST_PIN = 1 << 61  # the claims lie from 1 << 62 on
_FIRST_RECEIPT = 1 << 60
_SENDER_BITS, _NUMBER_BITS = 28, 32
_ASK_EVERY = 64
_SENDERS = 256  # senders whose receipts are kept: each epoch may have new workers
_KEPT = 8  # caches without pins that stay open, until senders have seen the receipts
_TRIES, _PAUSE_S = 5, 0.001


class Receipt(NamedTuple):
    """A number that the sender has given, which the receiver confirms."""

    sender: int
    number: int


class Pins:
    """The pins of one process in one cache.

    Args:
        directory: the cache's.
    """

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/lock"
        self._counts: dict[int, int] = {}  # how often each byte is pinned
        self._released: deque[int] = deque()  # by finalizers, which may run at any time
        self._threads = threading.Lock()
        # Locks through one descriptor do not exclude each other.
        self._pinning = -1  # pins, and asks for receipts
        self._other = -1  # evicts, and gives receipts
        self._begin_sending()
        tell_after_fork(self)

    def _begin_sending(self) -> None:
        self._sender = secrets.randbits(_SENDER_BITS)
        self._sent: dict[int, int] = {}  # pins of paths on their way, by number
        self._next_number = 0
        self._ask_at = _ASK_EVERY
        self._receipts: dict[int, None] = {}  # the senders that got receipts

    def after_fork(self) -> None:
        """Pin for the child the paths that it has copies of; paths on their way are the parent's."""
        self._threads = threading.Lock()
        for byte in self._sent.values():
            self._drop(byte, unlock=False)
        self._begin_sending()
        self._close()
        if self._counts:
            with suppress(OSError):  # its directory is gone
                self._open()

    # --- in use

    def pin(self, name: str) -> int | None:
        """Pin an entry; the lock byte, to be released, or None if the entry is being evicted.

        Raises:
            OSError: the cache's lock file cannot be opened.
        """
        byte = lock_byte(name, _FIRST_PIN)
        with self._changing():
            return byte if self._hold(byte) else None

    def release(self, byte: int) -> None:
        """End one pin. It can be called from a finalizer."""
        self._released.append(byte)
        self._drain()

    @contextmanager
    def none(self, name: str) -> Iterator[bool]:
        """Keep everybody from pinning an entry during a block; False if somebody has pinned it."""
        byte = lock_byte(name, _FIRST_PIN)
        with self._changing():
            other = self._other
        is_free = locks.lock_bytes(other, byte)
        try:
            yield is_free
        finally:
            if is_free:
                locks.unlock_bytes(other, byte)

    # --- on the way

    def send(self, byte: int) -> Receipt:
        """Keep a pin until its receiver confirms it. After `MOST_SENT` more it counts as lost."""
        with self._changing():
            self._hold(byte)
            number, self._next_number = self._next_number, self._next_number + 1
            self._sent[number] = byte
            if len(self._sent) >= self._ask_at:
                self._ask()
                while len(self._sent) > MOST_SENT:
                    self._drop(self._sent.pop(next(iter(self._sent))))
                self._ask_at = min(len(self._sent) + _ASK_EVERY, MOST_SENT + 1)
            return Receipt(self._sender, number)

    def confirm(self, receipt: Receipt) -> None:
        """Let the sender know that its pin is not needed any more."""
        sender, number = receipt
        with self._changing():
            self._receipts.pop(sender, None)
            self._receipts[sender] = None
            # The kernel merges locks on adjacent bytes.
            locks.lock_bytes(self._other, _receipt_byte(sender, number), shared=True)
            while len(self._receipts) > _SENDERS:
                oldest = next(iter(self._receipts))
                del self._receipts[oldest]
                locks.unlock_bytes(self._other, _receipt_byte(oldest, 0), 1 << _NUMBER_BITS)

    def _ask(self) -> None:
        """Release the pins of what was received."""
        number = next(iter(self._sent))
        while number < self._next_number:
            begin = _receipt_byte(self._sender, number)
            found = locks.locked_bytes(self._pinning, begin, self._next_number - number)
            if not found:
                return
            first = number + found.start - begin
            number = first + len(found)
            for received in [some for some in self._sent if first <= some < number]:
                self._drop(self._sent.pop(received))

    # --- the locks

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change pins in one thread at a time, with descriptors of the lock file that is there."""
        try:
            with self._threads:
                if self._pinning < 0 or not is_at(self._pinning, self._path):
                    self._open()
                yield
        finally:
            self._drain()

    def _drain(self) -> None:
        """Release what finalizers have left to release; if another thread has the lock, that thread does it."""
        while self._released and self._threads.acquire(blocking=False):
            try:
                with suppress(IndexError):
                    while True:
                        self._drop(self._released.popleft())
            finally:
                self._threads.release()

    def _hold(self, byte: int) -> bool:
        count = self._counts.get(byte, 0)
        if not count and not locks.lock_bytes(self._pinning, byte, shared=True):
            return False
        self._counts[byte] = count + 1
        return True

    def _drop(self, byte: int, *, unlock: bool = True) -> None:
        count = self._counts.get(byte, 0) - 1
        if count > 0:
            self._counts[byte] = count
        else:
            self._counts.pop(byte, None)
            if unlock and self._pinning >= 0:
                locks.unlock_bytes(self._pinning, byte)

    def _open(self) -> None:
        """Open the lock file, anew if somebody has removed it, and take all locks there."""
        self._close()
        self._pinning = _opened(self._path)
        self._other = _opened(self._path)
        for byte in self._counts:
            locks.lock_bytes(self._pinning, byte, shared=True)

    def __del__(self) -> None:
        """Let go of all."""
        self._close()

    def _close(self) -> None:
        for descriptor in (self._pinning, self._other):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
        self._pinning = self._other = -1


class Pin:
    """Keeps one cached file from being evicted, while this object lives and on the way to other processes.

    Args:
        path: the file's.
        receipt: if it was sent by another process.

    Raises:
        FileNotFoundError: it is not there any more.
    """

    def __init__(self, path: str, receipt: Receipt | None = None) -> None:
        self._byte = -1
        directory, _, _ = path.rpartition("/objects/")
        self._pins = pins_in(directory)
        self._byte = _pinned(self._pins, path)
        if not os.path.exists(path):
            lost = (
                f"evicted on its way from another process, which keeps {MOST_SENT:,} paths at most that nobody has "
                "received: take a smaller batch_size or prefetch_factor"
            )
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) if receipt is None else lost, path)
        if receipt is not None:
            self._pins.confirm(receipt)

    def sent(self) -> Receipt:
        """Keep it on its way."""
        return self._pins.send(self._byte)

    def __del__(self) -> None:
        """Let it be evicted."""
        if self._byte >= 0:
            self._pins.release(self._byte)


def _pinned(pins: Pins, path: str) -> int:
    for _ in range(_TRIES):
        if (byte := pins.pin(os.path.basename(path))) is not None:
            return byte
        if not os.path.exists(path):
            break
        time.sleep(_PAUSE_S)  # it is about to be removed, or found to be in use
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


_by_directory: weakref.WeakValueDictionary[str, Pins] = weakref.WeakValueDictionary()
_recent: deque[Pins] = deque(maxlen=_KEPT)
_making = threading.Lock()


def pins_in(directory: str) -> Pins:
    """The pins of this process in a cache."""
    with no_fork(), _making:
        pins = _by_directory.get(directory)
        if pins is None:
            pins = _by_directory[directory] = Pins(directory)
            _recent.append(pins)
        return pins


def _receipt_byte(sender: int, number: int) -> int:
    return _FIRST_RECEIPT + (sender << _NUMBER_BITS) + number


def _opened(path: str) -> int:
    try:
        return ownership.open_file(path, os.O_CREAT | os.O_RDWR)
    except OSError:  # a cache that can be read, and no more
        return ownership.open_file(path, os.O_RDONLY)
