"""What takes the bytes of an answer on their way into the directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ai4os_data.http import NoBody
from ai4os_data.machine import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalDiskError(Exception):
    """The local disk cannot take what comes. No `OSError`: a store would take it for one of its own files.

    Args:
        error: what the operating system said.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class StagedFile(NoBody):
    """A file on its way into the directory; as a body it takes the bytes of an answer.

    Args:
        path: where it is written.
        came: called with the number of bytes that have come, a negative one if they are forgotten.

    Attributes:
        path: the same.

    Raises:
        LocalDiskError: the disk cannot take it.
    """

    def __init__(self, path: str, came: Callable[[int], object]) -> None:
        super().__init__()
        self.path = path
        self._came = came
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, _NEW, 0o666)
        except OSError as error:
            raise LocalDiskError(error) from error

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        try:
            write_all(self._descriptor, chunk)
        except OSError as error:
            raise LocalDiskError(error) from error
        super().write(chunk)
        self._came(len(chunk))

    def restart(self) -> None:
        """Forget what came so far."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._came(-self.length)
        super().restart()

    def read(self) -> bytes:
        """All that has come."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()

    def close(self) -> None:
        """Close it; it stays staged."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Close it."""
        self.close()


def write_staged(path: str, pieces: Iterable[bytes]) -> None:
    """Write a new staged file.

    Raises:
        OSError: the disk cannot take it.
    """
    descriptor = os.open(path, _NEW, 0o666)
    try:
        for piece in pieces:
            write_all(descriptor, piece)
    finally:
        os.close(descriptor)
