"""Tells the caches of each process which entries an epoch still needs, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.cache import Plan, Uses, live_in
from ai4os_data.datasets import StorageDataset
from ai4os_data.loader import nesting
from ai4os_data.machine import PerProcess

if TYPE_CHECKING:
    from ai4os_data.loader.sampler import StorageSampler


class NextUses:
    """Gives the caches a `Plan` of each epoch, over all ranks.

    Workers have copies. Each copy gives plans to the caches of its process, and advances them with each batch.

    Args:
        dataset: that of the loader.
        sampler: gives the order of any epoch.
    """

    def __init__(self, dataset: Any, sampler: StorageSampler) -> None:
        self._dataset = dataset
        self._datasets = nesting.storage_datasets(dataset)
        self._sampler = sampler
        self._followed: PerProcess[_Followed] = PerProcess(_Followed)

    def reach(self, epoch: int, position: int) -> None:
        """Record that the samples of an epoch before a position in the global order have been used."""
        followed = self._followed.get()
        learned = sum(dataset.reader.siblings.learned() for dataset in self._datasets)
        if (followed.epoch, followed.learned) != (epoch, learned):
            followed.epoch, followed.learned, followed.plans = epoch, learned, self._plans(epoch)
        for plan in followed.plans:
            plan.advance(position)

    def _plans(self, epoch: int) -> list[Plan]:
        """A plan for each cache, which follows it while it lives."""
        stores = [found.reader.cached for found in self._datasets]
        caches = {id(store.cache): store.cache for store in stores if store is not None}
        plans = []
        for cache in caches.values():
            plans.append(plan := Plan(lambda: self._uses(epoch)))
            live_in(cache.directory).follow(plan)
        return plans

    def _uses(self, epoch: int) -> Uses:
        order = self._sampler.order(epoch)
        if type(self._dataset) is StorageDataset and not self._dataset.reader.siblings.learned():
            return Uses(self._dataset.reader.names(), order)
        return Uses.of_turns(nesting.names(self._dataset, order))


class _Followed:
    """The plans that the caches of one process follow."""

    def __init__(self) -> None:
        self.epoch = -1
        self.learned = 0  # of siblings
        self.plans: list[Plan] = []
