"""A probe of 1 MiB: written, read back and compared; it is removed again, with the folders that it took."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cli.finding import Finding
from ai4os_data.stores import DirectoryStore, Store, WebDAVStore, open_dav

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROBE = ".ai4os-data-doctor-"
_BYTES = 2**20


def bandwidth_of(store: Store) -> Finding:
    """How fast one file goes there and comes back.

    Raises:
        IntegrityError: what came back is not what was written.
        StorageError: it cannot be written or read.
    """
    key, data = f"{_PROBE}{secrets.token_hex(8)}", secrets.token_bytes(_BYTES)
    with visiting(store):
        try:
            times = [time.perf_counter()]
            store.write(key, data)
            times.append(time.perf_counter())
            back = store.read(key)
            times.append(time.perf_counter())
        finally:
            with suppress(errors.NotFoundError):
                store.delete(key)
    if back != data:
        raise errors.IntegrityError("what was read back is not what was written")
    up, down = (_BYTES / (end - begin) / 2**20 for begin, end in pairwise(times))
    return Finding("good", "write, read", f"{up:.1f} MiB/s up, {down:.1f} MiB/s down with one file of 1 MiB")


@contextmanager
def visiting(store: Store) -> Iterator[None]:
    """Remove the folder of a store at the end, and those above it, as far as they were missing and are empty.

    A WebDAV server is asked whether a folder is empty, and then asked to remove it; a directory is removed
    by the system call that does both. What fsspec writes to is left as it is: most of it has no folders.

    Raises:
        StorageError: the server does not say what is there, or does not remove it.
    """
    with ExitStack() as end:
        if isinstance(store, DirectoryStore):
            end.callback(_remove_directories, _missing_directories(store.root))
        elif isinstance(store, WebDAVStore):
            top = open_dav(store.remote, "", patience=store.patience)
            end.callback(_remove_folders, top, _missing_folders(top, store.address.path))
        yield


def _missing_directories(path: str) -> list[str]:
    """Those that are not there, the innermost first."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _remove_directories(paths: list[str]) -> None:
    for path in paths:
        with suppress(OSError):  # it was never made, or somebody has put something there
            os.rmdir(path)


def _missing_folders(top: Store, path: str) -> list[str]:
    """Those that are not there, the innermost first; the one of the remote itself is not asked for."""
    missing = []
    while path and not top.has_folder(path):
        missing.append(path)
        path = path.rpartition("/")[0]
    return missing


def _remove_folders(top: Store, paths: list[str]) -> None:
    for path in paths:
        with suppress(errors.NotFoundError):
            files, folders = top.members(path)
            if not files and not folders:
                top.remove_tree(path)
