"""Files that changed since they were listed: fetched once on a node, told once, and never taken for what was listed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader

from ai4os_data import DiskCache, StorageDataLoader, StorageDataset
from ai4os_data.errors import ChangedError, SampleError
from ai4os_data.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.shares import Share

FILES = {f"{number:02}.bin": bytes([number]) * (2000 + number) for number in range(24)}
NEW = {key: b"new" + content for key, content in list(FILES.items())[::2]}


@pytest.fixture(params=["wsgidav", "nextcloud"])
def place(request: pytest.FixtureRequest) -> Share:
    """Files on a server."""
    place: Share = request.getfixturevalue({"wsgidav": "share", "nextcloud": "cloud_share"}[request.param])
    place.put(FILES)
    return place


@contextmanager
def lines_of_all_processes(path: Path) -> Iterator[list[str]]:
    """Collect what this process and its forked workers log."""
    handler = logging.FileHandler(path)
    lines: list[str] = []
    logger = logging.getLogger("ai4os_data")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        handler.close()
        lines += path.read_text().splitlines()


@pytest.mark.parametrize("loader", [DataLoader, StorageDataLoader])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_changed_files_are_fetched_once(
    place: Share, tmp_path: Path, loader: Any, workers: int, *, persistent: bool
) -> None:
    """By workers that are forked anew each epoch too; and all processes together log one line."""
    dataset = StorageDataset(place.location, remote=place.remote, cache=tmp_path / "cache")
    place.put(NEW)
    batches = loader(
        dataset, batch_size=5, shuffle=True, num_workers=workers, persistent_workers=persistent, collate_fn=list
    )
    with lines_of_all_processes(tmp_path / "log") as lines:
        for epoch in range(3):
            place.server.forget()
            assert sorted(content for batch in batches for content in batch) == sorted({**FILES, **NEW}.values())
            fetched = place.read_keys()
            by_name = [key for key in fetched if key in FILES]  # the others are archives
            assert len(by_name) == len(set(by_name))
            assert epoch == 0 or fetched == []
    assert len(lines) == 1
    assert "is not the version that was listed" in lines[0]
    assert "stats()['changed'] counts them" in lines[0]
    assert dataset.stats()["changed"] == len(NEW)


def test_large_changed_file_is_kept_too(share: Share, tmp_path: Path) -> None:
    """It went straight to the disk, and is larger than its room was."""
    share.put({"large.bin": bytes(17 << 20)})
    dataset = StorageDataset(share.location, remote=share.remote, cache=DiskCache(tmp_path, "100MiB"))
    new = bytes(20 << 20) + b"end"
    share.put({"large.bin": new})
    share.server.forget()
    assert dataset[0] == new
    again = StorageDataset(share.location, remote=share.remote, cache=DiskCache(tmp_path, "100MiB"))
    assert again[0] == new
    assert share.read_keys() == ["large.bin"]


def test_later_listing_finds_the_file_as_it_was(tmp_path: Path) -> None:
    """What a file had become belongs to one listing: who lists it as before gets it as before."""
    store = MemoryStore({"a": b"before"})
    cache = DiskCache(tmp_path, "8MiB")
    dataset = StorageDataset(store, cache=cache)
    store.files["a"] = b"meanwhile"
    assert dataset[0] == b"meanwhile"
    store.files["a"] = b"before"
    assert dataset[0] == b"meanwhile"  # as long as it is in the cache
    dataset.refresh()
    assert dataset[0] == b"before"
    assert StorageDataset(store, cache=cache)[0] == b"before"


def test_error_is_raised_whatever_others_have_kept(tmp_path: Path) -> None:
    """``on_drift="error"`` takes nothing of another version, from the cache neither."""
    store = MemoryStore({"a": b"before"})
    cache = DiskCache(tmp_path, "8MiB")
    strict, lenient = (StorageDataset(store, cache=cache, on_drift=on_drift) for on_drift in ("error", "warn"))
    strict.reader.files.versions.listing = (
        lenient.reader.files.versions.listing
    )  # as in two processes that have the listing kept
    store.files["a"] = b"meanwhile"
    assert lenient[0] == b"meanwhile"
    with pytest.raises(SampleError) as caught:
        strict[0]
    assert isinstance(caught.value.__cause__, ChangedError)


def test_newer_version_that_was_evicted_is_fetched_and_kept_again(tmp_path: Path) -> None:
    """The note of what it has become is a hint: where that is gone, the storage is asked."""
    store = MemoryStore({"a": b"before"})
    dataset = StorageDataset(store, cache=DiskCache(tmp_path, "8MiB"))
    for content in (b"second", b"third"):
        store.files["a"] = content
        assert dataset[0] == content
        (kept,) = tmp_path.glob("objects/*/*-*")
        kept.unlink()
    store.files["a"] = b"before"
    assert [dataset[0], dataset[0]] == [b"before", b"before"]


def test_changed_files_of_a_lock_file_are_cached_as_others(share: Share, tmp_path: Path) -> None:
    """The listing that it is compared with tells their versions: the next run, and one offline, fetches none."""
    share.put(FILES)
    StorageDataset(share.location, remote=share.remote, cache=None).index.save(tmp_path / "lock.json")
    share.put(NEW)
    for run in range(2):
        share.server.forget()
        dataset = StorageDataset(
            share.location, remote=share.remote, cache=tmp_path / "cache", index=tmp_path / "lock.json"
        )
        assert [dataset[index] for index in range(len(dataset))] == list({**FILES, **NEW}.values())
        assert len(share.read_keys()) == (len(FILES) if run == 0 else 0)
        assert dataset.stats()["changed"] == 0
