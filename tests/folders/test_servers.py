"""A copy is what its source is, whatever has the source: servers of several kinds, a directory, a mount."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors, local_copy
from ai4os_data.stores import DirectoryStore, MemoryStore
from tests.support.copies import (
    DIR_CACHE_S,
    dates,
    differences,
    keys_of,
    missing,
    mixed_files,
    put,
    remove,
    small_files,
)
from tests.support.servers import HREFS_ELSEWHERE, FaultServer, RcloneMount, Request, missing_fuse, need
from tests.support.shares import Share
from tests.support.sources import content

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.http.retries import Patience
    from tests.nextcloud import NextcloudServer
    from tests.support.places import ServedFolder


def settle(place: ServedFolder) -> None:
    """Wait until a mount shows what others did."""
    if place.name == "mount":
        time.sleep(5 * DIR_CACHE_S)


def bodies(place: ServedFolder) -> list[Request]:
    """The requests for bytes since the server forgot, if there is one."""
    return [] if place.server is None else [one for one in place.server.requests() if one.method == "GET"]


def forget(place: ServedFolder) -> None:
    """Count the requests from here."""
    if place.server is not None:
        place.server.forget()


# --- what a copy is


def test_a_copy_has_the_names_bytes_and_dates_of_its_source(place: ServedFolder, tmp_path: Path) -> None:
    """`diff -r` finds nothing, and each date is that of the server."""
    files = mixed_files()
    put(place.folder, files)
    copy = local_copy(place.open(), tmp_path / "copy", progress=False)
    assert differences(place.folder, copy) == ""
    assert dates(copy.path) == dates(place.folder)
    assert list(copy.files) == sorted(files)
    assert copy.size_bytes == sum(map(len, files.values()))
    assert os.fspath(copy) == str(tmp_path / "copy")


# --- a second call


def test_a_second_call_asks_for_no_file(place: ServedFolder, tmp_path: Path) -> None:
    """It looks at the server, and at each file on the disk."""
    put(place.folder, small_files(30))
    local_copy(place.open(), tmp_path / "copy", progress=False)
    forget(place)
    again = local_copy(place.open(), tmp_path / "copy", progress=False)
    assert again.stats()["fetched"] == 0
    assert len(again.files) == 30
    assert bodies(place) == []


def test_a_second_call_on_nextcloud_is_one_look(cloud_share: Share, tmp_path: Path) -> None:
    """The ETag of the folder says that nothing below it has changed."""
    put(cloud_share.root, small_files(30))
    local_copy(cloud_share.location, tmp_path / "copy", remote=cloud_share.remote, progress=False)
    cloud_share.server.forget()
    again = local_copy(cloud_share.location, tmp_path / "copy", remote=cloud_share.remote, progress=False)
    assert len(again.files) == 30
    assert [(one.method, one.headers.get("depth")) for one in cloud_share.requests()] == [("PROPFIND", "0")]


def test_what_changed_comes_and_what_vanished_goes(
    place: ServedFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Longer, shorter, of the same length, new, and gone with the last file of its folder: each is logged."""
    put(
        place.folder, {**small_files(30), "alone/gone.bin": b"gone", "same.bin": b"1234", "large.bin": b"1" * 2_000_000}
    )
    local_copy(place.open(), tmp_path / "copy", progress=False)
    changed = {"class-0/0003.bin": b"longer" * 5000, "class-1/0004.bin": b"s", "same.bin": b"4321"}
    put(place.folder, {**changed, "new/new.bin": b"new"}, later_s=1000)
    remove(place.folder, ["alone/gone.bin", "class-2/0005.bin", "large.bin"])
    settle(place)
    with caplog.at_level(logging.INFO, "ai4os_data"):
        copy = local_copy(place.open(), tmp_path / "copy", progress=False)
    assert differences(place.folder, copy) == ""
    assert dates(copy.path) == dates(place.folder)
    assert (copy.stats()["fetched"], copy.stats()["removed"]) == (4, 3)
    for key in (*changed, "alone/gone.bin", "class-2/0005.bin", "large.bin"):
        assert key in caplog.text


