"""A file that is being written: staged on the local disk, and sent as a whole when it is closed, or not at all."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ai4os_data.fsspec.opened import Opened
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

Send = "Callable[[Path], None]"


class Compressor(Protocol):
    """What compresses into another file."""

    def write(self, data: Any, /) -> int:
        """Take the next bytes."""

    def close(self) -> None:
        """Write out what is left, and leave the other file open."""


class NewFile(Opened, io.RawIOBase):
    """A binary file that can be written, read again and gone back in; `close` sends it.

    Nothing is sent where an exception that came after the opening is being handled at the time of the close, so that
    a ``with`` which fails leaves nothing behind, whatever wraps this file; nor where the object is dropped. `commit`
    sends in any case.

    Args:
        fs: the file system that opens it.
        path: where it is to be in that file system.
        send: stores the local file that it is given.
        mode: the mode that it was opened with.
        compress: makes what compresses into a file.
        commit_on_close: whether `close` sends, or waits for `commit`.
    """

    def __init__(
        self,
        fs: Any,
        path: str,
        send: Callable[[Path], None],
        *,
        mode: str = "wb",
        compress: Callable[[Any], Compressor] | None = None,
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
        """Refuse: there is no such file before it is closed."""
        raise ValueError(f"{self.path}: nothing is known of a file that is still being written")

    def readable(self) -> bool:
        """What was written can be read again, unless it was compressed."""
        return self._compressor is None

    def writable(self) -> bool:
        """Writing is what it is for."""
        return True

    def seekable(self) -> bool:
        """HDF5 and ZIP go back while they write; here they may."""
        return self._compressor is None

    def write(self, data: Any, /) -> int:
        """Take the next bytes, all of them."""
        return (self._compressor or self._stage).write(data)

    def readinto(self, buffer: Any, /) -> int:
        """Read what was written."""
        return cast("io.BufferedRandom", self._stage).readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place."""
        return self._stage.seek(offset, whence)

    def tell(self) -> int:
        """The place that is written next; of a compressed file, that of the compressed bytes."""
        return self._stage.tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Cut it, or fill it with zeros."""
        return self._stage.truncate(size)

    def close(self) -> None:
        """Send it, unless an exception is on its way out of the ``with``; the second time do nothing."""
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
        """Be told by the text file around this one that it is being dropped; Python's own files are told so too."""
        self.discard()

    def __del__(self) -> None:
        """Send nothing: whoever dropped it has not closed it."""
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
