"""What ``prepare`` made is what is cached, and nobody is given what another one made, or another version of a file."""

from __future__ import annotations

import functools
import subprocess
import sys
import zlib
from typing import IO, TYPE_CHECKING, Any

import pytest

from ai4os_data import StorageDataset, errors
from ai4os_data.cache import CachedStore, DiskCache, UncachedStore
from ai4os_data.cache.fingerprints import fingerprint
from tests.support.crowd import Warnings
from tests.support.disks import cached_files
from tests.support.sources import content, source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ai4os_data.stores.base import Entry
    from tests.support.shares import Share

MiB = 1024 * 1024
TIMES = 2


def doubled(data: bytes) -> bytes:
    """Return the bytes twice."""
    return data * TIMES


def cut(data: bytes, length: int = 10) -> bytes:
    """Return the first bytes."""
    return data[:length]


def by(factor: int) -> Callable[[bytes], bytes]:
    """Return a function that is told from its like by what it has closed over."""

    def multiplied(data: bytes) -> bytes:
        return data * factor

    return multiplied


class Cutter:
    """Cuts to a length of its own."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, data: bytes) -> bytes:
        """Return the first bytes."""
        return self.cut(data)

    def cut(self, data: bytes) -> bytes:
        """Return the first bytes."""
        return data[: self.length]


class Versioned(Cutter):
    """Says itself what its results are known by."""

    @property
    def prepare_version(self) -> str:
        """Change it with what is made."""
        return f"1 {self.length % 100}"


def beside(_file: IO[str], data: bytes) -> bytes:
    """Return the first bytes, and hold a file for it."""
    return data[:5]


def explode(data: bytes) -> bytes:
    """Cannot do it."""
    message = f"{len(data)} bytes are not to be prepared"
    raise ArithmeticError(message)


@pytest.fixture
def texts(share: Share) -> Share:
    """A folder of a few files on a server."""
    share.put({f"{number}.bin": content(str(number), 3000 + number) for number in range(6)})
    return share


def opened(share: Share, directory: Path, **options: Any) -> StorageDataset:
    """Open the folder with a cache."""
    return StorageDataset(share.location, remote=share.remote, cache=DiskCache(directory, "16MiB"), **options)


def test_prepared_bytes_are_cached(texts: Share, tmp_path: Path) -> None:
    """Each file is prepared once, when it is fetched; what the cache holds has the size of what prepare made."""
    dataset = opened(texts, tmp_path, prepare=cut)
    expected = [content(str(number), 10) for number in range(6)]
    assert dataset.__getitems__(range(6)) == expected
    again = opened(texts, tmp_path, prepare=cut)
    with texts.down():
        assert [dataset[index] for index in range(6)] == expected
        assert again.__getitems__(range(6)) == expected
    assert {path.stat().st_size for path in tmp_path.glob("objects/*/*-*")} == {10}


PREPARES: dict[str, Callable[[bytes], bytes] | None] = {
    "nothing": None,
    "doubled": doubled,
    "cut": cut,
    "cut to 5": functools.partial(cut, length=5),
    "cut to 7": functools.partial(cut, length=7),
    "by 2": by(2),
    "by 3": by(3),
    "object of 4": Cutter(4),
    "object of 6": Cutter(6),
    "method of 8": Cutter(8).cut,
    "method of 9": Cutter(9).cut,
    "lambda": lambda data: data[1:],
    "another lambda": lambda data: data[2:],
    "library": zlib.compress,
    "library at level 1": functools.partial(zlib.compress, level=1),
}


def test_every_prepare_has_entries_of_its_own(texts: Share, tmp_path: Path) -> None:
    """Partials, closures, objects and methods that differ in what they hold alone never share what they made."""
    for _ in range(2):
        for name, prepare in PREPARES.items():
            data = content("3", 3003)
            assert opened(texts, tmp_path, prepare=prepare)[3] == (prepare(data) if prepare else data), name
    assert len(cached_files(tmp_path)) == len(PREPARES)


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Hash seeds and addresses do not change a fingerprint: else each run would fetch everything anew."""
    script = (
        "from tests.cache.test_preparation import PREPARES; from ai4os_data.cache.fingerprints import fingerprint;"
        "print([fingerprint(p) for p in PREPARES.values() if p])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    ours = [fingerprint(prepare) for prepare in PREPARES.values() if prepare]
    assert said == {f"{ours}\n"}


def test_object_may_say_itself_what_its_results_are_known_by() -> None:
    """Two that say the same share what they made, whatever else they hold; also where another one holds them."""
    assert fingerprint(Versioned(4)) == fingerprint(Versioned(104)) != fingerprint(Versioned(5))
    assert fingerprint(Versioned(4)) != fingerprint(Cutter(4))
    held = [functools.partial(beside, Versioned(length)) for length in (4, 104, 5)]  # type: ignore[arg-type]
    assert fingerprint(held[0]) == fingerprint(held[1]) != fingerprint(held[2])


def test_global_that_prepare_uses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant of its module that a function goes by is part of what it makes."""
    before = fingerprint(doubled)
    monkeypatch.setitem(globals(), "TIMES", 3)
    assert fingerprint(doubled) != before


def test_prepare_that_cannot_be_told_from_another_needs_a_version(texts: Share, tmp_path: Path) -> None:
    """What holds an open file is refused, with what to do; with a version it works."""
    with (tmp_path / "lookup").open("w") as file:
        prepare = functools.partial(beside, file)
        with pytest.raises(ValueError, match=r"TextIOWrapper.*prepare_version="):
            opened(texts, tmp_path / "cache", prepare=prepare)
        with pytest.raises(ValueError, match="prepare_version="):
            UncachedStore(source([1]), prepare=prepare)
        assert opened(texts, tmp_path / "cache", prepare=prepare, prepare_version=1)[0] == content("0", 5)


def test_prepare_version_names_entries_of_its_own(texts: Share, tmp_path: Path) -> None:
    """A new version prepares anew, although the code is the same; the old one still finds its own."""
    made: list[int] = []

    def counted(data: bytes) -> bytes:
        made.append(len(data))
        return data[:1]

    for version, times in ((1, 1), (1, 1), (2, 2), ("2", 2), (1, 2), ("v3", 3)):
        assert opened(texts, tmp_path, prepare=counted, prepare_version=version)[0] == content("0", 1)
        assert len(made) == times
    assert set(made) == {3000}


def test_failing_prepare_leaves_no_claim_and_nothing_cached(texts: Share, tmp_path: Path) -> None:
    """The error names the sample; the next one who wants the file is not kept waiting."""
    dataset = opened(texts, tmp_path, prepare=explode)
    for _ in range(2):
        with pytest.raises((errors.SampleError, ArithmeticError), match="3000 bytes are not to be prepared"):
            dataset[0]
    assert cached_files(tmp_path) == set()
    assert list(tmp_path.rglob("*.fill")) == []
    assert opened(texts, tmp_path, prepare=explode, prepare_version="none yet").keys == dataset.keys


def test_prepared_file_that_becomes_larger_than_the_cache_passes_through(texts: Share, tmp_path: Path) -> None:
    """What prepare makes is not known before: where it is too large to keep, it is given out all the same."""
    dataset = opened(texts, tmp_path, prepare=by(10_000))
    for _ in range(2):
        assert len(dataset[0]) == 30_000_000
    assert cached_files(tmp_path) == set()
    assert dataset.stats()["passed_through"] == 2


# --- drift


def changed(share: Share) -> tuple[bytes, bytes]:
    """Let a file become another one; its old and its new bytes."""
    old, new = content("2", 3002), content("another 2", 4000)
    share.put({"2.bin": new})
    return old, new


def test_changed_file_is_an_error_where_that_was_asked_for(texts: Share, tmp_path: Path) -> None:
    """Under "error" the sample says that the file changed and what to do; nothing of the new version is kept."""
    dataset = opened(texts, tmp_path, on_drift="error")
    changed(texts)
    for _ in range(2):
        with pytest.raises(errors.SampleError, match="not the version that was listed") as caught:
            dataset[2]
        assert isinstance(caught.value.__cause__, errors.ChangedError)
        assert "refresh()" in str(caught.value)
    assert cached_files(tmp_path) == set()
    assert len(dataset[3]) == 3003


@pytest.mark.parametrize("on_drift", ["warn", "refresh"])
def test_changed_file_is_taken_and_kept(texts: Share, tmp_path: Path, on_drift: str) -> None:
    """Under "warn" and "refresh" the new version is given out, and is cached from the second time on."""
    with Warnings() as warnings:
        dataset = opened(texts, tmp_path, on_drift=on_drift)
        _, new = changed(texts)
        texts.server.forget()
        for _ in range(4):
            assert dataset[2] == new
        assert len(texts.read_keys()) <= 2
    assert len(warnings) == (1 if on_drift == "warn" else 0)
    assert all("'2.bin' is not the version that was listed" in warning for warning in warnings)


def test_cached_version_serves_while_it_is_the_listed_one(texts: Share, tmp_path: Path) -> None:
    """A dataset is what was listed: a file that changed later keeps its cached bytes until the next listing."""
    dataset = opened(texts, tmp_path, on_drift="error")
    old, new = content("2", 3002), content("another 2", 4000)
    assert dataset[2] == old
    changed(texts)
    assert dataset[2] == old
    dataset.refresh()
    assert dataset[2] == new
    assert opened(texts, tmp_path)[2] == new


def test_large_file_that_changed_is_whole_and_of_one_version(share: Share, tmp_path: Path) -> None:
    """A large file's new version comes whole, and is not kept as the old one."""
    old, new = content("old", 17 * MiB), content("new", 18 * MiB)
    share.put({"large.bin": old})
    cache = DiskCache(tmp_path, "64MiB")
    dataset = StorageDataset(share.location, remote=share.remote, cache=cache, on_drift="refresh")
    share.put({"large.bin": new})
    for _ in range(3):
        assert dataset[0] == new
    assert [path.stat().st_size for path in tmp_path.glob("objects/*/*-*")] == [18 * MiB]


def test_versions_of_a_key_are_entries_of_their_own(tmp_path: Path) -> None:
    """The same key with another ETag or size is another entry, and the two never mix."""
    files = source([1000, 1000], "versions")
    key = files.list()[0].key
    cache = DiskCache(tmp_path, "8MiB")
    versions: list[tuple[Entry, bytes]] = []
    for data in (content("one", 1000), content("two", 1000), content("three", 999)):
        files.files[key] = data
        versions.append((files.stat(key), data))
        assert CachedStore(files, cache).read(versions[-1][0]) == data
    for entry, data in versions:
        assert CachedStore(files, cache).read(entry) == data
