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
from ai4os_data.folders.parts import is_part
from ai4os_data.machine import disk_bytes, locks, ownership, tell_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_NAMES = {errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ}


class Target:
    """The directory of a copy.

    Args:
        root: the directory, without links.
        name: distinguishes this copy from others into the same directory.

    Attributes:
        root: the same.
        staging_name: what is on its way lies in a folder of this name, at the top.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = str(root)
        self.staging_name = f".ai4os-data-{name[:12]}"
        self._staging = f"{self.root}/{self.staging_name}"
        self._begin = secrets.token_hex(4)
        self._number = 0
        self._lock = -1
        self._folders: set[str] = {""}

    def found(self, key: str) -> os.stat_result | None:
        """What is under a name, itself and not what it links to; None if there is nothing."""
        try:
            return os.lstat(f"{self.root}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NO_NAMES:  # there can be nothing of that name
                return None
            raise

    def in_the_way(self, folder: str, clear: set[str]) -> str | None:
        """The first name on the way to a folder that is something else, such as a link; None if there is none.

        Args:
            folder: its key.
            clear: the folders whose way is known to be clear; what is found is added.
        """
        if folder in clear:
            return None
        above = folder.rpartition("/")[0]
        if (way := self.in_the_way(above, clear)) is not None:
            return way
        seen = self.found(folder)
        if seen is not None and not stat.S_ISDIR(seen.st_mode):
            return folder
        clear.add(folder)
        return None

    # --- staging

    def begin(self) -> None:
        """Make the directory, and in it the folder for what is on its way, if they are missing.

        Raises:
            OverwriteError: something else has the name of that folder, or another copy has it.
            OSError: it cannot be written.
        """
        os.makedirs(self.root, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self._staging, 0o700)
        if not ownership.is_own_folder(self._staging):
            raise in_the_way_error(self.root, [self.staging_name])
        self._lock_staging()

    def _lock_staging(self) -> None:
        """Take the folder, as one with another record may have it: another user's, or another container's."""
        if self._lock < 0:
            self._lock = ownership.open_folder(self._staging)
            tell_after_fork(self)
            if not locks.try_lock(self._lock):
                self._unlock()
                raise errors.OverwriteError(
                    f"{self.root}: another process makes the same copy there, and keeps its record elsewhere. Give all "
                    "of them the same AI4OS_DATA_COPIES (a folder on a local disk), or a directory to each"
                )

    def after_fork(self) -> None:
        """Close the lock in the child: it would outlive the process that has it."""
        self._unlock()

    def _unlock(self) -> None:
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def sweep(self, spare: Collection[str] = ()) -> None:
        """Remove what has not arrived, as a kill may have left it; a link in its place is not followed.

        Args:
            spare: the names of the parts of large files that stay.
        """
        if not ownership.is_own_folder(self._staging):
            return
        self._lock_staging()
        for item in self._staged():
            if not is_part(item.name, spare):
                _remove(item)
        with suppress(OSError):
            os.rmdir(self._staging)
            self._unlock()

    def end(self, *, keeps_parts: bool) -> None:
        """Remove what has not arrived.

        Args:
            keeps_parts: whether the parts of large files stay, for the next run.
        """
        if self._lock >= 0 and ownership.is_own_folder(self._staging):  # else another may use it
            for item in self._staged():
                if not (keeps_parts and is_part(item.name)):
                    _remove(item)
            with suppress(OSError):
                os.rmdir(self._staging)
        self._unlock()

    def _staged(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._staging) as items:
            yield from list(items)

    def staged_bytes(self) -> int:
        """The disk space of what is on its way."""
        if not ownership.is_own_folder(self._staging):
            return 0
        return sum(disk_bytes(item.path) for item in self._staged())

    def new_path(self, name: str | None = None) -> str:
        """Where a file may be staged.

        Args:
            name: of a part; by default it is one that nobody has.
        """
        self._number += name is None
        return f"{self._staging}/{name or f'{self._begin}{self._number:08x}'}"

    # --- placing

    def place(self, staged: str, key: str, over: os.stat_result | None) -> None:
        """Let a staged file appear under its name. The folder above it is there.

        Args:
            staged: its path.
            key: its name.
            over: what it may take the place of; nothing else is written over.

        Raises:
            OverwriteError: something else is there by now.
            OSError: the disk cannot take it.
        """
        path = f"{self.root}/{key}"
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

    def make_folders(self, folder: str, about_to: Callable[[str], None]) -> None:
        """Make a folder, and those above it, if they are missing.

        Args:
            folder: its key.
            about_to: called with the key of each before it is made.

        Raises:
            OverwriteError: there is something else of that name.
        """
        if folder in self._folders:
            return
        self.make_folders(folder.rpartition("/")[0], about_to)
        if (seen := self.found(folder)) is None:
            about_to(folder)
            with suppress(FileExistsError):
                os.mkdir(f"{self.root}/{folder}")
            seen = self.found(folder)
        if seen is None or not stat.S_ISDIR(seen.st_mode):
            raise blocked_error(self.root, [folder])
        self._folders.add(folder)

    def forget_folders(self) -> None:
        """Look again at each folder before a file is placed in it: somebody has removed one."""
        self._folders = {""}

    def remove(self, key: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.root}/{key}")

    def remove_folder(self, key: str) -> bool:
        """Remove a folder if nothing is in it; whether it is gone."""
        self.forget_folders()
        try:
            os.rmdir(f"{self.root}/{key}")
        except FileNotFoundError:
            return True
        except OSError:  # something is in it, or it is no folder any more
            return False
        return True


def in_the_way_error(root: str, keys: list[str]) -> errors.OverwriteError:
    """The error about files that are not ours."""
    what = "are files" if len(keys) > 1 else "is a file"
    return errors.OverwriteError(
        f"{root}: {enumerated(map(repr, keys))} {what} that this copy did not write, or that changed since. Nothing "
        "was overwritten; move them away, choose another directory, or give overwrite=True to fetch them anew (that is "
        "safe too if they are of an earlier copy whose record is lost)"
    )


def blocked_error(root: str, keys: list[str]) -> errors.OverwriteError:
    """The error about what no file or folder of ours can take the place of."""
    return errors.OverwriteError(
        f"{root}: {enumerated(map(repr, keys))}: here is a folder where a file belongs, or a file or a link where a "
        "folder belongs. No folder is replaced and no link is followed, with overwrite=True neither: move what is in "
        "the way, or choose another directory"
    )


def _remove(item: os.DirEntry[str]) -> None:
    if item.is_dir(follow_symlinks=False):
        shutil.rmtree(item.path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            # An error that somebody keeps may hold it open, and with it its blocks. One with two names is placed, and
            # was killed before it lost the first.
            if item.is_file(follow_symlinks=False) and item.stat(follow_symlinks=False).st_nlink == 1:
                os.truncate(item.path, 0)
            os.unlink(item.path)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_mtime_ns, one.st_size) == (
        other.st_dev,
        other.st_ino,
        other.st_mtime_ns,
        other.st_size,
    )
