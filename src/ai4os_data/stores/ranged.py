"""A large file on a store as a seekable binary file, read in ranges, with read-ahead where it is read in order."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai4os_data.stores.base import Entry, Store

BLOCK_BYTES = 256 * 1024

_BLOCKS_KEPT = 128  # 32 MiB
_LONGEST_READ_AHEAD = 32  # blocks, 8 MiB


class RangedFile(io.RawIOBase):
    """The bytes of one version of a file: when the file changes on the store, reading raises `ChangedError`.

    Blocks of 256 KiB are kept in memory, 32 MiB of them. As long as reads follow each other, twice as much is asked
    for each time, up to 8 MiB.

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
        self._place = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._ahead = 1
        self._expected = -1
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The key."""
        return self._entry.key

    def readable(self) -> bool:
        """Reading is what it is for."""
        return True

    def seekable(self) -> bool:
        """Any place can be read."""
        return True

    def tell(self) -> int:
        """The place that is read next."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._entry.size_bytes}[whence]
        if base + offset < 0:
            message = f"cannot seek to {base + offset}, before the start of the file"
            raise ValueError(message)
        self._place = base + offset
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        """Read as much as fits, or as there is."""
        view = memoryview(buffer).cast("B")
        with self._lock:
            wanted = min(len(view), max(0, self._entry.size_bytes - self._place))
            done = 0
            while done < wanted:
                number, within = divmod(self._place + done, BLOCK_BYTES)
                last = (self._place + wanted - 1) // BLOCK_BYTES
                piece = self._block(number, last)[within : within + wanted - done]
                view[done : done + len(piece)] = piece
                done += len(piece)
            self._place += done
        return done

    def _block(self, number: int, last: int) -> bytes:
        """One block; with it come those up to ``last``, and what is read ahead."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        self._ahead = min(_LONGEST_READ_AHEAD, 2 * self._ahead) if number == self._expected else 1
        stop = max(min(last + 1, number + _LONGEST_READ_AHEAD), number + self._ahead)
        data = self._store.read_range(
            self._entry, number * BLOCK_BYTES, min(stop * BLOCK_BYTES, self._entry.size_bytes)
        )
        for position in range(0, len(data), BLOCK_BYTES):
            self._blocks[number + position // BLOCK_BYTES] = data[position : position + BLOCK_BYTES]
        while len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        self._expected = stop
        return self._blocks[number]
