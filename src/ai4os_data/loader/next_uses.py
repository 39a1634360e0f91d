"""The course that a loader takes: what lets the caches of each process know which entries will be used, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.cache import Plan, Turns, Uses, live_in
from ai4os_data.datasets import StorageDataset
from ai4os_data.loader import nesting
from ai4os_data.machine import PerProcess

if TYPE_CHECKING:
    from ai4os_data.loader.sampler import StorageSampler


class Course:
    """Gives the caches a `Plan` of each epoch and the one after it, over all ranks.

    Workers have copies. Each tells its own caches of it, and moves on as it is handed batches.

    Args:
        dataset: that of the loader.
        sampler: gives the order of any epoch.
    """

    def __init__(self, dataset: Any, sampler: StorageSampler) -> None:
        self._dataset = dataset
        self._datasets = nesting.storage_datasets(dataset)
        self._sampler = sampler
        self._told: PerProcess[_Told] = PerProcess(_Told)

    def reach(self, epoch: int, place: int) -> None:
        """Record that an epoch is gone through up to a place in the global order."""
        told = self._told.get()
        learned = sum(dataset.reader.siblings.learned() for dataset in self._datasets)
        if (told.epoch, told.learned) != (epoch, learned):
            told.epoch, told.learned, told.plans = epoch, learned, self._plans(epoch)
        for plan in told.plans:
            plan.advance(place)

    def _plans(self, epoch: int) -> list[Plan]:
        """A plan for each cache, which knows it while it lives."""
        stores = [found.reader.cached for found in self._datasets]
        caches = {id(store.cache): store.cache for store in stores if store is not None}
        plans = []
        for cache in caches.values():
            plans.append(plan := Plan(lambda: self._uses(epoch)))
            live_in(cache.directory).follow(plan)
        return plans

    def _uses(self, epoch: int) -> Uses | tuple[Turns, Turns]:
        """What each turn of an epoch and of the next one uses."""
        this_epoch, next_epoch = (self._sampler.order(number) for number in (epoch, epoch + 1))
        if type(self._dataset) is StorageDataset and not self._dataset.reader.siblings.learned():
            return Uses(self._dataset.reader.names(), this_epoch, next_epoch)
        return nesting.names(self._dataset, this_epoch), nesting.names(self._dataset, next_epoch)


class _Told:
    """What the caches of one process know."""

    def __init__(self) -> None:
        self.epoch = -1
        self.learned = 0  # of siblings
        self.plans: list[Plan] = []
