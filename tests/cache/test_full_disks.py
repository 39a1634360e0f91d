"""A store whose disk is full says so, keeps what it has, and takes files again when there is room."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import DirectoryStore, Store
from ai4os_data.stores.anyfsspec import FsspecStore
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from tests.nextcloud import NextcloudServer
from tests.support.disks import tmpfs
from tests.support.servers import ApacheServer, RcloneServer, Server, WsgidavServer, missing_apache, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai4os_data.http.retries import Patience

MIB = 1024 * 1024
OLD = random.Random(1).randbytes(2 * MIB)
NEW = random.Random(2).randbytes(2 * MIB + 4096)
SERVERS: dict[str, type[Server]] = {
    "apache": ApacheServer,
    "nextcloud": NextcloudServer,
    "rclone": RcloneServer,
    "wsgidav": WsgidavServer,
}
SAYS_SO = {"apache", "nextcloud", "directory", "fsspec"}
"""Others answer 500 (wsgidav) or 405 (rclone), which may mean anything."""


@pytest.fixture(params=[*SERVERS, "directory", "fsspec"])
def name(request: pytest.FixtureRequest) -> str:
    """What keeps the files."""
    name: str = request.param
    return name


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk on which there is room for one of two files."""
    with tmpfs(tmp_path / "disk", 3 * MIB) as disk:
        yield disk


@pytest.fixture
def server(name: str, disk: Path) -> Iterator[Server | None]:
    """What serves this disk, if anything does."""
    if name not in SERVERS:
        yield None
        return
    if name == "apache":
        need(missing_apache())
    with SERVERS[name](disk / "root") as server:
        yield server


@pytest.fixture
def store(name: str, disk: Path, server: Server | None, patience: Patience) -> Store:
    """A store on this disk."""
    if server is None:
        return DirectoryStore(disk / "root") if name == "directory" else FsspecStore(f"file://{disk}/root")
    remote = Remote(server.url, server.user, server.password)
    return (NextcloudStore if name == "nextcloud" else WebDAVStore)(remote, patience=patience)


def sha256(data: bytes) -> str:
    """Return it in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def files(disk: Path) -> dict[str, bytes]:
    """What is really there."""
    root = disk / "root"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_full_disk_keeps_the_old_and_takes_the_new_when_there_is_room(
    name: str, disk: Path, server: Server | None, store: Store
) -> None:
    """A write that fails leaves nothing under the new name or beside it, where it would keep the disk full."""
    store.write_confirmed("old/data.bin", OLD, sha256(OLD))
    with pytest.raises(errors.StorageError) as raised:
        store.write_confirmed("new/data.bin", NEW, sha256(NEW))
    assert isinstance(raised.value, errors.OutOfSpaceError) == (name in SAYS_SO)
    assert files(disk) == {"old/data.bin": OLD}
    assert store.write_confirmed("old/data.bin", OLD, sha256(OLD)) == "confirmed"
    store.remove_tree("old")
    if name == "wsgidav":  # it holds what it could not write open, so that its blocks are free only now
        assert server is not None
        server.stop()
        server.start()
    assert store.write_confirmed("new/data.bin", NEW, sha256(NEW)) == "confirmed"
    assert files(disk) == {"new/data.bin": NEW}
