"""The paths of a file system: the store and key that each leads to, and its description in fsspec's form."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.locations import Remote
from ai4os_data.stores import Entry, Store, file_at, is_safe, open_store, underway

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache import Files

Info = dict[str, Any]


class Paths(ABC):
    """Paths without a protocol, and without a slash at the beginning or end; ``""`` is the top."""

    @abstractmethod
    def find(self, path: str) -> tuple[Files, str]:
        """The store of a path, and the key in it."""

    def roots(self) -> list[str] | None:
        """The names at the top, if the top is no folder itself."""
        return None

    def name(self, path: str, key: str) -> str:  # noqa: ARG002  others have several stores
        """The path of a key, for the store of another path."""
        return key

    def members(self, path: str) -> list[Info]:
        """The members of a folder; a file is its own member."""
        cached, key = self.find(path)
        if not is_safe(key) and key:
            raise nothing_at(cached.store, key)
        try:
            files, folders = cached.store.members(key)
        except (errors.NotFoundError, errors.LocationError):
            if not key:
                raise
            return [file_info(path, cached.store.stat(key))]
        except errors.ServerError:  # a slash after a file is a bad request to some servers
            if not key or (entry := safe_file_at(cached.store, key)) is None:
                raise
            return [file_info(path, entry)]
        found = [file_info(self.name(path, entry.key), entry) for entry in files]
        return found + [folder_info(self.name(path, folder)) for folder in folders]

    def info(self, path: str) -> Info:
        """What is at a path.

        Raises:
            NotFoundError: nothing.
        """
        cached, key = self.find(path)
        if not key:
            try:
                cached.store.members("")
            except errors.LocationError as error:
                raise errors.NotFoundError(str(error)) from error
        elif (entry := safe_file_at(cached.store, key)) is not None:
            return file_info(path, entry)
        elif not is_safe(key) or not cached.store.has_folder(key):
            raise nothing_at(cached.store, key)
        return folder_info(path)

    def existing(self, path: str) -> tuple[Files, Entry]:
        """The store of a file that is to be read, and the file.

        Raises:
            IsADirectoryError: it is a folder.
            NotFoundError: there is nothing; a path with ``..`` or an empty part never leads to anything.
        """
        found = self.find(path) if path else None
        if found is None or not found[1]:
            raise IsADirectoryError(errno.EISDIR, "this is a folder", path)
        cached, key = found
        if not is_safe(key):
            raise nothing_at(cached.store, key)
        try:
            return cached, cached.store.stat(key)
        except errors.NotFoundError as error:
            if cached.store.has_folder(key):
                raise IsADirectoryError(errno.EISDIR, "this is a folder", path) from error
            raise


class RootedPaths(Paths):
    """Paths below one location.

    Args:
        files: what lies there.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def find(self, path: str) -> tuple[Files, str]:
        """The store, and the path, which is a key of it."""
        return self.files, path


class RemotePaths(Paths):
    """Paths that begin with the name of a remote. Folders that this process saves or removes are shown as they will be.

    Args:
        through_cache: gives the files of a store as they are read.
        outage_s: as for `open_store`.
    """

    def __init__(self, through_cache: Callable[[Store], Files], outage_s: float | None) -> None:
        self._through_cache = through_cache
        self._outage_s = outage_s
        self._files: dict[str, Files] = {}

    def find(self, path: str) -> tuple[Files, str]:
        """The store of the remote, and the key in it."""
        name, _, key = path.partition("/")
        if name not in self._files:
            if not name:
                raise errors.LocationError("ai4os://REMOTE/PATH begins with the name of a remote, such as rshare")
            self._files[name] = self._through_cache(open_store(f"ai4os://{name}", outage_s=self._outage_s))
        return self._files[name], key.strip("/")

    def roots(self) -> list[str]:
        """The names of the remotes."""
        return sorted({remote.name for remote in Remote.known() if remote.name})

    def name(self, path: str, key: str) -> str:
        """The name of the remote, and the key."""
        name = path.partition("/")[0]
        return f"{name}/{key}" if key else name

    def members(self, path: str) -> list[Info]:
        """The members of a folder, with those that this process is saving, without those that it will remove."""
        if not path:
            return [folder_info(root) for root in self.roots()]
        coming = underway.coming_in(path)
        if underway.is_going(path):
            raise _about_to_go(path)
        try:
            found = super().members(path)
        except FileNotFoundError:
            if not coming and not underway.is_coming(path):
                raise
            found = []
        shown = [info for info in found if not underway.is_going(info["name"])]
        return shown + [folder_info(name) for name in sorted(coming - {info["name"] for info in shown})]

    def info(self, path: str) -> Info:
        """What is at a path, or will be."""
        if not path or underway.is_coming(path):  # even if the server does not answer
            return folder_info(path)
        if underway.is_going(path):
            raise _about_to_go(path)
        return super().info(path)


def file_info(name: str, entry: Entry) -> Info:
    """A file as fsspec describes it."""
    kept = {"ETag": entry.etag, "modified": entry.modified}
    return {"name": name, "size": entry.size_bytes, "type": "file", **kept}


def folder_info(name: str) -> Info:
    """A folder as fsspec describes it."""
    return {"name": name, "size": 0, "type": "directory"}


def nothing_at(store: Store, key: str) -> errors.NotFoundError:
    """The error for a key at which there is nothing."""
    return errors.NotFoundError(f"{store.location}: {key!r}: there is neither a file nor a folder")


def safe_file_at(store: Store, key: str) -> Entry | None:
    """The file at a key; None if there is none, or none is possible."""
    return file_at(store, key) if is_safe(key) else None


def _about_to_go(path: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"ai4os://{path} was removed by this process, and goes once a newer one is stored")
