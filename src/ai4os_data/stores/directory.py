"""A directory: on a local disk, or on the mount of a network share that may be gone at any moment."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors, mounts, telemetry
from ai4os_data.stores.base import (
    PIECE_BYTES,
    Entries,
    Entry,
    Fetched,
    MakeBody,
    Outcome,
    Store,
    checked,
    memory_body,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data.bodies import Content

T = TypeVar("T")

_GONE = {errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EHOSTDOWN, errno.ECONNABORTED}
_LISTING_DEADLINE_S = 120.0
_STAGED = ".ai4os-data-"  # what is being written, and not yet there


class DirectoryStore(Store):
    """The files below a directory.

    Args:
        directory: an existing directory.
        location: what messages call it.
        listing_deadline_s: how long a listing may take on a mount; a dead one can block for ever.
        counters: where bytes are counted.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        location: str | None = None,
        listing_deadline_s: float = _LISTING_DEADLINE_S,
        counters: telemetry.Counters | None = None,
    ) -> None:
        self.root = os.path.abspath(os.fspath(directory))
        self.location = location or self.root
        self.listing_deadline_s = listing_deadline_s
        self.counters = counters or telemetry.Counters()
        mount = mounts.mount_of(self.root)
        self.is_local = mount is None or not mount.is_network
        self.identity = f"directory {mount.source if mount and mount.is_network else ''} {self.root}"

    def list(self) -> list[Entry]:
        """Every file below, within a deadline."""
        if self.is_local:
            return self._walk()
        return within(self.listing_deadline_s, self._walk, f"{self.location}: {DEAD_MOUNT}")

    def stat(self, key: str) -> Entry:
        """One file."""
        path = self.path(key)
        with self._told(key):
            found = os.stat(path)
        if not _is_file(found):
            message = f"{self.location}: {key!r} is not a file"
            raise errors.NotFoundError(message)
        return _entry(key, found)

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, one after the other."""
        make = body or memory_body
        for entry in entries:
            try:
                yield entry, self._read(entry, make)
            except errors.StorageError as error:
                yield entry, error

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file."""
        with self._told(entry.key), open(self.path(entry.key), "rb") as file:
            before = os.fstat(file.fileno())
            if not entry.is_same_version(_entry(entry.key, before)):
                raise errors.ChangedError(f"{self.location}: {entry.key!r} changed since it was opened; open it again")
            file.seek(start)
            return file.read(max(0, stop - start))

    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file: staged beside its place on a local disk, in one sequential pass on a mount."""
        target = self.path(key)
        with self._told(key):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if self.is_local:
                self._write_beside(target, content)
            else:
                with open(target, "wb") as file:
                    _copy(content, file.write)
        return self.stat(key)

    def delete(self, key: str) -> None:
        """Remove a file."""
        with self._told(key):
            os.unlink(self.path(key))

    def local_path(self, entry: Entry) -> str | None:
        """The file itself, where it is on a local disk."""
        with suppress(errors.StorageError):  # reading it says what is wrong
            if self.is_local and self.stat(entry.key).is_same_version(entry):
                return self.path(entry.key)
        return None

    def path(self, key: str) -> str:
        """Where a key is."""
        return f"{self.root}/{checked(key)}"

    def _walk(self) -> Entries:
        self._check_root()
        entries: Entries = []
        folders = [""]
        while folders:
            folder = folders.pop()
            with self._told(folder or "the directory"), os.scandir(f"{self.root}/{folder}") as found:
                for item in found:
                    key = f"{folder}{item.name}"
                    if item.is_dir():
                        folders.append(f"{key}/")
                    elif item.is_file() and not item.name.startswith(_STAGED):
                        entries.append(_entry(key, item.stat()))
        return sorted(entries)

    def _check_root(self) -> None:
        try:
            with self._told("the directory"):
                is_directory = stat.S_ISDIR(os.stat(self.root).st_mode)
        except errors.NotFoundError as error:
            raise errors.LocationError(f"{self.location}: there is no such directory") from error
        if not is_directory:
            raise errors.LocationError(f"{self.location} is a file; give the directory that it lies in")

    def _read(self, entry: Entry, make: MakeBody) -> Fetched:
        body = make(entry)
        with self._told(entry.key), open(self.path(entry.key), "rb", buffering=0) as file:
            before = _entry(entry.key, os.fstat(file.fileno()))
            while piece := file.read(PIECE_BYTES):
                body.write(piece)
            after = _entry(entry.key, os.fstat(file.fileno()))
        if before != after or body.length != after.size_bytes:
            raise errors.ChangedError(
                f"{self.location}: {entry.key!r} changed while it was read; is it still being written?"
            )
        if not self.is_local:
            self.counters.row[telemetry.BYTES_FROM_NETWORK] += body.length
        return Fetched(after, body)

    def _write_beside(self, target: str, content: Content) -> None:
        staged = f"{os.path.dirname(target)}/{_STAGED}{secrets.token_hex(8)}"
        # Not mkstemp: a file that others may read has the mode that the umask gives it.
        descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _copy(content, file.write)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(staged)
            raise

    def _told(self, key: str) -> _Translated:
        return told(self.location, key)


DEAD_MOUNT = (
    "the mount does not answer: the storage is gone, or the mount's credentials have expired. Restart the deployment, "
    "or read over WebDAV with 'rshare:path' where credentials are there"
)


def told(location: str, key: str) -> _Translated:
    """A context in which what the operating system says of a file becomes one of our errors."""
    return _Translated(location, key)


class _Translated:
    """Turns what the operating system says of a file into our errors."""

    def __init__(self, location: str, key: str) -> None:
        self._location = location
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, errors.StorageError):
            return
        where = f"{self._location}: {self._key!r}"
        if error.errno in _GONE:
            raise errors.StorageGoneError(f"{where}: {DEAD_MOUNT} (errno {error.errno})") from error
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}:
            raise errors.NotFoundError(f"{where}: no such file") from error
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise errors.PermissionDeniedError(f"{where}: {error.strerror}") from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise errors.OutOfSpaceError(f"{where}: {error.strerror}") from error
        raise errors.ServerError(f"{where}: {error.strerror} (errno {error.errno})") from error


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


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}")


def _is_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)


def _copy(content: Content, write: Callable[[bytes | memoryview], int]) -> None:
    if isinstance(content, Path):
        with content.open("rb") as source:
            while piece := source.read(PIECE_BYTES):
                write(piece)
        return
    view = memoryview(content).cast("B")
    for begin in range(0, len(view), PIECE_BYTES):
        write(view[begin : begin + PIECE_BYTES])