def test_only_what_is_missing_comes(place: ServedFolder, tmp_path: Path) -> None:
    """Files that somebody removed from the copy are fetched, and no others."""
    put(place.folder, small_files(30))
    copy = local_copy(place.open(), tmp_path / "copy", progress=False)
    for key in ("class-0/0000.bin", "class-1/0007.bin", "class-2/0029.bin"):
        (copy.path / key).unlink()
    copy.refresh()
    assert copy.stats()["fetched"] == 3
    assert differences(place.folder, copy) == ""


# --- what is not ours


def test_what_others_put_beside_stays(place: ServedFolder, tmp_path: Path) -> None:
    """Caches of a trainer, and folders and links of a user, survive changes of what is beside them."""
    put(place.folder, small_files(6))
    copy = local_copy(place.open(), tmp_path / "copy", progress=False)
    beside = {"labels.cache": b"cache", "class-0/0000.npy": b"npy", "runs/train/weights.pt": b"pt"}
    for key, data in beside.items():
        (copy.path / key).parent.mkdir(parents=True, exist_ok=True)
        (copy.path / key).write_bytes(data)
    (copy.path / "link").symlink_to("class-0")
    remove(place.folder, ["class-0/0000.bin", "class-0/0003.bin"])  # all of its folder
    put(place.folder, {"class-1/0001.bin": b"other"}, later_s=1000)
    settle(place)
    copy.refresh()
    assert missing(place.folder, copy.path) == []
    assert sorted({*keys_of(copy.path)} - {*keys_of(place.folder)}) == sorted(beside)
    assert {key: (copy.path / key).read_bytes() for key in beside} == beside
    assert (copy.path / "link").is_symlink()


def test_a_file_that_was_there_before_is_named_and_stays(place: ServedFolder, tmp_path: Path) -> None:
    """Nothing is fetched, until ``overwrite=True`` says otherwise."""
    put(place.folder, small_files(30))
    target = tmp_path / "copy"
    (target / "class-1").mkdir(parents=True)
    (target / "class-1" / "0004.bin").write_bytes(b"mine")
    forget(place)
    with pytest.raises(errors.OverwriteError, match=r"class-1/0004\.bin.*overwrite=True"):
        local_copy(place.open(), target, progress=False)
    assert keys_of(target) == ["class-1/0004.bin"]
    assert (target / "class-1" / "0004.bin").read_bytes() == b"mine"
    assert bodies(place) == []
    copy = local_copy(place.open(), target, overwrite=True, progress=False)
    assert copy.stats()["fetched"] == 30
    assert differences(place.folder, target) == ""


def test_a_file_that_was_changed_here_is_named_and_stays(place: ServedFolder, tmp_path: Path) -> None:
    """Also if it changed on the server since, or vanished there."""
    put(place.folder, small_files(6))
    copy = local_copy(place.open(), tmp_path / "copy", progress=False)
    mine = copy.path / "class-1" / "0004.bin"
    mine.write_bytes(b"mine")
    with pytest.raises(errors.OverwriteError, match=r"class-1/0004\.bin"):
        copy.refresh()
    put(place.folder, {"class-1/0004.bin": b"theirs", "class-0/0000.bin": b"new"}, later_s=1000)
    settle(place)
    with pytest.raises(errors.OverwriteError, match=r"class-1/0004\.bin"):
        copy.refresh()
    assert mine.read_bytes() == b"mine"
    assert (copy.path / "class-0" / "0000.bin").read_bytes() == b""
    remove(place.folder, ["class-1/0004.bin"])
    settle(place)
    copy.refresh()
    assert mine.read_bytes() == b"mine"
    assert (copy.path / "class-0" / "0000.bin").read_bytes() == b"new"
    mine.unlink()
    assert differences(place.folder, copy) == ""


# --- without the network


