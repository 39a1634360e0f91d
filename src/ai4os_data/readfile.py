"""Files that are opened to be read, as fsspec hands them out: with a size, and safe from writes that would be lost."""

from __future__ import annotations

import io
import os
from typing import Any

from ai4os_data.ranged import BLOCK_BYTES

_READ_ONLY = "it was opened to be read; open it with 'wb' to write it anew"


class SmallFile(io.BytesIO):
    """A file in memory, which is read, and not written.

    Attributes:
        size: its length in bytes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = len(data)

    def writable(self) -> bool:
        """It is not."""
        return False

    def write(self, _: Any, /) -> int:
        """Refuse."""
        raise io.UnsupportedOperation(_READ_ONLY)

    def writelines(self, _: Any, /) -> None:
        """Refuse."""
        raise io.UnsupportedOperation(_READ_ONLY)

    def truncate(self, _: int | None = None, /) -> int:
        """Refuse."""
        raise io.UnsupportedOperation(_READ_ONLY)

    def getbuffer(self) -> memoryview:
        """Its content, which cannot be changed either."""
        return super().getbuffer().toreadonly()


class LargeFile(io.BufferedReader):
    """A file of the cache, or one that is read in ranges.

    Attributes:
        size: its length in bytes.
    """

    def __init__(self, file: Any) -> None:
        raw = file.detach()
        self.size: int = raw.seek(0, os.SEEK_END)
        raw.seek(0)
        super().__init__(raw, BLOCK_BYTES)
