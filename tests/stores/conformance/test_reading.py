"""What is read is what is stored: whole files, parts of files, many at a time, and a clear no for what is not there."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from ai4os_data.errors import ChangedError, LocationError, NotFoundError, StorageError
from ai4os_data.stores import Entry, Fetched, file_at
from tests.support.outcomes import content

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.stores import Store
    from tests.support.places import Place

LARGE_BYTES = 20 * 1024 * 1024 + 1


class HashingBody:
    """Takes bytes without keeping them, as a fill of the cache does."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what came so far."""
        self.length = 0
        self.sha256 = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.length += len(chunk)
        self.sha256.update(chunk)


@pytest.mark.parametrize("size_bytes", [0, 1, 65_536, 1_048_577])
def test_a_file_is_read_whole(place: Place, store: Store, size_bytes: int) -> None:
    """Whole files come intact: empty, of one byte, and around the sizes of buffers."""
    data = random.Random(size_bytes).randbytes(size_bytes)
    place.put("a.bin", data)
    assert store.read("a.bin") == data


def test_a_large_file_arrives_intact(place: Place, store: Store, tmp_path: Path) -> None:
    """A file of 20 MB is written from a local file and read without being kept in memory."""
    local = tmp_path / "large.bin"
    local.write_bytes(random.Random(20).randbytes(LARGE_BYTES))
    sha256 = hashlib.sha256(local.read_bytes()).hexdigest()
    entry = store.write("large.bin", local)
    assert entry.size_bytes == LARGE_BYTES
    assert hashlib.sha256(place.files()["large.bin"]).hexdigest() == sha256
    ((_, outcome),) = store.read_many([entry], lambda _: HashingBody())
    assert isinstance(outcome, Fetched)
    assert isinstance(outcome.body, HashingBody)
    assert (outcome.body.length, outcome.body.sha256.hexdigest()) == (LARGE_BYTES, sha256)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (0, 1), (9, 10), (3, 7), (3, 3), (0, 0), (7, 3), (8, 100), (10, 20), (50, 60)]
)
def test_a_range_is_a_slice(place: Place, store: Store, start: int, stop: int) -> None:
    """A range is cut at the end of the file, and empty if the slice is."""
    place.put("a.bin", b"0123456789")
    assert store.read_range(store.stat("a.bin"), start, stop) == b"0123456789"[start:stop]


def test_a_range_of_an_empty_file_is_empty(place: Place, store: Store) -> None:
    """Any range of an empty file is empty."""
    place.put("empty.bin", b"")
    assert store.read_range(store.stat("empty.bin"), 0, 100) == b""


def test_a_range_of_another_version_is_refused(place: Place, store: Store) -> None:
    """Parts of two versions must never be put together."""
    place.put("a.bin", b"0123456789")
    entry = store.stat("a.bin")
    store.write("a.bin", b"another version")
    with pytest.raises(ChangedError):
        store.read_range(entry, 2, 5)


def test_many_files_come_once_each_and_only_the_missing_fail(place: Place, store: Store) -> None:
    """One error does not spoil what else was asked for."""
    contents = {
        f"class {number % 3}/{number:03}.bin": random.Random(number).randbytes(number * 97) for number in range(60)
    }
    for key, data in contents.items():
        place.put(key, data)
    missing = {Entry(f"class 1/missing {number}.bin", 5) for number in range(3)}
    asked = [*store.list(), *missing]
    random.Random(1).shuffle(asked)
    outcomes = list(store.read_many(asked))
    assert sorted(entry for entry, _ in outcomes) == sorted(asked)
    failed = {entry for entry, outcome in outcomes if isinstance(outcome, StorageError)}
    assert failed == missing
    assert all(isinstance(outcome, NotFoundError) for entry, outcome in outcomes if entry in failed)
    read = {entry.key: content(outcome) for entry, outcome in outcomes if isinstance(outcome, Fetched)}
    assert read == contents


def test_entries_are_taken_as_there_is_room_for_them(place: Place, store: Store) -> None:
    """The caller may pass a generator, and stop in the middle."""
    for number in range(40):
        place.put(f"{number:02}.bin", b"%d" % number)
    outcomes = store.read_many(entry for entry in store.list())
    entry, outcome = next(outcomes)
    assert content(outcome) == b"%d" % int(entry.key[:2])
    del outcomes
    assert store.read("39.bin") == b"39"


def test_no_entries_give_no_outcomes(store: Store) -> None:
    """No entries give no results, as if a whole batch is in the cache."""
    assert list(store.read_many([])) == []


def test_a_file_that_changed_since_the_listing_comes_as_it_is_now(place: Place, store: Store) -> None:
    """A file that changed comes whole, with the entry of the new version, so that the caller can compare."""
    place.put("a.bin", b"first version")
    (listed,) = store.list()
    store.write("a.bin", b"the second, longer version")
    ((entry, outcome),) = store.read_many([listed])
    assert isinstance(outcome, Fetched)
    assert entry == listed
    assert content(outcome) == b"the second, longer version"
    assert outcome.entry.size_bytes == 26
    assert not outcome.entry.is_same_version(listed)
    assert outcome.entry.is_same_version(store.stat("a.bin"))


def test_what_is_not_there_is_a_file_not_found(place: Place, store: Store) -> None:
    """Each verb raises `NotFoundError` for a missing file, in a folder that is there and in one that is not."""
    place.put("there/a.bin", b"1")
    for key in ("missing.bin", "there/missing.bin", "nowhere/missing.bin"):
        assert file_at(store, key) is None
        for ask in (store.stat, store.read, store.delete, lambda key: store.read_range(Entry(key, 5), 1, 3)):
            with pytest.raises(NotFoundError) as raised:
                ask(key)
            assert isinstance(raised.value, FileNotFoundError)
            assert key in str(raised.value)


def test_a_folder_is_not_a_file(place: Place, store: Store) -> None:
    """A folder is no file, empty or not; and its content stays."""
    place.put("folder/a.bin", b"1")
    place.make_folder("empty")
    for key in ("folder", "empty"):
        assert file_at(store, key) is None
        for ask in (store.read, store.delete):
            with pytest.raises(NotFoundError):
                ask(key)
    assert place.files() == {"folder/a.bin": b"1"}


@pytest.mark.parametrize("key", ["", "/", "..", "../a.bin", "a/../../b", "a/./b", "a//b", "/a.bin", "a/", "nul\0l"])
def test_a_key_cannot_leave_its_folder(store: Store, key: str) -> None:
    """A key that leaves the folder raises, and nothing is touched."""
    for ask in (store.stat, store.read, store.delete):
        with pytest.raises(LocationError):
            ask(key)
    with pytest.raises(LocationError):
        store.write(key, b"1")
    with pytest.raises(LocationError):
        store.read_range(Entry(key, 5), 1, 3)