@pytest.mark.parametrize("place", ["wsgidav", "apache", "nextcloud-34"], indirect=True)
def test_a_whole_copy_serves_without_the_server(
    place: ServedFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; what is missing is an error that names it, and leaves the rest."""
    assert place.server is not None
    put(place.folder, small_files(30))
    local_copy(place.open(), tmp_path / "copy", progress=False)
    place.server.stop()
    try:
        copy = local_copy(place.open(), tmp_path / "copy", progress=False)
        assert len(copy.files) == 30
        assert "cannot be reached" in caplog.text
        (copy.path / "class-1" / "0004.bin").unlink()
        with pytest.raises(errors.StorageError, match=r"class-1/0004\.bin"):
            copy.refresh()
        with pytest.raises(errors.StorageError):
            local_copy(place.open(), tmp_path / "another", progress=False)
    finally:
        place.server.start()
    assert keys_of(copy.path) == sorted({*small_files(30)} - {"class-1/0004.bin"})
    copy.refresh()
    assert copy.stats()["fetched"] == 1
    assert differences(place.folder, copy) == ""


def test_a_whole_copy_serves_after_the_mount_has_died(
    nextcloud: NextcloudServer, tmp_path: Path, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead mount answers nothing, and one that is gone leaves an empty directory: neither makes files vanish."""
    need(missing_fuse())
    put(nextcloud.root / "mounted", small_files(6))
    url = f"{nextcloud.url}mounted/"
    point = tmp_path / "mount"
    with RcloneMount(url, nextcloud.user, nextcloud.password, point, vendor="nextcloud") as mount:
        store = DirectoryStore(point, patience=patience)
        local_copy(store, tmp_path / "copy", progress=False)
        mount.child.kill()
        assert len(local_copy(store, tmp_path / "copy", progress=False).files) == 6
        assert "cannot be reached" in caplog.text
    assert len(local_copy(store, tmp_path / "copy", progress=False).files) == 6
    assert differences(nextcloud.root / "mounted", tmp_path / "copy") == ""


# --- names


def test_names_that_cannot_be_are_listed_before_anything_comes(tmp_path: Path) -> None:
    """Those that are too long, alone or with all above them, and those that are a file and a folder too."""
    bad = ["n" * 256, "\u00e9" * 128, "p/" * 2100 + "long", "file"]
    store = MemoryStore()
    store.files.update(dict.fromkeys([*bad, "file/in it.bin", "good.bin"], b"x"))
    with pytest.raises(errors.NameRefusedError) as raised:
        local_copy(store, tmp_path / "copy", progress=False)
    said = str(raised.value)
    assert "4 of 6" in said
    assert all(repr(key) in said for key in bad)
    assert "pattern" in said
    assert not (tmp_path / "copy").exists()
    copy = local_copy(store, tmp_path / "copy", pattern="good.*", progress=False)
    assert keys_of(copy.path) == ["good.bin"]


def test_names_of_a_hostile_server_leave_nothing_elsewhere(fault: FaultServer, tmp_path: Path) -> None:
    """A listing that points out of its folder."""
    share = Share(fault)
    put(share.root, small_files(3))
    fault.always(share.name, HREFS_ELSEWHERE, method="PROPFIND")
    try:
        local_copy(share.location, tmp_path / "deep" / "copy", remote=share.remote, progress=False)
    except errors.StorageError:
        pass
    else:
        assert differences(share.root, tmp_path / "deep" / "copy") == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"deep", "xdg-cache"}
    assert {path.name for path in (tmp_path / "deep").glob("*")} <= {"copy"}


def test_a_path_that_becomes_too_long_is_named(tmp_path: Path) -> None:
    """It is short on the server, and too long below a deep directory."""
    store = MemoryStore()
    store.files.update({f"{'f' * 200}/{number}.bin": content(str(number), 10) for number in range(3)})
    deep = tmp_path / "copy"
    while len(str(deep)) < 3900:
        deep /= "d" * min(200, 3950 - len(str(deep)))
    with pytest.raises(errors.NameRefusedError, match="3 of 3"):
        local_copy(store, deep, progress=False)
    assert not (tmp_path / "copy").exists()
