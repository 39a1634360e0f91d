"""Files that are opened to be read, as fsspec hands them out: with a size, and safe from writes that would be lost."""

from __future__ import annotations

import io
from typing import Any

from ai4os_data.errors import ChangedError
from ai4os_data.fsspec.opened import OpenedToRead
from ai4os_data.stores import BLOCK_BYTES

_READ_ONLY = "it was opened to be read; open it with 'wb' to write it anew"


class SmallFile(OpenedToRead, io.BytesIO):
    """A file in memory, which is read, and not written.

    Args:
        fs: the file system that opens it.
        details: what its ``info`` says of the file.
        data: the content.
    """

    def __init__(self, fs: Any, details: dict[str, Any], data: bytes) -> None:
        super().__init__(data)
        self._describe(fs, details)

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


class LargeFile(OpenedToRead, io.BufferedReader):
    """A file of the cache, or one that is read in ranges. Pickled, it is opened again at the same position.

    Args:
        fs: the file system that opens it.
        details: what its ``info`` says of the file.
        file: what reads it.
    """

    def __init__(self, fs: Any, details: dict[str, Any], file: Any) -> None:
        raw = file.detach()
        raw.seek(0)  # what opened it may have read its first block
        super().__init__(raw, BLOCK_BYTES)
        self._describe(fs, details)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it takes to open it again."""
        return _opened_again, (self.fs, self.details, self.tell())


def _opened_again(fs: Any, details: dict[str, Any], position: int) -> Any:
    file = fs.open(details["name"])
    if file.details != details:
        file.close()
        raise ChangedError(f"{details['name']!r} changed on the store since it was opened; open it again")
    file.seek(position)
    return file
