"""Every file below a directory: links are followed, never in a circle, and what cannot be read is named."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from typing import NamedTuple

from ai4os_data import errors
from ai4os_data.stores.base import Entries, Entry, Keys, Listing, Unreadable, Unreadables
from ai4os_data.stores.os_errors import Translating, errno_of, storage_error
from ai4os_data.telemetry import tell_once

STAGED = ".ai4os-data-"  # a file that is being written, and does not exist yet for readers

_UNREADABLE = (errors.PermissionDeniedError, errors.ServerError, errors.StorageGoneError)
_MOST_VISITS = 32
_NAMED = 5
_Identity = tuple[int, int]


class Members(NamedTuple):
    """What lies directly in a folder: files, folders, what cannot be looked at, and the links that lead nowhere."""

    files: Entries
    folders: Keys
    unreadable: Unreadables
    links: Keys


class DirectoryTree:
    """What lies below a directory. A folder is named by its key with a slash behind it, the root by ``""``.

    Args:
        root: the directory.
        location: what messages call it.
    """

    def __init__(self, root: str, location: str) -> None:
        self._root = root
        self._location = location

    def is_folder(self, top: str) -> bool:
        """Whether there is such a folder; not if there is nothing.

        Raises:
            LocationError: it is a file.
        """
        try:
            with Translating(self._location, top or "the directory"):
                is_directory = stat.S_ISDIR(os.stat(f"{self._root}/{top}".rstrip("/")).st_mode)
        except errors.NotFoundError:
            return False
        if not is_directory:
            what = f"{self._location}: {top.rstrip('/')!r}" if top else self._location
            raise errors.LocationError(f"{what} is a file; give the directory that it lies in")
        return True

    def members(self, folder: str) -> Members:
        """What lies directly in a folder."""
        files, folders, unreadable, links = found_here = Members([], [], [], [])
        with Translating(self._location, _named(folder)), os.scandir(f"{self._root}/{folder}") as found:
            for item in found:
                if item.name.startswith(STAGED):
                    continue
                key = f"{folder}{item.name}"
                try:
                    status = item.stat()
                except (FileNotFoundError, NotADirectoryError):
                    if item.is_symlink():
                        links.append(f"{key!r} (to nothing)")
                except OSError as error:
                    if item.is_symlink() and error.errno == errno.ELOOP:
                        links.append(f"{key!r} (in a circle)")
                    else:
                        unreadable.append(self._unreadable(key, item, error))
                else:
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(f"{key}/")
                    elif stat.S_ISREG(status.st_mode):
                        files.append(entry_of(key, status))
        return found_here

    def walk(self, top: str) -> Listing:
        """Every file below a folder that is there.

        What disappears in between is left out, and so is a link to a folder above itself.

        Raises:
            StorageGoneError: the mount does not answer.
        """
        entries, folders, unreadable, links = self.members(top)
        above: dict[str, tuple[_Identity, ...]] = {folder: (self._identity(top),) for folder in folders}
        visits: Counter[_Identity] = Counter()
        hollow: Keys = []
        gone: list[errors.StorageGoneError] = []  # in a row: one such folder may be broken, several are the mount
        while folders:
            folder = folders.pop()
            try:
                identity = self._identity(folder)
                if identity in (parents := above.pop(folder)):
                    links.append(f"{folder!r} (to a folder above it)")
                    continue
                self._check_visits(folder, visits, identity)
                found = self.members(folder)
            except errors.NotFoundError:
                continue
            except _UNREADABLE as error:
                if isinstance(error, errors.StorageGoneError):
                    if errno_of(error) not in {None, errno.EIO}:
                        raise
                    gone.append(error)
                unreadable.append(Unreadable(folder.rstrip("/"), is_folder=True, error=self._of_one(folder, error)))
                continue
            gone.clear()
            if not (found.files or found.folders or found.unreadable):
                hollow.append(folder.rstrip("/"))
            entries += found.files
            unreadable += found.unreadable
            links += found.links
            folders += found.folders
            above.update((each, (*parents, identity)) for each in found.folders)
        if len(gone) > 1:
            raise gone[0]
        if links:
            shown = ", ".join(links[:_NAMED]) + (f" and {len(links) - _NAMED} more" if len(links) > _NAMED else "")
            tell_once(f"{self._location}: links that are not followed: {shown}")
        return Listing(sorted(entries), unreadable, sorted(hollow))

    def _unreadable(self, key: str, item: os.DirEntry[str], cause: OSError) -> Unreadable:
        """What cannot be looked at; a link may lead to anything."""
        error = storage_error(self._location, key, cause)
        error.__cause__ = cause
        return Unreadable(key, is_folder=None if item.is_symlink() else item.is_dir(follow_symlinks=False), error=error)

    def _of_one(self, folder: str, error: errors.StorageError) -> errors.StorageError:
        """What is wrong with one folder: a mount turns every error of its server into EIO."""
        if not isinstance(error, errors.StorageGoneError):
            return error
        return errors.ServerError(
            f"{self._location}: {folder.rstrip('/')!r}: the server behind the mount cannot list this folder, or does "
            f"not allow it (errno {errno.EIO})"
        )

    def _check_visits(self, folder: str, visits: Counter[_Identity], identity: _Identity) -> None:
        """Count how often a folder is reached: links between n folders make n! paths."""
        visits[identity] += 1
        if visits[identity] > _MOST_VISITS:
            raise errors.ServerError(
                f"{self._location}: {folder!r}: more than {_MOST_VISITS} links lead to this folder"
            )

    def _identity(self, folder: str) -> _Identity:
        """Device and inode, the same for a folder and all links to it."""
        with Translating(self._location, _named(folder)):
            found = os.stat(f"{self._root}/{folder}")
        return found.st_dev, found.st_ino


def entry_of(key: str, found: os.stat_result) -> Entry:
    """A file as a directory lists it."""
    return Entry(key, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}")


def _named(folder: str) -> str:
    return folder.rstrip("/") or "the directory"
