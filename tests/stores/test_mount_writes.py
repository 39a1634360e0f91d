"""A level says what a mount does with a closed file: sent to the server, or only kept for later."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.machine import mounts
from ai4os_data.stores import DirectoryStore, Store, best_level, open_dav, open_store
from ai4os_data.stores.mounted import open_path
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.writethrough import writes_through
from tests.support.servers import RcloneMount, missing_fuse, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from ai4os_data.locations.remotes import Remote
    from tests.support.shares import Share

DATA = random.Random(1).randbytes(3 * 1024 * 1024 + 1)
OTHER = random.Random(2).randbytes(len(DATA))
SHA256 = hashlib.sha256(DATA).hexdigest()
SIDECAR: tuple[str, ...] = ()
CACHING = {
    "writes": ("--vfs-cache-mode", "writes"),
    "full": ("--vfs-cache-mode", "full"),
}
MINIMAL = ("--vfs-cache-mode", "minimal")
"""Caches what is read and written at once; what is written alone goes through."""


@pytest.fixture
def mounting(cloud_share: Share, tmp_path: Path) -> Iterator[Callable[[tuple[str, ...]], RcloneMount]]:
    """Mounts the share with some flags, until the test ends."""
    need(missing_fuse())
    server = cloud_share.server
    started: list[RcloneMount] = []

    def mount(flags: tuple[str, ...]) -> RcloneMount:
        mount = RcloneMount(
            server.url,
            server.user,
            server.password,
            tmp_path / f"mount {len(started)}",
            remote_path=cloud_share.name,
            vendor="nextcloud",
            flags=flags,
        )
        mount.start()
        started.append(mount)
        return mount

    yield mount
    for one in started:
        one.stop()


def files(share: Share) -> dict[str, bytes]:
    """The files that are really on the server."""
    top = share.server.root / share.name
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def opened(path: Path, share: Share, patience: Patience, **options: object) -> Store:
    """Open a path for a new run, with the credentials of a deployment at hand."""

    def dav(remote: Remote, remote_path: str, location: str) -> Store:
        return open_dav(remote, remote_path, location=location, patience=patience)

    return open_path(str(path), None, environ=share.environ(), open_dav=dav, create=True, **options)  # type: ignore[arg-type]


# --- what it is worth


@pytest.mark.parametrize("flags", [SIDECAR, MINIMAL], ids=["sidecar", "minimal"])
def test_a_mount_that_writes_through_has_sent_what_it_closed(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The file is on the server, and nothing that was tried is left behind."""
    store = DirectoryStore(mounting(flags).path / "run")
    local = tmp_path / "local.bin"
    local.write_bytes(DATA)
    sent: list[int] = []
    assert store.best_level() == "mount"
    assert store.write_confirmed("1/data.bin", local, SHA256, on_bytes=sent.append) == "mount"
    assert files(cloud_share) == {"run/1/data.bin": DATA}
    assert sum(sent) == len(DATA)


@pytest.mark.parametrize("flags", CACHING.values(), ids=CACHING)
def test_a_mount_that_caches_writes_says_no_more_than_local(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share, flags: tuple[str, ...]
) -> None:
    """The server gets it seconds later, if at all."""
    mount = mounting((*flags, "--vfs-write-back", "1h"))
    store = DirectoryStore(mount.path / "run")
    assert store.best_level() == "local"
    assert store.write_confirmed("1/data.bin", DATA, SHA256) == "local"
    assert files(cloud_share) == {}
    assert [entry.key for entry in store.list()] == ["1/data.bin"]


def test_what_a_mount_is_worth_is_asked_once(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share
) -> None:
    """Two small files, and no more of them with every checkpoint."""
    store = DirectoryStore(mounting(SIDECAR).path)
    assert store.best_level() == "mount"
    cloud_share.server.forget()
    assert store.best_level() == "mount"
    assert [one for one in cloud_share.server.requests() if one.method == "PUT"] == []


