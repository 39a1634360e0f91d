"""Space on the local disk: checkpoints take at most the limit of the spools, and at most what the disk has free."""

from __future__ import annotations

import errno
import operator
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import SMALLEST_BYTES, spool_room
from ai4os_data.machine import disk_bytes, parse_size
from ai4os_data.stores import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


class Space:
    """The space of a directory of spools.

    Args:
        directory: of all runs.
        limit_bytes: the most that they may take; None for what is free, less a reserve.
    """

    def __init__(self, directory: Path, limit_bytes: int | None) -> None:
        self.limit_bytes = limit_bytes
        self._directory = directory

    def check(self, size_bytes: int) -> None:
        """Make sure that so many bytes more may be written.

        Raises:
            OutOfSpaceError: they may not.
        """
        self.check_limit(size_bytes)
        self.check_disk(size_bytes)

    def check_limit(self, size_bytes: int) -> None:
        """Check the limit alone."""
        if self.limit_bytes is not None and (used := self.used_bytes()) + size_bytes > self.limit_bytes:
            raise self._full(f"{used:,} bytes of {self.limit_bytes:,} are taken")

    def check_disk(self, size_bytes: int) -> None:
        """Check the disk alone: temporary files are not bound by the limit."""
        free, reserve = self._free()
        if size_bytes + reserve > free:
            raise self._full(f"{free:,} bytes are free on its disk")

    def lacking_on_disk(self, size_bytes: int) -> int:
        """How many more bytes must be free on the disk before so many may be written."""
        free, reserve = self._free()
        return max(0, size_bytes + reserve - free)

    def used_bytes(self) -> int:
        """The bytes that all runs take in the directory."""
        return sum(
            disk_bytes(os.path.join(folder, file)) for folder, _, files in os.walk(self._directory) for file in files
        )

    @contextmanager
    def translated(self, doing: str = "") -> Iterator[None]:
        """Raise an OutOfSpaceError if the disk says that it is full.

        Args:
            doing: what was being done, as the end of a sentence.
        """
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL or isinstance(error, errors.StorageError):
                raise
            raise self._full(f"{os.strerror(errno.ENOSPC)}{doing}") from error

    def _free(self) -> tuple[int, int]:
        """How much is free on the disk, and how much of it has to stay free; the directory may have been removed."""
        return spool_room(nearest(str(self._directory)))

    def _full(self, why: str) -> errors.OutOfSpaceError:
        return errors.OutOfSpaceError(
            f"no room in the spool {self._directory}: {why}. The checkpoints before are kept, and training goes on; "
            "give StorageCheckpoint a spool on a larger disk, a higher spool_limit, or its cache a lower limit"
        )


def parse_limit(limit: int | str | None) -> int | None:
    """Bytes from a number or a text such as ``"20GiB"``; None for what the disk has free.

    Raises:
        ValueError: it is neither.
    """
    if limit is None or limit == "auto":
        return None
    try:
        size_bytes = parse_size(limit) if isinstance(limit, str) else operator.index(limit)
    except (TypeError, ValueError):
        raise ValueError(f"{limit!r} is not a spool limit: write a number of bytes, '20GiB' or 'auto'") from None
    if size_bytes < SMALLEST_BYTES:
        raise ValueError(f"{limit!r} is no spool limit: it has to be at least {SMALLEST_BYTES:,} bytes")
    return size_bytes
