"""Files of the fsspec file system: read in one version, written whole or not at all."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import multiprocessing
import pickle
import re
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.tar import TarFileSystem

from ai4os_data import Remote, StorageDataset, errors, open_filesystem
from ai4os_data.fsspec.filesystem import RootedFileSystem, StorageFileSystem
from tests.support.servers import PASSWORD
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from tests.support.servers import ApacheServer

LARGE_BYTES = 20 * 1024 * 1024


def check_nothing_was_put(folder: Share) -> None:
    """Find that nothing was sent."""
    assert folder.requests("PUT") == []
    assert list(folder.root.iterdir()) == []


def test_what_is_written_is_there_and_is_read_through_the_cache(folder: Share, files: RootedFileSystem) -> None:
    """A second read of a whole file sends no GET."""
    with files.open("a/näme #1.bin", "wb") as file:
        file.write(b"bytes")
    assert (folder.root / "a/näme #1.bin").read_bytes() == b"bytes"
    assert files.cat_file("a/näme #1.bin") == b"bytes"
    folder.server.forget()
    assert files.cat_file("a/näme #1.bin") == b"bytes"
    assert folder.requests("GET") == []


@pytest.mark.parametrize("mode", ["wb", "w", "wt"])
def test_exception_in_with_sends_nothing(folder: Share, files: RootedFileSystem, mode: str) -> None:
    """A ``with`` that fails leaves nothing on the server."""
    with pytest.raises(KeyError), files.open("half", mode) as file:
        file.write(b"half" if mode == "wb" else "half")
        raise KeyError
    check_nothing_was_put(folder)


@pytest.mark.parametrize("mode", ["wb", "w"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_exception_in_with_of_fsspec_open_sends_nothing(
    folder: Share, rshare: str, mode: str, compression: str | None
) -> None:
    """Fsspec's own OpenFile closes what it opened without a word of the exception."""
    with pytest.raises(KeyError), fsspec.open(f"{rshare}/half", mode, compression=compression) as file:
        file.write(b"half" if mode == "wb" else "half")
        raise KeyError
    check_nothing_was_put(folder)


def test_close_inside_an_older_handler_sends(folder: Share, files: RootedFileSystem) -> None:
    """An exception that was being handled before the file was opened does not keep it from being sent."""
    try:
        raise KeyError
    except KeyError:
        with files.open("whole", "w") as file:
            file.write("whole")
    assert (folder.root / "whole").read_text() == "whole"


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_dropped_file_sends_nothing(folder: Share, files: RootedFileSystem, rshare: str, mode: str) -> None:
    """A file object that nobody closed is no file."""
    for opened in (files.open("half", mode), fsspec.open(f"{rshare}/half", mode).open()):
        opened.write(b"half" if mode == "wb" else "half")
        del opened
    gc.collect()
    check_nothing_was_put(folder)


def test_failed_write_keeps_the_old_file(folder: Share, files: RootedFileSystem) -> None:
    """If the write fails, the file that was there before stays."""
    files.pipe_file("kept", b"old")
    with pytest.raises(KeyError), files.open("kept", "wb") as file:
        file.write(b"new")
        raise KeyError
    assert (folder.root / "kept").read_bytes() == b"old"


def test_rewrite_of_the_same_size_is_read_as_it_is_now(files: RootedFileSystem) -> None:
    """Some servers give a rewrite within the same second the ETag of the old file; ours is noticed."""
    for number in range(5):
        files.pipe_file("same", b"%d" % number)
        assert files.cat_file("same") == b"%d" % number


def test_transaction_sends_all_or_nothing(folder: Share, files: RootedFileSystem) -> None:
    """Files of a transaction wait for its end."""
    with files.transaction:
        with files.open("a", "wb") as file:
            file.write(b"a")
        assert folder.requests("PUT") == []
    assert files.cat_file("a") == b"a"
    with pytest.raises(KeyError), files.transaction:
        with files.open("b", "wb") as file:
            file.write(b"b")
        raise KeyError
    assert not files.exists("b")


def test_text_is_compressed_and_comes_back(folder: Share, files: RootedFileSystem) -> None:
    """A name that ends with ``.gz`` is compressed if that is to be inferred."""
    with files.open("text.gz", "wt", compression="infer", encoding="utf-8") as file:
        file.write("höhe")
    assert gzip.decompress((folder.root / "text.gz").read_bytes()).decode() == "höhe"
    with files.open("text.gz", "rt", compression="infer", encoding="utf-8") as file:
        assert file.read() == "höhe"


