"""The storage as a deployment has it: an rclone mount, read over WebDAV if that shows the same files."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

from ai4os_data import StorageDataset
from ai4os_data.errors import LocationError, SampleError, ServerUnavailableError, StorageGoneError
from ai4os_data.stores import DirectoryStore, Entry, Store, open_dav
from ai4os_data.stores.mounted import open_path
from ai4os_data.stores.nextcloud import NextcloudStore
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.servers import RcloneMount, WsgidavServer, missing_fuse, need
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from ai4os_data.locations.remotes import Remote

FILES = {f"{folder}/with space {number}.txt": f"{folder} {number}" for folder in ("a", "b/deep") for number in range(3)}
TEXTS = [FILES[key] for key in sorted(FILES)]


def mounted(share: Share, directory: Path, **options: Any) -> RcloneMount:
    """Mount a share as the platform does: by its remote, and the folder below it."""
    server = share.server
    vendor = "nextcloud" if server.name == "nextcloud" else "other"
    return RcloneMount(
        server.url, server.user, server.password, directory, remote_path=share.name, vendor=vendor, **options
    )


@pytest.fixture
def mount(share: Share, tmp_path: Path) -> Iterator[RcloneMount]:
    """The share, filled and mounted at a path with a space in its name."""
    need(missing_fuse())
    share.put(FILES)
    with mounted(share, tmp_path / "my storage") as mount:
        share.server.forget()
        yield mount


def open_at(path: Path, environ: Mapping[str, str], patience: Patience, **options: Any) -> Store:
    """Open a path with these credentials at hand."""

    def dav(remote: Remote, remote_path: str, location: str) -> Store:
        return open_dav(remote, remote_path, location=location, patience=patience)

    return open_path(str(path), None, environ=environ, open_dav=dav, **options)


def texts(location: Any, **options: Any) -> list[str]:
    """Every text, in the order of the keys."""
    dataset: Any = StorageDataset(location, decode="text", cache=None, **options)
    return list(dataset)


def agents(share: Share) -> set[str]:
    """The programs that sent requests to the server."""
    return {request.headers.get("user-agent", "").partition("/")[0] for request in share.server.requests()}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that the library has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "ai4os_data"]


# --- recognised, and read over WebDAV


@pytest.mark.parametrize("kind", ["share", "cloud_share"])
def test_path_on_the_mount_is_read_over_webdav(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the credentials of a deployment the samples come from the server itself, and that is said once."""
    need(missing_fuse())
    share: Share = request.getfixturevalue(kind)
    share.put(FILES)
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    with mounted(share, tmp_path / "my storage") as mount:
        datasets = [StorageDataset(mount.path, decode="text", cache=None) for _ in range(2)]
        place = f"{mount.path} (rshare:{share.name})"
        assert [dataset.location for dataset in datasets] == [place, place]
        (told,) = said(caplog)
        assert told.startswith(f"{mount.path} is {place}: reading over WebDAV, which is faster than the mount")
        assert "'a/with space 0.txt' is the same both ways" in told
        share.server.forget()
        batches = DataLoader(datasets[0], batch_size=4, collate_fn=list)
        assert [text for batch in batches for text in batch] == TEXTS
        assert agents(share) == {"ai4os-data"}


def test_path_below_the_mount_is_mapped_to_the_path_below_the_remote(
    share: Share, mount: RcloneMount, patience: Patience
) -> None:
    """Folders above the mount's top and below it make up the path on the server."""
    source = mount.source()
    assert source is not None
    assert source.startswith("rshare{")
    assert source.endswith(f"}}:{share.name}")
    store = open_at(mount.path / "b" / "deep", share.environ(), patience)
    assert store.location == f"{mount.path}/b/deep (rshare:{share.name}/b/deep)"
    assert [entry.key for entry in store.list()] == [f"with space {number}.txt" for number in range(3)]
    assert isinstance(store, WebDAVStore)
    ((_, outcome),) = store.read_many([Entry("absent", 1)])
    assert str(outcome).startswith(f"{store.location}: 'absent' was listed")


