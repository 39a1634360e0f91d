"""A copy has the shape of its source: folders without a file too, junk too, and what turns into something else."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ai4os_data import local_copy
from ai4os_data.errors import EmptyDatasetError, OverwriteError
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path


def differences(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> str:
    """Return what `diff -r` says."""
    return subprocess.run(["diff", "-r", one, other], capture_output=True, text=True, check=False).stdout


@pytest.fixture(params=["folder", "share", "cloud_share"])
def source(request: pytest.FixtureRequest) -> Folder:
    """A folder on this disk, on wsgidav, and on the double of Nextcloud."""
    found: Folder = request.getfixturevalue(request.param)
    found.put({"cats/1.jpg": b"a", "cats/2.jpg": b"bb", "dogs/puppies/1.jpg": b"ccc", "._1.jpg": b"junk"})
    for key in ("birds", "fish/large/sharks"):
        (found.root / key).mkdir(parents=True)
    return found


def copied(source: Folder, directory: Path, **options: object) -> list[str]:
    """Copy, and return the names."""
    copy = local_copy(source.location, directory, remote=source.remote, progress=False, **options)  # type: ignore[arg-type]
    return list(copy.files)


def test_nothing_differs(source: Folder, tmp_path: Path) -> None:
    """Empty folders and junk are there as well, and a second call makes and fetches nothing."""
    keys = copied(source, tmp_path / "copy")
    assert keys == ["._1.jpg", "cats/1.jpg", "cats/2.jpg", "dogs/puppies/1.jpg"]
    assert differences(source.root, tmp_path / "copy") == ""
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*")}
    assert copied(source, tmp_path / "copy") == keys
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*")} == before


def test_a_pattern_takes_neither_junk_nor_empty_folders(source: Folder, tmp_path: Path) -> None:
    """What a trainer would glob is what it says, as with a dataset."""
    assert copied(source, tmp_path / "copy", pattern="**/*.jpg") == ["cats/1.jpg", "cats/2.jpg", "dogs/puppies/1.jpg"]
    assert sorted(os.listdir(tmp_path / "copy")) == ["cats", "dogs"]


def test_folders_that_vanish_go_if_they_are_ours_and_empty(source: Folder, tmp_path: Path) -> None:
    """A folder that was here before the copy stays, and so does one that has something else in it."""
    (tmp_path / "copy" / "birds").mkdir(parents=True)
    copied(source, tmp_path / "copy")
    (tmp_path / "copy" / "dogs" / "labels.cache").write_bytes(b"mine")
    source.remove("dogs/puppies/1.jpg", "cats/2.jpg")
    for key in ("dogs/puppies", "dogs", "birds", "fish/large/sharks", "fish/large"):
        (source.root / key).rmdir()
    assert copied(source, tmp_path / "copy") == ["._1.jpg", "cats/1.jpg"]
    there = sorted(str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*"))
    assert there == ["._1.jpg", "birds", "cats", "cats/1.jpg", "dogs", "dogs/labels.cache", "fish"]


def test_a_file_becomes_a_folder_and_a_folder_a_file(source: Folder, tmp_path: Path) -> None:
    """What vanished makes way for what came under its name."""
    copied(source, tmp_path / "copy")
    source.remove("._1.jpg", "dogs/puppies/1.jpg")
    (source.root / "dogs" / "puppies").rmdir()
    (source.root / "birds").rmdir()
    source.put({"._1.jpg/inside": b"1", "dogs/puppies": b"2", "birds": b"3"})
    copied(source, tmp_path / "copy")
    assert differences(source.root, tmp_path / "copy") == ""


def test_a_folder_with_something_else_in_it_makes_no_way(source: Folder, tmp_path: Path) -> None:
    """A folder that became a file on the storage is named, if a file of somebody else is in it."""
    copied(source, tmp_path / "copy")
    mine = tmp_path / "copy" / "dogs" / "puppies" / "labels.cache"
    mine.write_bytes(b"mine")
    source.remove("dogs/puppies/1.jpg")
    (source.root / "dogs" / "puppies").rmdir()
    source.put({"dogs/puppies": b"2"})
    with pytest.raises(OverwriteError, match=r"'dogs/puppies': here is a folder where a file belongs"):
        copied(source, tmp_path / "copy", overwrite=True)
    assert mine.read_bytes() == b"mine"


def test_an_empty_listing_removes_nothing(folder: Folder, tmp_path: Path) -> None:
    """Nothing at all on the storage is an error: it may be a share that came loose."""
    folder.put({"a": b"1"})
    copied(folder, tmp_path / "copy")
    folder.remove("a")
    with pytest.raises(EmptyDatasetError):
        copied(folder, tmp_path / "copy")
    assert (tmp_path / "copy" / "a").read_bytes() == b"1"


def test_one_look_at_nextcloud(cloud_share: Share, tmp_path: Path) -> None:
    """A second call asks for the ETag of the folder, and nothing else; the folders are known from before."""
    cloud_share.put({"a/1": b"1"})
    (cloud_share.root / "b").mkdir()
    copied(cloud_share, tmp_path / "copy")
    (tmp_path / "copy" / "b").rmdir()
    cloud_share.server.forget()
    copied(cloud_share, tmp_path / "copy")
    assert [request.method for request in cloud_share.requests()] == ["PROPFIND"]
    assert (tmp_path / "copy" / "b").is_dir()


def test_parts_of_one_location_go_side_by_side(folder: Folder, tmp_path: Path) -> None:
    """Two patterns into one directory: neither takes the files of the other for vanished."""
    folder.put({"a.jpg": b"1", "a.txt": b"2"})
    assert copied(folder, tmp_path / "copy", pattern="*.jpg") == ["a.jpg"]
    assert copied(folder, tmp_path / "copy", pattern="*.txt") == ["a.txt"]
    folder.remove("a.jpg")
    copied(folder, tmp_path / "copy", pattern="*.txt")
    assert os.listdir(tmp_path / "copy") == ["a.txt"]


def test_two_locations_into_one_directory(folder: Folder, tmp_path: Path) -> None:
    """Each leaves the files of the other alone, and a name that both have is refused."""
    other = Folder(tmp_path / "other")
    folder.put({"a/1": b"1", "both": b"1"})
    other.put({"a/2": b"2"})
    copied(folder, tmp_path / "copy")
    copied(other, tmp_path / "copy")
    copied(folder, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy" / "a")) == ["1", "2"]
    other.put({"both": b"2"})
    with pytest.raises(OverwriteError, match="'both'"):
        copied(other, tmp_path / "copy")
    assert (tmp_path / "copy" / "both").read_bytes() == b"1"


def test_one_copy_inside_another(folder: Folder, tmp_path: Path) -> None:
    """A copy in a folder of another copy is none of its files."""
    other = Folder(tmp_path / "other")
    folder.put({"a/1": b"1"})
    other.put({"2": b"2"})
    copied(folder, tmp_path / "copy")
    copied(other, tmp_path / "copy" / "a" / "inner")
    folder.put({"a/3": b"3"})
    folder.remove("a/1")
    copied(folder, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy" / "a")) == ["3", "inner"]
    assert (tmp_path / "copy" / "a" / "inner" / "2").read_bytes() == b"2"


def test_another_prepare_replaces_what_is_ours(folder: Folder, tmp_path: Path) -> None:
    """A copy is made anew if another function prepares it, and back again without one."""
    folder.put({"a": b"x", "b": b"y"})
    for prepare, expected in ((bytes.upper, b"X"), (None, b"x"), (_twice, b"xx")):
        copied(folder, tmp_path / "copy", prepare=prepare)
        assert (tmp_path / "copy" / "a").read_bytes() == expected


def _twice(data: bytes) -> bytes:
    return data + data
