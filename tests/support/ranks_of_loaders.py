"""Two ranks over gloo, each with a loader over the same share and the same cache."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ai4os_data import DiskCache, Remote, Sample, StorageDataLoader, StorageDataset

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share

Epochs = list[list[list[int]]]  # batches of numbers, by epoch


def number_of(sample: Sample) -> int:
    """Return the number in a file."""
    return int(sample.bytes())


def be_a_rank(rank: int, location: str, remote: Remote, place: str, epochs: int, answers: Any) -> None:  # noqa: PLR0917
    """Go through some epochs in step with the others, and tell what came."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/rendezvous", rank=rank, world_size=2)
    dataset = StorageDataset(location, remote=remote, decode=number_of, cache=DiskCache(f"{place}/cache", "64MiB"))
    loader = StorageDataLoader(dataset, batch_size=4, shuffle=True, seed=1)
    told: Epochs = []
    for _ in range(epochs):
        told.append([])
        for batch in loader:
            dist.barrier()  # as the gradients have it: a rank with more batches would hang
            told[-1].append(batch.tolist())
    answers.put((rank, told))
    dist.destroy_process_group()


def epochs_of_ranks(share: Share, tmp_path: Path, epochs: int) -> tuple[Epochs, Epochs]:
    """Return what each of two ranks was given."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ranks = [
        context.Process(target=be_a_rank, args=(rank, share.location, share.remote, str(tmp_path), epochs, answers))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    told = dict(answers.get(timeout=90) for _ in ranks)
    for process in ranks:
        process.join(30)
    return told[0], told[1]
