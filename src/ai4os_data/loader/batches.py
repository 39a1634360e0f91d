"""Makes a batch of indices, through the readers of the datasets: the same in a worker and in the main process."""

from __future__ import annotations

import traceback
from contextlib import nullcontext
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import Dataset, default_collate, get_worker_info

from ai4os_data.datasets import seeding
from ai4os_data.errors import SampleError, SkippedError
from ai4os_data.loader import mismatch, nesting
from ai4os_data.loader.spent import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data.datasets import Look
    from ai4os_data.loader.next_uses import NextUses


# Errors of `default_collate`; the last one only in a worker, where it asks every sample for its size.
_OF_TORCH = (TypeError, RuntimeError, KeyError, ValueError, AttributeError)


class Wanted(NamedTuple):
    """A batch that is to be made, and the position before which all samples were used."""

    number: int
    seed: int
    epoch: int
    position: int
    indices: list[int]


class Made(NamedTuple):
    """A batch as the caller gets it, its number, and the fields of `Spent`."""

    number: int
    data: Any
    spent: Sequence[int]  # it comes as a list through the thread that pins memory


class Failed(NamedTuple):
    """A batch in which a sample is bad. A value, since a raised error would leave its attributes in the worker."""

    number: int
    error: SampleError
    trace: str

    def raise_error(self) -> None:
        """Raise the error in the caller, with the traceback of the worker.

        Raises:
            SampleError: always.
        """
        if self.error.__cause__ is None:
            self.error.__cause__ = WorkerTraceback(self.trace)
        raise self.error


class LeftOut(Failed):
    """A batch without a good sample, under ``on_error="skip"``."""


class WorkerTraceback(Exception):  # noqa: N818  it is none, as `_RemoteTraceback` of multiprocessing
    """The traceback of an error in a worker, as text."""

    def __str__(self) -> str:
        """Begin on a new line, as tracebacks do."""
        return f"\n{self.args[0]}"


class Work(Dataset[Any]):
    """A dataset whose items are whole batches.

    Args:
        dataset: whose samples are put together.
        collate: makes a batch of a list of samples, or changes a sample if there are no batches.
        is_batched: whether there are batches.
        next_uses: is notified of each batch, in the process that makes it.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[Any], Any], *, is_batched: bool, next_uses: NextUses | None = None
    ) -> None:
        self.dataset = dataset
        self._next_uses = next_uses
        self._collate = collate
        self._is_batched = is_batched

    def __getitem__(self, wanted: Wanted) -> Made | Failed:  # a `LeftOut` is one
        """One batch."""
        watch = Stopwatch()
        if self._next_uses is not None:
            self._next_uses.reach(wanted.epoch, wanted.position)
        with seeding.kept_states() if get_worker_info() is None else nullcontext():
            try:
                data = self._made(wanted, watch.look)
                return Made(wanted.number, data, watch.spent())
            except SkippedError as error:
                return LeftOut(wanted.number, error, traceback.format_exc())
            except SampleError as error:
                return Failed(wanted.number, error, traceback.format_exc())

    def _made(self, wanted: Wanted, look: Look) -> Any:
        seeds = [seeding.sample_seed(wanted.seed, wanted.epoch, index) for index in wanted.indices]
        found = self._items(wanted.indices, seeds, look)
        items = [item for _, item in found]
        if not self._is_batched:
            return self._collate(items[0])
        seeding.seed_all(seeding.batch_seed(wanted.seed, wanted.epoch, wanted.indices[0]))
        try:
            return self._collate(items)
        except _OF_TORCH as error:
            # An error of the user's function stays as it is; one of torch names no sample.
            if self._collate is not default_collate or type(error) not in _OF_TORCH:
                raise
            words = mismatch.explained(items, self._names(wanted.indices, [position for position, _ in found]))
            if words is None:
                raise
            raise type(error)(f"{words}. ({error})") from error

    def _names(self, indices: list[int], positions: Sequence[int]) -> list[str]:
        """Names for the samples at these positions of a batch: their keys, as far as they are known."""
        found = nesting.expected(self.dataset, indices)
        names = [
            f"sample {index}" if one is None else repr(one[0].reader.entries[one[1]].key)
            for index, one in zip(indices, found, strict=True)
        ]
        return [names[position] for position in positions]

    def _items(self, indices: list[int], seeds: list[int], look: Look) -> list[tuple[int, Any]]:
        """The samples, each with its position in the batch; bad ones left out."""
        located = nesting.located(self.dataset, indices)
        if located is not None:
            return _read(located, seeds, look)
        if self._is_batched and nesting.fetches_batches(self.dataset):
            seeding.seed_all(seeds[0])
            return list(enumerate(self.dataset.__getitems__(indices)))
        return self._one_by_one(indices, seeds)

    def _one_by_one(self, indices: list[int], seeds: list[int]) -> list[tuple[int, Any]]:
        """The samples of another library's dataset; those that a dataset of ours inside it skips are left out."""
        items = []
        skipped: SkippedError | None = None
        for position, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
            seeding.seed_all(seed)
            try:
                items.append((position, self.dataset[index]))
            except SkippedError as error:
                skipped = error
        if skipped is not None and not items:
            raise skipped
        return items


def start(function: Callable[[int], None], worker: int) -> None:
    """Call the user's ``worker_init_fn`` in a worker, so that ``get_worker_info().dataset`` is the user's dataset."""
    info = get_worker_info()
    assert info is not None
    work: Any = info.dataset
    object.__setattr__(info, "dataset", work.dataset)  # the record is read-only
    function(worker)


def identity(batch: Any) -> Any:
    """The batch itself, which is complete."""
    return batch


def _read(located: Sequence[nesting.Located], seeds: Sequence[int], look: Look) -> list[tuple[int, Any]]:
    """The samples of several datasets, each with its position, in order; bad ones left out.

    Raises:
        SkippedError: all of them are bad.
    """
    found: list[tuple[int, Any]] = []
    for dataset, positions, indices in nesting.by_dataset(located):
        checked = [dataset.reader.checked(index) for index in indices]
        items = dataset.reader.good(checked, [seeds[position] for position in positions], look)
        found += [(positions[number], item) for number, item in items]
    if not found:
        reader, index = located[-1][0].reader, located[-1][1]
        raise reader.skipped(reader.checked(index))
    return sorted(found, key=itemgetter(0))
