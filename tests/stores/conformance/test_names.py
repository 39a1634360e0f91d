"""Whatever a file is called, its name arrives byte for byte, and no other name comes to be."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.support.odd_names import CANNOT, MERGES_NORMAL_FORMS, NAMES
from tests.support.outcomes import content

if TYPE_CHECKING:
    from ai4os_data.stores import Store
    from tests.support.places import Place


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_arrives_byte_for_byte(place: Place, store: Store, name: str) -> None:
    """Every name survives each verb, of a file and of a folder."""
    cannot = CANNOT.get((place.name, name))
    with pytest.raises(cannot.error) if cannot else nullcontext():
        go_round(place, store, name)


def go_round(place: Place, store: Store, name: str) -> None:
    """List, stat, read, write and delete a file of that name, and another in a folder of that name."""
    inside = f"{name}d/{name}"
    place.put(name, b"0123456789")
    store.write(inside, b"abc")
    assert place.files() == {name: b"0123456789", inside: b"abc"}
    assert [entry.key for entry in store.list()] == sorted([name, inside])
    for key, data in ((name, b"0123456789"), (inside, b"abc")):
        entry = store.stat(key)
        assert (entry.key, entry.size_bytes) == (key, len(data))
        assert store.read(key) == data
        assert store.read_range(entry, 1, 3) == data[1:3]
        store.write(key, b"second version")
        assert store.read(key) == b"second version"
    assert place.files() == {name: b"second version", inside: b"second version"}
    store.delete(name)
    store.delete(inside)
    assert place.files() == {}


def test_names_that_decode_to_each_other_are_different_files(place: Place, store: Store) -> None:
    """Nothing on the way takes ``a%20b`` for ``a b``, or makes one where the other was asked for."""
    twins = ["a b", "a%20b", "a+b", "a%2Bb", "A B"]
    for name in twins:
        store.write(name, name.encode())
    assert place.files() == {name: name.encode() for name in twins}
    assert {entry.key for entry in store.list()} == set(twins)
    assert {key: store.read(key) for key in twins} == {name: name.encode() for name in twins}
    store.delete("a b")
    assert set(place.files()) == set(twins) - {"a b"}


def test_names_that_are_one_in_unicode_are_read_as_two_files(place: Place, store: Store) -> None:
    """NFC and NFD, as a Mac and a Linux machine write the same word."""
    twins = {"caf\u00e9": b"composed", "cafe\u0301": b"decomposed"}
    for name, data in twins.items():
        place.put(name, data)
    assert {entry.key: store.read(entry.key) for entry in store.list()} == twins


def test_names_that_are_one_in_unicode_are_written_as_two_files(place: Place, store: Store) -> None:
    """Two Unicode forms of a name are two files, except for rclone, which finds one under the name of the other."""
    store.write("caf\u00e9", b"composed")
    store.write("cafe\u0301", b"decomposed")
    if place.name in MERGES_NORMAL_FORMS:
        assert place.files() == {"caf\u00e9": b"decomposed"}
    else:
        assert place.files() == {"caf\u00e9": b"composed", "cafe\u0301": b"decomposed"}


def test_many_odd_names_are_read_at_once(place: Place, store: Store) -> None:
    """All of them come in one ``read_many``, which Nextcloud answers with one archive."""
    names = [name for name in NAMES.values() if (place.name, name) not in CANNOT]
    for name in names:
        place.put(name, name.encode("utf-8", "surrogateescape"))
    read = {entry.key: content(fetched) for entry, fetched in store.read_many(store.list())}
    assert read == {name: name.encode("utf-8", "surrogateescape") for name in names}
