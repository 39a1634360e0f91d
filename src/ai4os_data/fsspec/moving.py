"""Moves bytes between paths: what is sent is verified, and a move removes only the versions that were copied."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cache import IN_MEMORY_BYTES
from ai4os_data.machine import sha256_of
from ai4os_data.stores import Entry, Store, address_of, best_level

if TYPE_CHECKING:
    from ai4os_data.cache import Files
    from ai4os_data.http import Content

Find = Callable[[str], "tuple[Files, str]"]
"""The store of a path, and the key in it."""
Pairs = list[tuple[str, str]]
"""Each file and folder with the path that it goes to."""

PIECE_BYTES = 1024 * 1024


def part_of(cached: Files, entry: Entry, start: int | None, end: int | None) -> bytes:
    """The bytes of one version from ``start`` up to ``end``, which count from the end if they are negative."""
    begin, stop, _ = slice(start, end).indices(entry.size_bytes)
    if (begin, stop) == (0, entry.size_bytes) or entry.size_bytes <= PIECE_BYTES or cached.holds(entry):
        return cached.read(entry)[begin:stop]
    return cached.store.read_range(entry, begin, stop) if begin < stop else b""


def download(cached: Files, entry: Entry, path: str) -> None:
    """Download a file beside its path, and move it there."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ai4os-data-get-", dir=folder) as beside:
        local = Path(beside, "file")
        if entry.size_bytes <= IN_MEMORY_BYTES:
            local.write_bytes(cached.read(entry))
        elif cached.holds(entry):
            shutil.copyfile(cached.path(entry), local)
        else:
            cached.store.read_into(entry, local)
        os.replace(local, path)


def copied(cached: Files, entry: Entry, send: Callable[[Content], object]) -> None:
    """Send a file of a store somewhere else, by way of this machine."""
    if entry.size_bytes <= IN_MEMORY_BYTES:
        send(cached.read(entry))
        return
    with tempfile.TemporaryDirectory(prefix="ai4os-data-copy-") as scratch:
        local = Path(scratch, "file")
        cached.store.read_into(entry, local)
        send(local)


def upload(
    store: Store, key: str, content: Content, existing: Entry | None, on_bytes: Callable[[int], None] | None
) -> None:
    """Store a whole file and verify it. If that fails, an existing one stays, as far as the server allows."""
    data = content if isinstance(content, Path) else bytes(content)
    digest = sha256_of(data)
    if existing is None:
        store.write_confirmed(key, data, digest, on_bytes=on_bytes)
        return
    entry = store.write(key, data)
    if on_bytes is not None:
        on_bytes(entry.size_bytes)
    if best_level(store) == "confirmed" and (found := store.sha256_of(entry)) != digest:
        raise errors.IntegrityError(
            f"{store.location}: {key!r} was written, but the store holds other bytes (their sha256 is {found}, not "
            f"{digest}); does somebody else write it too?"
        )


def address(find: Find, path: str) -> str:
    """A value that is the same for two paths of one file, and different for all others."""
    cached, key = find(path)
    return address_of(cached.store, key)


def apart(find: Find, pairs: Pairs) -> Pairs:
    """The pairs without those of one file, after a check that the rest can be copied one after the other.

    Raises:
        OSError: a folder would be copied into itself, or one file over another that is still to be copied.
    """
    addresses = [(address(find, source), address(find, target)) for source, target in pairs]
    sources = {source for source, _ in addresses}
    for (source, target), (begin, end) in zip(pairs, addresses, strict=True):
        if end.startswith(f"{begin}/"):
            raise OSError(errno.EINVAL, "this cannot be copied or moved into itself", source, None, target)
        if begin != end and end in sources:
            raise OSError(errno.EINVAL, "this would be written over before it is copied itself", target)
    return [pair for pair, (begin, end) in zip(pairs, addresses, strict=True) if begin != end]


def check_movable(find: Find, pairs: Pairs, path1: str, path2: str) -> None:
    """Refuse a move after which files could not be removed, or some would be missing.

    Raises:
        OSError: a folder among them leads to files elsewhere: these would be removed there.
        ValueError: two files would have the same name; or a root is among them.
    """
    sources = {source: address(find, source) for source, _ in pairs}
    for path, found in sources.items():
        above = sources.get(path.rpartition("/")[0])
        if above is not None and not found.startswith(f"{above}/"):
            raise OSError(errno.EINVAL, "a symbolic link leads out of the folder that is to be moved", path)
    if len({address(find, target) for _, target in pairs}) < len(pairs):
        raise ValueError(f"{path1!r} cannot be moved to {path2!r}: two of the files would have the same name there")
    if any(not find(source)[1] for source, _ in pairs):
        raise ValueError(f"{path1!r} is a root, which is never removed; copy what is in it")


def remove_copied(store: Store, key: str, entry: Entry) -> None:
    """Remove a file if it is still the version that was copied; it is not if both names lead to the same file."""
    with suppress(errors.NotFoundError):  # somebody else has removed it
        if not store.stat(key).is_same_version(entry):
            raise errors.ChangedError(
                f"{store.location}: {key!r} was copied, and has changed since; it was not removed. Is it still being "
                "written, or are both names the same file?"
            )
        store.delete(key)


def remove_emptied(store: Store, key: str, path: str) -> None:
    """Remove a folder whose files have all been moved."""
    if store.list_below(key):
        raise OSError(errno.ENOTEMPTY, "it was copied, and has other files now; these were not removed", path)
    store.remove_tree(key)
