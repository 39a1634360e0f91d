"""Moving and copying: nothing is removed whose copy is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import pytest

from ai4os_data import errors, open_filesystem
from ai4os_data.fsspec.filesystem import StorageFileSystem
from ai4os_data.stores import DirectoryStore
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.fsspec.filesystem import RootedFileSystem

FILES = {"a/b/y.txt": b"yy", "a/x.txt": b"x"}


@pytest.fixture(params=["wsgidav", "nextcloud", "apache", "rclone", "directory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder on each kind of server, and one on this disk."""
    if request.param == "directory":
        return Folder(tmp_path / "files")
    return Share(request.getfixturevalue(request.param))


@pytest.fixture
def filled(folder: Folder) -> Folder:
    """A folder with files in it, put there as another client would."""
    folder.put(FILES)
    return folder


@pytest.fixture
def files(filled: Folder) -> RootedFileSystem:
    """The file system of that folder."""
    return open_filesystem(filled.location, filled.remote)


def stored(folder: Folder) -> dict[str, bytes]:
    """The files that are really there."""
    return {
        path.relative_to(folder.root).as_posix(): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("target", ["a/x.txt", "/a/x.txt", "a/x.txt/", "a/", "/a"])
def test_a_file_that_is_moved_or_copied_onto_itself_stays(filled: Folder, files: RootedFileSystem, target: str) -> None:
    """A file that is moved onto itself stays, however its name is spelled."""
    if target != "a/x.txt/":  # that is in a folder which cannot be there
        files.mv("a/x.txt", target)
        files.cp("a/x.txt", target)
    files.cp_file("a/x.txt", "/a/x.txt/")
    assert stored(filled) == FILES


@pytest.mark.parametrize("folder", ["wsgidav", "nextcloud"], indirect=True)
def test_a_url_and_a_path_are_one_file(filled: Folder, rshare: str) -> None:
    """A URL and a path of the registered file system name one file."""
    files = fsspec.filesystem("ai4os")
    path = rshare.removeprefix("ai4os://")
    files.mv(f"{rshare}/a/x.txt", f"{path}/a/x.txt")
    with pytest.raises(OSError, match="into itself"):
        files.mv(f"{rshare}/a", f"{path}/a/c", recursive=True)
    assert stored(filled) == FILES


@pytest.mark.parametrize("target", ["a/c", "a/", "/a", "a/b", "a/b/"])
@pytest.mark.parametrize("verb", ["mv", "cp"])
def test_a_folder_is_not_moved_or_copied_into_itself(
    filled: Folder, files: RootedFileSystem, verb: str, target: str
) -> None:
    """Neither below itself, nor as a folder of its own name in itself."""
    with pytest.raises(OSError, match="into itself"):
        getattr(files, verb)("a", target, recursive=True)
    assert stored(filled) == FILES


def test_a_root_is_not_moved(filled: Folder, files: RootedFileSystem) -> None:
    """A root cannot be moved: it cannot be removed, and everything is in it."""
    with pytest.raises(OSError, match="into itself"):
        files.mv("", "z", recursive=True)
    assert stored(filled) == FILES


def test_a_folder_is_moved_whole(filled: Folder, files: RootedFileSystem) -> None:
    """A folder is moved with its empty folders, to a new name and into an existing folder, and nothing of it stays."""
    files.makedirs("a/empty")
    files.mv("a", "z", recursive=True)
    assert stored(filled) == {"z/b/y.txt": b"yy", "z/x.txt": b"x"}
    assert sorted(path.name for path in filled.root.iterdir()) == ["z"]
    assert files.isdir("z/empty")
    files.makedirs("there")
    files.mv("z", "there", recursive=True)
    assert stored(filled) == {"there/z/b/y.txt": b"yy", "there/z/x.txt": b"x"}
    files.mv("there/z/x.txt", "there")
    files.mv(["there/z/b/y.txt"], ["top"])
    files.mv("top", "there")
    assert stored(filled) == {"there/x.txt": b"x", "there/top": b"yy"}


def test_a_folder_without_recursive_is_told_how_to_move_it(filled: Folder, files: RootedFileSystem) -> None:
    """The error says how to move a folder, and not how to remove it."""
    with pytest.raises(IsADirectoryError, match="move"):
        files.mv("a", "z")
    with pytest.raises(FileNotFoundError):
        files.mv("nope", "z")
    assert stored(filled) == FILES


def test_two_files_of_one_name_are_not_moved_to_one_place(filled: Folder, files: RootedFileSystem) -> None:
    """A list of files goes into one folder, where the second would replace the first."""
    filled.put({"a/b/x.txt": b"other"})
    with pytest.raises(ValueError, match="same name"):
        files.mv(["a/x.txt", "a/b/x.txt"], "z/")
    with pytest.raises(OSError, match="written over"):
        files.mv(["a/x.txt", "a/b/x.txt"], ["a/b/x.txt", "z"])
    assert stored(filled) == {**FILES, "a/b/x.txt": b"other"}


class Interfered(DirectoryStore):
    """A directory in which somebody else does something as soon as a file has been written."""

    def __init__(self, directory: Path, interfere: Callable[[], object]) -> None:
        super().__init__(directory)
        self.interfere = interfere

    def sha256_of(self, entry: object) -> str:
        """Verify the file, then run what interferes."""
        found = super().sha256_of(entry)  # type: ignore[arg-type]
        self.interfere()
        return found


def test_a_file_that_changes_after_it_was_copied_is_not_removed(tmp_path: Path) -> None:
    """A file that changed after it was copied stays: its last version is nowhere else."""
    there = Folder(tmp_path / "files")
    there.put(FILES)
    files = open_filesystem(Interfered(there.root, lambda: there.put({"a/x.txt": b"newer"})))
    with pytest.raises(errors.ChangedError, match="not removed"):
        files.mv("a", "z", recursive=True)
    assert stored(there)["a/x.txt"] == b"newer"
    assert stored(there)["z/x.txt"] in {b"x", b"newer"}


def test_a_file_that_comes_while_its_folder_is_moved_is_not_removed(tmp_path: Path) -> None:
    """A file that came meanwhile stays; the rest is moved."""
    there = Folder(tmp_path / "files")
    there.put(FILES)
    files = open_filesystem(Interfered(there.root, lambda: there.put({"a/late.txt": b"late"})))
    with pytest.raises(OSError, match="not removed"):
        files.mv("a", "z", recursive=True)
    assert stored(there) == {"a/late.txt": b"late", "z/b/y.txt": b"yy", "z/x.txt": b"x"}


def test_two_names_of_one_file_are_told_by_where_they_lead(tmp_path: Path) -> None:
    """A link to the folder leads to the same file, which is not removed."""
    there = Folder(tmp_path / "files")
    there.put(FILES)
    (there.root / "link").symlink_to("a")
    files = open_filesystem(there.location)
    files.mv("a/x.txt", "link/x.txt")
    assert (there.root / "a/x.txt").read_bytes() == b"x"


def test_files_behind_a_link_are_not_moved(tmp_path: Path) -> None:
    """A link out of the moved folder is refused: the files that it leads to must not be removed."""
    there, elsewhere = Folder(tmp_path / "files"), Folder(tmp_path / "elsewhere")
    there.put(FILES)
    elsewhere.put(FILES)
    (there.root / "a/link").symlink_to(elsewhere.root)
    with pytest.raises(OSError, match="link"):
        open_filesystem(there.location).mv("a", "z", recursive=True)
    assert stored(elsewhere) == FILES
    assert (there.root / "a/x.txt").read_bytes() == b"x"


def test_two_remotes_of_one_folder_are_one_place(share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote may be given for a folder of another one."""
    share.put(FILES)
    for name, value in {**share.environ("one"), **share.environ("two")}.items():
        monkeypatch.setenv(name, f"{share.location}/a" if name == "RCLONE_CONFIG_TWO_URL" else value)
    files = StorageFileSystem(cache=None, skip_instance_cache=True)
    files.mv(f"one/{share.name}/a/x.txt", "two/x.txt")
    assert stored(share) == FILES
