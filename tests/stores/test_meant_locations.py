"""Locations that are probably meant otherwise: a path without its remote, a remote or a folder that is misspelt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageCheckpoint, StorageDataset, open_filesystem
from ai4os_data.errors import LocationError, RemoteError
from ai4os_data.locations.spelling import mistaken_for, nearest_first
from ai4os_data.stores import open_store
from tests.support.crowd import Warnings
from tests.support.servers import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RcloneMount
    from tests.support.shares import Share


@pytest.fixture
def here(share: Share, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory with data in it, in a deployment with a linked storage and a remote of another kind."""
    for name, value in {**share.environ(), "RCLONE_CONFIG_BUCKET_TYPE": "s3"}.items():
        monkeypatch.setenv(name, value)
    here = tmp_path / "here"
    (here / "datasets" / "flowers").mkdir(parents=True)
    (here / "datasets" / "flowers" / "a.txt").write_text("a")
    monkeypatch.chdir(here)
    return here


def test_a_dataset_of_this_machine_is_named_once(here: Path) -> None:
    """A directory of this machine is logged with the form for the storage, once."""
    with Warnings() as warnings:
        for _ in range(2):
            assert StorageDataset("datasets/flowers", decode="text")[0] == "a"
    (warning,) = warnings
    assert "'datasets/flowers' is a directory of this machine" in warning
    assert str(here / "datasets" / "flowers") in warning
    assert "goes with the deployment" in warning
    assert "'rshare:datasets/flowers'" in warning


def test_a_checkpoint_of_this_machine_is_named(here: Path) -> None:
    """A run that would be written to this machine is logged: it would be lost with the deployment."""
    with Warnings() as warnings, StorageCheckpoint("runs/x", spool=here / "spool") as run:
        assert run.restore() is None
    assert [warning for warning in warnings if "'rshare:runs/x'" in warning] == warnings[:1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rshare/datasets/flowers", "rshare:datasets/flowers"),
        ("bucket/x/", "bucket:x"),
        ("a//b/../c", "rshare:a/c"),
        ("runs", "rshare:runs"),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_remote_that_a_path_begins_with_is_meant(typed: str, meant: str) -> None:
    """The remote that the path begins with is named, else the linked storage, whether the directory is there or not."""
    with Warnings() as warnings:
        open_store(typed, create=True)
    assert f"Write {meant!r} for the storage" in warnings[0]
    with pytest.raises(LocationError, match=f"For a path of the storage write '{meant}'"):
        open_filesystem(typed)


@pytest.mark.parametrize("location", ["./datasets", "../here/datasets", "{here}/datasets"])
def test_a_path_that_says_where_it_is_is_taken_without_a_word(here: Path, location: str) -> None:
    """An absolute path, and any path without a configured remote, is taken as it is."""
    with Warnings() as warnings:
        assert len(open_store(location.format(here=here)).list()) == 1
        assert len(open_store("datasets", environ={"RCLONE_CONFIG": os.devnull}).list()) == 1
    assert warnings == []


def test_a_path_on_a_mount_is_of_the_storage(
    mount: RcloneMount, cloud_share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hint, however it is written."""
    (mount.path / "hint").mkdir(exist_ok=True)
    monkeypatch.chdir(mount.path)
    with Warnings() as warnings:
        open_store("hint", environ=cloud_share.environ("other"))
    assert [warning for warning in warnings if "of this machine" in warning] == []


@pytest.mark.usefixtures("here")
def test_a_misspelt_remote_is_told_which_there_are() -> None:
    """Similar names of remotes are shown, the nearest first, and no secret."""
    for name, others in (("rshre", "'rshare', 'bucket'"), ("buckit", "'bucket', 'rshare'")):
        for location, remote in ((f"{name}:x", None), (f"ai4os://{name}/x", None), ("x", name)):
            with pytest.raises(RemoteError, match=f"no remote is called '{name}'; there are {others}") as raised:
                open_store(location, remote)
            assert PASSWORD not in str(raised.value)
    with pytest.raises(LocationError, match="write 'rshare:a/b'"):
        open_store("rshare://a/b")


def test_remotes_of_the_configuration_file_are_told_too(tmp_path: Path) -> None:
    """Remotes of the configuration file are shown by their names alone."""
    config = tmp_path / "rclone.conf"
    config.write_text("[shelf]\ntype = webdav\nurl = http://h/\npass = secret\n[Old Disk]\ntype = local\n")
    with pytest.raises(RemoteError, match="there are 'shelf', 'Old Disk':") as raised:
        open_store("shelve:x", environ={"RCLONE_CONFIG": str(config)})
    assert "secret" not in str(raised.value)


def test_a_misspelt_directory_is_told_what_is_beside_it(here: Path) -> None:
    """Similar directories of this machine are named; the next number of a run is no misspelling."""
    with pytest.raises(LocationError, match=r"has 'flowers'"):
        open_store(here / "datasets" / "flwers")
    (here / "run-1").mkdir()
    with pytest.raises(LocationError) as raised:
        open_store(here / "run-2")
    assert "run-1" not in str(raised.value)


def test_likeness() -> None:
    """Case does not matter, digits alone do not make a misspelling, and ties go by the alphabet."""
    assert nearest_first("flwers", ["zebra", "Flowers", "flower2"]) == ["Flowers", "flower2", "zebra"]
    assert mistaken_for("Train", ["train", "test", "training"]) == ["train", "training"]
    assert mistaken_for("run-002", ["run-001", "rum-002"]) == ["rum-002"]
    assert mistaken_for("images", []) == []