def test_a_file_system_that_sends_at_the_close_is_not_tried(tmp_path: Path) -> None:
    """NFS can go back in a file, and has sent it all the same when it is closed."""
    assert writes_through(str(tmp_path), mounts.Mount("server:/export", str(tmp_path), "nfs4"))
    assert list(tmp_path.iterdir()) == []
    assert not writes_through(str(tmp_path), mounts.Mount("server:", str(tmp_path), "fuse.sshfs"))
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_takes_no_writes_is_an_error(
    mounting: Callable[[tuple[str, ...]], RcloneMount],
) -> None:
    """It is worth nothing at all, and says so before the first checkpoint."""
    store = DirectoryStore(mounting(("--read-only",)).path)
    with pytest.raises(errors.StorageError):
        store.best_level()
    with pytest.raises(errors.StorageError):
        store.write_confirmed("data.bin", DATA, SHA256)


# --- failures


def test_an_upload_that_fails_is_an_error_and_is_mended(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share
) -> None:
    """The mount goes on showing the whole file, which is why it is not asked."""
    store = DirectoryStore(mounting((*SIDECAR, "--retries", "1", "--low-level-retries", "1")).path)
    assert store.best_level() == "mount"
    server = cloud_share.server
    server.answer_next(1000, 507, method="PUT")  # type: ignore[attr-defined]  # the double's
    with pytest.raises(errors.StorageError):
        store.write_confirmed("data.bin", DATA, SHA256)
    server.clear_faults()  # type: ignore[attr-defined]
    assert files(cloud_share) == {}
    assert store.write_confirmed("data.bin", DATA, SHA256) == "mount"
    assert files(cloud_share) == {"data.bin": DATA}


def test_what_is_there_whole_is_not_written_over(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share
) -> None:
    """It may belong to a checkpoint that is complete; what was cut by a kill is replaced."""
    cloud_share.put({"whole.bin": "", "cut.bin": ""})
    top = cloud_share.server.root / cloud_share.name
    (top / "whole.bin").write_bytes(DATA)
    (top / "cut.bin").write_bytes(DATA[:1000])
    store = DirectoryStore(mounting(SIDECAR).path)
    assert store.best_level() == "mount"
    cloud_share.server.forget()
    assert store.write_confirmed("whole.bin", DATA, SHA256) == "mount"
    assert [one for one in cloud_share.server.requests() if one.method == "PUT"] == []
    assert store.write_confirmed("cut.bin", DATA, SHA256) == "mount"
    assert files(cloud_share) == {"whole.bin": DATA, "cut.bin": DATA}


def test_a_copy_that_breaks_off_leaves_no_part_under_the_final_name(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share
) -> None:
    """A mount commits whatever it has when a file is closed."""

    def stop(size_bytes: int) -> None:
        raise KeyboardInterrupt(size_bytes)

    store = DirectoryStore(mounting(SIDECAR).path)
    with pytest.raises(KeyboardInterrupt):
        store.write_confirmed("data.bin", DATA, SHA256, on_bytes=stop)
    assert files(cloud_share) == {}
    assert store.list_below("") == []


def test_a_dead_mount_lists_nothing_but_an_error(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share
) -> None:
    """Neither what was there, nor nothing at all; the same once it is unmounted, and an empty directory shows."""
    mount = mounting(SIDECAR)
    store = DirectoryStore(mount.path / "run")
    store.write_confirmed("data.bin", DATA, SHA256)
    mount.child.kill()
    with pytest.raises(errors.StorageGoneError):
        open_path(str(mount.path / "run" / "x"), None, environ={}, open_dav=open_dav, create=True)
    for act in (
        lambda: store.list_below(""),
        lambda: store.write_confirmed("other.bin", DATA, SHA256),
        lambda: store.remove_tree("a"),
    ):
        with pytest.raises(errors.StorageGoneError):
            act()
    mount.stop()
    assert mount.source() is None
    for act in (lambda: store.list_below(""), store.list, lambda: store.write_confirmed("b", DATA, SHA256)):
        with pytest.raises(errors.StorageGoneError):
            act()
    assert list(mount.path.iterdir()) == []
    assert files(cloud_share) == {"run/data.bin": DATA}


# --- the way there


