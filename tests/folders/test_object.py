"""What `local_copy` gives: a path with names, sizes and figures, which pickles without secrets."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageDataset, local_copy
from ai4os_data.stores import DirectoryStore, Entry, MemoryStore, modified_ns
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from tests.support.servers import FaultServer


def test_what_it_has(folder: Folder, tmp_path: Path) -> None:
    """It is path-like; names are in order; the dataset over it needs no cache."""
    folder.put({"b/2": b"22", "a": b"1", "B": b"333"})
    copy = local_copy(folder.location, tmp_path / "copy", progress=False)
    assert os.fspath(copy) == str(copy.path) == str(tmp_path / "copy")
    assert isinstance(copy.path, Path)
    assert list(copy.files) == ["B", "a", "b/2"]
    assert copy.size_bytes == 6
    assert {key: copy.stats()[key] for key in ("files", "bytes", "fetched", "removed")} == {
        "files": 3,
        "bytes": 6,
        "fetched": 3,
        "removed": 0,
    }
    data = StorageDataset(copy, decode="path")
    assert [os.fspath(data[position]) for position in range(3)] == [str(copy.path / key) for key in copy.files]


def test_refresh_looks_again(folder: Folder, tmp_path: Path) -> None:
    """What changed comes, what vanished goes, and the figures are those of the last look."""
    folder.put({"a": b"1", "b": b"2", "c": b"3"})
    copy = local_copy(folder.location, tmp_path / "copy", progress=False)
    folder.put({"a": b"11"})
    folder.remove("b")
    copy.refresh()
    assert list(copy.files) == ["a", "c"]
    assert (copy.stats()["fetched"], copy.stats()["removed"], copy.size_bytes) == (1, 1, 3)


def test_no_secret_shows(share: Share, tmp_path: Path) -> None:
    """A pickle carries what the store's does; the repr has a location without credentials."""
    share.put({"a": b"1"})
    copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False)
    assert share.server.password not in repr(copy)
    assert "1 files of" in repr(copy)
    again = pickle.loads(pickle.dumps(copy))  # noqa: S301  our own
    assert (again.path, list(again.files), repr(again)) == (copy.path, ["a"], repr(copy))
    again.refresh()
    assert again.stats()["fetched"] == 0


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_modes_are_those_of_the_umask(fault: FaultServer, tmp_path: Path, umask: int) -> None:
    """Others may read a copy as they may read what the user writes: small files, large ones, and folders."""
    share = Share(fault)
    share.put({"a/small": b"1", "middling": bytes(2 << 20), "large": bytes(17 << 20)})
    before = os.umask(umask)
    try:
        copy = local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False)
    finally:
        os.umask(before)
    assert {(copy.path / key).stat().st_mode & 0o777 for key in copy.files} == {0o666 & ~umask}
    assert {path.stat().st_mode & 0o777 for path in (copy.path, copy.path / "a")} == {0o777 & ~umask}


def test_dates_before_1970(folder: Folder, tmp_path: Path) -> None:
    """They are kept, and a second call knows the files again."""
    folder.put({"old": b"1", "new": b"2"})
    os.utime(folder.root / "old", ns=(-86_400_123_456_789, -86_400_123_456_789))
    for fetched in (2, 0):
        copy = local_copy(folder.location, tmp_path / "copy", progress=False)
        assert copy.stats()["fetched"] == fetched
        assert (copy.path / "old").stat().st_mtime_ns == -86_400_123_456_789


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Wed, 31 Dec 1969 23:59:50 GMT", -10),
        ("Sat, 28 Nov 2026 12:00:00 GMT", 1_795_867_200),
        ("2026-11-28T12:00:00Z", 1_795_867_200),
        ("1795867200.5", 1_795_867_200.5),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_dates_as_stores_spell_them(text: str | None, seconds: float | None) -> None:
    """What is no date, or none that a file can have, is none."""
    expected = None if seconds is None else round(seconds * 10**9)
    assert modified_ns(MemoryStore(), Entry("a", 1, None, text)) == expected


def test_a_directory_gives_its_dates_exactly(tmp_path: Path) -> None:
    """To the nanosecond."""
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a", ns=(123_456_789_012_345_678, 123_456_789_012_345_678))
    store = DirectoryStore(tmp_path)
    assert modified_ns(store, store.stat("a")) == 123_456_789_012_345_678


def test_without_a_date_it_is_that_of_the_copy(tmp_path: Path) -> None:
    """A store may have none; a second call fetches nothing all the same."""
    store = MemoryStore({"a": b"1"})
    local_copy(store, tmp_path / "copy", progress=False)
    assert local_copy(store, tmp_path / "copy", progress=False).stats()["fetched"] == 0


@pytest.mark.parametrize("limit", [-1, True, "many", 1.5, None])
def test_limits_that_are_none(folder: Folder, tmp_path: Path, limit: object) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(ValueError, match="size_limit is a number of bytes"):
        local_copy(folder.location, tmp_path / "copy", size_limit=limit, progress=False)  # type: ignore[arg-type]
