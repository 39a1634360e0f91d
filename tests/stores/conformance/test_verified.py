"""What is confirmed is on the store, byte for byte; what is restored is what was confirmed; trees go as a whole."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import IntegrityError, LocationError, NotFoundError
from ai4os_data.stores import best_level

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.stores import Store
    from tests.support.places import Place

SMALL = random.Random(1).randbytes(100_000)
OTHER = random.Random(2).randbytes(100_000)
LARGE = random.Random(3).randbytes(20 * 1024 * 1024 + 1)
"""So large that it comes in several ranges."""
MOUNTED = {"mount"}
"""What these say is as good as the mount."""


def sha256(data: bytes) -> str:
    """The sha256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["bytes", "file", "empty"])
def test_a_new_file_is_confirmed(place: Place, store: Store, tmp_path: Path, kind: str) -> None:
    """A file is stored and verified in a folder that nobody made; the bytes are reported as they are sent."""
    data = b"" if kind == "empty" else SMALL
    local = tmp_path / "local.bin"
    local.write_bytes(data)
    sent: list[int] = []
    level = store.write_confirmed(
        "run/1/data.bin", local if kind == "file" else data, sha256(data), on_bytes=sent.append
    )
    assert level == best_level(store) == ("mount" if place.name in MOUNTED else "confirmed")
    if not (place.name in MOUNTED and kind == "empty"):  # which a mount uploads only after the close
        assert place.files() == {"run/1/data.bin": data}
    assert sum(sent) == len(data)


def test_what_is_there_already_is_not_sent_again(place: Place, store: Store) -> None:
    """A file that is there whole is not sent again, as after a crash between the upload and its record."""
    store.write_confirmed("run/data.bin", SMALL, sha256(SMALL))
    sent: list[int] = []
    again = place.open() if place.name != "memory" else store
    assert again.write_confirmed("run/data.bin", SMALL, sha256(SMALL), on_bytes=sent.append) == best_level(store)
    assert sent == []
    assert place.files() == {"run/data.bin": SMALL}


@pytest.mark.parametrize("remains", [b"", SMALL[:70_000], OTHER, SMALL + b"1"], ids=["empty", "cut", "other", "longer"])
def test_remains_of_an_earlier_try_are_replaced(place: Place, store: Store, remains: bytes) -> None:
    """Other bytes are replaced, those of the right size too: size alone never confirms."""
    place.put("run/data.bin", remains)
    store.write_confirmed("run/data.bin", SMALL, sha256(SMALL))
    assert place.files() == {"run/data.bin": SMALL}
    assert store.read("run/data.bin") == SMALL


def test_other_bytes_than_promised_are_an_error_and_are_removed(place: Place, store: Store) -> None:
    """A store that holds other bytes raises; the neighbour stays."""
    if place.name in MOUNTED:
        pytest.skip("a mount is not asked about what it has written itself")
    store.write("run/neighbour.bin", b"1")
    with pytest.raises(IntegrityError, match="other bytes"):
        store.write_confirmed("run/data.bin", SMALL, sha256(OTHER))
    assert place.files() == {"run/neighbour.bin": b"1"}


@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_file_is_read_into_a_local_one(place: Place, store: Store, tmp_path: Path, data: bytes) -> None:
    """A file is downloaded whole, with its sha256; the earlier content of the local file is gone."""
    place.put("run/data.bin", data)
    local = tmp_path / "local.bin"
    local.write_bytes(LARGE + SMALL)
    entry = store.stat("run/data.bin")
    assert store.read_into(entry, local) == sha256(data)
    assert local.read_bytes() == data
    assert store.read_into(entry, local, sha256(data)) == sha256(data)
    assert store.sha256_of(entry) == sha256(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_file_that_is_not_the_expected_one_leaves_nothing(
    place: Place, store: Store, tmp_path: Path, data: bytes
) -> None:
    """One flipped bit is enough."""
    place.put("run/data.bin", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"run/data\.bin"):
        store.read_into(store.stat("run/data.bin"), tmp_path / "local.bin", sha256(data))
    assert list(tmp_path.glob("local*")) == []


def test_a_missing_file_leaves_nothing(place: Place, store: Store, tmp_path: Path) -> None:
    """A file that has gone since it was listed raises."""
    place.put("data.bin", SMALL)
    entry = store.stat("data.bin")
    store.delete("data.bin")
    with pytest.raises(NotFoundError):
        store.read_into(entry, tmp_path / "local.bin")
    assert list(tmp_path.glob("local*")) == []


def test_what_lies_below_a_folder_is_listed_with_whole_keys(place: Place, store: Store) -> None:
    """A listing below a folder has nothing of its neighbours, even of one whose name begins alike."""
    for key in ("run #1/a.bin", "run #1/b c/d.bin", "run #12/e.bin", "f.bin"):
        place.put(key, key.encode())
    found = store.list_below("run #1")
    assert [entry.key for entry in found] == ["run #1/a.bin", "run #1/b c/d.bin"]
    assert found == [store.stat(entry.key) for entry in found]
    assert [entry.key for entry in store.list_below("run #1/b c")] == ["run #1/b c/d.bin"]
    assert store.list_below("") == store.list()


def test_below_a_missing_folder_there_is_nothing(place: Place, store: Store) -> None:
    """A missing folder has no files: a run that has saved nothing yet."""
    place.put("run/a.bin", b"1")
    assert store.list_below("other") == []
    assert store.list_below("run/other/deep") == []


def test_below_a_missing_location_there_is_nothing(folder: Place) -> None:
    """The root of a new run may be missing; its first file makes it."""
    store = folder.open("new/run")
    assert store.list_below("") == []
    assert store.list_below("1/step") == []
    store.write_confirmed("1/data.bin", SMALL, sha256(SMALL))
    assert folder.files() == {"new/run/1/data.bin": SMALL}
    assert [entry.key for entry in store.list_below("")] == ["1/data.bin"]


def test_a_folder_is_found_be_it_empty(folder: Place) -> None:
    """An empty folder is a folder; a file is none."""
    folder.make_folder("empty")
    folder.put("run/a.bin", b"1")
    store = folder.open()
    if folder.name != "fsspec-memory":  # which does not tell an empty folder from a missing one
        assert store.has_folder("empty")
    assert store.has_folder("run")
    assert not store.has_folder("other")


def test_a_tree_is_removed_and_its_neighbours_stay(place: Place, store: Store) -> None:
    """A tree is removed however deep it is; a second time there is nothing to remove."""
    for key in ("run #1/a.bin", "run #1/b c/d.bin", "run #12/e.bin", "f.bin"):
        store.write(key, key.encode())
    store.remove_tree("run #1")
    assert set(place.files()) == {"run #12/e.bin", "f.bin"}
    assert store.list_below("run #1") == []
    store.remove_tree("run #1")
    store.remove_tree("nobody/made/this")
    store.write_confirmed("run #1/b c/new.bin", SMALL, sha256(SMALL))
    assert set(place.files()) == {"run #12/e.bin", "f.bin", "run #1/b c/new.bin"}


@pytest.mark.parametrize("key", ["", "/", "..", "a/../..", "a//b", "./a"])
def test_the_root_and_what_is_outside_are_never_removed(place: Place, store: Store, key: str) -> None:
    """The root and what is outside of it are never removed, whatever the key says."""
    place.put("a/b.bin", b"1")
    with pytest.raises(LocationError):
        store.remove_tree(key)
    assert place.files() == {"a/b.bin": b"1"}
