"""A dataset is a sequence of files: which, in which order, and what a caller may do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from ai4os_data import DiskCache, StorageDataset
from ai4os_data.errors import ChangedError, EmptyDatasetError, NotFoundError
from tests.support.servers import FaultServer
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

FILES = {f"{folder}/{number:02}.bin": f"{folder}{number}" for folder in "abc" for number in range(4)}


@pytest.fixture(params=["directory", "wsgidav", "nextcloud"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """The same files on this disk, over WebDAV and on a Nextcloud."""
    place: Folder
    if request.param == "directory":
        place = Folder(tmp_path / "place")
    else:
        place = Share(request.getfixturevalue(request.param))
    place.put(FILES)
    return place


def open_dataset(place: Folder, **options: Any) -> StorageDataset:
    """Open a dataset, without a cache unless there is to be one."""
    return StorageDataset(place.location, remote=place.remote, **{"cache": None, **options})


def everything(dataset: Any) -> list[Any]:
    """Return every sample, as Python finds them by itself."""
    return list(dataset)


def batches(dataset: Any, **options: Any) -> list[bytes]:
    """Return what a loader gives, in its order."""
    loader: DataLoader[bytes] = DataLoader(dataset, batch_size=5, collate_fn=list, **options)
    return [item for batch in loader for item in batch]


# --- which files, in which order


def test_keys_are_sorted_and_each_index_gives_the_file_of_its_key(place: Folder) -> None:
    """Index and key go together, whatever order the server lists in."""
    dataset = open_dataset(place)
    assert dataset.keys == sorted(FILES)
    assert len(dataset) == 12
    assert [dataset[index].decode() for index in range(12)] == [FILES[key] for key in dataset.keys]


def test_list_of_a_dataset_ends(place: Folder) -> None:
    """Python iterates over what has indices until an IndexError comes, and it comes."""
    assert [item.decode() for item in everything(open_dataset(place))] == [FILES[key] for key in sorted(FILES)]


def test_negative_indices_count_from_the_end(place: Folder) -> None:
    """Negative indices work as in a list, for single samples and for batches."""
    dataset = open_dataset(place)
    assert dataset[-1] == dataset[11] == b"c3"
    assert dataset[-12] == dataset[0] == b"a0"
    assert dataset.__getitems__([-1, 0]) == [b"c3", b"a0"]


@pytest.mark.parametrize("index", [12, -13, 10**9])
def test_index_out_of_range_is_an_index_error(share: Share, tmp_path: Path, index: int) -> None:
    """Beyond either end, in single samples and in batches, with a filled cache and without one."""
    share.put(FILES)
    for dataset in (open_dataset(share), open_dataset(share, cache=tmp_path / "cache")):
        everything(dataset)
        with pytest.raises(IndexError, match="range"):
            dataset[index]
        with pytest.raises(IndexError, match="range"):
            dataset.__getitems__([0, index])


def test_indices_may_be_of_numpy_and_torch(share: Share) -> None:
    """Integers of NumPy and tensors with one integer are indices."""
    share.put(FILES)
    dataset = open_dataset(share)
    assert dataset[np.int64(5)] == dataset[torch.tensor(5)] == dataset[5]  # type: ignore[index]


@pytest.mark.parametrize("index", ["a/00.bin", slice(0, 2), 1.0, [0, 1]])
def test_other_indices_are_refused(share: Share, tmp_path: Path, index: Any) -> None:
    """The message names what does what was meant, whether anything is cached or not."""
    share.put(FILES)
    dataset = open_dataset(share, cache=tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(TypeError, match=r"asked for by its number, .*Subset\(dataset, indices\).*from_keys"):
            dataset[index]
        everything(dataset)


def test_patterns_choose_the_files(place: Folder) -> None:
    """One pattern or several, in any order: the keys come out sorted and once."""
    assert open_dataset(place, pattern="b/*").keys == ["b/00.bin", "b/01.bin", "b/02.bin", "b/03.bin"]
    several = open_dataset(place, pattern=["**/*3.bin", "c/0[13].bin", "a/0?.BIN"])
    assert several.keys == ["a/03.bin", "b/03.bin", "c/01.bin", "c/03.bin"]


def test_transform_sees_what_decode_gives(share: Share) -> None:
    """``transform`` is applied to the sample, ``target_transform`` to its label."""
    share.put(FILES)
    dataset = open_dataset(
        share, decode="text", target="folder", transform=str.upper, target_transform=lambda label: label * 10
    )
    assert (dataset[0], dataset[11]) == (("A0", 0), ("C3", 20))


def test_prepare_is_applied_once_before_the_cache(share: Share, tmp_path: Path) -> None:
    """What ``prepare`` makes of a file is what is kept, and what every epoch gets."""
    share.put(FILES)
    seen: list[bytes] = []

    def prepare(data: bytes) -> bytes:
        seen.append(data)
        return data[::-1]

    dataset = open_dataset(share, prepare=prepare, cache=tmp_path / "cache")
    for _ in range(2):
        assert everything(dataset)[:2] == [b"0a", b"1a"]
    assert len(seen) == 12


# --- chosen keys


def test_chosen_keys_keep_their_order_and_come_as_often_as_they_are_named(place: Folder) -> None:
    """``from_keys`` takes the keys as they are given, twice where they come twice."""
    keys = ["c/03.bin", "a/00.bin", "c/03.bin", "b/01.bin"]
    dataset = StorageDataset.from_keys(place.location, keys, remote=place.remote, cache=None)
    assert dataset.keys == keys
    assert everything(dataset) == [b"c3", b"a0", b"c3", b"b1"]
    assert dataset.__getitems__([2, 0, 1, 2]) == [b"c3", b"c3", b"a0", b"c3"]


def test_chosen_key_that_comes_twice_in_a_batch_is_fetched_once(share: Share) -> None:
    """A batch asks the server for each of its files, not for each of its samples."""
    share.put(FILES)
    dataset = StorageDataset.from_keys(share.location, ["a/00.bin"] * 3, remote=share.remote, cache=None)
    assert dataset.__getitems__([0, 1, 2]) == [b"a0"] * 3
    assert share.read_keys() == ["a/00.bin"]


def test_chosen_keys_may_have_their_targets_in_order_or_by_key(share: Share) -> None:
    """A sequence beside the keys, or a mapping, gives the labels."""
    share.put(FILES)
    keys = ["b/01.bin", "a/00.bin"]
    for targets in ([7, "x"], {"a/00.bin": "x", "b/01.bin": 7, "c/00.bin": None}):
        dataset = StorageDataset.from_keys(share.location, keys, targets, remote=share.remote, cache=None)
        assert everything(dataset) == [(b"b1", 7), (b"a0", "x")]
        assert dataset.targets == [7, "x"]


def test_chosen_keys_are_labelled_by_all_class_folders_of_the_location(share: Share) -> None:
    """Two splits with other classes agree on the numbers; a log in no class folder does not matter."""
    share.put({**FILES, "ai4os.log": "downloaded"})
    dataset = StorageDataset.from_keys(
        share.location, ["c/00.bin", "a/00.bin"], target="folder", remote=share.remote, cache=None
    )
    assert (dataset.classes, dataset.targets) == (["a", "b", "c"], [2, 0])


def test_chosen_keys_that_are_missing_are_named(place: Folder) -> None:
    """The error names the first few missing keys, and how many more there are."""
    absent = [f"absent {number}.bin" for number in range(8)]
    with pytest.raises(NotFoundError, match=r"has no 'absent 0\.bin', .*'absent 4\.bin' and 3 more"):
        StorageDataset.from_keys(place.location, ["a/00.bin", *absent], remote=place.remote, cache=None)


def test_chosen_keys_and_targets_have_to_fit(share: Share) -> None:
    """Too few labels, no keys, or two ways to say which, are refused."""
    share.put(FILES)
    with pytest.raises(ValueError, match="2 keys, but 1 targets"):
        StorageDataset.from_keys(share.location, ["a/00.bin", "b/00.bin"], [0], remote=share.remote, cache=None)
    with pytest.raises(EmptyDatasetError, match="no keys"):
        StorageDataset.from_keys(share.location, [], remote=share.remote, cache=None)
    for option in ({"pattern": "**/*.jpg"}, {"target": "folder"}):
        with pytest.raises(TypeError, match=f"takes no {next(iter(option))}="):
            StorageDataset.from_keys(share.location, ["a/00.bin"], [0], remote=share.remote, **option)


# --- refreshed


def test_refresh_finds_what_is_new_and_what_changed(share: Share, tmp_path: Path) -> None:
    """After ``refresh`` the dataset is what the location is now, from the cache as far as it is the same."""
    share.put(FILES)
    dataset = open_dataset(share, cache=tmp_path / "cache")
    everything(dataset)
    share.put({"a/00.bin": "changed", "d/new.bin": "new"})
    share.remove("b/00.bin")
    dataset.refresh()
    share.server.forget()
    assert dict(zip(dataset.keys, everything(dataset), strict=True)) == {
        key: content.encode()
        for key, content in {**FILES, "a/00.bin": "changed", "d/new.bin": "new"}.items()
        if key != "b/00.bin"
    }
    assert sorted(share.read_keys()) == ["a/00.bin", "d/new.bin"]


def test_refresh_keeps_the_chosen_keys(share: Share) -> None:
    """A dataset of chosen keys stays one, with its labels, in its order."""
    share.put(FILES)
    dataset = StorageDataset.from_keys(
        share.location, ["c/00.bin", "a/00.bin"], ["see", "ay"], remote=share.remote, cache=None
    )
    share.put({"a/00.bin": "changed"})
    dataset.refresh()
    assert everything(dataset) == [(b"c0", "see"), (b"changed", "ay")]
    share.remove("a/00.bin")
    with pytest.raises(NotFoundError, match=r"has no 'a/00\.bin'"):
        dataset.refresh()


def test_refresh_ends_a_drift(share: Share) -> None:
    """A file that drifted under ``on_drift="error"`` is good again after ``refresh``, as the error says."""
    share.put(FILES)
    dataset = open_dataset(share, on_drift="error", pattern="a/00.bin")
    share.put({"a/00.bin": "drifted"})
    with pytest.raises(Exception, match=r"refresh\(\)") as caught:
        dataset[0]
    assert isinstance(caught.value.__cause__, ChangedError)
    dataset.refresh()
    assert dataset[0] == b"drifted"


def test_refresh_forgets_an_older_drift(share: Share) -> None:
    """What was newer than the first listing is not taken for what the second one lists."""
    share.put(FILES)
    dataset = open_dataset(share, on_drift="warn", pattern="a/00.bin")
    share.put({"a/00.bin": "second version"})
    assert dataset[0] == b"second version"
    share.put({"a/00.bin": "third one"})
    dataset.refresh()
    dataset.reader.files.versions.on_drift = "error"
    assert dataset[0] == b"third one"


# --- parts and sums of datasets, in loaders


def test_subset_of_a_dataset_loads(place: Folder) -> None:
    """A ``Subset`` gives its own samples, in its order, in a loader too."""
    subset = Subset(open_dataset(place), [11, 0, 5])
    assert [subset[index] for index in range(3)] == [b"c3", b"a0", b"b1"]
    assert batches(subset) == [b"c3", b"a0", b"b1"]


def test_random_split_parts_a_dataset(place: Folder) -> None:
    """Both parts together are the whole, each sample in one of them."""
    parts = random_split(open_dataset(place), [0.75, 0.25], generator=torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [9, 3]
    assert sorted(batches(parts[0], shuffle=True) + batches(parts[1])) == sorted(v.encode() for v in FILES.values())


def test_concatenated_datasets_load(place: Folder) -> None:
    """Datasets of several patterns follow each other."""
    whole: ConcatDataset[bytes] = ConcatDataset(
        [open_dataset(place, pattern="b/*"), open_dataset(place, pattern="a/*")]
    )
    assert batches(whole) == [b"b0", b"b1", b"b2", b"b3", b"a0", b"a1", b"a2", b"a3"]


# --- batches


@pytest.mark.parametrize("decode", ["bytes", "path"])
def test_batch_of_misses_is_fetched_at_once(tmp_path: Path, decode: str) -> None:
    """Of ten files most are on their way at the same time, whether their bytes are wanted or their paths."""
    with FaultServer(tmp_path / "served", latency_s=0.2) as server:
        share = Share(server)
        share.put({f"{number}.bin": f"content {number}" for number in range(10)})
        assert len(open_dataset(share, decode=decode).__getitems__(list(range(10)))) == 10
        assert server.most_in_flight() > 5


# --- told


def test_repr_tells_location_and_size(share: Share, tmp_path: Path) -> None:
    """What is printed in a notebook is where the data is, how much, and the cache."""
    share.put(FILES)
    cache = DiskCache(tmp_path / "cache", "20MiB")
    assert repr(open_dataset(share, cache=cache)) == (
        f"StorageDataset({share.location!r}, 12 samples, "
        f"cache=DiskCache({str(tmp_path / 'cache')!r}, size_limit=20971520, policy='auto'))"
    )


def test_stats_count_hits_misses_bytes_and_requests(share: Share, tmp_path: Path) -> None:
    """Over two epochs: each file missed once and hit once, with its bytes and its request."""
    share.put(FILES)
    dataset = open_dataset(share, cache=tmp_path / "cache")
    for _ in range(2):
        everything(dataset)
    stats = dataset.stats()
    assert {name: stats[name] for name in ("hits", "misses", "stored", "bytes_from_cache", "requests_get")} == {
        "hits": 12,
        "misses": 12,
        "stored": 12,
        "bytes_from_cache": 24,
        "requests_get": 12,
    }
    assert stats["bytes_from_network"] >= 24
    assert stats["requests"] == len(share.requests())
    assert (stats["retries"], stats["seconds_waited"], stats["skipped"], stats["damaged"]) == (0, 0, 0, 0)
