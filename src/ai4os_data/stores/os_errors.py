"""Translates the operating system's errors about a file into ours, and gives up a call that blocks at a deadline."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

DEAD_MOUNT = (
    "the mount does not answer: the storage is gone, or the mount's credentials have expired. Restart the deployment, "
    "or read over WebDAV with 'rshare:path' where credentials are there"
)

_GONE = {errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EHOSTDOWN, errno.ECONNABORTED}
# What a mount says while its server is away. ENOTCONN is not among it: a mount whose process died does not come back.
_MAY_PASS = {
    *(errno.EIO, errno.ESTALE, errno.EHOSTDOWN, errno.ECONNABORTED, errno.ETIMEDOUT),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
}
_KINDS: dict[int, type[errors.StorageError]] = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), errors.PermissionDeniedError),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), errors.OutOfSpaceError),
}


def storage_error(location: str, key: str, error: OSError) -> errors.StorageError:
    """Our error for what the operating system says of a file."""
    where = f"{location}: {key!r}"
    if error.errno in _GONE:
        return errors.StorageGoneError(f"{where}: {DEAD_MOUNT} (errno {error.errno})")
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}:
        return errors.NotFoundError(f"{where}: no such file")
    if (kind := _KINDS.get(error.errno or 0)) is not None:
        return kind(f"{where}: {error.strerror}")
    return errors.ServerError(f"{where}: {error.strerror} (errno {error.errno})")


class Translating:
    """A context that raises an `OSError` about a file as one of our errors. A generator would cost each read 1 µs more.

    Args:
        location: what messages call the store.
        key: the file.
        into: makes our error.
    """

    def __init__(
        self, location: str, key: str, into: Callable[[str, str, OSError], errors.StorageError] = storage_error
    ) -> None:
        self._about = location, key
        self._into = into

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> None:
        """Raise our error instead of the system's."""
        if isinstance(error, OSError) and not isinstance(error, errors.StorageError):
            raise self._into(*self._about, error) from error


def errno_of(error: errors.StorageError) -> int | None:
    """The number that the operating system gave for what was translated."""
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def may_pass(error: errors.StorageError) -> bool:
    """Whether it is an error that a mount gives while the server behind it is away."""
    return errno_of(error) in _MAY_PASS


def within(deadline_s: float, work: Callable[[], T], message: str) -> T:
    """The result of some work, if it comes within the deadline; the thread of one that does not is left behind.

    Raises:
        StorageGoneError: it did not come.
    """
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True, name="ai4os-data-mount")
    thread.start()
    thread.join(deadline_s)
    if not outcome:
        raise errors.StorageGoneError(f"{message} (no answer within {deadline_s:g} s)")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
