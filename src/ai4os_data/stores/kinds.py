"""What some kinds of store can do beyond the verbs, asked of any store; the others give a default answer."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.errors import NotFoundError, StorageError
from ai4os_data.stores.directory import DirectoryStore
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.ranges import read_ranges
from ai4os_data.stores.times import nanoseconds
from ai4os_data.stores.webdav import WebDAVStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
    from io import FileIO

    from ai4os_data.stores.base import Entry, MakeBody, Outcome, Store
    from ai4os_data.stores.levels import Level


def best_level(store: Store) -> Level:
    """The highest level that `Store.write_confirmed` can reach. A mount is tried once, and the answer is kept.

    Raises:
        StorageError: the store cannot be asked, or not be written to.
    """
    return store.best_level() if isinstance(store, DirectoryStore) else "confirmed"


def look_at(store: Store) -> None:
    """Check that the location exists. A directory was checked when it was opened; other stores have no root to check.

    Raises:
        LocationError: there is nothing at it.
        StorageError: the store cannot answer.
    """
    if isinstance(store, WebDAVStore):
        store.look()


def folder_token(store: Store) -> str | None:
    """One value that changes when anything below the root does; None if the store has none.

    A Nextcloud has: the ETag of the folder.
    """
    return store.folder_etag() if isinstance(store, NextcloudStore) else None


def address_of(store: Store, key: str) -> str:
    """What identifies a key's file: it is the same by whichever store the file is reached.

    Args:
        store: where it is.
        key: ``""`` is the root.
    """
    if isinstance(store, DirectoryStore):
        return os.path.realpath(f"{store.root}/{key}")  # whatever links lead to it
    if isinstance(store, WebDAVStore):
        return store.address.url_below_remote(store.address.below_remote(key))
    return f"{store.identity}/{key}".rstrip("/")


def local_path(store: Store, entry: Entry) -> str | None:
    """Where a file lies on a disk of this machine, in the version of the entry; None if it does not."""
    if isinstance(store, DirectoryStore) and store.is_local:
        with suppress(StorageError):  # reading it will raise the error
            if store.stat(entry.key).is_same_version(entry):
                return store.path(entry.key)
    return None


def modified_ns(store: Store, entry: Entry) -> int | None:
    """When a file last changed, in nanoseconds since the epoch; None if the store does not say."""
    if isinstance(store, DirectoryStore) and entry.etag:
        return int(entry.etag.rpartition("-")[0], 16)  # it is negative before 1970
    return nanoseconds(entry.modified)


def read_resumed(
    store: Store, entry: Entry, file: FileIO, came: Callable[[int, int], object], there: Container[int]
) -> bool:
    """Fill a file with the version of an entry, in ranges of which some may be there already.

    Args:
        store: where it is.
        entry: as it was listed.
        file: open for reading and writing.
        came: called with the first byte of a range that has come whole, and the one after its last.
        there: the first bytes of the ranges that the file has.

    Returns:
        Whether it has all of it now. If not, it is empty, and has to come in one piece.

    Raises:
        StorageError: it cannot be read; what has come stays.
        OSError: the local disk cannot take it.
    """
    if isinstance(store, WebDAVStore):
        return read_ranges(store.transport, store.address.url(entry.key), entry, file, came=came, there=there)
    file.truncate(0)
    return False


def read_among(store: Store, wanted: Collection[Entry], listed: Iterable[Entry], body: MakeBody) -> Iterator[Outcome]:
    """Read whole files, as `Store.read_many`; a store that can send folders whole does so where that is faster.

    Args:
        store: where they are.
        wanted: the entries to read.
        listed: all entries there are.
        body: makes what takes the bytes of an entry.
    """
    if isinstance(store, NextcloudStore):
        return store.read_folders(wanted, listed, body)
    return store.read_many(wanted, body)


def expunge(store: Store, folder: str, first: Sequence[str] = ()) -> None:
    """Remove a folder and all below it for good; a missing one is no error.

    Nothing stays in the store's trash bin, if it has one, as far as that is possible; what stays is no error.

    Args:
        store: where it is.
        folder: its key.
        first: keys of files in it that are removed before all others.

    Raises:
        LocationError: the key is empty: the root is never removed.
    """
    if isinstance(store, NextcloudStore):
        store.expunge(folder, first)
        return
    for key in first:
        with suppress(NotFoundError):  # somebody else was faster
            store.delete(key)
    store.remove_tree(folder)


def abandon(store: Store, key: str, size_bytes: int, sha256: str) -> None:
    """Remove what is left of an upload that broke off and will not be resumed; errors are ignored.

    Args:
        store: where it was to go.
        key: its key there.
        size_bytes: its length.
        sha256: of the content, in hexadecimal.
    """
    if isinstance(store, NextcloudStore):
        store.abandon(key, size_bytes, sha256)
