"""Where a copy may lie, and what is in its way there: links are not followed, and what is not ours is named."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from ai4os_data import local_copy
from ai4os_data.cache import DiskCache
from ai4os_data.errors import (
    LocationError,
    NameRefusedError,
    NotFoundError,
    OverwriteError,
    PermissionDeniedError,
    ServerError,
)
from ai4os_data.stores import Entry, MemoryStore
from tests.support.copies import differences, keys_of
from tests.support.disks import ext4, make_read_only
from tests.support.odd_names import NAMES
from tests.support.servers.fault import Fault
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer, RcloneMount


@pytest.fixture
def source(folder: Folder) -> Folder:
    """Two files in folders."""
    folder.put({"a/1": b"one", "b/2": b"two"})
    return folder


def copied(source: Folder, directory: str | Path, *, overwrite: bool = False) -> list[str]:
    """Copy, and return the names."""
    return list(local_copy(source.location, directory, overwrite=overwrite, progress=False).files)


@pytest.mark.parametrize("directory", [".", "inner", "..", "a"])
def test_a_directory_of_the_source(source: Folder, directory: str) -> None:
    """A copy into its source, below it or around it is refused, whatever links lead there."""
    (source.root / "inner").mkdir()
    with pytest.raises(LocationError, match="lie in each other"):
        copied(source, source.root / directory)
    link = source.root.parent / "link"
    link.symlink_to(source.root)
    with pytest.raises(LocationError, match="lie in each other"):
        copied(source, link / directory)
    assert keys_of(source.root) == ["a/1", "b/2"]


def test_a_directory_on_the_mount(source: Folder, mount: RcloneMount) -> None:
    """The storage is no local disk."""
    with pytest.raises(LocationError, match=r"is on fuse\.rclone .* local disk"):
        copied(source, mount.path / "copy")


def test_a_directory_in_a_cache(source: Folder, tmp_path: Path) -> None:
    """What lies in a cache counts for its limit."""
    DiskCache(tmp_path / "cache")
    with pytest.raises(LocationError, match="is in the cache"):
        copied(source, tmp_path / "cache" / "objects" / "copy")


def test_a_file_as_the_directory(source: Folder, tmp_path: Path) -> None:
    """The error says that it is one."""
    (tmp_path / "file").write_bytes(b"mine")
    for directory in ("file", "file/copy"):
        with pytest.raises(LocationError, match="is a file where a folder belongs"):
            copied(source, tmp_path / directory)


def test_one_directory_under_several_names(source: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, one with ~ and a link lead to the same copy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("copy")  # before there is anything
    first = local_copy(source.location, "link", progress=False)
    assert first.path == tmp_path / "copy"
    for directory in ("copy", "~/copy", "link", "./link/../copy", tmp_path / "copy", first):
        assert local_copy(source.location, directory, progress=False).stats()["fetched"] == 0


def test_without_a_directory(source: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same location has the same directory, with its name at the end, and another location another one."""
    monkeypatch.setenv("AI4OS_DATA_COPIES", str(tmp_path / "copies"))
    first, second = (local_copy(source.location, progress=False) for _ in range(2))
    assert first.path == second.path
    assert first.path.name == source.root.name
    assert first.path.is_relative_to(tmp_path / "copies")
    assert second.stats()["fetched"] == 0
    assert local_copy(source.root / "a", progress=False).path != first.path


def test_a_disk_that_cannot_be_written(source: Folder, tmp_path: Path) -> None:
    """It is named, with what to do."""
    with ext4(tmp_path / "disk", 8 * 1024 * 1024) as disk:
        make_read_only(disk)
        with pytest.raises(PermissionDeniedError, match=r"Read-only file system.*Choose a directory"):
            copied(source, disk / "copy")


