"""Train on two processes that share one cache and one checkpoint; every sample goes to exactly one of them.

torchrun --nproc-per-node 2 examples/ddp.py               # on a WebDAV server that rank 0 starts
torchrun --nproc-per-node 2 examples/ddp.py rshare:demo   # in a folder of your own storage
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ai4os_data import DiskCache, Remote, Sample, StorageCheckpoint, StorageDataLoader, StorageDataset
from ai4os_data.cli.server_process import serve
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 256
EPOCHS = 2
BATCH = 8


def number_of(sample: Sample) -> torch.Tensor:
    """The number in a file."""
    return torch.tensor([float(sample.bytes())])


def train(location: str, remote: Remote | None, scratch: str) -> None:
    """Train, as every rank does, and tell what came of it on rank 0."""
    data = StorageDataset(
        f"{location}/data", remote=remote, decode=number_of, cache=DiskCache(f"{scratch}/cache", "64MiB")
    )
    loader = StorageDataLoader(data, batch_size=BATCH, shuffle=True, seed=1)  # deals the samples out by rank
    model = DistributedDataParallel(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    state = {"model": model, "optimizer": optimizer, "loader": loader}

    with StorageCheckpoint(f"{location}/run", remote=remote, spool=f"{scratch}/spool") as run:
        restored = run.restore(into=state)  # the same on every rank; None on a new run
        step = restored.step if restored else 0
        for epoch in range(EPOCHS):
            seen = torch.zeros(FILES)
            for batch in loader:
                loss = (model(batch) - batch).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen[batch.flatten().long()] += 1
                step += 1
            run.save(state, step)  # on every rank; rank 0 writes
            dist.all_reduce(seen)
            if dist.get_rank() == 0:
                print(f"epoch {epoch}: {int((seen == 1).sum())} of {FILES} samples came to exactly one rank")

    fetched = torch.tensor(data.stats()["misses"])
    if dist.get_rank() == 0:
        print(f"{int(fetched)} files were fetched by {dist.get_world_size()} ranks together; {step} steps each")


@contextlib.contextmanager
def storage(location: str | None) -> Iterator[tuple[str, Remote | None, str]]:
    """Where the data lies, and a folder on this disk: rank 0 makes them, and tells the others."""
    if dist.get_rank() > 0:
        told: list[tuple[str, Remote | None, str] | None] = [None]
        dist.broadcast_object_list(told, src=0)
        assert told[0] is not None
        yield told[0]
        dist.barrier()
        return
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="ai4os-data-ddp-"))
        remote = None
        if location is None:
            password = secrets.token_urlsafe()
            url = stack.enter_context(serve(Path(scratch, "server"), user="demo", password=password, latency_s=0.005))
            location, remote = url.rstrip("/"), Remote(url, user="demo", password=password)
        place = f"{location.rstrip('/')}/ddp-{secrets.token_hex(4)}"
        store = open_store(f"{place}/data", remote, create=True)
        for number in range(FILES):
            store.write(f"{number:03}.txt", str(number).encode())
        dist.broadcast_object_list([(place, remote, scratch)], src=0)
        yield place, remote, scratch
        dist.barrier()  # the others are through


def main() -> int:
    """Do it; the answer is the exit code."""
    parser = argparse.ArgumentParser(description="Train on several processes.")
    parser.add_argument("location", nargs="?", help="a folder on your storage; a server of its own by default")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with: torchrun --nproc-per-node 2 examples/ddp.py")
    dist.init_process_group("gloo")
    try:
        with storage(options.location) as (location, remote, scratch):
            train(location, remote, scratch)
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
