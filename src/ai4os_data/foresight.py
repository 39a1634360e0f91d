"""What an epoch and the next one will need, told to the caches, so that what is needed last goes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data import nesting
from ai4os_data.cache.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.cache import DiskCache
    from ai4os_data.stores import Entry

    Steps = Callable[[], Sequence[Sequence[int]]]


class Foresight:
    """A plan for each cache that a dataset is read through. They hold while this object lives.

    Args:
        dataset: what is gone through.
        steps: gives the indices that are used at once, in their order, of this epoch and of the next one.
        first: the number of the first batch that is to come: it belongs to the first step.
    """

    def __init__(self, dataset: Any, steps: Steps, first: int) -> None:
        self._first = first
        self._plans = []
        for cache in _caches(dataset):
            plan = Plan(lambda cache=cache: _turns(dataset, cache, steps()))  # type: ignore[misc]
            cache.follow(plan)
            self._plans.append(plan)

    def given(self, number: int) -> None:
        """Take in that a batch has been used."""
        for plan in self._plans:
            plan.advance(number - self._first + 1)


def _caches(dataset: Any) -> list[DiskCache]:
    caches = [found.cached_store.cache for found in nesting.storage_datasets(dataset)]
    return list({id(cache): cache for cache in caches if cache is not None}.values())


def _turns(dataset: Any, cache: DiskCache, steps: Sequence[Sequence[int]]) -> list[list[str]]:
    """The digests of the files of one cache that each step uses."""
    turns: list[list[str]] = []
    names: dict[Entry, str] = {}
    for indices in steps:
        turn: list[str] = []
        for store, entries in nesting.files(dataset, indices):
            if store.cache is cache:
                for entry in entries:
                    name = names.get(entry)
                    if name is None:
                        name = names[entry] = store.name(entry)
                    turn.append(name)
        turns.append(turn)
    return turns