def test_ranges_of_a_large_file_are_not_spliced(folder: Share, files: RootedFileSystem) -> None:
    """A file that changes while it is read in parts raises, and gives no mixture."""
    folder.put({"large": bytes(LARGE_BYTES)})
    with files.open("large") as file:
        assert file.read(10) == bytes(10)
        folder.put({"large": b"\1" * LARGE_BYTES})
        file.seek(LARGE_BYTES - 10)
        with pytest.raises(errors.ChangedError):
            file.read(10)


def test_parts_are_those_of_the_file(folder: Share, files: RootedFileSystem) -> None:
    """Negative positions count from the end, as in a slice; the parts of a large file are not fetched as a whole."""
    data = bytes(range(256)) * (LARGE_BYTES // 256)
    folder.put({"large": data, "small": data[:300]})
    folder.server.forget()
    assert files.cat_file("large", 5, 10) == data[5:10]
    assert files.cat_file("large", -5) == data[-5:]
    assert files.cat_ranges(["large", "small", "large"], [1, 2, -3], [4, 9, None]) == [data[1:4], data[2:9], data[-3:]]
    assert files.cat_ranges(["small"], 3, 3) == [b""]
    assert isinstance(files.cat_ranges(["gone"], 0, 1)[0], FileNotFoundError)
    assert {request.headers.get("range") for request in folder.requests("GET") if request.path.endswith("large")} == {
        "bytes=5-9",
        f"bytes={LARGE_BYTES - 5}-{LARGE_BYTES - 1}",
        "bytes=1-3",
        f"bytes={LARGE_BYTES - 3}-{LARGE_BYTES - 1}",
    }


def test_folders_and_names(folder: Share, files: RootedFileSystem) -> None:
    """Folders and files with odd names are looked at, copied, moved and removed."""
    folder.put({"a/b/c.txt": "c", "a/d.txt": "dd", "e": "e"})
    assert files.ls("", detail=False) == ["a", "e"]
    assert files.find("") == ["a/b/c.txt", "a/d.txt", "e"]
    assert files.glob("**/*.txt") == ["a/b/c.txt", "a/d.txt"]
    assert [names for _, _, names in files.walk("a")] == [["d.txt"], ["c.txt"]]
    assert files.info("a/d.txt")["size"] == 2
    assert files.info("a")["type"] == "directory"
    assert (files.isfile("a"), files.isdir("a"), files.exists("zzz")) == (False, True, False)
    files.mv("a", "moved", recursive=True)
    assert files.find("") == ["e", "moved/b/c.txt", "moved/d.txt"]
    files.cp_file("e", "f")
    assert files.cat(["e", "f"]) == {"e": b"e", "f": b"e"}
    files.makedirs("empty/inside")
    assert files.isdir("empty/inside")
    with pytest.raises(FileExistsError):
        files.mkdir("empty")
    files.rmdir("empty/inside")
    with pytest.raises(IsADirectoryError):
        files.rm("moved")
    files.rm(["moved", "e"], recursive=True)
    assert files.find("") == ["f"]
    files.touch("g")
    assert files.size("g") == 0
    with pytest.raises(ValueError, match="append"):
        files.open("f", "ab")


def test_wrong_password_is_no_missing_file(folder: Share) -> None:
    """If the server cannot answer, the error is raised; nothing looks absent or empty."""
    remote = Remote(folder.server.url, folder.server.user, "wrong")
    with pytest.raises(errors.AuthenticationError):
        open_filesystem(folder.location, remote)
    files = open_filesystem(folder.location, remote, create=True)
    for look in (files.exists, files.isdir, files.find, lambda path: list(files.walk(path))):
        with pytest.raises(errors.AuthenticationError):
            look("a")


def test_a_folder_does_not_give_way_to_a_file(folder: Share, files: RootedFileSystem, tmp_path: Path) -> None:
    """A file never replaces a folder, whatever writes it; what lies in the folder stays."""
    folder.put({"a/x.txt": "precious", "n": "n"})
    (tmp_path / "local").write_bytes(b"1")
    writes: list[Callable[[], object]] = [
        lambda: files.open("a", "wb").close(),
        lambda: files.open("a", "w").close(),
        lambda: files.pipe("a", b"1"),
        lambda: files.pipe_file("a", b"1"),
        lambda: files.put_file(tmp_path / "local", "a"),
        lambda: files.touch("a"),
        lambda: files.cp_file("n", "a"),
        lambda: files.pipe("", b"1"),
    ]
    for write in writes:
        with pytest.raises(IsADirectoryError):
            write()
    assert files.cat(["a/x.txt", "n"]) == {"a/x.txt": b"precious", "n": b"n"}
    assert folder.requests("DELETE") == []


@pytest.mark.parametrize("name", ["apache", "rclone", "directory", "nextcloud"])
def test_a_file_does_not_give_way_to_a_folder(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A folder is not made below a file, even if it may exist already."""
    there = Folder(tmp_path / "files") if name == "directory" else Share(request.getfixturevalue(name))
    there.put({"a/x.txt": "precious"})
    files = open_filesystem(there.location, there.remote)
    files.makedirs("a", exist_ok=True)
    for exist_ok in (True, False):
        with pytest.raises(FileExistsError):
            files.makedirs("a/x.txt", exist_ok=exist_ok)
    with pytest.raises(NotADirectoryError):
        files.makedirs("a/x.txt/q", exist_ok=True)
    with pytest.raises(OSError, match=r"a/x\.txt"):
        files.pipe("a/x.txt/z", b"1")
    with pytest.raises(IsADirectoryError):
        files.pipe("a", b"1")
    assert files.cat("a/x.txt") == b"precious"


def test_what_is_opened_to_be_read_cannot_be_written(folder: Share, files: RootedFileSystem) -> None:
    """A small file, one in ranges and one of the cache refuse to be written; each has its size."""
    folder.put({"small": b"0123456789", "large": bytes(LARGE_BYTES)})
    for key, size_bytes in (("small", 10), ("large", LARGE_BYTES)):
        with files.open(key) as file:
            assert (file.size, file.readable(), file.writable(), file.seekable()) == (size_bytes, True, False, True)
            for verb, argument in (("write", b"1"), ("writelines", [b"1"]), ("truncate", 0)):
                with pytest.raises(io.UnsupportedOperation):
                    getattr(file, verb)(argument)
            file.seek(-3, 2)
            assert len(file.read()) == 3
        with pytest.raises(ValueError, match="closed"):
            file.read()
    StorageDataset(folder.location, remote=folder.remote, pattern="large", decode="path").warm(progress=False)
    with files.open("large") as file:
        assert (file.size, file.writable(), file.read() == bytes(LARGE_BYTES)) == (LARGE_BYTES, False, True)


def test_opened_files_say_what_they_are(folder: Share, files: RootedFileSystem, rshare: str) -> None:
    """Each open file has the attributes of fsspec's own: small, in ranges, through fsspec's blocks, or new."""
    folder.put({"small.gz": b"0123456789", "large.nii.gz": bytes(LARGE_BYTES)})
    registered, top = fsspec.core.url_to_fs(rshare)
    for fs, before in ((files, ""), (registered, f"{top}/")):
        for key, cache_type in (("small.gz", None), ("large.nii.gz", None), ("small.gz", "bytes")):
            path = f"{before}{key}"
            with fs.open(path, cache_type=cache_type) as file:
                assert (file.path, file.mode, file.fs, file.loc) == (path, "rb", fs, 0)
                assert file.full_name == fs.unstrip_protocol(path)
                assert (file.size, file.info()["size"], file.details["name"]) == (fs.size(path), fs.size(path), path)
                assert cache_type or file.name == path
                assert file.readinto(bytearray(4)) == file.tell() == file.loc == 4
        with fs.open(f"{before}new", "xb") as new:
            assert (new.path, new.name, new.mode, new.fs) == (f"{before}new", f"{before}new", "xb", fs)
            with pytest.raises(ValueError, match="still being written"):
                new.info()
        fs.rm(f"{before}new")


def test_archives_are_read_in_an_opened_file(folder: Share, files: RootedFileSystem, rshare: str) -> None:
    """tar:// and zip:// over a file and in a chain of URLs; the compression follows from the name."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    folder.put({"t.tar.gz": content.getvalue(), "x.gz": gzip.compress(b"text")})
    assert TarFileSystem(fo=files.open("t.tar.gz")).cat("a.txt") == b"hello"
    with fsspec.open(f"tar://a.txt::{rshare}/t.tar.gz") as file:
        assert file.read() == b"hello"
    for before in ("", "simplecache::"):
        with fsspec.open(f"{before}{rshare}/x.gz", "rt", compression="infer") as text:
            assert text.read() == "text"
    with files.open("z.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello")
    with fsspec.open(f"zip://a.txt::{rshare}/z.zip") as file:
        assert file.read() == b"hello"


def test_a_file_that_is_read_in_ranges_is_opened_again_elsewhere(folder: Share, files: RootedFileSystem) -> None:
    """A pickled file is resumed at its position; one that has changed raises, and is never spliced."""
    folder.put({"large": b"0" * (LARGE_BYTES - 3) + b"end", "small": b"0123"})
    for key, size_bytes in (("large", LARGE_BYTES), ("small", 4)):
        with files.open(key) as file:
            file.seek(size_bytes - 3)
            with pickle.loads(pickle.dumps(file)) as again:  # noqa: S301  our own
                assert (again.path, again.tell()) == (key, size_bytes - 3)
                assert again.read() == file.read()
    with files.open("large") as file:
        sent = pickle.dumps(file)
    folder.put({"large": b"other"})
    with pytest.raises(errors.ChangedError, match="open it again"):
        pickle.loads(sent)  # noqa: S301  our own


def test_a_folder_is_not_read_as_a_file(folder: Share, files: RootedFileSystem) -> None:
    """A folder is not read as a file, and neither is the root, however it is asked for."""
    folder.put({"a/b": "b"})
    for path in ("a", "", "/", "a/"):
        for read in (files.open, files.cat_file, files.ukey, files.checksum):
            with pytest.raises(IsADirectoryError):
                read(path)
    assert [type(found) for found in files.cat_ranges(["a", "a/b"], 0, 1)] == [IsADirectoryError, bytes]


@pytest.mark.parametrize("path", ["a//b", "a/../b", "./b", "a/./b", "a//", "..", "a\0b"])
def test_there_is_nothing_at_a_path_that_names_nothing(folder: Share, files: RootedFileSystem, path: str) -> None:
    """A path that leaves its folder is missing when it is read, as on other file systems, and is not written."""
    folder.put({"a/b": "b", "b": "b"})
    is_folder = path == "a//"  # the slashes at the end are none of its name
    assert (files.exists(path), files.isfile(path), files.isdir(path)) == (is_folder, False, is_folder)
    reads: list[Callable[[str], object]] = [files.info, files.ls, files.rm, files.open, files.cat_file, files.ukey]
    for read in reads if not is_folder else ():
        with pytest.raises(FileNotFoundError):
            read(path)
    if not is_folder:
        assert files.find(path) == []
        assert files.cat_ranges([path], 0, 1)[0].errno == errno.ENOENT
        writes: list[Callable[[str], object]] = [files.touch, files.makedirs, lambda path: files.pipe_file(path, b"1")]
        for write in writes:
            with pytest.raises(errors.LocationError):
                write(path)
    assert files.find("") == ["a/b", "b"]


@pytest.mark.parametrize("path", ["", "/"])
def test_a_root_is_emptied_and_stays(folder: Share, files: RootedFileSystem, path: str) -> None:
    """What removes a root, as ``rm`` or as the ``clear`` of a mapper, empties it, and errors are raised."""
    folder.put({"a/b": "b", "c": "c"})
    for remove in (files.rm, files.rmdir, files.rm_file):
        with pytest.raises(OSError, match="folder"):
            remove(path)
    assert files.find("") == ["a/b", "c"]
    files.rm(path, recursive=True)
    assert list(folder.root.iterdir()) == []
    with pytest.raises(OSError, match="never removed"):
        files.rmdir(path)
    mapper = files.get_mapper(path)
    mapper["a/b"] = b"b"
    mapper.clear()
    assert list(mapper) == []
    assert files.isdir("")


def test_a_remote_is_emptied_alone(folder: Share, rshare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a remote stays when it is emptied; all remotes together are never emptied."""
    folder.put({"a/b": "b", "c": "c"})
    monkeypatch.setenv("RCLONE_CONFIG_RSHARE_URL", folder.location)
    files, _ = fsspec.core.url_to_fs(rshare)
    for everything in ("", "ai4os://"):
        with pytest.raises(PermissionError, match="remotes"):
            files.rm(everything, recursive=True)
    assert files.find("rshare") == ["rshare/a/b", "rshare/c"]
    files.rm("ai4os://rshare", recursive=True)
    assert list(folder.root.iterdir()) == []
    assert files.ls("rshare") == []


def test_options_of_every_file_system_are_taken(folder: Share, rshare: str) -> None:
    """Options that code for any file system passes are accepted; those of another HTTP client are not used."""
    folder.put({"a": "0123456789"})
    options = {"block_size": 0, "client_kwargs": {"headers": {"Authorization": PASSWORD}}, "use_listings_cache": False}
    files = fsspec.filesystem("ai4os", skip_instance_cache=True, **options)
    assert files.cat_file(f"{rshare}/a") == b"0123456789"
    assert PASSWORD not in files.to_json() + repr(files)
    with fsspec.open(f"{rshare}/a", block_size=4, cache_options={}, cache_type="readahead") as file:
        assert (file.blocksize, file.cache.name, file.read(3)) == (4, "readahead", b"012")
    with fsspec.filesystem("ai4os", default_cache_type="bytes", skip_instance_cache=True).open(f"{rshare}/a") as file:
        assert (file.cache.name, file.read(3)) == ("bytes", b"012")
    for wrong in ("blocksize", "timeout", "cache_typ"):
        with pytest.raises(TypeError, match=f"'{wrong}'"):
            fsspec.filesystem("ai4os", **{wrong: 1})


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # fsspec does not close the file of its blocks
def test_blocks_are_read(folder: Share, files: RootedFileSystem, rshare: str) -> None:
    """A block cache of fsspec reads our files, by its own helper and by ``cache_type``."""
    data = bytes(range(256)) * (LARGE_BYTES // 256)
    folder.put({"lines": b"line1\nline2\nline3\n", "large": data})
    assert files.read_block("lines", 2, 7, delimiter=b"\n") == b"line2\n"
    assert files.read_block("large", LARGE_BYTES - 5, 100) == data[-5:]
    for key, whole in (("lines", b"line1\nline2\nline3\n"), ("large", data)):
        with fsspec.open(f"blockcache::{rshare}/{key}") as file:
            assert file.read(5) == whole[:5]
            file.seek(len(whole) - 5)
            assert file.read() == whole[-5:]
        with files.open(key, cache_type="readahead") as file:
            assert file.read() == whole
    del file
    gc.collect()


def test_a_name_that_is_there_is_no_pattern(folder: Share, files: RootedFileSystem) -> None:
    """A file with brackets in its name is the one that is meant; other patterns are patterns."""
    folder.put({"w[1].txt": "brackets", "w1.txt": "plain", "f[1]/x": "x", "f1/x": "other"})
    assert files.cat("w[1].txt") == b"brackets"
    files.rm("w[1].txt")
    files.mv("f[1]", "z", recursive=True)
    assert files.find("") == ["f1/x", "w1.txt", "z/x"]
    files.rm("w[1].txt")
    assert files.find("") == ["f1/x", "z/x"]


def test_what_lies_in_a_folder_that_is_removed_need_not_be_there(folder: Share, files: RootedFileSystem) -> None:
    """A list may name a folder and what is in it, in any order; what does not exist is still an error."""
    folder.put({"r/1": "", "r/2": "", "s": ""})
    files.rm(["r/1", "r"], recursive=True)
    assert files.find("") == ["s"]
    with pytest.raises(FileNotFoundError):
        files.rm(["r", "s"], recursive=True)


def test_an_option_that_there_is_not_is_named(rshare: str) -> None:
    """An option that nobody knows is refused, although fsspec would drop it; fsspec's own are accepted."""
    with pytest.raises(TypeError, match="'remot'"):
        fsspec.filesystem("ai4os", remot="rshare")
    with pytest.raises(TypeError, match="'remote'"):
        fsspec.open(f"{rshare}/a", remote="rshare")
    with pytest.raises(TypeError, match="'chache'"):
        RootedFileSystem(rshare, chache=None)
    fsspec.filesystem("ai4os", skip_instance_cache=True, use_listings_cache=False, asynchronous=False, max_paths=1)
    with fsspec.open(f"simplecache::{rshare}/a", "wb", ai4os={"cache": None}) as file:
        file.write(b"1")
    with fsspec.open(f"filecache::{rshare}/a", "rt", ai4os={"cache": None}) as text:
        assert text.read() == "1"


def test_a_location_that_is_not_there_is_told_when_it_is_opened(folder: Share, tmp_path: Path) -> None:
    """A missing location is refused, on a server as on this disk; with ``create`` the first file makes it."""
    for location, remote in ((f"{folder.location}/new", folder.remote), (tmp_path / "new", None)):
        with pytest.raises(errors.LocationError):
            open_filesystem(location, remote)
        files = open_filesystem(location, remote, create=True)
        assert files.find("") == []
        files.pipe("a", b"a")
        assert open_filesystem(location, remote).find("") == ["a"]
    with pytest.raises(errors.LocationError, match="is a file"):
        open_filesystem(f"{folder.location}/new/a", folder.remote)


def test_registered_file_system_and_dataset_agree(folder: Share, rshare: str) -> None:
    """The same URL is a location of a dataset."""
    folder.put({"a.txt": "a"})
    files, path = fsspec.core.url_to_fs(rshare)
    assert isinstance(files, StorageFileSystem)
    assert files.find(path) == [f"rshare/{folder.name}/a.txt"]
    assert files.ls("") == [{"name": "rshare", "size": 0, "type": "directory"}]
    dataset = StorageDataset(rshare, decode="text")
    assert dataset[0] == "a"


def test_entry_point_names_the_class() -> None:
    """The entry point of pyproject.toml leads fsspec to the file system."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (entry,) = re.findall(r'^\[project\.entry-points\."fsspec\.specs"\]\nai4os = "(.*)"$', project, re.MULTILINE)
    module, _, name = entry.partition(":")
    assert getattr(import_module(module), name) is StorageFileSystem


def test_no_secret_in_pickle_json_or_repr(rshare: str) -> None:
    """Credentials from the environment are not pickled."""
    files, path = fsspec.core.url_to_fs(rshare)
    rooted = open_filesystem(rshare)
    for made in (files, rooted):
        made.ls(path if made is files else "")
        assert PASSWORD not in made.to_json() + repr(made) + repr(vars(made))
        assert PASSWORD.encode() not in pickle.dumps(made)
        assert type(made.from_json(made.to_json())) is type(made)
        assert pickle.loads(pickle.dumps(made)).find(path if made is files else "") == []  # noqa: S301  our own


def test_json_of_given_credentials_is_refused(folder: Share) -> None:
    """JSON is written into files; a password must not go there."""
    files = open_filesystem(folder.location, folder.remote)
    with pytest.raises(TypeError, match="credentials"):
        files.to_json()
    assert PASSWORD not in repr(files)


def read_there(files: RootedFileSystem, answer: Connection) -> None:
    """Read a file in another process."""
    answer.send(files.cat_file("a") + files.cat_ranges(["a"], 1, 2)[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_another_process(folder: Share, files: RootedFileSystem, method: str) -> None:
    """A file system that was used here is used there."""
    folder.put({"a": "abc"})
    assert files.cat_file("a") == b"abc"
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=read_there, args=(files, theirs))
    process.start()
    assert ours.poll(60)
    assert ours.recv() == b"abcb"
    process.join()


def test_directory_of_this_machine_is_a_file_system_too(tmp_path: Path) -> None:
    """Any location can be opened, also one of another file system of fsspec."""
    files = open_filesystem(tmp_path)
    files.pipe({"a/b": b"b", "c": b"c"})
    assert files.find("") == ["a/b", "c"]
    assert files.ls("a", detail=False) == ["a/b"]
    files.rm("a", recursive=True)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_file_lists_itself_where_its_name_with_a_slash_is_refused(apache: ApacheServer) -> None:
    """Apache answers 400 to a PROPFIND of a file with a slash after it."""
    there = Share(apache)
    there.put({"a/b": "b"})
    files = open_filesystem(there.location, there.remote)
    assert files.ls("a/b", detail=False) == ["a/b"]
    assert files.find("a/b") == ["a/b"]
    with pytest.raises(FileNotFoundError):
        files.ls("a/c")
