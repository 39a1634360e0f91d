"""A large file on its way: the ranges that have come stay through a kill, and need not come again.

What came is recorded beside it, range by range. The page cache outlives a process, but no power cut: so the record
holds only until the machine starts anew.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.cache import digest
from ai4os_data.machine import ownership, write_all

if TYPE_CHECKING:
    from collections.abc import Collection
    from io import FileIO

    from ai4os_data.stores import Entry

PREFIX, _RANGES = "part-", ".ranges"
_RANGE = struct.Struct("<qq")
_BOOT = "/proc/sys/kernel/random/boot_id"
_NEW = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def is_part(name: str, among: Collection[str] | None = None) -> bool:
    """Whether a file in the staging folder is a part of a large file, or the record of one.

    Args:
        name: of the file.
        among: the names of certain parts; by default all count.
    """
    stem = name.removesuffix(_RANGES)
    return stem.startswith(PREFIX) if among is None else stem in among


def name_of(entry: Entry) -> str:
    """The name of the part of one version of a file."""
    return f"{PREFIX}{digest(entry.key, entry.etag or '', str(entry.size_bytes))}"


class Part:
    """A part of one version of a file.

    Args:
        path: where it is, or is to be.

    Attributes:
        path: the same.
        file: what has come, open for reading and writing.
        there: the first bytes of the ranges that an earlier run has brought, and the bytes after their last.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # Not by ownership.open_file: the file has the mode that the umask gives.
        self.file: FileIO = open(path, "r+b", buffering=0, opener=_opener)  # noqa: SIM115  closed when it is whole
        self._ranges = -1
        try:
            self.there = self._read()
        except BaseException:
            self.close()
            raise

    def came(self, start: int, stop: int) -> None:
        """Record that a range is whole."""
        write_all(self._ranges, _RANGE.pack(start, stop))

    def close(self) -> None:
        """Close it; it stays."""
        self.file.close()
        descriptor, self._ranges = self._ranges, -1
        if descriptor >= 0:
            os.close(descriptor)

    def discard(self) -> None:
        """Remove what is left of it: the file is in its place, or is to come in one piece."""
        for path in (self.path, f"{self.path}{_RANGES}"):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _read(self) -> dict[int, int]:
        """The ranges that are recorded; the record begins anew if it is of another start of the machine."""
        self._ranges = ownership.open_file(f"{self.path}{_RANGES}", os.O_CREAT | os.O_RDWR | os.O_APPEND)
        boot = _boot()
        length = os.fstat(self.file.fileno()).st_size
        data = os.pread(self._ranges, os.fstat(self._ranges).st_size, 0)
        if boot and data.startswith(boot):
            whole = len(data) - len(boot) - (len(data) - len(boot)) % _RANGE.size
            os.ftruncate(self._ranges, len(boot) + whole)
            ranges = dict(_RANGE.iter_unpack(data[len(boot) :][:whole]))
            if all(0 <= start < stop <= length for start, stop in ranges.items()):
                return ranges
        os.ftruncate(self._ranges, 0)
        self.file.truncate(0)
        write_all(self._ranges, boot)
        return {}


def _opener(path: str, _flags: int) -> int:
    descriptor = os.open(path, _NEW, 0o666)
    if os.fstat(descriptor).st_nlink == 1:
        return descriptor
    # It has come to its place, and a kill came before the name here was gone: what is there may have changed since.
    os.close(descriptor)
    os.unlink(path)
    return os.open(path, _NEW | os.O_EXCL, 0o666)


def _boot() -> bytes:
    """What distinguishes this start of the machine from others; empty if that is not known."""
    with suppress(OSError), open(_BOOT, "rb") as file:
        return file.read()
    return b""