def test_link_to_the_mount_is_recognised(share: Share, mount: RcloneMount, tmp_path: Path, patience: Patience) -> None:
    """A link in the home folder is what users make of a long path."""
    (tmp_path / "data").symlink_to(mount.path / "b")
    store = open_at(tmp_path / "data" / "deep", share.environ(), patience)
    assert store.location == f"{tmp_path}/data/deep (rshare:{share.name}/b/deep)"
    assert texts(store) == TEXTS[3:]


@pytest.mark.parametrize("source", ["rshare:{}", "rshare{{OhDHS}}:{}", "rshare{{OhDHS}}:{}/b"])
@pytest.mark.parametrize("folder", ["plain", "with space"])
def test_source_and_point_are_read_from_the_mount_table(
    share: Share, tmp_path: Path, patience: Patience, source: str, folder: str
) -> None:
    """The source may have a hash, and a space is escaped; here the table is a file."""
    share.put(FILES)
    top = share.root / "b" if source.endswith("b") else share.root
    point = tmp_path / folder
    point.symlink_to(top)  # the table names it, so it is not followed
    fields = [field.replace(" ", "\\040") for field in (source.format(share.name), str(point))]
    table = tmp_path / "mounts"
    table.write_text(f"overlay / overlay rw 0 0\n{' '.join(fields)} fuse.rclone rw 0 0\n")
    store = open_at(point, share.environ(), patience, table=table)
    assert store.location == f"{point} (rshare:{share.name}{'/b' if source.endswith('b') else ''})"
    assert texts(store) == (TEXTS[3:] if source.endswith("b") else TEXTS)


def test_one_file_is_compared_both_ways(share: Share, mount: RcloneMount, patience: Patience) -> None:
    """One file is compared before reads change over: rclone fetches it, and so do we."""
    open_at(mount.path, share.environ(), patience)
    fetched = [(request.path, request.headers["user-agent"].partition("/")[0]) for request in share.requests("GET")]
    path = f"/{share.name}/a/with space 0.txt"
    assert sorted(fetched) == [(path, "ai4os-data"), (path, "rclone")]


def test_large_file_is_compared_by_its_beginning(share: Share, tmp_path: Path, patience: Patience) -> None:
    """If every file is large, sizes and the first MiB decide whether it is the same folder."""
    need(missing_fuse())
    share.put({"large.bin": os.urandom(5 * 1024 * 1024), "empty.bin": b""})
    with mounted(share, tmp_path / "storage") as mount:
        share.server.forget()
        assert isinstance(open_at(mount.path, share.environ(), patience), WebDAVStore)
    ours = [request for request in share.requests("GET") if request.headers["user-agent"] == "ai4os-data"]
    assert [(request.path.rpartition("/")[2], request.headers["range"]) for request in ours] == [
        ("large.bin", "bytes=0-1048575")
    ]


# --- left on the mount


def test_large_file_that_only_begins_alike_is_another(share: Share, tmp_path: Path, patience: Patience) -> None:
    """A file that has grown on the server since it was listed is not the one that the mount shows."""
    need(missing_fuse())
    begin = os.urandom(2 * 1024 * 1024)
    share.put({"large.bin": begin})
    with mounted(share, tmp_path / "storage") as mount:
        assert (mount.path / "large.bin").stat().st_size == len(begin)  # rclone knows its size from now on
        share.put({"large.bin": begin + b"more"})
        assert isinstance(open_at(mount.path, share.environ(), patience), DirectoryStore)


@pytest.mark.parametrize(
    "other", [{"a/with space 0.txt": "a O"}, {"a/with space 0.txt": "longer text"}, {"c/x.txt": "x"}]
)
def test_where_the_server_shows_another_file_the_mount_is_read(
    share: Share, mount: RcloneMount, patience: Patience, caplog: pytest.LogCaptureFixture, other: dict[str, str]
) -> None:
    """A remote of the same name that leads elsewhere is found out by content, size or absence."""
    elsewhere = WsgidavServer(mount.path.parent / "elsewhere", user=share.server.user, password=share.server.password)
    with elsewhere:
        Folder(elsewhere.root / share.name).put(other)
        environ = {**share.environ(), "RCLONE_CONFIG_RSHARE_URL": elsewhere.url}
        store = open_at(mount.path, environ, patience)
    assert isinstance(store, DirectoryStore)
    (told,) = said(caplog)
    assert told.startswith(f"{mount.path}: reading through the mount, since 'a/with space 0.txt' is different")
    assert told.endswith("An old listing? It passes after 5 minutes")
    assert texts(store) == TEXTS


