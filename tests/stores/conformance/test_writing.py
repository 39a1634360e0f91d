"""What is written is there, whole, under its name, and nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import LocationError, NotFoundError, StorageError
from ai4os_data.http.bodies import Source
from ai4os_data.stores import DirectoryStore, Fetched, file_at
from ai4os_data.stores.webdav import WebDAVStore
from tests.support.outcomes import content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.stores import Store
    from tests.support.places import Place

KILLED_WHILE_WRITING = """
import os, sys
from ai4os_data.stores import DirectoryStore
os.replace = lambda *_: os.kill(os.getpid(), 9)
DirectoryStore(sys.argv[1]).write("a.bin", b"1")
"""
VERSIONS_OF_A_SECOND = {"wsgidav", "mount"}
"""Where an ETag, or a time, is of whole seconds: two contents of one size within a second are one version there."""


def skip_flat(place: Place) -> None:
    """Leave out stores of names, such as object stores, in which a file and a folder may have the same name."""
    if place.name == "fsspec-memory":
        pytest.skip("names, not folders")


def wait_until(true: Callable[[], bool], deadline_s: float = 5.0) -> None:
    """Wait until a condition holds, or the deadline has passed."""
    deadline = time.monotonic() + deadline_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_write_makes_the_folders_above(place: Place, store: Store) -> None:
    """Folders are made however deep they are, and again beside what is there."""
    store.write("runs/a b/step-1/data.bin", b"1")
    store.write("runs/a b/step-2/data.bin", b"22")
    assert place.files() == {"runs/a b/step-1/data.bin": b"1", "runs/a b/step-2/data.bin": b"22"}


def test_a_write_makes_the_location_itself(folder: Place) -> None:
    """The first run writes to a folder that nobody made."""
    folder.open("new/run #1").write("a.bin", b"1")
    assert folder.files() == {"new/run #1/a.bin": b"1"}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_holds_bytes_is_written(place: Place, store: Store, kind: type) -> None:
    """What was written is read back, and the returned entry is the one that is stored."""
    entry = store.write("a.bin", kind(b"0123456789"))
    assert place.files() == {"a.bin": b"0123456789"}
    assert entry == store.stat("a.bin")
    assert entry.size_bytes == 10


def test_a_local_file_is_written(place: Place, store: Store, tmp_path: Path) -> None:
    """A local file is uploaded, and left as it is."""
    local = tmp_path / "local.bin"
    local.write_bytes(b"0123456789" * 1000)
    store.write("a.bin", local)
    assert place.files() == {"a.bin": b"0123456789" * 1000}
    assert local.read_bytes() == b"0123456789" * 1000


def test_an_empty_file_is_written(place: Place, store: Store, tmp_path: Path) -> None:
    """An empty file is written from no bytes in memory, and from an empty local file."""
    (tmp_path / "empty.bin").touch()
    store.write("a.bin", b"")
    store.write("b.bin", tmp_path / "empty.bin")
    if place.name == "mount":  # which uploads what nobody wrote into only after the close
        wait_until(lambda: len(place.files()) == 2)
    assert place.files() == {"a.bin": b"", "b.bin": b""}
    assert [entry.size_bytes for entry in store.list()] == [0, 0]


def test_an_overwritten_file_has_its_new_bytes_and_another_version(place: Place, store: Store) -> None:
    """A rewritten file, longer or shorter, has nothing of the old one."""
    versions = [store.write("a.bin", data) for data in (b"first", b"second and longer", b"3")]
    assert store.read("a.bin") == b"3"
    assert place.files() == {"a.bin": b"3"}
    assert not any(one.is_same_version(other) for one in versions for other in versions if one is not other)
    assert versions[-1] == store.stat("a.bin")


def test_a_rewrite_of_the_same_size_is_read_at_once(place: Place, store: Store) -> None:
    """A rewrite within the same second is read back, and has another version if the server has versions."""
    versions = [store.write("a.bin", data) for data in (b"first", b"other")]
    assert store.read("a.bin") == b"other"
    assert place.files() == {"a.bin": b"other"}
    (came,) = [outcome for _, outcome in store.read_many(versions[:1])]
    assert content(came) == b"other"
    if place.name not in VERSIONS_OF_A_SECOND:
        assert not versions[0].is_same_version(versions[1])
        assert isinstance(came, Fetched)
        assert came.entry.is_same_version(versions[1])


def test_a_local_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    """A written file has the mode of the umask: whoever may read the directory may read it."""
    (tmp_path / "any other").touch()
    DirectoryStore(tmp_path).write("a.bin", b"1")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "any other").stat().st_mode


def test_what_is_still_being_written_is_not_listed(tmp_path: Path) -> None:
    """The staged file of a killed writer is not listed."""
    store = DirectoryStore(tmp_path)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert store.list() == []


def test_a_deleted_file_is_gone_and_others_stay(place: Place, store: Store) -> None:
    """A file is deleted once; the second time it is missing."""
    for key in ("a/one.bin", "a/two.bin"):
        place.put(key, key.encode())
    store.delete("a/one.bin")
    assert place.files() == {"a/two.bin": b"a/two.bin"}
    assert file_at(store, "a/one.bin") is None
    with pytest.raises(NotFoundError):
        store.delete("a/one.bin")


def test_a_folder_does_not_give_way_to_a_file(folder: Place) -> None:
    """A folder is not replaced by a file: its content stays, and the error names it."""
    skip_flat(folder)
    store = folder.open()
    folder.put("a/b/c.bin", b"precious")
    folder.make_folder("empty")
    for key in ("a", "a/b", "empty"):
        # The fault server does not answer, so that nobody knows why it failed.
        with pytest.raises(StorageError if folder.name == "fault" else LocationError):
            store.write(key, b"1")
        with pytest.raises(LocationError, match="folder"):
            store.write_confirmed(key, b"1", sha256(b"1").hexdigest())
    assert folder.files() == {"a/b/c.bin": b"precious"}
    assert store.has_folder("empty")


def test_a_put_onto_a_folder_removes_nothing(folder: Place) -> None:
    """A folder that was made after the look is not replaced either: servers answer 301, 404, 405 and 409."""
    store = folder.open()
    if not isinstance(store, WebDAVStore) or folder.name == "fault":
        pytest.skip("no PUT, or no answer to it")
    folder.put("a/b.bin", b"precious")
    for repeats in (False, True):
        with pytest.raises(LocationError, match="there is a folder of this name"):
            store._writer.put("a", Source(b"1"), repeats=repeats)
    assert folder.files() == {"a/b.bin": b"precious"}


def test_a_file_does_not_give_way_to_a_folder(folder: Place) -> None:
    """A file is not replaced by a folder, neither by one that is asked for nor by one above a file that is written."""
    skip_flat(folder)
    store = folder.open()
    folder.put("a/b.bin", b"precious")
    for key in ("a/b.bin", "a/b.bin/c"):
        with pytest.raises(LocationError, match="file"):
            store.make_folder(key)
    with pytest.raises(StorageError):
        store.write("a/b.bin/c", b"1")
    with pytest.raises(StorageError):
        store.write_confirmed("a/b.bin/c", b"1", sha256(b"1").hexdigest())
    assert folder.files() == {"a/b.bin": b"precious"}
