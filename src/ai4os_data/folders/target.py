"""The directory of a copy: a file appears in it whole, under its own name, and never over what is not ours."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.datasets import enumerated
from ai4os_data.http import NoBody
from ai4os_data.machine import ownership, write_all

if TYPE_CHECKING:
    from pathlib import Path

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class StagedFile(NoBody):
    """A file on its way into the directory; as a body it takes the bytes of an answer.

    Attributes:
        path: where it is written.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._descriptor = os.open(path, _NEW, 0o666)

    def write(self, chunk: bytes) -> None:
        """Write the next bytes.

        Raises:
            OSError: the disk cannot take them.
        """
        write_all(self._descriptor, chunk)
        super().write(chunk)

    def restart(self) -> None:
        """Forget what came so far."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        super().restart()

    def close(self) -> None:
        """Close it; it stays staged."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Close it."""
        self.close()


class Target:
    """The directory of a copy.

    Args:
        root: the directory, without links.
        name: distinguishes this copy from others into the same directory.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = str(root)
        self._staging = f"{self.root}/.ai4os-data-{name[:12]}"
        self._begin = secrets.token_hex(4)
        self._number = 0
        self._folders: set[str] = set()

    def found(self, key: str) -> os.stat_result | None:
        """What is under a name, itself and not what it links to; None if there is nothing."""
        try:
            return os.lstat(f"{self.root}/{key}")
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return None
            raise

    def in_the_way(self, folder: str) -> str | None:
        """The first name on the way to a folder that is something else, such as a link; None if there is none."""
        path = ""
        for part in folder.split("/") if folder else ():
            path = f"{path}/{part}" if path else part
            seen = self.found(path)
            if seen is None:
                return None
            if not stat.S_ISDIR(seen.st_mode):
                return path
        return None

    # --- staging

    def begin(self) -> None:
        """Make the directory, and in it an empty folder for what is on its way.

        Raises:
            OSError: it cannot be written.
        """
        os.makedirs(self.root, exist_ok=True)
        self.end()
        os.mkdir(self._staging, 0o700)

    def end(self) -> None:
        """Remove what has not arrived. A folder that a kill has left is ours too, and a link is not followed."""
        if ownership.is_own_folder(self._staging):
            shutil.rmtree(self._staging, ignore_errors=True)

    def new_path(self) -> str:
        """Where a file may be staged."""
        self._number += 1
        return f"{self._staging}/{self._begin}{self._number:08x}"

    # --- placing

    def place(self, staged: str, key: str, over: os.stat_result | None) -> None:
        """Let a staged file appear under its name.

        Args:
            staged: its path.
            key: its name.
            over: what it may take the place of; nothing else is written over.

        Raises:
            OverwriteError: something else is there by now.
            OSError: the disk cannot take it.
        """
        path = f"{self.root}/{key}"
        self._make_folder(key.rpartition("/")[0])
        if over is None:
            try:
                os.link(staged, path, follow_symlinks=False)
            except FileExistsError:
                raise in_the_way_error(self.root, [key]) from None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                os.unlink(staged)
                return
        now = self.found(key)
        if now is not None and (over is None or not _is_same(now, over)):
            raise in_the_way_error(self.root, [key])
        os.rename(staged, path)

    def _make_folder(self, folder: str) -> None:
        if folder and folder not in self._folders:
            os.makedirs(f"{self.root}/{folder}", exist_ok=True)
            self._folders.add(folder)

    def remove(self, key: str) -> None:
        """Remove a file, and the folders above it that are empty then."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.root}/{key}")
        folder = key.rpartition("/")[0]
        with suppress(OSError):
            while folder:
                os.rmdir(f"{self.root}/{folder}")
                self._folders.discard(folder)
                folder = folder.rpartition("/")[0]


def in_the_way_error(root: str, keys: list[str]) -> errors.OverwriteError:
    """The error about files that are not ours."""
    what = "are files" if len(keys) > 1 else "is a file"
    return errors.OverwriteError(
        f"{root}: {enumerated(map(repr, keys))} {what} that this copy did not write, or that changed since. Nothing "
        "was overwritten; move them away, choose another directory, or give overwrite=True to replace them"
    )


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_mtime_ns) == (other.st_dev, other.st_ino, other.st_mtime_ns)
