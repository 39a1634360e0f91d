"""Files on the local disk: which one it is, what it takes, and how it appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_PIECE_BYTES = 1024 * 1024


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The device and inode of a file, which tell it from an earlier one of the same name; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def is_at(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file or folder is still the one at its path, and not a link to it."""
    ours = os.fstat(descriptor)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)


def disk_bytes(path: str | os.PathLike[str]) -> int:
    """The disk space of one file or folder, in allocated blocks; 0 if there is none."""
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes: one write(2) may write only a part of them."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_new(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a new file with mode 0600, and sync it to the disk.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder, new and renamed ones too, survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_whole(path: str | os.PathLike[str], staged: str, data: bytes, *, mode: int = 0o666) -> None:
    """Write or replace a file, which appears with all of its bytes or not at all.

    Args:
        path: where it appears.
        staged: where it is written first, in the same folder; what a killed process left there is overwritten.
        data: the bytes.
        mode: what others may do with it, less what the umask takes away.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(staged, flags, mode)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.replace(staged, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(staged)


def sha256_of(content: Path | bytes) -> str:
    """The sha256 of a file, or of some bytes, as hexadecimal digits."""
    if not isinstance(content, Path):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
