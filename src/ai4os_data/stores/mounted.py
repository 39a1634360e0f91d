"""Paths of this machine: plain directories, and the mount of the storage, read over WebDAV if that is possible.

The mount gives 25 small files a second, and may answer an error, nothing, or an old listing. So a path on an rclone
mount is mapped to its remote, one file is compared both ways, and the rest is read from the server itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ai4os_data import errors, telemetry
from ai4os_data.locations import Remote, mistaken_for
from ai4os_data.machine import mounts
from ai4os_data.stores.base import Store
from ai4os_data.stores.directory import DirectoryStore
from ai4os_data.stores.directory_files import nearest
from ai4os_data.stores.directory_tree import STAGED
from ai4os_data.stores.forms import forms
from ai4os_data.stores.os_errors import DEAD_MOUNT, Translating, within
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http import Patience

STORAGE = "/storage"

_LOOK_DEADLINE_S = 30.0  # a large folder may take some seconds; behind a dead server it may take minutes
_COMPARED_BYTES = 1024 * 1024
_LOOKED_AT = 200
_NEAR_NAMES = 3

T = TypeVar("T")
OpenDav = Callable[..., Store]


def open_path(
    path: str,
    remote: Remote | None,
    *,
    environ: Mapping[str, str],
    open_dav: OpenDav,
    counters: telemetry.Counters | None = None,
    create: bool = False,
    patience: Patience | None = None,
    table: Path = mounts.MOUNT_TABLE,
    storage: str = STORAGE,
    deadline_s: float = _LOOK_DEADLINE_S,
) -> Store:
    """The store for a path of this machine.

    Args:
        path: a directory.
        remote: whose credentials to use, if the path is on an rclone mount.
        environ: where a remote is looked for otherwise.
        open_dav: opens the store for a path below a remote.
        counters: where bytes are counted.
        create: whether it may be missing, since it will be written to; the first file makes it.
        patience: how long reads of a mount wait for a storage that is away.
        table: the mount table.
        storage: where the platform mounts the storage.
        deadline_s: how long a first look at a mount may take; a dead one can block for ever.

    Raises:
        LocationError: there is no such directory; or it is to be written to, and lies where no storage is mounted.
        StorageGoneError: it is on a mount that answers no more.
    """
    path = os.path.abspath(path)
    mount = mounts.mount_of(path, table)
    if not create and not path.isascii():
        path = _in_its_form(path, deadline_s if mount is not None and mount.is_network else None)
        mount = mounts.mount_of(path, table)
    is_network = mount is not None and mount.is_network
    limit_s = deadline_s if is_network else None
    is_synced = is_network or not (_is_in(storage, path) or _is_in(storage, mounts.resolved(path, table)))
    if create and not is_synced:
        raise errors.LocationError(f"{path}: {_not_synced(storage)} write to 'rshare:path'")

    direct_store = partial(_direct_store, table=table, remote=remote, environ=environ, open_dav=open_dav)
    direct = direct_store(path)
    try:
        top = _asked(path, limit_s, partial(nearest, path)) if create else path
        _look(top, limit_s)
        if not is_synced:
            tell_once(f"{_not_synced(storage)} read with 'rshare:path'")
        direct_top = direct_store(top) if direct is not None else None
        hurried = direct_top and direct_top.with_patience(direct_top.patience.hurried(deadline_s, waits=False))
        is_same = hurried is not None and _is_same_folder(top, hurried, deadline_s, may_write=create)
    except errors.StorageGoneError as gone:
        if direct is None:
            raise
        tell_once(f"{gone}. Reading over WebDAV instead, as {direct.location}")
        return direct
    if direct is not None and is_same:
        return direct
    return DirectoryStore(path, counters=counters, patience=patience)


def _asked(path: str, limit_s: float | None, work: Callable[[], T], what: str = "the directory") -> T:
    """The result of system calls at a path, with our errors; on a mount within a deadline, since a dead one can block.

    Args:
        path: what is asked.
        limit_s: the deadline; None for a local disk.
        work: the calls.
        what: which file messages name.
    """

    def asked() -> T:
        with Translating(path, what):
            return work()

    return asked() if limit_s is None else within(limit_s, asked, f"{path}: {DEAD_MOUNT}")


def _in_its_form(path: str, limit_s: float | None) -> str:
    """The path, or the one in the other Unicode form, if only that one is there: Macs type another than Linux has."""

    def find() -> str:
        there = [form for form in forms(path) if os.path.exists(form)]
        return there[0] if len(there) == 1 else path

    try:
        return _asked(path, limit_s, find)
    except errors.StorageGoneError:  # the caller looks at the path too, and raises this or reads over WebDAV
        return path


def _direct_store(
    path: str, *, table: Path, remote: Remote | None, environ: Mapping[str, str], open_dav: OpenDav
) -> Store | None:
    """The store that reads the same folder from the server; None if the remote or the credentials are unknown."""
    remote_path = mounts.remote_path(path, table)
    if remote_path is None:
        return None
    name, below = remote_path
    try:
        return open_dav(remote or Remote.discover(name, environ), below, location=f"{path} ({name}:{below})")
    except errors.RemoteError:
        return None


def _look(path: str, limit_s: float | None) -> None:
    """Check that the directory exists; on a mount by a listing, since its top exists even if the server is away."""

    def find() -> bool:
        os.stat(path)  # says why, if there is nothing
        is_folder = os.path.isdir(path)
        if limit_s is not None and is_folder:
            with os.scandir(path) as listing:
                next(listing, None)
        return is_folder

    try:
        found = _asked(path, limit_s, find)
    except errors.NotFoundError as error:
        other = "" if path.isascii() else f" ({path!a}), nor one in the other Unicode form"
        raise errors.LocationError(
            f"{path}: there is no such directory{other}. Is the storage mounted? `ls {STORAGE}` and "
            f"`mount | grep rclone` tell{_beside(path) if limit_s is None else ''}"
        ) from error
    if not found:
        raise errors.LocationError(f"{path} is a file; give the directory that it lies in")


def _beside(path: str) -> str:
    """Similar names that exist beside this one."""
    parent, name = os.path.split(path)
    with suppress(OSError):
        if names := mistaken_for(name, os.listdir(parent))[:_NEAR_NAMES]:
            return f". {parent} has {', '.join(map(repr, names))}"
    return ""


def _is_in(storage: str, path: str) -> bool:
    """Whether a path is where the platform mounts the storage."""
    return path == storage or path.startswith(f"{storage}/")


def _not_synced(storage: str) -> str:
    return (
        f"{storage} is a plain directory of this machine: no storage is mounted there, and nothing in it is "
        "synced. Link a storage to the deployment, or"
    )


def _is_same_folder(path: str, direct: Store, deadline_s: float, *, may_write: bool) -> bool:
    """Whether the server shows what the mount shows: one of its files, or else a folder that is made for this check."""
    seen = _some_file(path, deadline_s)
    if seen is not None:
        return _is_same(path, seen, direct)
    return may_write and _shows_folder(path, direct, deadline_s)


def _shows_folder(path: str, direct: Store, deadline_s: float) -> bool:
    """Whether a new folder on the mount shows on the server: no mount keeps folders back."""
    name = f"{STAGED}{secrets.token_hex(8)}"

    def remove() -> None:
        with suppress(OSError):
            os.rmdir(f"{path}/{name}")

    _asked(path, deadline_s, partial(os.mkdir, f"{path}/{name}"), "a new folder")
    try:
        shows = direct.has_folder(name)
    except errors.StorageError as error:
        tell_once(f"{path}: writing through the mount, since WebDAV does not work: {error}")
        return False
    finally:
        _asked(path, deadline_s, remove)
    if shows:
        tell_once(f"{path} is {direct.location}: going over WebDAV, which is faster than the mount, and can confirm")
    else:
        tell_once(f"{path}: writing through the mount, since what it makes does not show over WebDAV")
    return shows


class _Seen(NamedTuple):
    """A file as the mount shows it: its key, its size, and its first bytes."""

    key: str
    size_bytes: int
    start: bytes


def _some_file(path: str, deadline_s: float) -> _Seen | None:
    """One of the first files that the mount shows, an empty one only if the others are too; None for no file."""

    def read() -> _Seen | None:
        found = sorted(_files(path), key=lambda file: file[1] == 0)
        if not found:
            return None
        key, size_bytes = found[0]
        with open(f"{path}/{key}", "rb") as file:
            return _Seen(key, size_bytes, file.read(_COMPARED_BYTES))

    return _asked(path, deadline_s, read, "the first file")


def _is_same(path: str, seen: _Seen, direct: Store) -> bool:
    """Whether the server gives a file as the mount does. The log says which of the two is read."""
    try:
        entry = direct.stat(seen.key)
        same = entry.size_bytes == seen.size_bytes and seen.start == direct.read_range(entry, 0, _COMPARED_BYTES)
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
        try:
            with os.scandir(f"{path}/{folder}") as listing:
                for item in islice(listing, _LOOKED_AT - looked_at):
                    looked_at += 1
                    with suppress(OSError):  # one that cannot be looked at is not the one to compare
                        if item.is_dir():
                            folders.append(f"{folder}{item.name}/")
                        elif item.is_file():
                            files.append((f"{folder}{item.name}", item.stat().st_size))
        except OSError:
            if not folder:
                raise
        if any(size_bytes for _, size_bytes in files):
            break
    return files