@pytest.mark.parametrize("flags", [SIDECAR, CACHING["writes"]], ids=["sidecar", "writes"])
def test_a_new_run_on_the_mount_is_written_over_webdav(
    mounting: Callable[[tuple[str, ...]], RcloneMount],
    cloud_share: Share,
    patience: Patience,
    flags: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In an empty share: that the server is the same shows by a folder, which is gone again."""
    mount = mounting(flags)
    with caplog.at_level(logging.WARNING):
        store = opened(mount.path / "runs" / "flowers", cloud_share, patience)
    assert isinstance(store, NextcloudStore)
    assert "going over WebDAV" in caplog.text
    assert store.list_below("") == []
    assert store.write_confirmed("1/data.bin", DATA, SHA256) == "confirmed"
    assert files(cloud_share) == {"runs/flowers/1/data.bin": DATA}
    assert [path.name for path in (cloud_share.server.root / cloud_share.name).iterdir()] == ["runs"]


def test_another_server_under_the_same_name_is_not_written_to(
    mounting: Callable[[tuple[str, ...]], RcloneMount], cloud_share: Share, share: Share, patience: Patience
) -> None:
    """Then only the mount leads to the user's files."""
    mount = mounting(SIDECAR)

    def dav(_remote: Remote, _path: str, location: str) -> Store:
        assert share.remote is not None
        return open_dav(share.remote, share.name, location=location, patience=patience)

    store = open_path(str(mount.path / "run"), None, environ=cloud_share.environ(), open_dav=dav, create=True)
    assert isinstance(store, DirectoryStore)
    assert store.write_confirmed("data.bin", DATA, SHA256) == "mount"
    assert files(cloud_share) == {"run/data.bin": DATA}
    assert files(share) == {}


def test_a_directory_that_is_missing_is_made_by_the_first_file(tmp_path: Path) -> None:
    """The first file makes a missing directory, and nothing does before; without ``create`` it is an error."""
    path = tmp_path / "new" / "run"
    with pytest.raises(errors.LocationError, match="no such directory"):
        open_store(path)
    store = open_store(path, create=True)
    assert store.list_below("") == []
    assert best_level(store) == "confirmed"
    assert not (tmp_path / "new").exists()
    assert store.write_confirmed("1/data.bin", DATA, SHA256) == "confirmed"
    assert (path / "1" / "data.bin").read_bytes() == DATA


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    """A directory below a file is refused: there can be no folder."""
    (tmp_path / "file").write_bytes(b"1")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(errors.LocationError, match="is a file"):
            open_store(path, create=True)


def test_a_storage_where_nothing_is_mounted_takes_no_run(tmp_path: Path) -> None:
    """What is written there would be lost with the deployment."""
    storage, link = tmp_path / "storage", tmp_path / "link"
    storage.mkdir()
    link.symlink_to(storage)
    for path in (storage, storage / "runs" / "flowers", link, link / "runs"):
        with pytest.raises(errors.LocationError, match="no storage is mounted"):
            open_path(str(path), None, environ={}, open_dav=open_dav, create=True, storage=str(storage))
    assert list(storage.iterdir()) == []


def test_a_tree_behind_a_link_is_not_removed(tmp_path: Path) -> None:
    """A link that is named is removed itself; what it leads to stays."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "b.bin").write_bytes(b"1")
    (root / "real").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "real" / "link").symlink_to(outside / "a")
    store = DirectoryStore(root)
    with pytest.raises(errors.LocationError, match="symbolic link"):
        store.remove_tree("link/a")
    store.remove_tree("real")
    store.remove_tree("link")
    assert os.listdir(root) == []
    assert (outside / "a" / "b.bin").read_bytes() == b"1"


def test_two_removals_at_once_are_no_error(tmp_path: Path) -> None:
    """Two removals at once both succeed: the second finds less to remove."""
    store = DirectoryStore(tmp_path)
    for number in range(200):
        (tmp_path / "run" / str(number % 20)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / str(number % 20) / f"{number}.bin").write_bytes(b"1")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(store.remove_tree, ["run"] * 4)) == [None] * 4
    assert os.listdir(tmp_path) == []
