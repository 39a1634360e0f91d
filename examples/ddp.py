"""Train on two processes that share one cache and one checkpoint.

    torchrun --nproc-per-node 2 examples/ddp.py
    torchrun --nproc-per-node 2 examples/ddp.py rshare:somewhere

The first command starts a WebDAV server of its own. The second one uses your
storage, and removes what it wrote there.

Every sample goes to exactly one of them, and each file is fetched once, by
whichever process needs it first.
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

from ai4os_data import (
    DiskCache,
    StorageCheckpoint,
    StorageDataLoader,
    StorageDataset,
    open_filesystem,
)

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
    """Train, as every rank does; rank 0 prints the results."""
    cache = DiskCache(f"{scratch}/cache", "64MiB")
    data = StorageDataset(
        f"{location}/data", remote=remote, decode=number_of, cache=cache
    )
    # The loader shares out the samples among the ranks.
    loader = StorageDataLoader(data, batch_size=BATCH, shuffle=True, seed=1)
    model = DistributedDataParallel(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    state = {"model": model, "optimizer": optimizer, "loader": loader}

    with StorageCheckpoint(
        f"{location}/run", remote=remote, spool=f"{scratch}/spool"
    ) as run:
        # The same on every rank; None on a new run.
        restored = run.restore(into=state)
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
                once = int((seen == 1).sum())
                print(
                    f"epoch {epoch}: {once} of {FILES} samples came to exactly one rank"
                )

    fetched = torch.tensor(data.stats()["misses"])  # by this rank
    dist.all_reduce(fetched)
    if dist.get_rank() == 0:
        print(
            f"{int(fetched)} files were fetched by both together; "
            f"each took {len(loader)} steps an epoch"
        )
    cache.close()  # here, since its folder is removed before the process ends


@contextlib.contextmanager
def shared_location(given: str | None) -> Iterator[tuple[str, Remote | None, str]]:
    """A location, its remote, and a local folder; rank 0 makes them for all ranks."""
    with contextlib.ExitStack() as stack:
        made: list[Any] = [None]
        if dist.get_rank() == 0:
            location, remote = stack.enter_context(storage(given))
            scratch = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ai4os-data-ddp-")
            )
            files = open_filesystem(f"{location}/data", remote, create=True)
            files.pipe(
                {f"{number:03}.txt": str(number).encode() for number in range(FILES)}
            )
            made = [(location, remote, scratch)]
        dist.broadcast_object_list(made, src=0)
        yield made[0]
        dist.barrier()  # rank 0 removes them when all ranks are done


def main() -> int:
    """Run the example; returns the exit code."""
    given = arguments(__doc__).parse_args().location
    if "RANK" not in os.environ:
        sys.exit("start it with: torchrun --nproc-per-node 2 examples/ddp.py")
    dist.init_process_group("gloo")
    try:
        with shared_location(given) as (location, remote, scratch):
            train(location, remote, scratch)
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
