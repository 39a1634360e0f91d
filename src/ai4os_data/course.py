"""The course that a loader takes: what lets the cache of each process know which entries will be used, and when."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ai4os_data import nesting
from ai4os_data.cache.plan import Plan

if TYPE_CHECKING:
    from ai4os_data.sampling import StorageSampler


class Course:
    """Makes a `Plan` of this epoch and the next one, over all ranks, as soon as a cache asks for it.

    Workers have copies. Each tells its own cache of it, and moves on as it is handed batches.

    Args:
        dataset: that of the loader.
        sampler: gives the order of any epoch.
    """

    def __init__(self, dataset: Any, sampler: StorageSampler) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self._epoch = -1
        self._place = 0
        self._plan: Plan | None = None
        self._told_in = -1

    def reach(self, epoch: int, place: int) -> None:
        """Take in that an epoch is gone through up to a place in the global order."""
        if epoch != self._epoch:
            self._plan = None
        self._epoch, self._place = epoch, place
        if self._told_in != os.getpid():
            self._told_in = os.getpid()
            for found in nesting.storage_datasets(self._dataset):
                found.cached_store.expect(self)

    def __call__(self) -> Plan:
        """The plan as it stands."""
        if self._plan is None:
            self._plan = Plan(self._names(self._epoch), self._names(self._epoch + 1))
        self._plan.advance(self._place)
        return self._plan

    def _names(self, epoch: int) -> list[str]:
        places = nesting.expected(self._dataset, self._sampler.order(epoch)) or ()
        return [found.cached_names[index] for found, index in places]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what can be made anew."""
        return {**self.__dict__, "_plan": None, "_told_in": -1}
