"""The workers of a loader: a plain DataLoader, whose items are whole batches, starts them, waits, and pins memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from ai4os_data.loader.batches import Wanted, Work, identity, start

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEWER_OPTIONS = ("in_order", "pin_memory_device")  # of some versions of DataLoader


class Workers:
    """The workers of one loader. Persistent ones stay for its next pass."""

    def __init__(self) -> None:
        self.kept: DataLoader[Any] | None = None  # kept for persistent workers
        self._wanted = _WantedBatches(iter(()))  # by the workers
        # DataLoader draws from it in each pass. From the global one, a resumed run would draw once more than another.
        self._draws = torch.Generator()

    def batches(self, loader: DataLoader[Any], work: Work, wanted: Iterator[Wanted], seed: int) -> Iterator[Any]:
        """The batches of a pass, as they are made.

        Args:
            loader: with the options of the user.
            work: makes a batch.
            wanted: the batches of the pass.
            seed: the seed of the workers, unless the user gave a generator.
        """
        self._draws.manual_seed(seed)
        if not keeps_workers(loader):
            return iter(self._plain_loader(loader, work, _WantedBatches(wanted)))
        self._wanted.coming = wanted
        if self.kept is None:
            self.kept = self._plain_loader(loader, work, self._wanted)
        return iter(self.kept)

    def _plain_loader(self, loader: DataLoader[Any], work: Work, wanted: _WantedBatches) -> DataLoader[Any]:
        init = loader.worker_init_fn
        newer = {name: getattr(loader, name) for name in _NEWER_OPTIONS if hasattr(loader, name)}
        return DataLoader(
            work,
            batch_size=None,
            sampler=wanted,
            num_workers=loader.num_workers,
            collate_fn=identity,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=None if init is None else partial(start, init),
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator or self._draws,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
            **newer,
        )


class _WantedBatches:
    """The sampler of the plain DataLoader: it gives the batches of the pass that is being made."""

    def __init__(self, coming: Iterator[Wanted]) -> None:
        self.coming = coming

    def __iter__(self) -> Iterator[Wanted]:
        return self.coming


def keeps_workers(loader: DataLoader[Any]) -> bool:
    """Whether workers stay from one pass to the next."""
    return loader.persistent_workers and loader.num_workers > 0