@pytest.mark.parametrize("environ", [{}, {"RCLONE_CONFIG_RSHARE_URL": "", "RCLONE_CONFIG_RSHARE_PASS": ""}])
def test_without_credentials_the_mount_is_read(
    share: Share, mount: RcloneMount, patience: Patience, environ: dict[str, str]
) -> None:
    """Credentials are absent or empty, as without a linked storage; only rclone asks the server."""
    store = open_at(mount.path, {"RCLONE_CONFIG": os.devnull, **environ}, patience)
    assert isinstance(store, DirectoryStore)
    assert not store.is_local
    assert texts(store) == TEXTS
    assert agents(share) == {"rclone"}


def test_with_wrong_credentials_the_mount_is_read(
    share: Share, mount: RcloneMount, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is said once, without the password, and costs one request."""
    store = open_at(mount.path, share.environ(password="Simsalabim"), patience)
    assert isinstance(store, DirectoryStore)
    (told,) = said(caplog)
    assert told.startswith(f"{mount.path}: reading through the mount, since WebDAV does not work: ")
    assert "does not accept the credentials of user 'alice' (401)" in told
    assert "Simsalabim" not in told
    ours = [request for request in share.server.requests() if request.headers["user-agent"] == "ai4os-data"]
    assert [request.status for request in ours] == [401]
    assert texts(store) == TEXTS


# --- gone


@pytest.mark.parametrize("where", ["", "a", "absent"])
def test_dead_mount_is_told_with_what_to_do(mount: RcloneMount, patience: Patience, where: str) -> None:
    """After rclone was killed every path of the mount is gone: errno 107 is not taken for an absent folder."""
    mount.child.kill()
    with pytest.raises(
        StorageGoneError, match=r"the storage is gone.*Restart the deployment, or read over WebDAV.*errno 107"
    ):
        open_at(mount.path / where, {"RCLONE_CONFIG": os.devnull}, patience)


def test_behind_a_dead_mount_webdav_is_read(
    share: Share, mount: RcloneMount, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """Where credentials are there, the training goes on, and is told why it does so otherwise."""
    mount.child.kill()
    store = open_at(mount.path, share.environ(), patience)
    assert texts(store) == TEXTS
    (told,) = said(caplog)
    assert "the storage is gone" in told
    assert told.endswith(f"Reading over WebDAV instead, as {mount.path} (rshare:{share.name})")


def test_mount_that_dies_in_mid_epoch_ends_it(mount: RcloneMount, patience: Patience) -> None:
    """The sample's error says that the storage is gone; ``"skip"`` does not hide that."""
    store = open_at(mount.path, {"RCLONE_CONFIG": os.devnull}, patience)
    dataset = StorageDataset(store, decode="text", cache=None, on_error="skip")
    assert dataset[0] == TEXTS[0]
    mount.child.kill()
    with pytest.raises(SampleError, match=r"sample 1 \('a/with space 1\.txt'\).*the storage is gone") as caught:
        dataset[1]
    assert isinstance(caught.value.__cause__, StorageGoneError)
    with pytest.raises(StorageGoneError, match="the storage is gone"):
        dataset.refresh()


def test_stopped_server_behind_the_mount_is_an_error_in_bounded_time(
    share: Share, tmp_path: Path, patience: Patience
) -> None:
    """What rclone has listed is still shown; what it has to ask for fails with errno 5, and is told as gone."""
    need(missing_fuse())
    share.put(FILES)
    no_credentials = {"RCLONE_CONFIG": os.devnull}
    with mounted(share, tmp_path / "storage", flags=["--low-level-retries", "1"]) as mount:
        dataset = StorageDataset(open_at(mount.path / "a", no_credentials, patience), decode="text", cache=None)
        with share.down():
            begin = time.monotonic()
            with pytest.raises(SampleError, match=r"the storage is gone.*errno 5") as caught:
                dataset[0]
            assert isinstance(caught.value.__cause__, StorageGoneError)
            with pytest.raises(StorageGoneError, match=r"the storage is gone.*errno 5"):
                open_at(mount.path / "b", no_credentials, patience)  # never listed before
            with pytest.raises(ServerUnavailableError, match="up, and reachable"):
                texts(open_at(mount.path / "b", share.environ(), patience))
            assert time.monotonic() - begin < 10.0


@pytest.fixture
def frozen(mount: RcloneMount) -> Iterator[RcloneMount]:
    """A mount that answers nothing at all: every look at it waits for ever."""
    time.sleep(1.1)  # what the kernel knows of the top is old by now
    os.kill(mount.child.pid, signal.SIGSTOP)
    try:
        yield mount
    finally:
        os.kill(mount.child.pid, signal.SIGCONT)


def test_frozen_mount_is_told_within_the_deadline(frozen: RcloneMount, patience: Patience) -> None:
    """A dead mount raises after the deadline, at the first look and at a listing."""
    begin = time.monotonic()
    with pytest.raises(StorageGoneError, match=r"the storage is gone.*\(no answer within 0\.5 s\)"):
        open_at(frozen.path, {"RCLONE_CONFIG": os.devnull}, patience, deadline_s=0.5)
    with pytest.raises(StorageGoneError, match=r"the storage is gone.*\(no answer within 0\.5 s\)"):
        DirectoryStore(frozen.path, listing_deadline_s=0.5).list()
    assert time.monotonic() - begin < 3.0


def test_behind_a_frozen_mount_webdav_is_read(share: Share, frozen: RcloneMount, patience: Patience) -> None:
    """With credentials at hand the deadline is all that it costs."""
    assert texts(open_at(frozen.path, share.environ(), patience, deadline_s=0.5)) == TEXTS


# --- not there


def test_folder_that_is_not_on_the_mount_is_told(share: Share, mount: RcloneMount, patience: Patience) -> None:
    """An absent folder of a mount that lives is a matter of spelling."""
    with pytest.raises(LocationError, match=r"absent: there is no such directory\. Is the storage mounted\?"):
        open_at(mount.path / "absent", share.environ(), patience)


def test_plain_directory_in_the_place_of_the_storage_is_named(
    tmp_path: Path, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a mount at /storage what lies there is not synced: said once, and read all the same."""
    storage = Folder(tmp_path / "storage")
    storage.put(FILES)
    (tmp_path / "storage2").mkdir()
    for path in (storage.root, storage.root / "a", storage.root, tmp_path / "storage2", tmp_path):
        assert isinstance(open_at(path, {}, patience, storage=str(storage.root)), DirectoryStore)
    (told,) = said(caplog)
    assert told.startswith(f"{storage.root} is a plain directory of this machine: no storage is mounted there")
    assert "nothing in it is synced" in told
    assert texts(storage.location) == TEXTS


def test_mounted_storage_is_not_named_as_plain(
    share: Share, mount: RcloneMount, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """The word on plain directories is for plain directories."""
    open_at(mount.path, {"RCLONE_CONFIG": os.devnull}, patience, storage=str(mount.path))
    open_at(mount.path, share.environ(), patience, storage=str(mount.path))
    assert not [line for line in said(caplog) if "plain directory" in line]


def test_nextcloud_behind_the_mount_is_read_as_one(cloud_share: Share, tmp_path: Path, patience: Patience) -> None:
    """The remote's vendor chooses the store, so that archives are used on the way past the mount too."""
    need(missing_fuse())
    cloud_share.put(FILES)
    with mounted(cloud_share, tmp_path / "storage") as mount:
        assert isinstance(open_at(mount.path, cloud_share.environ(), patience), NextcloudStore)
