"""A large file on a store as a seekable binary file, read in ranges, with read-ahead while it is read in order."""

from __future__ import annotations

import io
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from ai4os_data.telemetry import reading

if TYPE_CHECKING:
    from ai4os_data.stores.base import Entry, Store

BLOCK_BYTES = 256 * 1024

_BLOCKS_KEPT = 128  # 32 MiB
_LONGEST_READ_AHEAD = 32  # blocks, 8 MiB


class RangedFile(io.RawIOBase):
    """The bytes of one version of a file: when the file changes on the store, reading raises `ChangedError`.

    Blocks of 256 KiB are kept in memory, 32 MiB of them. While reads are in order, each request asks for twice as much
    as the last one, up to 8 MiB.

    Args:
        store: where the file is.
        entry: the file, as it was listed.

    Attributes:
        mode: ``"rb"``, as Python's own files have it.
    """

    mode = "rb"

    def __init__(self, store: Store, entry: Entry) -> None:
        super().__init__()
        self._store = store
        self._entry = entry
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._ahead = 1
        self._expected = -1
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The key."""
        return self._entry.key

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position that is read next."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._entry.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        """Read as much as fits, or as there is."""
        view = memoryview(buffer).cast("B")
        with self._lock:
            wanted = min(len(view), max(0, self._entry.size_bytes - self._position))
            done = 0
            while done < wanted:
                number, within = divmod(self._position + done, BLOCK_BYTES)
                last = (self._position + wanted - 1) // BLOCK_BYTES
                piece = self._block(number, last)[within : within + wanted - done]
                view[done : done + len(piece)] = piece
                done += len(piece)
            self._position += done
        return done

    def _block(self, number: int, last: int) -> bytes:
        """One block; those up to ``last`` come with it, and those that are read ahead."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        self._ahead = min(_LONGEST_READ_AHEAD, 2 * self._ahead) if number == self._expected else 1
        stop = max(min(last + 1, number + _LONGEST_READ_AHEAD), number + self._ahead)
        begun_ns = time.perf_counter_ns()
        data = self._store.read_range(
            self._entry, number * BLOCK_BYTES, min(stop * BLOCK_BYTES, self._entry.size_bytes)
        )
        reading.add(time.perf_counter_ns() - begun_ns, fetching=True)
        for position in range(0, len(data), BLOCK_BYTES):
            self._blocks[number + position // BLOCK_BYTES] = data[position : position + BLOCK_BYTES]
        while len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        self._expected = stop
        return self._blocks[number]
