"""A directory: on a local disk, or on the mount of a network share that may be gone at any moment."""

from __future__ import annotations

import copy
import errno
import os
import secrets
import stat
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from typing_extensions import Self

from ai4os_data import errors, telemetry
from ai4os_data.http import Patience, Source, Wait, outage_of, waited_out, write_whole
from ai4os_data.machine import mounts
from ai4os_data.stores.base import (
    PIECE_BYTES,
    Entries,
    Entry,
    Fetched,
    Keys,
    Listing,
    MakeBody,
    OnBytes,
    Outcome,
    Store,
    Unreadable,
    Unreadables,
    checked,
    memory_body,
)
from ai4os_data.stores.names import why_refused
from ai4os_data.stores.writethrough import writes_through
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

    from ai4os_data.http import Content
    from ai4os_data.stores.levels import Level

T = TypeVar("T")

_GONE = {errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EHOSTDOWN, errno.ECONNABORTED}
_UNREADABLE = (errors.PermissionDeniedError, errors.ServerError, errors.StorageGoneError)
_MOST_VISITS = 32
_NAMED = 5
# What a mount says while its server is away. ENOTCONN is not among it: a mount whose process died does not come back.
_MAY_PASS = {
    *(errno.EIO, errno.ESTALE, errno.EHOSTDOWN, errno.ECONNABORTED, errno.ETIMEDOUT),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
}
_LISTING_DEADLINE_S = 120.0
_Identity = tuple[int, int]
_Gone = list[errors.StorageGoneError]
STAGED = ".ai4os-data-"  # what is being written, and not yet there


class _Members(NamedTuple):
    """What lies directly in a folder: files, folders, what cannot be looked at, and the links that lead nowhere."""

    files: Entries
    folders: Keys
    unreadable: Unreadables
    links: Keys


