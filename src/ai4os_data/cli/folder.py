"""Whether the folder of a location is there; if not, which names near it there are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cli.finding import Finding
from ai4os_data.locations import mistaken_for
from ai4os_data.stores import DirectoryStore, Store, WebDAVStore, nearest, open_dav

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = 3


def folder_of(store: Store, *, writes: bool) -> Finding:
    """Whether the folder is there. A missing one fails if nothing is to be written, or if there is a name near it.

    Raises:
        LocationError: there is a file in its place.
        StorageError: the server does not say.
    """
    if isinstance(store, WebDAVStore) and store.address.path:
        top = open_dav(store.remote, "", patience=store.patience)
        if not _is_folder(top, store.address.path):
            return _missing_on_server(store, top, writes=writes)
    elif isinstance(store, DirectoryStore) and not os.path.lexists(store.root):
        above = nearest(store.root)
        missing = os.path.relpath(store.root, above).split("/")
        return _missing(f"{above}/", missing, os.listdir(above), writes=writes)
    if writes and isinstance(store, WebDAVStore | DirectoryStore):
        return Finding("good", "folder", "it is there")
    return _contents(store)


def _contents(store: Store) -> Finding:
    files, folders = store.members("")
    told = f"{len(files) + len(folders)} names at its top"
    if files or folders:
        return Finding("good", "folder", told)
    return Finding("fair", "folder", told, "nothing can be read from it yet; check the spelling if you expect files")


def _missing_on_server(store: WebDAVStore, top: Store, *, writes: bool) -> Finding:
    parts = store.address.path.split("/")
    there = len(parts) - 1
    while there and not _is_folder(top, "/".join(parts[:there])):
        there -= 1
    above, missing = "/".join(parts[:there]), parts[there:]
    files, folders = top.members(above)
    names = {entry.key.rpartition("/")[2] for entry in files}
    if missing[0] in names:
        raise errors.LocationError(
            f"{store.location}: {'/'.join(parts[: there + 1])!r} is a file; give the folder that it lies in, {above!r}"
        )
    shown = f"{store.remote.label}{above}" if store.remote.name else f"{store.remote.url}/{above}"
    names |= {folder.rpartition("/")[2] for folder in folders}
    return _missing(f"{shown}/" if above else shown, missing, names, writes=writes)


def _is_folder(top: Store, path: str) -> bool:
    try:
        return top.has_folder(path)
    except errors.ProtocolError:  # of a file: some servers do not understand the slash after it
        return False


def _missing(above: str, missing: list[str], names: Iterable[str], *, writes: bool) -> Finding:
    """What to say if there is no folder.

    Args:
        above: what is there, with a slash or the colon of a remote at its end.
        missing: the parts of the path that are not there.
        names: what lies in the folder above.
        writes: whether the folder may be made.
    """
    near = mistaken_for(missing[0], names)[:_NAMES]
    told = f"there is no {missing[0]!r} in {above}"
    if near:
        meant = f"{above}{'/'.join([near[0], *missing[1:]])}"
        told = f"{told}, which has {', '.join(map(repr, near))}"
        return Finding("bad", "folder", told, f"write {meant} if you mean that; to use a new folder, make it first")
    if writes:
        return Finding("fair", "folder", told, "nothing can be read there yet; the first write makes the folder")
    return Finding("bad", "folder", told, "check the spelling, or list what is in it")
