"""A dataset in the worker processes of a DataLoader, however they are started."""

from __future__ import annotations

import collections
import multiprocessing
import os
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader, random_split

from ai4os_data import DiskCache, Sample, StorageDataset
from ai4os_data.errors import SampleError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share

# Loaders of 4 workers on a machine of 2 cores are part of what is shown.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

STARTS = ["fork", "spawn", "forkserver"]
LOADERS = [(0, None), *((workers, start) for start in STARTS for workers in (2, 4))]
FILES = {f"{number % 3}/{number:02}.bin": random.Random(number).randbytes(5_000 + number) for number in range(24)}


@pytest.fixture(autouse=True)
def _imported_once() -> None:
    """Let the server that forks workers import torch once for all of them."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["ai4os_data.datasets.dataset"])


def key_and_bytes(sample: Sample) -> tuple[str, bytes, int]:
    """Decode a sample so that its origin and its process show."""
    return sample.key, sample.bytes(), os.getpid()


def load(dataset: Any, workers: int, start: str | None, **options: Any) -> list[Any]:
    """Return what one epoch of a loader gives."""
    return list(make_loader(dataset, workers, start, **options))


def make_loader(dataset: Any, workers: int, start: str | None, **options: Any) -> DataLoader[Any]:
    """Return a plain loader whose batches are lists."""
    return DataLoader(
        dataset, **{"batch_size": 3, "collate_fn": list, **options}, num_workers=workers, multiprocessing_context=start
    )


def flat(batches: list[list[tuple[str, bytes, int]]]) -> dict[str, bytes]:
    """Return the samples of some batches by key, each there once."""
    samples = [sample for batch in batches for sample in batch]
    counted = collections.Counter(key for key, _, _ in samples)
    assert set(counted.values()) == {1}, counted
    return {key: data for key, data, _ in samples}


@pytest.mark.parametrize(("workers", "start"), LOADERS)
def test_each_sample_comes_once_with_its_bytes(share: Share, tmp_path: Path, workers: int, start: str | None) -> None:
    """In a shuffled epoch over the network and one from the cache; its own process uses the dataset meanwhile."""
    share.put(FILES)
    dataset = StorageDataset(
        share.location, remote=share.remote, decode=key_and_bytes, cache=DiskCache(tmp_path / "cache", "20MiB")
    )
    assert dataset[7][1] == FILES[dataset.keys[7]]  # connections and cache are open before the workers start
    loader = make_loader(dataset, workers, start, shuffle=True, persistent_workers=workers > 0)
    processes = set()
    for _ in range(2):
        epoch = iter(loader)
        batches = [next(epoch)]
        assert dataset[11][1] == FILES[dataset.keys[11]]
        batches += epoch
        assert flat(batches) == FILES
        processes |= {process for batch in batches for _, _, process in batch}
    assert dataset[0][1] == FILES[dataset.keys[0]]
    assert (len(processes), os.getpid() in processes) == ((workers, False) if workers else (1, True))
    assert sorted(share.read_keys()) == sorted(FILES)  # one fetch a file, whoever wanted it
    stats = dataset.stats()
    assert (stats["stored"], stats["requests_get"], stats["hits"] + stats["misses"]) == (24, 24, 48 + 4)


def test_without_a_cache_workers_read_over_the_network(share: Share) -> None:
    """Connections that the parent has used, before and meanwhile, are not used by its forked children."""
    share.put(FILES)
    dataset = StorageDataset(share.location, remote=share.remote, decode=key_and_bytes, cache=None)
    assert dataset.__getitems__([0, 1, 2, 3])[3][1] == FILES[dataset.keys[3]]
    for _ in range(2):  # workers anew for each epoch
        epoch = iter(make_loader(dataset, 2, "fork"))
        batches = [next(epoch)]
        dataset.__getitems__(list(range(8)))
        batches += epoch
        assert flat(batches) == FILES
    assert dataset[5][1] == FILES[dataset.keys[5]]


@pytest.mark.parametrize(("workers", "start"), [(0, None), *((2, start) for start in STARTS)])
def test_error_of_a_sample_crosses_to_the_trainer(share: Share, workers: int, start: str | None) -> None:
    """It arrives as a SampleError whose message names key, location and index, and why."""
    share.put({f"{number}.json": "[]" for number in range(8)} | {"5.json": "{broken"})
    dataset = StorageDataset(share.location, remote=share.remote, decode="json", cache=None)
    epoch: Any = iter(make_loader(dataset, workers, start))
    with pytest.raises(SampleError) as caught:
        list(epoch)
    if workers:
        epoch._shutdown_workers()  # torch waits ten seconds for them if that is left to the garbage collector
    message = str(caught.value)
    assert f"sample 5 ('5.json') of {share.location}" in message
    assert "JSONDecodeError" in message
    assert share.server.password not in message


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_paths_that_workers_send_are_there(share: Share, tmp_path: Path, start: str) -> None:
    """A local file for a path survives its way from a worker, with a cache and without one."""
    share.put(FILES)
    for cache in (tmp_path / "cache", None):
        dataset = StorageDataset(share.location, remote=share.remote, decode="path", cache=cache)
        seen = 0
        for batch in make_loader(dataset, 2, start):
            for path in batch:
                with open(path, "rb") as file:
                    assert file.read() == FILES[dataset.keys[seen]]
                seen += 1
        assert seen == 24


def test_parts_of_a_dataset_share_workers_and_cache(share: Share, tmp_path: Path) -> None:
    """Training and validation parts, loaded side by side, give each sample in one of them."""
    share.put(FILES)
    whole = StorageDataset(share.location, remote=share.remote, decode=key_and_bytes, cache=tmp_path / "cache")
    parts = random_split(whole, [16, 8])
    train, valid = (make_loader(part, 2, "fork", shuffle=True) for part in parts)
    together: list[Any] = []
    for pair in zip(train, valid, strict=False):
        together += pair
    assert len(together) == 6
    assert flat(load(parts[0], 2, "fork") + load(parts[1], 2, "fork")) == FILES
    assert len(share.requests("GET")) == 24


def test_pickled_dataset_is_the_same(share: Share, tmp_path: Path) -> None:
    """After a pickle it has the same samples and labels, hits the same cache and counts into the same sums."""
    share.put(FILES)
    dataset = StorageDataset(
        share.location, remote=share.remote, decode=key_and_bytes, target="folder", cache=tmp_path / "cache"
    )
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  it was made here
    share.server.forget()
    assert copy.keys == dataset.keys
    assert (copy.classes, copy.targets, repr(copy)) == (dataset.classes, dataset.targets, repr(dataset))
    assert copy[0][0][1] == FILES["0/00.bin"]
    assert share.requests() == []
    assert copy[-1][0][1] == FILES[copy.keys[-1]]
    assert dataset[-1][0][1] == FILES[copy.keys[-1]]
    assert len(share.requests()) == 1
    assert dataset.stats() == copy.stats()


def test_remote_of_the_environment_is_found_again_in_workers(
    share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With credentials from the environment a pickle carries their name alone, and spawned workers find them."""
    share.put(FILES)
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    dataset = StorageDataset(f"rshare:{share.name}", decode=key_and_bytes, cache=tmp_path / "cache")
    carried = pickle.dumps(dataset)
    for secret in (share.server.password, os.environ["RCLONE_CONFIG_RSHARE_PASS"]):
        assert secret.encode() not in carried
    assert flat(load(dataset, 2, "spawn")) == FILES
