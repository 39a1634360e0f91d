"""Files that a file system opens: read from memory or in ranges, or written when they are closed, whole or not at all.

They have the attributes of fsspec's own files: ``tar://`` and pandas infer the compression from the path, pyarrow the
direction from the mode, audio libraries the format from the name.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from fsspec.spec import AbstractBufferedFile

from ai4os_data.errors import ChangedError
from ai4os_data.fsspec.moving import part_of
from ai4os_data.stores import BLOCK_BYTES
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache import Files
    from ai4os_data.stores import Entry

_READ_ONLY = "it was opened to be read; open it with 'wb' to write it anew"


class Opened:
    """A mixin for the files that a file system opens, listed before the class that reads or writes.

    Attributes:
        fs: the file system that opened it.
        path: its path in that file system.
        details: of a file that is read, as the file system's ``info`` gives it.
        size: of a file that is read, its length in bytes.
    """

    fs: Any
    path: str
    size: int
    details: dict[str, Any]
    _mode = "rb"

    def _describe(self, fs: Any, details: dict[str, Any]) -> None:
        self.fs, self.path, self.details, self.size = fs, details["name"], details, details["size"]

    def info(self) -> dict[str, Any]:
        """The answer of the file system's ``info`` when it was opened."""
        return self.details

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def mode(self) -> str:
        """The mode that it was opened with, ``"rb"``, ``"wb"`` or ``"xb"``."""
        return self._mode

    @property
    def full_name(self) -> str:
        """The path as a location that a dataset takes."""
        return str(self.fs.unstrip_protocol(self.path))

    @property
    def loc(self) -> int:
        """The position that is read or written next."""
        return int(self.tell())  # type: ignore[attr-defined]  # of the class that reads or writes


class SmallFile(Opened, io.BytesIO):
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
        """False."""
        return False

    def _refuse(self, *_: Any) -> int:
        raise io.UnsupportedOperation(_READ_ONLY)

    write = truncate = writelines = _refuse  # type: ignore[assignment]  # each has its own arguments

    def getbuffer(self) -> memoryview:
        """A read-only view of its content."""
        return super().getbuffer().toreadonly()


class LargeFile(Opened, io.BufferedReader):
    """A file of the cache, or one that is read in ranges. Pickled, it is opened again at the same position.

    Args:
        fs: the file system that opens it.
        details: what its ``info`` says of the file.
        file: what reads it.
    """

    def __init__(self, fs: Any, details: dict[str, Any], file: Any) -> None:
        raw = file.detach()
        raw.seek(0)  # opening it may have read its first block
        super().__init__(raw, BLOCK_BYTES)
        self._describe(fs, details)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is needed to open it again."""
        return _opened_again, (self.fs, self.details, self.tell())


def opened(fs: Any, details: dict[str, Any], file: IO[bytes]) -> SmallFile | LargeFile:
    """A file of a store or a cache, as fsspec gives it to the user."""
    return SmallFile(fs, details, file.getvalue()) if isinstance(file, io.BytesIO) else LargeFile(fs, details, file)


def _opened_again(fs: Any, details: dict[str, Any], position: int) -> Any:
    file = fs.open(details["name"])
    if file.details != details:
        file.close()
        raise ChangedError(f"{details['name']!r} changed on the store since it was opened; open it again")
    file.seek(position)
    return file


class BufferedFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec publishes no types
    """A file behind one of fsspec's own caches, for ``blockcache::`` and ``cache_type=``."""

    def __init__(self, fs: Any, path: str, entry: Entry, cached: Files, **options: Any) -> None:
        self._fetch_range = partial(part_of, cached, entry)
        kept = {name: options.get(name) for name in ("cache_type", "cache_options")}
        super().__init__(fs, path, "rb", options.get("block_size") or "default", size=entry.size_bytes, **kept)


class NewFile(Opened, io.RawIOBase):
    """A seekable binary file that can be written and read back; `close` sends it.

    Nothing is sent if, at the time of the close, an exception is being handled that was raised after the opening. So a
    ``with`` that fails leaves nothing behind, whatever wraps this file. Nothing is sent either if the object is
    dropped. `commit` sends in any case.

    Args:
        fs: the file system that opens it.
        path: its path in that file system.
        send: stores the local file that it is given.
        mode: the mode that it was opened with.
        compress: makes a file that compresses into another one.
        commit_on_close: whether `close` sends, or waits for `commit`.
    """

    def __init__(
        self,
        fs: Any,
        path: str,
        send: Callable[[Path], None],
        *,
        mode: str = "wb",
        compress: Callable[[Any], Any] | None = None,
        commit_on_close: bool = True,
    ) -> None:
        super().__init__()
        self.fs = fs
        self.path = path
        self._mode = mode
        self._send = send
        self._commits_on_close = commit_on_close
        self._is_settled = False
        self._handled_before = sys.exc_info()[1]
        self._stage = tempfile.NamedTemporaryFile(prefix="ai4os-data-new-")  # noqa: SIM115  closed when it is settled
        self._compressor = compress(self._stage) if compress is not None else None

    def info(self) -> Any:
        """Refuse: the file does not exist before it is closed."""
        raise ValueError(f"{self.path}: nothing is known of a file that is still being written")

    def readable(self) -> bool:
        """True unless it is compressed: what was written can be read back."""
        return self._compressor is None

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """Whether writers such as HDF5 and ZIP may go back."""
        return self._compressor is None

    def write(self, data: Any, /) -> int:
        """Take the next bytes, all of them."""
        return (self._compressor or self._stage).write(data)

    def readinto(self, buffer: Any, /) -> int:
        """Read what was written."""
        return cast("io.BufferedRandom", self._stage).readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position."""
        return self._stage.seek(offset, whence)

    def tell(self) -> int:
        """The position that is written next; of a compressed file, that of the compressed bytes."""
        return self._stage.tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Cut it, or fill it with zeros."""
        return self._stage.truncate(size)

    def close(self) -> None:
        """Send it, unless an exception is leaving the ``with``; a second call does nothing."""
        if self.closed:
            return
        try:
            if not self._is_settled and self._commits_on_close:
                failure = sys.exc_info()[1]
                if failure is None or failure is self._handled_before:
                    self.commit()
                else:
                    log.warning("%s was not written: %s came before it was closed", self.path, type(failure).__name__)
                    self.discard()
        except BaseException:
            self.discard()
            raise
        finally:
            super().close()

    def commit(self) -> None:
        """Send it as it is now."""
        if self._compressor is not None:
            self._compressor.close()
        self._stage.flush()
        try:
            self._send(Path(self._stage.name))
        finally:
            self.discard()

    def discard(self) -> None:
        """Send nothing, now and later."""
        self._is_settled = True
        self._stage.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send it, or nothing after an exception."""
        if kind is not None:
            self.discard()
        self.close()

    def _dealloc_warn(self, _: object) -> None:
        """Send nothing. The text file around this one calls this when it is dropped, as with Python's own files."""
        self.discard()

    def __del__(self) -> None:
        """Send nothing: it was dropped without a close."""
        if hasattr(self, "_stage"):
            self.discard()
        super().close()


class NewTextFile(io.TextIOWrapper):
    """Text into a new file; a ``with`` that fails sends nothing."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send it, or nothing after an exception."""
        if kind is not None:
            cast("NewFile", self.buffer).discard()
            self.buffer.close()
            return
        self.close()
