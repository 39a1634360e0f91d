"""A DataLoader that knows which samples come next: it fetches them ahead, and resumes exactly where it was."""

from __future__ import annotations

import operator
import weakref
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ai4os_data.datasets import derived_seed
from ai4os_data.loader import nesting
from ai4os_data.loader.accelerated import Accelerated, PreparedPass
from ai4os_data.loader.batches import Work
from ai4os_data.loader.callers import left_state
from ai4os_data.loader.foreign import ForeignOrder
from ai4os_data.loader.look_ahead import LookAheads
from ai4os_data.loader.next_uses import NextUses
from ai4os_data.loader.orders import EpochPass, Order, OwnOrder, Resume
from ai4os_data.loader.passes import Parts, Pass, Shown, handed_out
from ai4os_data.loader.progress import EpochStats, Progress
from ai4os_data.loader.sampler import StorageSampler, sharing_now
from ai4os_data.loader.saved_samples import SavedSamples
from ai4os_data.loader.sharing import has_length
from ai4os_data.loader.workers import Workers, keeps_workers
from ai4os_data.machine import parse_size
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import TypeVar

    _Item_co = TypeVar("_Item_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    _Item_co = TypeVar("_Item_co", covariant=True)


class StorageDataLoader(DataLoader[_Item_co], Accelerated):
    """A ``DataLoader`` that fetches ahead, and can resume in mid-epoch.

    While one batch is used, a thread fetches what the coming ones will miss into the cache. It works through
    ``Subset``, ``random_split`` and ``ConcatDataset``; it does not read ahead for datasets of other libraries.

    Without a sampler of the user's own the order is that of a `StorageSampler`: it follows from seed and epoch alone,
    and under a process group each rank has its part of it. What ``random``, NumPy and torch give in a transform follows
    from seed, epoch and index, and in ``collate_fn`` from seed, epoch and batch, whatever the number of workers.

    Each pass is through the next epoch, unless ``set_epoch`` says otherwise, of the loader or of the sampler. Passes
    are independent of each other, as in DataLoader: one may be made inside another one. With persistent workers there
    is one at a time, and an earlier one raises a ``RuntimeError`` when it is used.

    Args:
        dataset: a map-style dataset.
        batch_size: as in DataLoader, like all others that are not named here.
        shuffle: in another order each epoch.
        sampler: any sampler. One that is no `StorageSampler` draws while the global generators are seeded with seed
            and epoch. It is iterated over again to resume in mid-epoch, and has to give the same order.
        batch_sampler: the same.
        num_workers: as in DataLoader.
        collate_fn: as in DataLoader.
        pin_memory: as in DataLoader.
        drop_last: leave out the last batch if it is not full, and samples that the ranks do not divide.
        timeout: as in DataLoader.
        worker_init_fn: as in DataLoader. What it seeds of ``random``, NumPy and torch is seeded again for each sample;
            seed here what draws from a generator of its own, such as ``numpy.random.default_rng()``, from
            ``torch.initial_seed()``, which is another in each worker and epoch.
        multiprocessing_context: as in DataLoader.
        generator: as in DataLoader: ``torch.initial_seed()`` in workers follows from it. Order and augmentations do
            not: they follow from ``seed``. Without it workers are seeded with seed and epoch, and the global generator
            is left alone.
        prefetch_factor: as in DataLoader.
        persistent_workers: as in DataLoader.
        seed: the same in all ranks. Order and augmentations follow from it.
        even_batches: as in `StorageSampler`, for the loader's own one: with False, an evaluation on several ranks gives
            each sample exactly once, and ranks may differ by a batch.
        look_ahead_bytes: how much may be fetched ahead and not used yet, in bytes or as ``"1GiB"``; 0 fetches nothing
            ahead. By default a quarter of the cache's limit, 1 GiB at most.
        options: such as ``in_order``, if this version of DataLoader has it.

    Example:
        >>> loader = StorageDataLoader(train, batch_size=64, shuffle=True, num_workers=4)
        >>> for images, labels in loader: ...
    """

    def __init__(  # noqa: PLR0917  as in DataLoader
        self,
        dataset: Dataset[_Item_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,  # noqa: FBT001  as in DataLoader
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,  # noqa: FBT001, FBT002  as in DataLoader
        drop_last: bool = False,  # noqa: FBT001, FBT002  as in DataLoader
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        seed: int = 0,
        even_batches: bool = True,
        look_ahead_bytes: int | str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(dataset, IterableDataset):
            message = "an iterable dataset has no order to look ahead along: use torch.utils.data.DataLoader"
            raise TypeError(message)
        seed = _checked_seed(seed)
        if sampler is None and batch_sampler is None and (shuffle or has_length(dataset)):
            sampler = StorageSampler(
                dataset,  # type: ignore[arg-type]  # a map-style dataset has a length
                shuffle=bool(shuffle),
                seed=seed,
                drop_last=drop_last,
                even_batches=even_batches,
            )
            shuffle = None
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            **options,
        )
        self.seed = seed
        self.even_batches = even_batches
        self.look_ahead_bytes = look_ahead_bytes
        self._look_aheads = LookAheads(dataset, _checked_bytes(look_ahead_bytes))
        self._order = _order_of(self)
        self._datasets = nesting.storage_datasets(dataset)
        self._samples = SavedSamples(dataset)
        self._next_uses = NextUses(dataset, self._order.sampler) if isinstance(self._order, OwnOrder) else None
        self._have_nothing_running()

    def _have_nothing_running(self) -> None:
        self._workers = Workers()
        self._others: _BaseDataLoaderIter | None = None  # the persistent workers of a subclass that makes its own
        self._left_state: Mapping[str, Any] | None = None  # held by Lightning, and found there
        self._pass: weakref.ref[Pass] | None = None
        self._shown = Shown()

    # --- the epoch

    @property
    def epoch(self) -> int:
        """The epoch of the pass that is being made, or of the next one."""
        return self._order.epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; after `load_state_dict`, setting the same epoch resumes it."""
        self._order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position of the caller: after the last batch that it was given, however much was fetched since.

        Of several passes, it is the one that was begun, or gave a batch, last. A look, as in ``next(iter(loader))`` in
        the midst of another pass, does not count once it is dropped.
        """
        return {**self._order.state_dict(), **self._samples.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be exactly the rest of the saved epoch.

        The number of workers may be another, and the batch size; under a `StorageSampler` the number of ranks too.
        With ``drop_last=True`` samples of the rest that fill no batch are left out.

        Another sampler is drawn from at once, and has to give the order that the state was saved in. It is compared
        again at the first batch if its length or ranks have changed until then.

        Raises:
            ValueError: it is the state of another order, or of other files. The loader stays as it was. If only the
                versions of files differ, that is logged, and the state is loaded.
        """
        Resume.of(state)  # raises if it is no state
        self._samples.compare(state)
        self._order.load_state_dict(state)
        self._samples.load(state)

    def stats(self) -> EpochStats:
        """How the pass that is being made goes, or how the last one went; nothing before the first one.

        ``epoch``, ``images``, ``seconds``, ``images_per_s``, ``hit_rate`` (of the files that were used, siblings
        included, those that were not fetched in this epoch; NaN if none were seen, as over datasets that are none of
        ours), ``bytes_from_network``, ``first_batch_s``, ``waiting_share`` (of the time after the first batch);
        ``look_ahead_files``, ``look_ahead_bytes`` and ``look_ahead_cpu_s``. Other loaders over the same datasets count
        into the same hits and bytes.

        ``bound_by`` is what the pass is bound by: ``"storage"`` (the time until files are there, from the cache or over
        the network, ``prepare=`` included), ``"decode"`` (all that makes batches of them: ``decode=``, ``transform=``,
        ``collate_fn``, and their way from a worker) or ``"loop"`` (what the caller does between two batches). It is
        decided from ``storage_share``, ``decode_share`` and ``loop_share`` of the loop's time, which add up to one.
        With workers, which make batches beside the loop, it is the loop if that waits for less than 10 % of its time,
        else the larger of the other two; without, the largest of all. The start of workers is left out. Before the
        second batch it is empty, and the shares are NaN.
        """
        return {} if self._shown.progress is None else self._shown.progress.figures()

    # --- a pass

    def __iter__(self) -> Any:
        """The batches of an epoch, or of the rest of one."""
        if self._others is not None:
            self._others._reset(self)  # noqa: SLF001  as DataLoader does
            return self._others
        made = self._get_iterator()
        if keeps_workers(self) and isinstance(made, _BaseDataLoaderIter):
            self._others = made
        return made

    def _get_iterator(self) -> Any:
        """A pass. Subclasses of DataLoader may override this."""
        if isinstance(self.sampler, StorageSampler) and self._placement is None:
            _log_repeated(self.sampler)
        if keeps_workers(self) and self._pass is not None and (going := self._pass()) is not None:
            going.give_way()
        if self._order.is_resumed:
            self._samples.compare()  # the datasets may have been listed again since it was loaded
        made = Pass(self._order, self._shown, self._next_uses, self._parts, self._confirmed, self._order.begin())
        self._pass = weakref.ref(made)
        return made

    def _confirmed(self, begun: EpochPass) -> EpochPass:
        """The epoch pass of a pass whose first batch is wanted now."""
        if (state := left_state(self)) is not None and state is not self._left_state:
            self._left_state = state
            is_ended = bool(state.get("ended"))
            self.load_state_dict({**state, "told": state["epoch"] - 1} if is_ended else state)
            self._order.leave(begun)
            begun = self._order.begin()
            if is_ended:  # the pass over another, longer loader continues alone
                self._order.set_epoch(state["epoch"] - 1)
        return self._order.confirm(begun)

    def _parts(self, made: Pass, epoch_pass: EpochPass) -> Parts:
        """What makes the batches of a pass."""
        ahead = self._look_aheads.along(epoch_pass.coming, self.num_workers)
        progress = self._shown.progress = Progress(epoch_pass.epoch, self._datasets, ahead, self.num_workers)
        sizes: dict[int, int] = {}
        is_batched = self.batch_sampler is not None
        work = Work(self.dataset, self.collate_fn, is_batched=is_batched, next_uses=self._next_uses)
        wanted = handed_out(epoch_pass, sizes, ahead)
        batches = self._workers.batches(self, work, wanted, derived_seed(epoch_pass.seed, epoch_pass.epoch))
        if ahead is not None:
            ahead.start(made)  # last: workers should be forked from a process without this thread
        prepared = self._placement and PreparedPass(self, self._placement, epoch_pass.rest.samples_before)
        return Parts(batches, sizes, progress, ahead, prepared)

    @property
    def _iterator(self) -> Any:
        """The persistent workers, where Lightning looks for them to end them."""
        if self._others is not None:
            return self._others
        kept = self._workers.kept
        return None if kept is None else kept._iterator  # noqa: SLF001  it is our own DataLoader

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        if iterator is None and "_workers" in self.__dict__:  # the answer of a DataLoader without any
            self._workers.kept = self._others = None

    def __len__(self) -> int:
        """How many batches a whole epoch has, for this rank."""
        if isinstance(self._order, ForeignOrder):
            with self._order.drawn_as_wanted():
                return super().__len__()
        assert isinstance(self._order, OwnOrder)
        sampler = self._order.sampler
        samples = sharing_now(sampler).own(len(sampler.dataset))
        size = self.batch_size or 1
        return samples // size if self.drop_last else -(-samples // size)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what runs."""
        running = dict.fromkeys(("_workers", "_others", "_left_state", "_pass", "_shown"))
        return {**self.__dict__, **running}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with nothing that runs."""
        self.__dict__.update(state)
        self._have_nothing_running()


def _order_of(loader: StorageDataLoader[Any]) -> Order:
    """The order that the samplers of a loader give."""
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    is_batched = batch_sampler is not None
    if isinstance(sampler, StorageSampler) and type(batch_sampler) in {BatchSampler, type(None)}:
        if batch_sampler is not None:
            # For code that only sees the batch sampler. It stays a BatchSampler, for which Lightning checks.
            batch_sampler.set_epoch = sampler.set_epoch  # type: ignore[attr-defined]
        if getattr(batch_sampler, "sampler", sampler) is sampler:
            return OwnOrder(sampler, loader.batch_size, drop_last=loader.drop_last and is_batched)
    samplers = [batch_sampler, getattr(batch_sampler, "sampler", None), sampler]
    return ForeignOrder(
        batch_sampler if is_batched else sampler,  # type: ignore[arg-type]  # there is one
        [one for one in samplers if one is not None],
        loader.seed,
        is_batched=is_batched,
    )


def _log_repeated(sampler: StorageSampler) -> None:
    """Log that an evaluation is not exact, as Lightning does for its own samplers."""
    sharing, length = sharing_now(sampler), len(sampler.dataset)
    if not sampler.shuffle and sharing.rank == 0 and (repeated := sharing.repeated(length)):
        tell_once(
            f"{repeated} of {length} samples will be given twice, so that {sharing.ranks} ranks make as many steps. "
            "For an evaluation in which each counts once, evaluate on one device, or give the loader "
            "even_batches=False, under which ranks may differ by a step"
        )


def _checked_seed(seed: Any) -> int:
    try:
        return operator.index(seed)
    except TypeError:
        message = f"seed is a whole number, not {seed!r}"
        raise TypeError(message) from None


def _checked_bytes(size: Any) -> int | None:
    """How much to stage ahead; None for the default.

    Raises:
        ValueError: it is no size.
    """
    message = f"look_ahead_bytes is a number of bytes, a text such as '1GiB', 0 for none, or None, not {size!r}"
    if size is None:
        return None
    try:
        number = parse_size(size) if isinstance(size, str) else operator.index(size)
    except (ValueError, TypeError):
        raise ValueError(message) from None
    if number < 0:
        raise ValueError(message)
    return number
