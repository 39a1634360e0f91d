"""Room for a copy is reckoned before its first byte comes; what a disk says when it is full is translated here."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors
from ai4os_data.cache import caches_on_disk_of, held_on_disk_of, spool_room, take_from
from ai4os_data.machine import exhausted, shown_size
from ai4os_data.stores import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_NAME = {errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_REMEDY = (
    "To make it fit: choose files by pattern=, shrink photographs by prepare=shrink(…), free some disk, or read "
    "through a bounded cache with StorageDataset, which needs no room for all of it"
)


class Need(NamedTuple):
    """What a copy needs.

    Attributes:
        more_bytes: what it takes more than now.
        total_bytes: what all of it takes then.
        files: how many files are to come.
        names: how many names they make, with the folders above them.
        estimated: whether the bytes are estimates.
    """

    more_bytes: int
    total_bytes: int
    files: int
    names: int
    estimated: bool

    @property
    def about(self) -> str:
        """What stands before a size."""
        return "about " if self.estimated else ""


class Disk:
    """The disk that a directory is on, or will be.

    Args:
        directory: the directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._nearest = nearest(directory)
        self._block_bytes = max(512, os.statvfs(self._nearest).f_frsize)

    def allocated(self, sizes: Iterable[int]) -> int:
        """What files of some sizes take, in whole blocks."""
        block = self._block_bytes
        return sum(-(-size // block) for size in sizes) * block

    def check(self, need: Need, limit_bytes: int | None) -> None:
        """See that there is room. Caches of this process on the same disk give way.

        Args:
            need: what the copy needs.
            limit_bytes: what it may take; None for what the disk has.

        Raises:
            OutOfSpaceError: there is not.
        """
        if limit_bytes is not None and need.total_bytes > limit_bytes:
            raise errors.OutOfSpaceError(
                f"{self._directory}: the copy takes {need.about}{_size(need.total_bytes)}, and size_limit is "
                f"{_size(limit_bytes)}. Nothing was fetched. {_REMEDY}"
            )
        if self._lacking(need):
            take_from(caches_on_disk_of(self._nearest), lambda: self._lacking(need), f"the copy {self._directory}")
        if self._lacking(need):
            raise self._too_small(need)
        disk = os.statvfs(self._nearest)
        if disk.f_files and need.names > disk.f_favail:
            raise errors.OutOfSpaceError(
                f"{self._directory}: the copy makes {need.names:,} more files and folders, and its disk takes "
                f"{disk.f_favail:,} more (inodes: `df -i`). Nothing was fetched. {_REMEDY}"
            )

    def _lacking(self, need: Need) -> int:
        free, reserve = spool_room(self._nearest)
        return max(0, need.more_bytes + reserve - free) if need.more_bytes > 0 else 0

    def _too_small(self, need: Need) -> errors.OutOfSpaceError:
        free, reserve = spool_room(self._nearest)
        caches = "".join(
            f" The cache {directory} holds {_size(held_bytes)} of that disk; `ai4os-data cache clear {directory}` "
            "frees them."
            for directory, held_bytes in held_on_disk_of(self._nearest, os.environ)
        )
        return errors.OutOfSpaceError(
            f"{self._directory}: the copy needs {need.about}{_size(need.more_bytes)} more, for {need.files:,} files. "
            f"{_size(free)} are free on its disk, of which {_size(reserve)} stay in reserve. Nothing was fetched. "
            f"{_REMEDY}.{caches}"
        )


@contextmanager
def translated(directory: str, doing: Callable[[], str]) -> Iterator[None]:
    """Raise what a disk says of a directory as one of our errors, with what to do.

    Args:
        directory: what is written to.
        doing: gives what it is for, as a message shows it.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, errors.StorageError):
            raise
        known = disk_error(directory, doing(), error)
        if known is None:
            raise
        raise known from error


def disk_error(directory: str, doing: str, error: OSError) -> errors.StorageError | None:
    """Our error for what a disk says; None for what can have any cause."""
    if error.errno in _FULL:
        disk = os.statvfs(nearest(directory))
        free = f"{disk.f_bavail * disk.f_frsize:,} bytes and {disk.f_favail:,} inodes free"
        return errors.OutOfSpaceError(
            f"{directory}: the disk is full ({error.strerror}; {free}), while {doing}. What is there is whole, and "
            "stays: make room, and call again for the rest"
        )
    if error.errno in _NO_NAME:
        return errors.NameRefusedError(
            f"{directory}: the file system refuses a name ({error.strerror}): {error.filename2 or error.filename!r}. "
            "Rename it on the storage, leave it out by pattern=, or choose a directory on another disk"
        )
    if error.errno in _REFUSED:
        return errors.PermissionDeniedError(
            f"{directory}: {error.filename or directory} cannot be written ({error.strerror}), while {doing}. Choose a "
            "directory that you can write to"
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return errors.LocationError(
            f"{directory}: {error.filename or directory} is a file where a folder belongs. Choose another directory"
        )
    return exhausted(error)


def _size(size_bytes: int) -> str:
    return f"{shown_size(size_bytes)} ({size_bytes:,} bytes)"
