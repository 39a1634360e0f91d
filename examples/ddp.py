"""Train on two processes that share one cache and one checkpoint; every sample goes to exactly one of them.

    torchrun --nproc-per-node 2 examples/ddp.py               # on a WebDAV server that rank 0 starts
    torchrun --nproc-per-node 2 examples/ddp.py rshare:demo   # on your own storage; what it writes is removed again

Each file is fetched once, by whichever of them is first.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from storage import arguments, storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ai4os_data import DiskCache, StorageCheckpoint, StorageDataLoader, StorageDataset, open_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data import Remote, Sample

FILES = 256
EPOCHS = 2
BATCH = 8


def number_of(sample: Sample) -> torch.Tensor:
    """The number in a file."""
    return torch.tensor([float(sample.bytes())])


def train(location: str, remote: Remote | None, scratch: str) -> None:
    """Train, as every rank does, and tell what came of it on rank 0."""
    cache = DiskCache(f"{scratch}/cache", "64MiB")
    data = StorageDataset(f"{location}/data", remote=remote, decode=number_of, cache=cache)
    loader = StorageDataLoader(data, batch_size=BATCH, shuffle=True, seed=1)  # deals the samples out by rank
    model = DistributedDataParallel(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    state = {"model": model, "optimizer": optimizer, "loader": loader}

    with StorageCheckpoint(f"{location}/run", remote=remote, spool=f"{scratch}/spool") as run:
        restored = run.restore(into=state)  # the same on every rank; None on a new run
        for epoch in range(restored.step + 1 if restored else 0, EPOCHS):
            seen = torch.zeros(FILES)
            for batch in loader:
                loss = (model(batch) - batch).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen[batch.flatten().long()] += 1
            run.save(state, step=epoch)  # on every rank; rank 0 writes
            dist.all_reduce(seen)
            if dist.get_rank() == 0:
                print(f"epoch {epoch}: {int((seen == 1).sum())} of {FILES} samples came to exactly one rank")

    fetched = torch.tensor(data.stats()["misses"])  # by this rank
    dist.all_reduce(fetched)
    if dist.get_rank() == 0:
        print(f"{int(fetched)} files were fetched by both together; each took {len(loader)} steps an epoch")
    cache.close()  # or at the end of the process: here its folder goes before that


@contextlib.contextmanager
def shared_place(given: str | None) -> Iterator[tuple[str, Remote | None, str]]:
    """Where the data lies, and a folder on this disk: rank 0 makes them, and tells the others."""
    with contextlib.ExitStack() as stack:
        told: list[Any] = [None]
        if dist.get_rank() == 0:
            location, remote = stack.enter_context(storage(given))
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="ai4os-data-ddp-"))
            files = open_filesystem(f"{location}/data", remote, create=True)
            files.pipe({f"{number:03}.txt": str(number).encode() for number in range(FILES)})
            told = [(location, remote, scratch)]
        dist.broadcast_object_list(told, src=0)
        yield told[0]
        dist.barrier()  # rank 0 removes it when all are through


def main() -> int:
    """Do it; the answer is the exit code."""
    given = arguments(__doc__).parse_args().location
    if "RANK" not in os.environ:
        sys.exit("start it with: torchrun --nproc-per-node 2 examples/ddp.py")
    dist.init_process_group("gloo")
    try:
        with shared_place(given) as (location, remote, scratch):
            train(location, remote, scratch)
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
