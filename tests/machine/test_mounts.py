"""The mount table tells what lies under a path, without a touch of the path itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai4os_data.machine.mounts import Mount, mount_of, resolved

DEPLOYMENT = """\
overlay / overlay rw,relatime 0 0
proc /proc proc rw 0 0
tmpfs /dev/shm tmpfs rw,size=4194304k 0 0
/dev/sda1 /srv ext4 rw 0 0
rshare{OhDHS}: /storage fuse.rclone rw,nosuid,nodev,user_id=0,group_id=0,allow_other 0 0
server:/export /home/jovyan nfs4 rw 0 0
alice@host:/data /mnt/ssh fuse.sshfs rw 0 0
rshare:a\\040b/c /mnt/my\\040storage\\134x fuse.rclone rw 0 0
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The mount table of a deployment."""
    path = tmp_path / "mounts"
    path.write_text(DEPLOYMENT)
    return path


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/storage", "/storage"),
        ("/storage/", "/storage"),
        ("/storage/data/x", "/storage"),
        ("/storage/../srv/x", "/srv"),
        ("/storage2/x", "/"),
        ("/srv", "/srv"),
        ("/", "/"),
        ("/mnt/my storage\\x/y", "/mnt/my storage\\x"),
        ("/mnt/my storage", "/"),
    ],
)
def test_path_lies_on_the_mount_with_the_longest_point(table: Path, path: str, point: str) -> None:
    """Names are compared folder by folder, and as they are, not as the table escapes them."""
    mount = mount_of(path, table)
    assert mount is not None
    assert mount.point == point


def test_longest_point_wins_wherever_it_stands(table: Path) -> None:
    """The order of the lines matters for mounts on the same point alone."""
    table.write_text("rshare:inner /storage/inner fuse.rclone rw 0 0\n" + DEPLOYMENT)
    assert mount_of("/storage/inner/x", table) == Mount("rshare:inner", "/storage/inner", "fuse.rclone")


def test_last_mount_on_a_point_hides_the_others(table: Path) -> None:
    """If a storage was mounted twice, the last mount is the one that is used."""
    table.write_text(DEPLOYMENT + "other:sub /storage fuse.rclone rw 0 0\n")
    assert mount_of("/storage/x", table) == Mount("other:sub", "/storage", "fuse.rclone")


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("rshare:", ("rshare", "")),
        ("rshare:sub", ("rshare", "sub")),
        ("rshare:sub/dir/", ("rshare", "sub/dir")),
        ("rshare:/sub", ("rshare", "sub")),
        ("rshare{OhDHS}:", ("rshare", "")),
        ("rshare{OhDHS}:sub", ("rshare", "sub")),
        ("rshare{-_a9Z}:a:b {c}", ("rshare", "a:b {c}")),
        ("my remote+1:x", ("my remote+1", "x")),
        (":webdav{OhDHS}:sub", None),
        ("/local/folder", None),
    ],
)
def test_source_of_an_rclone_mount_names_remote_and_path(source: str, place: tuple[str, str] | None) -> None:
    """The source may have the hash that rclone adds for a remote of the environment."""
    assert Mount(source, "/storage", "fuse.rclone").remote_path() == place


@pytest.mark.parametrize(
    ("path", "network", "memory", "rclone"),
    [
        ("/storage/x", True, False, True),
        ("/home/jovyan/x", True, False, False),
        ("/mnt/ssh/x", True, False, False),
        ("/srv/x", False, False, False),
        ("/dev/shm/x", False, True, False),
    ],
)
def test_kind_of_a_mount_is_known(table: Path, path: str, *, network: bool, memory: bool, rclone: bool) -> None:
    """Disks, memory, network shares and rclone mounts are told apart."""
    mount = mount_of(path, table)
    assert mount is not None
    assert (mount.is_network, mount.is_memory, mount.is_rclone) == (network, memory, rclone)
    assert (mount.remote_path() is not None) == rclone


def test_without_a_table_nothing_is_known(tmp_path: Path) -> None:
    """The system has no /proc, or the lines make no sense."""
    assert mount_of("/storage", tmp_path / "absent") is None
    (tmp_path / "mounts").write_text("\nnonsense\n\n")
    assert mount_of("/storage", tmp_path / "mounts") is None


def test_link_to_the_mount_lies_on_the_mount(tmp_path: Path) -> None:
    """Links are followed one after the other, relative ones too, up to the mount."""
    storage = tmp_path / "storage"
    (tmp_path / "home" / "work").mkdir(parents=True)
    (tmp_path / "home" / "data").symlink_to("work/more")
    (tmp_path / "home" / "work" / "more").symlink_to("../../storage/datasets")
    (tmp_path / "mounts").write_text(f"/dev/sda1 / ext4 rw 0 0\nrshare: {storage} fuse.rclone rw 0 0\n")
    path = tmp_path / "home" / "data" / "x" / "y.jpg"
    assert resolved(path, tmp_path / "mounts") == f"{storage}/datasets/x/y.jpg"
    mount = mount_of(path, tmp_path / "mounts")
    assert mount is not None
    assert mount.point == str(storage)


def test_links_on_a_mount_are_not_looked_at(tmp_path: Path) -> None:
    """Looking at anything on a dead mount can block for ever."""
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "link").symlink_to("/elsewhere")
    (tmp_path / "mounts").write_text(f"/dev/sda1 / ext4 rw 0 0\nrshare: {storage} fuse.rclone rw 0 0\n")
    assert resolved(storage / "link" / "x", tmp_path / "mounts") == f"{storage}/link/x"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """They lead nowhere, as for the kernel."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert Path(resolved(tmp_path / "a" / "x")).parent.parent == tmp_path