class DirectoryStore(Store):
    """The files below a directory.

    Args:
        directory: where they are; what is written makes it where it is missing.
        location: what messages call it.
        listing_deadline_s: how long a listing may take on a mount; a dead one can block for ever.
        counters: where bytes are counted.
        patience: how long reads of a mount wait for a storage that is away.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        location: str | None = None,
        listing_deadline_s: float = _LISTING_DEADLINE_S,
        counters: telemetry.Counters | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.root = os.path.abspath(os.fspath(directory))
        self.location = location or self.root
        self.listing_deadline_s = listing_deadline_s
        self.counters = counters or telemetry.Counters()
        self.patience = patience or Patience()
        mount = mounts.mount_of(self.root)
        self.is_local = mount is None or not mount.is_network
        self._mounted_at = str(mount.point) if mount is not None else ""
        self.identity = f"directory {mount.source if mount and mount.is_network else ''} {self.root}"
        if (place := mounts.remote_place(self.root)) is not None:  # the same files, wherever they are mounted
            self.identity = "rclone {}:{}".format(*place)
        self._best_level: Level | None = None

    def place(self, key: str) -> str:
        """Its path, whatever links lead to it."""
        return os.path.realpath(f"{self.root}/{key}")

    def waiting(self, outage_s: float) -> Self:
        """The same directory, read with another patience for a storage that is away."""
        return self._patient(replace(self.patience, outage_s=outage_s))

    def hurried(self, limit_s: float, *, waits: bool) -> Self:
        """The same directory, for a question that somebody has another answer to after a while."""
        hurried = self._patient(self.patience.hurried(limit_s, waits=waits))
        if not waits and hurried is not self:
            hurried.listing_deadline_s = min(limit_s, self.listing_deadline_s)
        return hurried

    def _patient(self, patience: Patience) -> Self:
        if self.is_local or patience == self.patience:
            return self
        other = copy.copy(self)
        other.patience = patience
        return other

    def _waited_out(self, work: Callable[[], T]) -> T:
        """What some reading gives, when the storage behind the mount is there."""
        if self.is_local or not self.patience.outage_s:
            return work()
        return waited_out(work, _may_pass, Wait(outage_of(f"the mount {self._mounted_at}"), self.patience))

    def list(self) -> list[Entry]:
        """Every file below, within a deadline."""
        return self.listing().complete()

    def listing(self) -> Listing:
        """Every file below that can be looked at, within a deadline, and what cannot."""
        return self._waited_out(lambda: self._within_deadline(self._walk_root))

    def list_below(self, folder: str) -> Entries:
        """Every file below a folder, within a deadline; none where it is missing."""
        top = f"{checked(folder)}/" if folder else ""
        found = self._waited_out(
            lambda: self._within_deadline(lambda: self._walk(top) if self._is_folder(top) else Listing([], []))
        )
        return found.complete()

    def has_folder(self, key: str) -> bool:
        """Whether there is such a directory."""
        return self._is_folder(f"{checked(key)}/")

    def members(self, folder: str) -> tuple[Entries, Keys]:
        """What lies directly in a folder; what cannot be looked at is named in the log."""
        top = f"{checked(folder)}/" if folder else ""

        def look() -> tuple[Entries, Keys]:
            files, folders, unreadable, _ = self._members(top)
            for one in unreadable:
                tell_once(f"left out: {one.error}")
            return sorted(files), sorted(key.rstrip("/") for key in folders)

        if self.is_local:
            return look()
        self._check_mounted()
        return self._waited_out(lambda: within(self.listing_deadline_s, look, f"{self.location}: {DEAD_MOUNT}"))

    def make_folder(self, key: str) -> bool:
        """Make a directory, and those above it, where they are missing."""
        if not self.is_local:
            self._check_mounted()
        with self._told(key):
            is_new = not os.path.isdir(self.path(key))
            self._make_directory(key, self.path(key))
        return is_new

    def _make_directory(self, key: str, path: str) -> None:
        try:
            os.makedirs(path, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise errors.LocationError(f"{self.location}: {key!r}: there is a file where a folder belongs") from error

    def stat(self, key: str) -> Entry:
        """One file."""
        path = self.path(key)

        def look() -> os.stat_result:
            with self._told(key):
                return os.stat(path)

        found = self._waited_out(look)
        if not _is_file(found):
            message = f"{self.location}: {key!r} is not a file"
            raise errors.NotFoundError(message)
        return _entry(key, found)

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, one after the other."""
        make = body or memory_body
        for entry in entries:
            try:
                yield entry, self._waited_out(lambda entry=entry: self._read(entry, make))  # type: ignore[misc]
            except errors.StorageError as error:
                yield entry, error

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file."""
        return self._waited_out(lambda: self._read_part(entry, start, stop))

    def _read_part(self, entry: Entry, start: int, stop: int) -> bytes:
        with self._told(entry.key), open(self.path(entry.key), "rb") as file:
            before = os.fstat(file.fileno())
            if not entry.is_same_version(_entry(entry.key, before)):
                raise errors.ChangedError(f"{self.location}: {entry.key!r} changed since it was opened; open it again")
            file.seek(start)
            return file.read(max(0, stop - start))

    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file: staged beside its place on a local disk, in one sequential pass on a mount."""
        self._write(key, Source(content))
        return self.stat(key)

    def delete(self, key: str) -> None:
        """Remove a file."""
        with self._told(key):
            os.unlink(self.path(key))

    def remove_tree(self, key: str) -> None:
        """Remove a folder and all below it; a symbolic link is removed itself, and none is followed."""
        path = self.path(key)
        if not self.is_local:
            self._check_mounted()
        with self._told(key), suppress(FileNotFoundError):
            if any(stat.S_ISLNK(os.lstat(folder).st_mode) for folder in self._folders_above(key)):
                raise errors.LocationError(f"{self.location}: {key!r} is behind a symbolic link; nothing is removed")
            if stat.S_ISDIR(os.lstat(path).st_mode):
                _remove_folder(path)
            else:
                os.unlink(path)

    def _folders_above(self, key: str) -> Iterator[str]:
        """The folders between the root and what a key names."""
        parts = key.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            yield f"{self.root}/{'/'.join(parts[:depth])}"

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """Store a whole new file; on a mount nothing is read back after, which would come from the mount itself."""
        if self.is_local:
            return super().write_confirmed(key, content, sha256, on_bytes=on_bytes)
        self._check_mounted()
        level = self.best_level
        source = Source(content, on_bytes=on_bytes)
        before = self._before(key)
        if before is None or not self._holds(before, source.size_bytes, sha256):
            with suppress(errors.StorageError):  # what an earlier try has left
                self.delete(key)
            self._write(key, source)
        return level

    @property
    def best_level(self) -> Level:
        """Confirmed on a local disk; on a mount what it is worth to be closed, which is tried once."""
        if self._best_level is None:
            self._best_level = "confirmed" if self.is_local else self._level_of_mount()
        return self._best_level

    def _level_of_mount(self) -> Level:
        mount = self._check_mounted()

        def probe() -> Level:
            with self._told("the directory"):
                return "mount" if writes_through(nearest(self.root), mount) else "local"

        return within(self.listing_deadline_s, probe, f"{self.location}: {DEAD_MOUNT}")

    def local_path(self, entry: Entry) -> str | None:
        """The file itself, where it is on a local disk."""
        with suppress(errors.StorageError):  # reading it says what is wrong
            if self.is_local and self.stat(entry.key).is_same_version(entry):
                return self.path(entry.key)
        return None

    def path(self, key: str) -> str:
        """Where a key is."""
        return f"{self.root}/{checked(key)}"

    def _before(self, key: str) -> Entry | None:
        """What an earlier try has left at a key; on a mount nothing that cannot be looked at."""
        try:
            return super()._before(key)
        except errors.StorageError:
            if self.is_local:
                raise
            return None

    def _holds(self, entry: Entry, size_bytes: int, sha256: str) -> bool:
        """Whether an earlier try has stored these bytes. After a failed one a mount shows what it cannot read."""
        try:
            return super()._holds(entry, size_bytes, sha256)
        except errors.StorageError:
            if self.is_local:
                raise
            return False

    def _within_deadline(self, listing: Callable[[], Listing]) -> Listing:
        if self.is_local:
            return listing()
        self._check_mounted()
        return within(self.listing_deadline_s, listing, f"{self.location}: {DEAD_MOUNT}")

    def _check_mounted(self) -> mounts.Mount:
        """Find the mount still there: without it an empty directory shows, and takes what is written."""
        mount = mounts.mount_of(self.root)
        if mount is None or not mount.is_network:
            raise errors.StorageGoneError(f"{self.location}: nothing is mounted here any more. {DEAD_MOUNT}")
        return mount

    def _walk_root(self) -> Listing:
        if not self._is_folder(""):
            raise errors.LocationError(f"{self.location}: there is no such directory")
        return self._walk("")

    def _is_folder(self, top: str) -> bool:
        """Whether there is such a folder; not where there is nothing.

        Raises:
            LocationError: it is a file.
        """
        try:
            with self._told(top or "the directory"):
                is_directory = stat.S_ISDIR(os.stat(f"{self.root}/{top}".rstrip("/")).st_mode)
        except errors.NotFoundError:
            return False
        if not is_directory:
            what = f"{self.location}: {top.rstrip('/')!r}" if top else self.location
            raise errors.LocationError(f"{what} is a file; give the directory that it lies in")
        return True

    def _walk(self, top: str) -> Listing:
        """Every file below a folder that is there; what goes meanwhile is left out, and so is a folder above itself."""
        entries, folders, unreadable, links = self._members(top)
        above: dict[str, tuple[_Identity, ...]] = {folder: (self._identity(top),) for folder in folders}
        visits: Counter[_Identity] = Counter()
        gone: _Gone = []  # in a row: one such folder may be broken, several are the mount
        while folders:
            folder = folders.pop()
            try:
                identity = self._identity(folder)
                if identity in (way := above.pop(folder)):
                    links.append(f"{folder!r} (to a folder above it)")
                    continue
                self._check_visits(folder, visits, identity)
                found = self._members(folder)
            except errors.NotFoundError:
                continue
            except _UNREADABLE as error:
                gone += self._gone(error)
                unreadable.append(Unreadable(folder.rstrip("/"), is_folder=True, error=self._of_one(folder, error)))
                continue
            gone.clear()
            entries += found.files
            unreadable += found.unreadable
            links += found.links
            folders += found.folders
            above.update((each, (*way, identity)) for each in found.folders)
        if len(gone) > 1:
            raise gone[0]
        if links:
            shown = ", ".join(links[:_NAMED]) + (f" and {len(links) - _NAMED} more" if len(links) > _NAMED else "")
            tell_once(f"{self.location}: links that are not followed: {shown}")
        return Listing(sorted(entries), unreadable)

    @staticmethod
    def _gone(error: errors.StorageError) -> _Gone:
        """The error, if it may mean the whole mount; one that can mean nothing else is raised."""
        if not isinstance(error, errors.StorageGoneError):
            return []
        if isinstance(error.__cause__, OSError) and error.__cause__.errno != errno.EIO:
            raise error
        return [error]

    def _of_one(self, folder: str, error: errors.StorageError) -> errors.StorageError:
        """What is wrong with one folder: a mount answers EIO to whatever its server says of it."""
        if not isinstance(error, errors.StorageGoneError):
            return error
        where = f"{self.location}: {folder.rstrip('/')!r}"
        return errors.ServerError(
            f"{where}: the server behind the mount cannot list this folder, or does not allow it (errno {errno.EIO})"
        )

    def _check_visits(self, folder: str, visits: Counter[_Identity], identity: _Identity) -> None:
        """Count how often a folder is reached: links between n folders make n! ways."""
        visits[identity] += 1
        if visits[identity] > _MOST_VISITS:
            raise errors.ServerError(f"{self.location}: {folder!r}: more than {_MOST_VISITS} links lead to this folder")

    def _identity(self, folder: str) -> _Identity:
        """What is the same for a folder and all links to it."""
        with self._told(folder.rstrip("/") or "the directory"):
            found = os.stat(f"{self.root}/{folder}")
        return found.st_dev, found.st_ino

    def _members(self, folder: str) -> _Members:
        """What lies directly in a folder."""
        files, folders, unreadable, links = found_here = _Members([], [], [], [])
        with self._told(folder.rstrip("/") or "the directory"), os.scandir(f"{self.root}/{folder}") as found:
            for item in found:
                key = f"{folder}{item.name}"
                if item.name.startswith(STAGED):
                    continue
                try:
                    with self._told(key):
                        status = item.stat()
                except errors.NotFoundError:
                    if item.is_symlink():
                        links.append(f"{key!r} (to nothing)")
                except _UNREADABLE as error:
                    if item.is_symlink() and _is_circle(error):
                        links.append(f"{key!r} (in a circle)")
                    else:
                        unreadable.append(Unreadable(key, is_folder=_is_folder(item), error=error))
                else:
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(f"{key}/")
                    elif _is_file(status):
                        files.append(_entry(key, status))
        return found_here

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

    def _write(self, key: str, source: Source) -> None:
        try:
            self._write_told(key, source)
        except (
            errors.PermissionDeniedError,
            errors.NotFoundError,
            errors.ServerError,
            errors.StorageGoneError,
        ) as error:
            why = None if self.is_local else why_refused(key, is_forbidden=True)
            if why is None:
                raise
            raise errors.NameRefusedError(
                f"{self.location}: {key!r} cannot be written: the server behind the mount refuses the name, since "
                f"{why}. Choose another name. ({error})"
            ) from error

    def _write_told(self, key: str, source: Source) -> None:
        target = self.path(key)
        with self._told(key):
            self._make_directory(key, os.path.dirname(target))
            try:
                if self.is_local:
                    self._write_beside(target, source)
                else:
                    _write_through(target, source)
            except IsADirectoryError as error:
                raise errors.LocationError(f"{self.location}: {key!r}: there is a folder of this name") from error

    def _write_beside(self, target: str, source: Source) -> None:
        staged = f"{os.path.dirname(target)}/{STAGED}{secrets.token_hex(8)}"
        # Not mkstemp: a file that others may read has the mode that the umask gives it.
        descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                _copy(source, file)
                os.fsync(file.fileno())
            os.replace(staged, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(staged)
            raise
        self._sync_folders(target)

    def _sync_folders(self, target: str) -> None:
        """Let the names of a new file and of the folders above it, which may be new too, survive a power cut."""
        folder = os.path.dirname(target)
        while folder.startswith(self.root):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            folder = os.path.dirname(folder)

    def _told(self, key: str) -> _Translated:
        return told(self.location, key)


DEAD_MOUNT = (
    "the mount does not answer: the storage is gone, or the mount's credentials have expired. Restart the deployment, "
    "or read over WebDAV with 'rshare:path' where credentials are there"
)


def _may_pass(error: errors.StorageError) -> bool:
    """Whether it is what a mount says while the server behind it is away."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _MAY_PASS


def nearest(path: str) -> str:
    """The directory, or the nearest one above it that exists."""
    while True:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
        else:
            return path


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


def _is_circle(error: errors.StorageError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ELOOP


def _is_folder(item: os.DirEntry[str]) -> bool | None:
    """Whether something that cannot be looked at is a folder; None for a link, which may lead to anything."""
    return None if item.is_symlink() else item.is_dir(follow_symlinks=False)


def _is_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)


def _remove_folder(top: str) -> None:
    """Remove a folder from the leaves up. What is gone already is no error: somebody may be removing it too.

    Not shutil.rmtree, which stops at the first such file; an old listing of a mount can show many.
    """

    def unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, folders, files in os.walk(top, topdown=False, onerror=unless_gone):
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]
        for name in files + links:
            with suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")
        with suppress(FileNotFoundError):
            os.rmdir(folder)


def _write_through(target: str, source: Source) -> None:
    """One sequential pass; the close uploads, and raises where that fails."""
    file = open(target, "wb", buffering=0)  # noqa: SIM115  what cannot be opened is not ours to remove
    try:
        with file:
            _copy(source, file)
    except BaseException:
        with suppress(OSError):  # the mount would keep the first part under the final name
            os.unlink(target)
        raise


def _copy(source: Source, file: FileIO) -> None:
    reader = source.open()
    try:
        while piece := reader.read(PIECE_BYTES):
            write_whole(file, piece)
    finally:
        reader.close()
