"""Where a cache goes and how large it may be: a local disk, with room left for everything else."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.cache.names import is_ours
from ai4os_data.errors import CacheError, CacheLimitError
from ai4os_data.machine import mounts, ownership, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SMALLEST_BYTES = 1024 * 1024
_SMALLEST_AUTO_BYTES = 32 * 1024 * 1024
_LARGEST_RESERVE_BYTES = 5 * 1024**3
_SMALLEST_RESERVE_BYTES = 64 * 1024 * 1024
_RESERVED_PART = 0.2
_SPOOL_RESERVE_BYTES = 64 * 1024 * 1024
_SPOOL_RESERVED_PART = 0.05

MARKER = ".ai4os-data-cache"
_OUR_FOLDERS = ("objects", "listings")
_OUR_NAMES = ("index", "leases", "lock")  # in "objects" and "listings" only files with names of our form are touched

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of linux/fs.h, on 64-bit
_TOP_OF_TREE = 0x00020000  # FS_TOPDIR_FL, the attribute T of chattr(1)


def given_limit(size: int | str) -> int:
    """The limit that a user has given, in bytes: a number, or a text such as ``"20GiB"``.

    Raises:
        CacheLimitError: it is neither, or too small to work with.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise CacheLimitError(f"a cache limit is a number of bytes, a text such as '20GiB', or 'auto', not {size!r}")
    try:
        limit = parse_size(size) if isinstance(size, str) else size
    except ValueError as error:
        raise CacheLimitError(str(error)) from None
    if limit < SMALLEST_BYTES:
        raise CacheLimitError(
            f"a cache of {limit:,} bytes cannot hold its own bookkeeping; give at least {SMALLEST_BYTES:,}, or "
            "cache=None"
        )
    return limit


def auto_limit(directory: str, held_bytes: int) -> int:
    """How much of a disk a cache may take: the free space and its own, less a reserve of a fifth of the disk.

    Quotas that the file system reports as its size (as container limits on overlay and XFS do) are honoured.

    Raises:
        CacheLimitError: that is too little for a cache.
    """
    disk = os.statvfs(directory)
    total = disk.f_blocks * disk.f_frsize
    free = disk.f_bavail * disk.f_frsize
    reserve = min(max(int(total * _RESERVED_PART), _SMALLEST_RESERVE_BYTES), _LARGEST_RESERVE_BYTES)
    limit = free + held_bytes - reserve
    if limit < _SMALLEST_AUTO_BYTES:
        raise CacheLimitError(
            f"{directory}: {free >> 20:,} MiB are free there, too few for a cache with a reserve of "
            f"{reserve >> 20:,} MiB for everything else"
        )
    return limit


def candidates(environ: Mapping[str, str]) -> Iterator[str]:
    """Directories that may serve for ``"auto"``, the best first."""
    if environ.get("AI4OS_DATA_CACHE"):
        yield environ["AI4OS_DATA_CACHE"]
    if (base := _base(environ)) is not None:
        yield os.path.join(base, "ai4os-data")
    yield fallback("cache")


