"""A directory: on a local disk, or on the mount of a network share that may be gone at any moment.

A look at a mount ends after a deadline, and reads wait for a storage that is away; nothing is written to a directory
whose mount has gone.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ai4os_data import errors, telemetry
from ai4os_data.http import Patience, Source, Wait, outage_of, waited_out
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
    checked,
    holds,
    memory_body,
)
from ai4os_data.stores.directory_files import nearest, remove_folder, write_beside, write_through
from ai4os_data.stores.directory_tree import DirectoryTree, entry_of
from ai4os_data.stores.names import why_refused
from ai4os_data.stores.os_errors import DEAD_MOUNT, Translating, may_pass, within
from ai4os_data.stores.writethrough import writes_through
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ai4os_data.http import Content
    from ai4os_data.stores.levels import Level

T = TypeVar("T")

_LISTING_DEADLINE_S = 120.0
_OF_A_NAME = (errors.PermissionDeniedError, errors.NotFoundError, errors.ServerError, errors.StorageGoneError)


class DirectoryStore(Store):
    """The files below a directory.

    Args:
        directory: where they are; what is written makes it if it is missing.
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
        if (remote_path := mounts.remote_path(self.root)) is not None:  # the same files, wherever they are mounted
            self.identity = "rclone {}:{}".format(*remote_path)
        self._best_level: Level | None = None
        self._tree = DirectoryTree(self.root, self.location)

    # --- looking

    def _listed(self, folder: str) -> Listing | None:
        top = _top(folder)
        return self._seen(lambda: self._tree.walk(top) if self._tree.is_folder(top) else None)

    def has_folder(self, key: str) -> bool:
        """Whether there is such a directory."""
        return self._tree.is_folder(_top(checked(key)))

    def members(self, folder: str) -> tuple[Entries, Keys]:
        """What lies directly in a folder; what cannot be looked at is named in the log."""
        top = _top(folder)
        files, folders, unreadable, _ = self._seen(lambda: self._tree.members(top))
        for one in unreadable:
            tell_once(f"left out: {one.error}")
        return sorted(files), sorted(key.rstrip("/") for key in folders)

    def _seen(self, look: Callable[[], T]) -> T:
        """What a look at a folder gives: on a mount within the deadline, and repeated while the storage is away."""
        if self.is_local:
            return look()
        deadline_s = min(self.listing_deadline_s, self.patience.total_s)

        def in_time() -> T:
            self._check_mounted()
            return within(deadline_s, look, f"{self.location}: {DEAD_MOUNT}")

        return self._waited_out(in_time)

    def _waited_out(self, work: Callable[[], T]) -> T:
        """The result of a read, repeated while the storage behind the mount is away."""
        if self.is_local or not self.patience.outage_s:
            return work()
        return waited_out(work, may_pass, Wait(outage_of(f"the mount {self._mounted_at}"), self.patience))

    def _check_mounted(self) -> mounts.Mount:
        """Check that the mount is still there: without it an empty directory takes whatever is written."""
        mount = mounts.mount_of(self.root)
        if mount is None or not mount.is_network:
            raise errors.StorageGoneError(f"{self.location}: nothing is mounted here any more. {DEAD_MOUNT}")
        return mount

    def stat(self, key: str) -> Entry:
        """One file."""
        path = self.path(key)

        def look() -> os.stat_result:
            with Translating(self.location, key):
                return os.stat(path)

        found = self._waited_out(look)
        if not stat.S_ISREG(found.st_mode):
            raise errors.NotFoundError(f"{self.location}: {key!r} is not a file")
        return entry_of(key, found)

    def path(self, key: str) -> str:
        """The path of a key."""
        return f"{self.root}/{checked(key)}"

    # --- reading

    def read_many(self, entries: Iterable[Entry], body: MakeBody | None = None) -> Iterator[Outcome]:
        """Read whole files, one after the other."""
        make = body or memory_body
        for entry in entries:
            try:
                yield entry, self._waited_out(lambda entry=entry: self._read(entry, make))  # type: ignore[misc]
            except errors.StorageError as error:
                yield entry, error

    def _read(self, entry: Entry, make: MakeBody) -> Fetched:
        body = make(entry)
        with Translating(self.location, entry.key), open(self.path(entry.key), "rb", buffering=0) as file:
            before = entry_of(entry.key, os.fstat(file.fileno()))
            while piece := file.read(PIECE_BYTES):
                body.write(piece)
            after = entry_of(entry.key, os.fstat(file.fileno()))
        if before != after or body.length != after.size_bytes:
            raise errors.ChangedError(
                f"{self.location}: {entry.key!r} changed while it was read; is it still being written?"
            )
        if not self.is_local:
            self.counters.row[telemetry.BYTES_FROM_NETWORK] += body.length
        return Fetched(after, body)

    def read_range(self, entry: Entry, start: int, stop: int) -> bytes:
        """Part of a file."""

        def read() -> bytes:
            with Translating(self.location, entry.key), open(self.path(entry.key), "rb") as file:
                before = os.fstat(file.fileno())
                if not entry.is_same_version(entry_of(entry.key, before)):
                    raise errors.ChangedError(
                        f"{self.location}: {entry.key!r} changed since it was opened; open it again"
                    )
                file.seek(start)
                return file.read(max(0, stop - start))

        return self._waited_out(read)

    # --- writing

    def write(self, key: str, content: Content) -> Entry:
        """Store a whole file: staged beside its path on a local disk, in one sequential pass on a mount."""
        self._write(key, Source(content))
        return self.stat(key)

    def write_confirmed(
        self, key: str, content: Path | bytes, sha256: str, *, on_bytes: OnBytes | None = None
    ) -> Level:
        """Store a whole new file; on a mount nothing is read back, since the bytes would come from the mount itself."""
        if self.is_local:
            super().write_confirmed(key, content, sha256, on_bytes=on_bytes)
            return self.best_level()
        self._check_mounted()
        level = self.best_level()
        source = Source(content, on_bytes=on_bytes)
        try:
            is_there = holds(self, self.stat(key), source.size_bytes, sha256)
        except errors.StorageError:  # after a failed try a mount may list a file that it cannot read
            is_there = False
        if not is_there:
            with suppress(errors.StorageError):  # what an earlier try has left
                self.delete(key)
            self._write(key, source)
        return level

    def best_level(self) -> Level:
        """``"confirmed"`` on a local disk. On a mount it depends on what a close does, which is tried once."""
        if self._best_level is None:
            self._best_level = "confirmed" if self.is_local else self._level_of_mount()
        return self._best_level

    def _level_of_mount(self) -> Level:
        mount = self._check_mounted()

        def probe() -> Level:
            with Translating(self.location, "the directory"):
                return "mount" if writes_through(nearest(self.root), mount) else "local"

        return within(self.listing_deadline_s, probe, f"{self.location}: {DEAD_MOUNT}")

    def _write(self, key: str, source: Source) -> None:
        target = self.path(key)
        try:
            with Translating(self.location, key):
                _make_directory(self.location, key, os.path.dirname(target))
                if self.is_local:
                    write_beside(target, source, self.root)
                else:
                    write_through(target, source)
        except _OF_A_NAME as error:
            if isinstance(error.__cause__, IsADirectoryError):
                raise errors.LocationError(f"{self.location}: {key!r}: there is a folder of this name") from error
            why = None if self.is_local else why_refused(key, is_forbidden=True)
            if why is None:
                raise
            raise errors.NameRefusedError(
                f"{self.location}: {key!r} cannot be written: the server behind the mount refuses the name, since "
                f"{why}. Choose another name. ({error})"
            ) from error

    def make_folder(self, key: str) -> bool:
        """Make a directory, and those above it, if they are missing."""
        if not self.is_local:
            self._check_mounted()
        with Translating(self.location, key):
            is_new = not os.path.isdir(self.path(key))
            _make_directory(self.location, key, self.path(key))
        return is_new

    # --- removing

    def delete(self, key: str) -> None:
        """Remove a file."""
        with Translating(self.location, key):
            os.unlink(self.path(key))

    def remove_tree(self, key: str) -> None:
        """Remove a folder and all below it; a symbolic link is removed itself, and none is followed."""
        path = self.path(key)
        if not self.is_local:
            self._check_mounted()
        with Translating(self.location, key), suppress(FileNotFoundError):
            folder = self.root
            for part in key.split("/")[:-1]:
                folder += f"/{part}"
                if stat.S_ISLNK(os.lstat(folder).st_mode):
                    raise errors.LocationError(
                        f"{self.location}: {key!r} is behind a symbolic link; nothing is removed"
                    )
            if stat.S_ISDIR(os.lstat(path).st_mode):
                remove_folder(path)
            else:
                os.unlink(path)


def _top(folder: str) -> str:
    """The name of a folder in a `DirectoryTree`."""
    return f"{checked(folder)}/" if folder else ""


def _make_directory(location: str, key: str, path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise errors.LocationError(f"{location}: {key!r}: there is a file where a folder belongs") from error
