"""Paths of this machine: plain directories, and the mount of the storage, read over WebDAV where that is possible.

The mount gives 25 small files a second, and may answer an error, nothing, or an old listing. So a path on an rclone
mount is mapped to its remote, one file is compared both ways, and the rest is read from the server itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ai4os_data import errors, mounts, telemetry
from ai4os_data.remotes import Remote
from ai4os_data.stores.base import Store
from ai4os_data.stores.directory import DEAD_MOUNT, DirectoryStore, told, within
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from pathlib import Path

STORAGE = "/storage"

_LOOK_DEADLINE_S = 30.0  # a large folder may take some seconds; behind a dead server it may take minutes
_COMPARED_BYTES = 1024 * 1024
_LOOKED_AT = 200

OpenDav = Callable[[Remote, str], Store]


def open_path(
    path: str,
    remote: Remote | None,
    *,
    environ: Mapping[str, str],
    open_dav: OpenDav,
    counters: telemetry.Counters | None = None,
    table: Path = mounts.MOUNT_TABLE,
    storage: str = STORAGE,
    deadline_s: float = _LOOK_DEADLINE_S,
) -> Store:
    """The store for a path of this machine.

    Args:
        path: a directory.
        remote: whose credentials to use, where the path is on an rclone mount.
        environ: where a remote is looked for otherwise.
        open_dav: opens the store for a path below a remote.
        counters: where bytes are counted.
        table: the mount table.
        storage: where the platform mounts the storage.
        deadline_s: how long a first look at a mount may take; a dead one can block for ever.

    Raises:
        LocationError: there is no such directory.
        StorageGoneError: it is on a mount that answers no more.
    """
    path = os.path.abspath(path)
    mount = mounts.mount_of(path, table)
    direct = _direct_store(path, _place(path, mount, table), remote, environ, open_dav)
    try:
        _look(path, mount, deadline_s)
        seen = _some_file(path, deadline_s) if direct is not None else None
    except errors.StorageGoneError as gone:
        if direct is None:
            raise
        tell_once(f"{gone}. Reading over WebDAV instead, as {direct.location}")
        return direct
    _tell_if_not_synced(path, mount, storage)
    if direct is not None and seen is not None and _is_same(path, seen, direct):
        return direct
    return DirectoryStore(path, counters=counters)


def _place(path: str, mount: mounts.Mount | None, table: Path) -> tuple[str, str] | None:
    """The remote's name and the path below it that lie under a path; None where it is on no rclone mount."""
    place = mount.remote_path() if mount else None
    if mount is None or place is None:
        return None
    name, top = place
    below = os.path.relpath(mounts.resolved(path, table), mount.point)
    return name, "/".join(part for part in (top, "" if below == "." else below) if part)


def _direct_store(
    path: str,
    place: tuple[str, str] | None,
    remote: Remote | None,
    environ: Mapping[str, str],
    open_dav: OpenDav,
) -> Store | None:
    """The store that reads the same folder from the server; None where the way or the credentials are unknown."""
    if place is None:
        return None
    name, remote_path = place
    try:
        store = open_dav(remote or Remote.discover(name, environ), remote_path)
    except errors.RemoteError:
        return None
    store.location = f"{path} ({name}:{remote_path})"
    return store


def _look(path: str, mount: mounts.Mount | None, deadline_s: float) -> None:
    """Find the directory; on a mount within a deadline and by a listing, since its top is known without asking."""
    is_network = mount is not None and mount.is_network

    def find() -> bool:
        with told(path, "the directory"):
            os.stat(path)  # says why, where there is nothing
            is_folder = os.path.isdir(path)
            if is_network and is_folder:
                with os.scandir(path) as listing:
                    next(listing, None)
            return is_folder

    try:
        found = within(deadline_s, find, f"{path}: {DEAD_MOUNT}") if is_network else find()
    except errors.NotFoundError as error:
        message = (
            f"{path}: there is no such directory. Is the storage mounted? `ls {STORAGE}` and `mount | grep rclone` tell"
        )
        raise errors.LocationError(message) from error
    if not found:
        message = f"{path} is a file; give the directory that it lies in"
        raise errors.LocationError(message)


def _tell_if_not_synced(path: str, mount: mounts.Mount | None, storage: str) -> None:
    if (path == storage or path.startswith(f"{storage}/")) and not (mount and mount.is_network):
        tell_once(
            f"{storage} is a plain directory of this machine: no storage is mounted there, and nothing in it is "
            "synced. Link a storage to "
            f"the deployment, or read with 'rshare:path'"
        )


class _Seen(NamedTuple):
    """A file as the mount shows it: its key, its size, and how it begins."""

    key: str
    size_bytes: int
    begin: bytes


def _some_file(path: str, deadline_s: float) -> _Seen | None:
    """One of the first files that the mount shows, an empty one only where the others are too; None for no file."""

    def read() -> _Seen | None:
        with told(path, "the first file"):
            found = sorted(_files(path), key=lambda file: file[1] == 0)
            if not found:
                return None
            key, size_bytes = found[0]
            with open(f"{path}/{key}", "rb") as file:
                return _Seen(key, size_bytes, file.read(_COMPARED_BYTES))

    return within(deadline_s, read, f"{path}: {DEAD_MOUNT}")


def _is_same(path: str, seen: _Seen, direct: Store) -> bool:
    """Whether the server gives a file as the mount does. What it is read through is told."""
    try:
        entry = direct.stat(seen.key)
        same = entry.size_bytes == seen.size_bytes and seen.begin == direct.read_range(entry, 0, _COMPARED_BYTES)
    except errors.NotFoundError:
        same = False
    except errors.StorageError as error:
        tell_once(f"{path}: reading through the mount, since WebDAV does not work: {error}")
        return False
    if same:
        tell_once(
            f"{path} is {direct.location}: reading over WebDAV, which is faster than the mount ({seen.key!r} is the "
            "same both ways)"
        )
    else:
        tell_once(
            f"{path}: reading through the mount, since {seen.key!r} is different over WebDAV. An old listing? It "
            "passes after 5 minutes"
        )
    return same


def _files(path: str) -> list[tuple[str, int]]:
    """Keys and sizes of files, among the first few names that are there."""
    files: list[tuple[str, int]] = []
    folders, looked_at = [""], 0
    while folders and looked_at < _LOOKED_AT:
        folder = folders.pop(0)
        with os.scandir(f"{path}/{folder}") as listing:
            for item in islice(listing, _LOOKED_AT - looked_at):
                looked_at += 1
                if item.is_dir():
                    folders.append(f"{folder}{item.name}/")
                elif item.is_file():
                    files.append((f"{folder}{item.name}", item.stat().st_size))
        if any(size_bytes for _, size_bytes in files):
            break
    return files
