"""DataLoaders whose workers end when the test is done with them, also after an error."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data import StorageDataset


@contextmanager
def batches_of(dataset: StorageDataset, *, workers: int, batch_size: int = 1) -> Iterator[Iterator[Any]]:
    """The batches of one epoch.

    An error from a worker is in a cycle with the iterator. When that is collected as one, PyTorch's queues close
    before their last message is out, and it waits 5 s for each worker.
    """
    batches = iter(DataLoader(dataset, batch_size=batch_size, num_workers=workers))
    try:
        yield batches
    finally:
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()
