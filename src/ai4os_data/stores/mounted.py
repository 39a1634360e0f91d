"""Paths of this machine: plain directories, and the mount of the storage, read over WebDAV where that is possible.

The mount gives 25 small files a second, and may answer an error, nothing, or an old listing. So a path on an rclone
mount is mapped to its remote, one file is compared both ways, and the rest is read from the server itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ai4os_data import errors, mounts, telemetry
from ai4os_data.remotes import Remote
from ai4os_data.stores.base import Store
from ai4os_data.stores.directory import DirectoryStore, within
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from pathlib import Path

STORAGE = "/storage"

_LOOK_DEADLINE_S = 20.0
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

    Raises:
        LocationError: there is no such directory.
        StorageGoneError: it is on a mount that answers no more.
    """
    path = os.path.abspath(path)
    mount = mounts.mount_of(path, table)
    direct = _direct_store(path, mount, remote, environ, open_dav)
    try:
        _look(path, mount)
    except errors.StorageGoneError as gone:
        if direct is None:
            raise
        tell_once(f"{gone} Reading over WebDAV instead.")
        return direct
    _tell_if_not_synced(path, mount, storage)
    through_mount = DirectoryStore(path, counters=counters)
    if direct is None:
        return through_mount
    try:
        compared = _same_file_both_ways(path, direct)
    except errors.StorageError as error:
        tell_once(f"{path}: reading through the mount, since WebDAV does not work: {error}")
        return through_mount
    if compared is None:
        return through_mount
    tell_once(
        f"{path} is {direct.location}: reading over WebDAV, which is faster than the mount ({compared!r} is the same "
        "both ways)"
    )
    return direct


def _direct_store(
    path: str,
    mount: mounts.Mount | None,
    remote: Remote | None,
    environ: Mapping[str, str],
    open_dav: OpenDav,
) -> Store | None:
    """The store that reads the same folder from the server; None where the way or the credentials are unknown."""
    place = mount.remote_path() if mount else None
    if mount is None or place is None:
        return None
    name, top = place
    try:
        remote = remote or Remote.discover(name, environ)
    except errors.RemoteError:
        return None
    below = os.path.relpath(path, mount.point)
    parts = [part for part in (top, "" if below == "." else below) if part]
    store = open_dav(remote, "/".join(parts))
    store.location = f"{path} ({name}:{'/'.join(parts)})"
    return store


def _look(path: str, mount: mounts.Mount | None) -> None:
    """Find the directory, within a deadline where it is on a mount."""

    def listing() -> bool:
        with DirectoryStore(path)._told("the directory"):  # noqa: SLF001  the same words for the same trouble
            os.stat(path)  # says why, where there is nothing
            return os.path.isdir(path)

    try:
        found = (
            within(_LOOK_DEADLINE_S, listing, f"{path}: the mount does not answer")
            if mount and mount.is_network
            else listing()
        )
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


def _same_file_both_ways(path: str, direct: Store) -> str | None:
    """The key of a file that the mount and the server give alike; None where they differ, or there is none."""

    def through_mount() -> tuple[str, bytes] | None:
        for key in _some_files(path):
            with open(f"{path}/{key}", "rb") as file:
                return key, file.read(_COMPARED_BYTES + 1)
        return None

    sample = within(_LOOK_DEADLINE_S, through_mount, f"{path}: the mount does not answer")
    if sample is None:
        return None
    key, data = sample
    if direct.read(key) == data:
        return key
    tell_once(
        f"{path}: reading through the mount, since {key!r} is different over WebDAV. An old listing? It passes after "
        "5 minutes"
    )
    return None


def _some_files(path: str) -> Iterator[str]:
    """Keys of files small enough to compare, among the first few that are there."""
    folders, looked_at = [""], 0
    while folders and looked_at < _LOOKED_AT:
        folder = folders.pop(0)
        with os.scandir(f"{path}/{folder}") as found:
            for item in found:
                looked_at += 1
                if item.is_dir():
                    folders.append(f"{folder}{item.name}/")
                elif item.is_file() and item.stat().st_size <= _COMPARED_BYTES:
                    yield f"{folder}{item.name}"
                if looked_at >= _LOOKED_AT:
                    return
