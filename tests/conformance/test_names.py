"""Whatever a file is called, its name arrives byte for byte, and no other name comes to be."""

from __future__ import annotations

import pytest

from conformance.names import CANNOT, NAMES
from conformance.places import Place


def round_trip(place: Place, name: str) -> None:
    """List, stat, read, overwrite, write and delete a file of that name, in a folder of that name too."""
    store = place.open()
    for key in (name, f"{name}/{name}x"):
        place.put(key, b"0123456789") if key == name else place.open().write(key, b"0123456789")
        assert place.files() == {key: b"0123456789"}
        assert [entry.key for entry in store.list()] == [key]
        entry = store.stat(key)
        assert (entry.key, entry.size_bytes) == (key, 10)
        assert store.exists(key)
        assert store.read(key) == b"0123456789"
        assert store.read_range(entry, 2, 5) == b"234"
        store.write(key, b"abc")
        assert place.files() == {key: b"abc"}
        assert store.read(key) == b"abc"
        store.delete(key)
        assert place.files() == {}
        assert not store.exists(key)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_arrives_byte_for_byte(place: Place, name: str) -> None:
    """On the way to the server and back, as a file and as a folder."""
    round_trip(place, name)
