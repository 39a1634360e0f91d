"""Places: a folder of its own on one server, the store that reaches it, and the way behind the store's back."""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import fsspec

from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import DirectoryStore, MemoryStore, Store
from ai4os_data.stores.anyfsspec import FsspecStore
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import RcloneMount, Server


class Place(ABC):
    """An empty folder that only one test uses."""

    name: str

    @abstractmethod
    def open(self, below: str = "") -> Store:
        """A store of the folder, or of one below it."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Put a file there, as another client would."""

    @abstractmethod
    def make_folder(self, key: str) -> None:
        """Make a folder there, as another client would."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files that are really there, whatever the store says."""


class ServedFolder(Place):
    """A folder on this disk that a server shows.

    Args:
        name: what tests call it.
        folder: where its files lie.
        opener: opens a store of a path below it.
        server: what shows it over HTTP.

    Attributes:
        folder: where its files lie.
    """

    def __init__(self, name: str, folder: Path, opener: Callable[[str], Store], server: Server | None = None) -> None:
        self.name = name
        self.server = server
        self.folder = folder
        self._open = opener

    def open(self, below: str = "") -> Store:
        """A store of the folder, as a user opens one."""
        return self._open(below)

    def put(self, key: str, data: bytes) -> None:
        """Write the file to this disk."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def make_folder(self, key: str) -> None:
        """Make the folder on this disk."""
        (self.folder / key).mkdir(parents=True)

    def files(self) -> dict[str, bytes]:
        """Read the files from this disk."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


class Memory(Place):
    """A folder in a dictionary."""

    name = "memory"

    def __init__(self) -> None:
        self._store = MemoryStore()

    def open(self, below: str = "") -> Store:
        """The same store for all, since its files live in it."""
        assert not below, "it has no folders"
        return self._store

    def put(self, key: str, data: bytes) -> None:
        """Put the bytes into the dictionary."""
        self._store.files[key] = data

    def make_folder(self, key: str) -> None:
        """Do nothing: there are no folders in a dictionary."""

    def files(self) -> dict[str, bytes]:
        """The files of the dictionary."""
        return dict(self._store.files)


class FsspecMemory(Place):
    """A folder of the file system that fsspec keeps in this process."""

    name = "fsspec-memory"

    def __init__(self) -> None:
        self._root = f"/place-{uuid.uuid4().hex}"
        self._system = fsspec.filesystem("memory")
        self._system.makedirs(self._root)

    def open(self, below: str = "") -> Store:
        """A store of the folder, by its URL."""
        return FsspecStore(f"memory:/{self._root}/{below}".rstrip("/"))

    def put(self, key: str, data: bytes) -> None:
        """Put the file there with fsspec itself."""
        self._system.pipe_file(f"{self._root}/{key}", data)

    def make_folder(self, key: str) -> None:
        """Make the folder with fsspec itself."""
        self._system.makedirs(f"{self._root}/{key}")

    def files(self) -> dict[str, bytes]:
        """Read the files with fsspec itself."""
        return {path[len(self._root) + 1 :]: self._system.cat_file(path) for path in self._system.find(self._root)}


def _webdav(name: str, server: Server, patience: Patience) -> Place:
    path = f"place-{uuid.uuid4().hex}"
    (server.root / path).mkdir()
    remote = Remote(server.url, server.user, server.password)
    return ServedFolder(
        name, server.root / path, lambda below: WebDAVStore(remote, f"{path}/{below}", patience=patience), server
    )


def _nextcloud(name: str, server: NextcloudServer, url: str, patience: Patience) -> Place:
    path = f"place-{uuid.uuid4().hex}"
    (server.root / path).mkdir()
    remote = Remote(url, server.user, server.password, vendor="nextcloud")
    return ServedFolder(
        name, server.root / path, lambda below: NextcloudStore(remote, f"{path}/{below}", patience=patience), server
    )


def _mounted(name: str, server: NextcloudServer, mount: RcloneMount) -> Place:
    path = f"place-{uuid.uuid4().hex}"
    os.mkdir(mount.path / path)  # through the mount, which would not see it for 5 minutes otherwise
    return ServedFolder(name, server.root / path, lambda below: DirectoryStore(mount.path / path / below))


def make_place(name: str, request: pytest.FixtureRequest, patience: Patience) -> Place:
    """A new empty folder; the server behind it starts with the first."""
    if name == "memory":
        return Memory()
    if name == "fsspec-memory":
        return FsspecMemory()
    if name in {"directory", "fsspec-file"}:
        folder: Path = request.getfixturevalue("tmp_path") / "place"
        folder.mkdir()
        if name == "directory":
            return ServedFolder(name, folder, lambda below: DirectoryStore(folder / below))
        return ServedFolder(name, folder, lambda below: FsspecStore(f"file://{folder}/{below}".rstrip("/")))
    server = request.getfixturevalue(_FIXTURES[name])
    if name == "mount":
        return _mounted(name, server, request.getfixturevalue("mount"))
    if name.startswith("nextcloud"):
        return _nextcloud(name, server, server.legacy_url if name.endswith("legacy") else server.url, patience)
    return _webdav(name, server, patience)


_FIXTURES = {
    "wsgidav": "wsgidav",
    "apache": "apache",
    "apache-infinity": "apache_infinity",
    "rclone": "rclone",
    "fault": "fault",
    "nextcloud-34": "nextcloud",
    "nextcloud-34-legacy": "nextcloud",
    "nextcloud-29": "nextcloud_29",
    "nextcloud-29-legacy": "nextcloud_29",
    "mount": "nextcloud",
}
PLACES = (*_FIXTURES, "directory", "fsspec-file", "fsspec-memory", "memory")
TALKATIVE = tuple(name for name in _FIXTURES if name not in {"mount", "rclone"})
"""Those whose server tells the headers that it was sent."""