def fallback(what: str) -> str:
    """A path in the folder for temporary files, for when no better one can be used; anybody can guess its name."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # no such folder can be written: using the path raises the error
        folder = "/tmp"  # noqa: S108
    return os.path.join(folder, f"ai4os-data-{what}-{os.getuid()}")


def spool_candidates(environ: Mapping[str, str]) -> Iterator[str]:
    """Where checkpoints may wait for their upload if the user names no directory, the best first: beside the cache."""
    if environ.get("AI4OS_DATA_SPOOL"):
        yield environ["AI4OS_DATA_SPOOL"]
        return
    if (base := _base(environ)) is not None:
        path = os.path.join(base, "ai4os-data-spool")
        mount = mounts.mount_of(path)
        if mount is None or not (mount.is_network or mount.is_memory):
            yield path
    yield fallback("spool")


def copies_candidates(environ: Mapping[str, str]) -> Iterator[str]:
    """Where local copies, and the records of them, may lie if nobody says, the best first."""
    if environ.get("AI4OS_DATA_COPIES"):
        yield environ["AI4OS_DATA_COPIES"]
        return
    if (base := _base(environ)) is not None:
        yield os.path.join(base, "ai4os-data-copies")
    yield fallback("copies")


def _base(environ: Mapping[str, str]) -> str | None:
    """The user's folder for files that can be made again; None if nothing says which it is.

    A path that is not absolute is ignored (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    given = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return given
    home = ownership.home(environ)
    return None if home is None else os.path.join(home, ".cache")


def spool_room(directory: str | os.PathLike[str]) -> tuple[int, int]:
    """How much is free on the disk of a spool, and how much of that has to stay free."""
    disk = os.statvfs(directory)
    reserve = min(_SPOOL_RESERVE_BYTES, int(_SPOOL_RESERVED_PART * disk.f_blocks * disk.f_frsize))
    return disk.f_bavail * disk.f_frsize, reserve


def usable(directory: str, *, memory_too: bool) -> str:
    """The absolute path of a directory that a cache can use, made if it is missing.

    Raises:
        CacheError: it cannot be made or written, or is not on a local disk.
    """
    directory = os.path.abspath(os.path.expandvars(os.path.expanduser(directory)))  # as diskcache will
    mount = mounts.mount_of(directory)
    if mount is not None and mount.is_network:
        raise CacheError(
            f"{directory} is on {mount.kind} ({mount.source}): a cache belongs on a local disk; give DiskCache "
            "another directory"
        )
    if mount is not None and mount.is_memory and not memory_too:
        raise CacheError(f"{directory} is in main memory ({mount.kind})")
    try:
        try:
            _try(directory)
        except FileNotFoundError:  # somebody is removing it
            _try(directory)
    except OSError as error:
        raise CacheError(
            f"{directory} cannot be used as a cache: {error.strerror}; give DiskCache a directory on a local "
            "disk that you can write to"
        ) from error
    return directory


def _try(directory: str) -> None:
    """Make a directory if it is missing, mark it as ours, and try to write there.

    Raises:
        CacheError: it, or something in it that we use, is another user's, or a link.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    _refuse_what_is_not_ours(directory)
    _claim_directory(directory)
    probe = f"{directory}/.ai4os-data-probe"  # one name, so that a file left behind goes the next time
    os.close(ownership.open_file(probe, os.O_CREAT | os.O_WRONLY))
    with suppress(FileNotFoundError):  # another process has removed the same one
        os.unlink(probe)


def refusal(directory: str) -> str | None:
    """Why a directory must not be used for a cache, because others may write to it; None if it may.

    Raises:
        OSError: it cannot be looked at.
    """
    return ownership.refusal(directory, is_fallback=directory == fallback("cache"))


def _refuse_what_is_not_ours(directory: str) -> None:
    """Refuse a directory through which another user could have our files written, or read, elsewhere.

    Raises:
        CacheError: it is one.
    """
    advice = "give DiskCache a directory of your own, as AI4OS_DATA_CACHE or as its first argument"
    if (reason := refusal(directory)) is not None:
        raise CacheError(f"{directory} {reason}; {advice}")
    for name in (MARKER, *_OUR_NAMES, *_OUR_FOLDERS, "names"):
        if (reason := ownership.foreign(f"{directory}/{name}")) is not None:
            raise CacheError(f"{directory} cannot be used as a cache: its {name!r} {reason}; {advice}")


def _claim_directory(directory: str) -> None:
    """Mark a directory as ours before anything of ours is written there.

    Raises:
        CacheError: it is not ours, and holds files under the names that we use.
    """
    if os.path.lexists(f"{directory}/{MARKER}"):
        return
    taken = [name for name in _OUR_NAMES if os.path.lexists(f"{directory}/{name}")]
    if os.path.lexists(f"{directory}/names") and not is_ours(f"{directory}/names"):
        taken.append("names")
    if taken and not os.path.lexists(f"{directory}/{MARKER}"):  # another process may have marked it just now
        raise CacheError(
            f"{directory} holds {taken[0]!r}, which no cache of ours has put there, and which it would write over; "
            "give DiskCache a directory of its own"
        )
    mark(directory)


def make(directory: str) -> None:
    """Make the directory of a cache again, with the folders in it, if somebody has removed any of them.

    Raises:
        OSError: it cannot be made, or another user has made one in its place.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if (reason := refusal(directory)) is not None:
        raise PermissionError(errno.EACCES, f"it was removed, and now it {reason}", directory)
    mark(directory)
    for name in ("index", "leases"):
        os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
    make_root(directory)


def make_root(directory: str) -> None:
    """Make the folder of the entries' folders in a cache."""
    root = f"{directory}/objects"
    if not os.path.isdir(root):
        os.makedirs(root, mode=0o700, exist_ok=True)
        _spread_below(root)


def is_cache(directory: str) -> bool:
    """Whether a directory is marked as a cache of ours."""
    return os.path.isfile(f"{directory}/{MARKER}")


def mark(directory: str) -> None:
    """Mark a directory as a cache of ours."""
    os.close(ownership.open_file(f"{directory}/{MARKER}", os.O_CREAT | os.O_WRONLY))


def _spread_below(directory: str) -> None:
    """Spread the folders that are made in a directory over the disk, on a file system that can do so, such as ext4.

    For a new file, ext4 searches an inode in the folder's own part of the disk, and passes over those that were deleted
    in the last minutes. That takes 1 ms a file after 16,000 deletions nearby, and 0.07 ms if they are spread
    (https://man7.org/linux/man-pages/man1/chattr.1.html, "T").
    """
    with suppress(OSError):
        descriptor = ownership.open_folder(directory)
        try:
            flags = bytearray(8)
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            fcntl.ioctl(descriptor, _SET_FLAGS, (int.from_bytes(flags, "little") | _TOP_OF_TREE).to_bytes(8, "little"))
        finally:
            os.close(descriptor)
