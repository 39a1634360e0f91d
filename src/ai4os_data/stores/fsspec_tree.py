"""What an fsspec file system has below a folder, as entries, and what it says of a failure, as our errors."""

from __future__ import annotations

import errno
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from ai4os_data import errors
from ai4os_data.stores.base import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

Info = dict[str, Any]

_AWAY = (errors.ServerUnavailableError, errors.DeadlineError, errors.ThrottledError)
_NOT_REACHED = (
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
    *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN),
)
_OF_NUMBERS: dict[int | None, type[errors.StorageError]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), errors.OutOfSpaceError),
    **dict.fromkeys(_NOT_REACHED, errors.ServerUnavailableError),
}
_OF_TYPES: dict[type[OSError], type[errors.StorageError]] = {
    FileNotFoundError: errors.NotFoundError,
    NotADirectoryError: errors.NotFoundError,
    IsADirectoryError: errors.NotFoundError,
    PermissionError: errors.PermissionDeniedError,
    TimeoutError: errors.DeadlineError,
    ConnectionError: errors.ServerUnavailableError,
}
_IN_THE_WAY = (FileExistsError, IsADirectoryError, NotADirectoryError)
_TAGGED_BY = ("ETag", "etag", "md5", "md5Hash", "checksum")
_DATED_BY = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class Tree(NamedTuple):
    """What was found: files by path, why something could not be listed, and the folders in which there is nothing."""

    files: dict[str, Info]
    failures: dict[str, OSError]
    hollow: list[str]


def tree(system: AbstractFileSystem, top: str) -> Tree:
    """Every file below a folder that is there.

    fsspec's own `find` leaves out a folder that it may not list, without a word. So folders are listed one by one,
    unless the file system has a way of its own: S3 lists a thousand keys at a time.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    if _has_own_way(system):
        found: dict[str, Info] = system.find(top, detail=True)
        return Tree({path: info for path, info in found.items() if info.get("type") == "file"}, {}, [])
    files: dict[str, Info] = {}
    failures: dict[str, OSError] = {}
    hollow: list[str] = []
    folders, seen = [top.rstrip("/")], {top.rstrip("/")}
    while folders:
        folder = folders.pop()
        try:
            members = list(_members(system, folder))
            if not members and folder != top.rstrip("/"):
                hollow.append(folder)
            for path, info in members:
                if info.get("type") == "directory":
                    folders += [path] if path not in seen else []
                    seen.add(path)
                else:
                    _sort_in(system, path, info, files, failures)
        except FileNotFoundError:
            continue  # it has disappeared
        except OSError as error:
            if folder == top.rstrip("/"):
                raise
            failures[folder] = error
    return Tree(files, failures, hollow)


def _sort_in(
    system: AbstractFileSystem, path: str, info: Info, files: dict[str, Info], failures: dict[str, OSError]
) -> None:
    if is_file(system, path, info):
        files[path] = info
    elif info.get("islink") or info.get("type") == "link":
        failures[path] = OSError("a link to something else than a file, which is not followed here")


def is_file(system: AbstractFileSystem, path: str, info: Info) -> bool:
    """Whether something is a file, or a link to one: for local links fsspec does not say what they lead to."""
    if info.get("type") == "file":
        return True
    return bool(info.get("islink") or info.get("type") == "link") and bool(system.isfile(path))


def _members(system: AbstractFileSystem, folder: str) -> Iterator[tuple[str, Info]]:
    for info in system.ls(folder, detail=True):
        path = info["name"].rstrip("/")
        if path != folder or info.get("type") == "file":
            yield path, info


def _has_own_way(system: AbstractFileSystem) -> bool:
    if isinstance(system, AsyncFileSystem):
        return type(system)._find is not AsyncFileSystem._find  # noqa: SLF001  what its implementations override
    return type(system).find is not AbstractFileSystem.find


def entry_of(key: str, size_bytes: int, info: Info) -> Entry:
    """A file as its file system describes it."""
    etag = next((str(info[name]) for name in _TAGGED_BY if info.get(name)), None)
    changed = next((_moment(info[name]) for name in _DATED_BY if info.get(name)), None)
    return Entry(key, size_bytes, etag.strip('"') if etag else None, changed)


def _moment(value: object) -> str:
    """A moment as text, the same from a listing and from `info`: fsspec's memory file system has two types for it."""
    return str(value.timestamp() if isinstance(value, datetime) else value)


def whole_number(value: Any) -> int | None:
    """A size as an integer, whatever type a file system gives; None if it is no size."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 and (isinstance(value, str) or number == value) else None


def fsspec_error(location: str, key: str, error: OSError) -> errors.StorageError:
    """Our error for what a file system says of a file."""
    if isinstance(error, errors.StorageError):
        return error
    kind = _OF_NUMBERS.get(error.errno) or next(
        (ours for theirs, ours in _OF_TYPES.items() if isinstance(error, theirs)), errors.ServerError
    )
    return kind(f"{location}: {key!r}: {error}")


def write_error(location: str, key: str, error: OSError) -> errors.StorageError:
    """Our error for what a file system says of a file that was to be written."""
    if isinstance(error, _IN_THE_WAY):
        return errors.LocationError(f"{location}: {key!r}: a file and a folder cannot have the same name")
    return fsspec_error(location, key, error)


def may_pass(error: errors.StorageError) -> bool:
    """Whether it is an error that a file system raises while its server is away."""
    return isinstance(error, _AWAY)