def test_links_on_the_way(source: Folder, tmp_path: Path) -> None:
    """A link where a folder belongs is named, and never followed, with ``overwrite=True`` neither."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a").symlink_to(elsewhere)
    for overwrite in (False, True):
        with pytest.raises(OverwriteError, match="'a': here is a folder where a file belongs, or a file or a link"):
            copied(source, tmp_path / "copy", overwrite=overwrite)
    assert os.listdir(elsewhere) == []
    assert os.listdir(tmp_path / "copy") == ["a"]


@pytest.mark.parametrize("to", ["elsewhere", "nowhere"])
def test_a_link_under_the_name_of_a_file(source: Folder, tmp_path: Path, to: str) -> None:
    """It is not ours, be there something at its end or not; ``overwrite=True`` replaces the link itself."""
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "copy" / "a").mkdir(parents=True)
    link = tmp_path / "copy" / "a" / "1"
    link.symlink_to(tmp_path / to)
    with pytest.raises(OverwriteError, match="'a/1' is a file that this copy did not write"):
        copied(source, tmp_path / "copy")
    copied(source, tmp_path / "copy", overwrite=True)
    assert not link.is_symlink()
    assert link.read_bytes() == b"one"
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_under_the_name_of_a_file(source: Folder, tmp_path: Path) -> None:
    """It is named, and stays."""
    (tmp_path / "copy" / "a" / "1" / "mine").mkdir(parents=True)
    with pytest.raises(OverwriteError, match="'a/1': here is a folder"):
        copied(source, tmp_path / "copy", overwrite=True)
    assert (tmp_path / "copy" / "a" / "1" / "mine").is_dir()


def test_a_record_that_is_gone(source: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are no longer known to be ours; the error says what to do, and that does it."""
    monkeypatch.setenv("AI4OS_DATA_COPIES", str(tmp_path / "copies"))
    copied(source, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copies")
    with pytest.raises(OverwriteError, match="whose record is lost"):
        copied(source, tmp_path / "copy")
    copied(source, tmp_path / "copy", overwrite=True)
    assert differences(source.root, tmp_path / "copy") == ""
    copied(source, tmp_path / "copy")


def test_a_file_that_appears_meanwhile(source: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's file that comes between the look and the copy stays, is named, and the others come."""
    from ai4os_data.folders import fetching

    plain = fetching.Fetching._place

    def place(self: fetching.Fetching, staged: str, key: str, written: object) -> None:
        if key == "a/1":
            (tmp_path / "copy" / "a").mkdir()
            (tmp_path / "copy" / "a" / "1").write_bytes(b"mine")
        plain(self, staged, key, written)  # type: ignore[arg-type]

    monkeypatch.setattr(fetching.Fetching, "_place", place)
    with pytest.raises(OverwriteError, match=r"1 of 2 files did not come: .*'a/1'"):
        copied(source, tmp_path / "copy")
    assert (tmp_path / "copy" / "a" / "1").read_bytes() == b"mine"
    assert keys_of(tmp_path / "copy") == ["a/1", "b/2"]
    assert os.listdir(tmp_path / "copy") == ["a", "b"] or os.listdir(tmp_path / "copy") == ["b", "a"]


def test_another_container_with_a_record_of_its_own(
    source: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who do not see each other's records do not sweep what the other has on its way."""
    from ai4os_data.folders import Progress, copied_to

    def meanwhile(progress: Progress) -> None:
        if progress.total_files and not progress.came_files:
            monkeypatch.setenv("AI4OS_DATA_COPIES", str(tmp_path / "other"))
            with pytest.raises(OverwriteError, match="AI4OS_DATA_COPIES"):
                copied(source, tmp_path / "copy")
            seen.append(progress)

    seen: list[Progress] = []
    copied_to(source.location, tmp_path / "copy", meanwhile)
    assert seen
    assert differences(source.root, tmp_path / "copy") == ""


# --- names


def test_odd_names_are_those_of_the_source(folder: Folder, tmp_path: Path) -> None:
    """Backslashes, line breaks, bytes that are no UTF-8, blanks at the end: a local disk holds them all."""
    names = [*NAMES.values(), "end ", "line\nbreak", os.fsdecode(b"latin \xe9"), "...", "~$x"]
    folder.put({f"{name}/{name}": b"x" for name in dict.fromkeys(names)})
    copied(folder, tmp_path / "copy")
    assert differences(folder.root, tmp_path / "copy") == ""
    assert local_copy(folder.location, tmp_path / "copy", progress=False).stats()["fetched"] == 0


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("../x", "leaves the directory"),
        ("a/../../x", "leaves the directory"),
        ("./x", "leaves the directory"),
        ("a//x", "leaves the directory"),
        ("nul\0", "leaves the directory"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, key: str, why: str) -> None:
    """A store that lists them is not believed; nothing is fetched, and nothing appears anywhere."""

    class Hostile(MemoryStore):
        def stat(self, key: str) -> Entry:
            return Entry(key, 1, "e")

    store = Hostile({"good": b"x", key: b"x"})
    with pytest.raises(NameRefusedError, match=re.escape(why)):
        local_copy(store, tmp_path / "deep" / "copy", progress=False)
    assert sorted(os.listdir(tmp_path)) in ([], ["xdg-cache"])


def test_the_name_of_what_is_on_its_way(tmp_path: Path) -> None:
    """A file in a folder of that name cannot be copied, and is named before anything comes."""
    store = MemoryStore({"good": b"x"})
    local_copy(store, tmp_path / "copy", progress=False)
    from ai4os_data.cache import digest

    staging = f".ai4os-data-{digest(store.identity)[:12]}"
    store.files[f"{staging}/part-1"] = b"x"
    with pytest.raises(NameRefusedError, match="the folder for what is on its way"):
        local_copy(store, tmp_path / "copy", progress=False)


def test_somebody_else_s_folder_for_what_is_on_its_way(tmp_path: Path) -> None:
    """A link in its place is not followed, and a file is named."""
    from ai4os_data.cache import digest

    store = MemoryStore({"good": b"x"})
    (tmp_path / "copy").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1").write_bytes(b"mine")
    staging = tmp_path / "copy" / f".ai4os-data-{digest(store.identity)[:12]}"
    staging.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OverwriteError, match=re.escape(staging.name)):
        local_copy(store, tmp_path / "copy", progress=False)
    assert (tmp_path / "elsewhere" / "1").read_bytes() == b"mine"


# --- what goes, or hides, while it is copied


def test_a_file_that_is_gone_by_now(fault: FaultServer, tmp_path: Path) -> None:
    """It was listed, and removed before its turn: the copy is what the server has."""
    share = Share(fault)
    share.put({"a": b"1", "b": b"2", "c": b"3"})
    listed = local_copy(share.location, tmp_path / "other", remote=share.remote, progress=False)
    assert listed.files == ["a", "b", "c"]
    fault.always(f"{share.name}/b", Fault(status=404))
    with pytest.raises(NotFoundError, match="'b'"):  # the server lists it still, and does not have it
        local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False)
    assert keys_of(tmp_path / "copy") == ["a", "c"]
    fault.heal()
    (tmp_path / "copy" / "a").unlink()
    fault.script(f"{share.name}/a", Fault(status=404), Fault(status=404))
    copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False)
    assert copy.stats()["fetched"] == 2


def test_what_cannot_be_listed_has_not_vanished(fault: FaultServer, tmp_path: Path) -> None:
    """Files that came by another pattern stay, while their folder cannot be read."""
    share = Share(fault)
    share.put({"a/1": b"1", "b/2": b"2"})
    fault.change(depth_infinity="refused")
    for pattern in ("a/**", "b/**"):
        local_copy(share.location, tmp_path / "copy", remote=share.remote, pattern=pattern, progress=False)
    fault.always(f"{share.name}/a", Fault(status=403), method="PROPFIND")
    share.put({"b/3": b"3"})
    local_copy(share.location, tmp_path / "copy", remote=share.remote, pattern="b/**", progress=False)
    assert keys_of(tmp_path / "copy") == ["a/1", "b/2", "b/3"]
    with pytest.raises((PermissionDeniedError, ServerError)):
        local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False)
