"""A listing is exactly what is there: every key, its size and its version, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai4os_data import errors
from ai4os_data.errors import LocationError, NotFoundError

if TYPE_CHECKING:
    from ai4os_data.stores import Store
    from tests.support.places import Place

TREE = {
    "at the top.bin": b"1",
    "empty.bin": b"",
    "a/one.bin": b"22",
    "a/two.bin": b"333",
    "a/b/c/d/deep.bin": bytes(4444),
    "z/last.bin": b"55555",
}


def fill(place: Place, tree: dict[str, bytes]) -> None:
    """Put files there behind the store's back."""
    for key, data in tree.items():
        place.put(key, data)


def test_a_listing_is_exact_and_ordered(place: Place, store: Store) -> None:
    """Files at all depths and without content come with their sizes; empty folders do not come."""
    fill(place, TREE)
    place.make_folder("nothing/in/here")
    listed = store.list()
    assert {entry.key: entry.size_bytes for entry in listed} == {key: len(data) for key, data in TREE.items()}
    assert [entry.key for entry in listed] == sorted(TREE)


def test_every_listed_file_has_a_version_that_stat_confirms(place: Place, store: Store) -> None:
    """Each listed file has the version that `stat` gives, so that a cache knows whether its copy is still right."""
    fill(place, TREE)
    listed = store.list()
    assert all(entry.version for entry in listed)
    assert [store.stat(entry.key) for entry in listed] == listed


def test_folders_alone_are_an_empty_listing(place: Place, store: Store) -> None:
    """Folders without files are an empty listing, also if the server clamps the depth and shows no content."""
    assert store.list() == []
    place.make_folder("a/b")
    place.make_folder("c")
    assert store.list() == []


def test_many_files_are_all_listed(place: Place, store: Store) -> None:
    """Some hundreds of files in several folders are listed."""
    keys = [f"class {number % 6}/{number:04}.bin" for number in range(360)]
    for key in keys:
        place.put(key, key.encode())
    assert [entry.key for entry in store.list()] == sorted(keys)


def test_a_folder_below_is_listed_by_itself(folder: Place) -> None:
    """Keys begin below the location, whatever its name holds."""
    below = "data sets#1/100%41 µ+&'"
    folder.put(f"{below}/a/one.bin", b"1")
    folder.put("data sets", b"22")
    assert [entry.key for entry in folder.open(below).list()] == ["a/one.bin"]
    assert folder.open(f"{below}/").read("a/one.bin") == b"1"


def test_a_location_that_is_not_there_is_told_as_such(folder: Place) -> None:
    """A missing location is an error of its own: no missing file, which a dataset would skip, and no empty dataset."""
    with pytest.raises(LocationError) as raised:
        folder.open("nowhere/at all").list()
    assert "nowhere" in str(raised.value)
    assert not isinstance(raised.value, NotFoundError)


def test_a_location_that_is_a_file_is_told_as_such(folder: Place) -> None:
    """A location that is a file raises, and is no empty dataset."""
    folder.put("a/one.bin", b"1")
    with pytest.raises(LocationError):
        folder.open("a/one.bin").list()


def test_members_are_what_lies_directly_in_a_folder(folder: Place) -> None:
    """The members of a folder are files and folders, each ordered; keys begin at the root of the store."""
    for key in ("a/b/c", "a/d", "e"):
        folder.put(key, b"x")
    store = folder.open()
    files, folders = store.members("")
    assert ([entry.key for entry in files], folders) == (["e"], ["a"])
    files, folders = store.members("a")
    assert ([entry.key for entry in files], folders) == (["a/d"], ["a/b"])
    for absent in ("zzz", "e"):
        with pytest.raises(errors.StorageError):
            store.members(absent)


def test_made_folder_is_there(folder: Place) -> None:
    """A folder is made with those above it, and may be there already; a file goes into it."""
    store = folder.open()
    for _ in range(2):
        store.make_folder("a/b")
    store.write("a/b/c", b"c")
    assert folder.files() == {"a/b/c": b"c"}
    assert store.members("a") == ([], ["a/b"])
