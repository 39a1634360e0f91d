"""Files and folders of a directory, written and removed by system calls: on a local disk a file is whole or absent."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data.machine import sync_folder, write_all
from ai4os_data.stores.base import PIECE_BYTES
from ai4os_data.stores.directory_tree import STAGED

if TYPE_CHECKING:
    from io import FileIO

    from ai4os_data.http import Source


def nearest(path: str) -> str:
    """The directory, or the nearest one above it that exists."""
    while True:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
        else:
            return path


def write_beside(target: str, source: Source, root: str) -> None:
    """Write a file beside its path and move it there; with the folders below the root it survives a power cut."""
    staged = f"{os.path.dirname(target)}/{STAGED}{secrets.token_hex(8)}"
    # Not mkstemp, whose files nobody else may read: here the umask decides.
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
    _sync_folders(target, root)


def _sync_folders(target: str, root: str) -> None:
    """Let the names of a new file and of the folders above it, which may be new too, survive a power cut."""
    folder = os.path.dirname(target)
    while folder.startswith(root):
        sync_folder(folder)
        folder = os.path.dirname(folder)


def write_through(target: str, source: Source) -> None:
    """Write a file in one sequential pass; the close uploads, and raises if that fails."""
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
            write_all(file.fileno(), piece)
    finally:
        reader.close()


def remove_folder(top: str) -> None:
    """Remove a folder from the leaves up. What is gone already is no error: somebody may be removing it too.

    shutil.rmtree would stop at the first missing file, and an old listing of a mount can show many.
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
