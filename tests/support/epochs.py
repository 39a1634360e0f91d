"""Datasets whose samples show their keys, loaders over them, and the batches of an epoch."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ai4os_data import DiskCache, Sample, StorageDataLoader, StorageDataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.shares import Share

NUMBER = 30
FILES = {f"{number:02}.bin": os.urandom(600 + number) for number in range(NUMBER)}
CACHES = ("none", "cold", "half", "warm")


def key_and_draws(sample: Sample) -> tuple[str, int, float, float, float]:
    """Return what a sample is, and what an augmentation of it draws."""
    draws = random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002  as transforms do
    return sample.key, len(sample.bytes()), *draws


def only_key(sample: Sample) -> str:
    """Return a key, after its bytes were read."""
    assert len(sample.bytes()) == len(FILES.get(sample.key, sample.bytes()))
    return sample.key


def as_list(samples: list[Any]) -> list[Any]:
    """Return a batch as it is."""
    return samples


def dataset_of(
    share: Share, directory: Path | None, state: str = "cold", decode: Any = key_and_draws, **options: Any
) -> StorageDataset:
    """Return a dataset of a share with our files, whose cache is cold, half full or warm, or which has none."""
    if not any(share.root.iterdir()):
        share.put(FILES)
    cache = None if state == "none" or directory is None else DiskCache(directory, "64MiB")
    dataset = StorageDataset(share.location, remote=share.remote, decode=decode, cache=cache, **options)
    if state == "half":
        dataset.__getitems__(list(range(0, len(dataset), 2)))
    elif state == "warm":
        dataset.warm(progress=False)
    return dataset


def loader_of(dataset: Any, workers: int = 0, **options: Any) -> StorageDataLoader:
    """Return a loader that shuffles, in batches of four."""
    given = {"batch_size": 4, "shuffle": True, "collate_fn": as_list, "num_workers": workers, **options}
    return StorageDataLoader(dataset, **given)


def taken(loader: Any, batches: int | None = None) -> list[Any]:
    """So many batches of the next epoch, which is then left early."""
    found: list[Any] = []
    if batches == 0:
        return found
    for batch in loader:
        found.append(batch)
        if len(found) == batches:
            break
    return found


def flat(batches: list[Any]) -> list[Any]:
    """Return the samples of all batches."""
    return [sample for batch in batches for sample in batch]


def children() -> set[int]:
    """Return the processes that this one has started and that still run."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text().split()}


def look_ahead_threads() -> list[threading.Thread]:
    """Return the threads that look ahead."""
    return [thread for thread in threading.enumerate() if thread.name == "ai4os-data-look-ahead"]


@contextlib.contextmanager
def nothing_left_running() -> Iterator[None]:
    """Fail if a thread that looks ahead, or a worker, is still there a while after the ``with``."""
    before = children()
    yield
    gc.collect()
    until = time.monotonic() + 10
    while (look_ahead_threads() or children() - before) and time.monotonic() < until:
        time.sleep(0.02)
    assert look_ahead_threads() == []
    assert children() - before == set()
