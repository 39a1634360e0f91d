"""A DataLoader that knows what comes: it looks ahead along the order, and goes on exactly where it was."""

from __future__ import annotations

import operator
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ai4os_data.datasets import derived_seed
from ai4os_data.loader import nesting
from ai4os_data.loader.accelerated import Accelerated, PreparedPass
from ai4os_data.loader.batches import Failed, LeftOut, Start, Wanted, Work, as_it_is
from ai4os_data.loader.callers import left_state
from ai4os_data.loader.look_ahead import LookAhead, default_bytes
from ai4os_data.loader.next_uses import Course
from ai4os_data.loader.orders import ForeignOrder, Order, OwnOrder, Way, check_state
from ai4os_data.loader.progress import Progress
from ai4os_data.loader.sampler import StorageSampler, in_group
from ai4os_data.machine import parse_size
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from typing_extensions import TypeVar

    _Item_co = TypeVar("_Item_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    _Item_co = TypeVar("_Item_co", covariant=True)

_NEWER_OPTIONS = ("in_order", "pin_memory_device")  # of some versions of DataLoader


class StorageDataLoader(DataLoader[_Item_co], Accelerated):
    """A ``DataLoader`` that fetches ahead, and can resume in mid-epoch.

    While one batch is used, a thread fetches what the coming ones will miss into the cache. It sees through
    ``Subset``, ``random_split`` and ``ConcatDataset``; datasets that are none of ours are read without it.

    Without a sampler of the user's own the order is that of a `StorageSampler`: it follows from seed and epoch alone,
    and under a process group each rank has its part of it. What ``random``, NumPy and torch give in a transform follows
    from seed, epoch and index, and in ``collate_fn`` from seed, epoch and batch, whatever the number of workers.

    Each pass goes through the next epoch, unless ``set_epoch`` says otherwise, of the loader or of the sampler. Passes
    are independent of each other, as in DataLoader: one may be made inside another one. With persistent workers there
    is one at a time, and an earlier one raises a ``RuntimeError`` when it is used.

    Args:
        dataset: a map-style dataset.
        batch_size: as in DataLoader, like all others that are not named here.
        shuffle: in another order each epoch.
        sampler: any sampler. One that is no `StorageSampler` draws while the global generators are seeded with seed
            and epoch. It is gone through anew to resume in mid-epoch, and has to give the same order.
        batch_sampler: the same.
        num_workers: as in DataLoader.
        collate_fn: as in DataLoader.
        pin_memory: as in DataLoader.
        drop_last: leave out the last batch where it is not full, and samples that the ranks do not divide.
        timeout: as in DataLoader.
        worker_init_fn: as in DataLoader. What it seeds of ``random``, NumPy and torch is seeded anew for each sample;
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
        look_ahead_bytes: how much may lie in the cache that no batch has used yet, in bytes or as ``"1GiB"``; 0 does
            not look ahead. By default a quarter of the cache's limit, 1 GiB at most.
        options: such as ``in_order``, where this version of DataLoader has it.

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
        if sampler is None and batch_sampler is None and (shuffle or _has_length(dataset)):
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
        self._staged_bytes = _checked_bytes(look_ahead_bytes)
        self._order = self._new_order()
        self._datasets = nesting.storage_datasets(dataset)
        self._course = Course(dataset, self._order.sampler) if isinstance(self._order, OwnOrder) else None
        self._fingerprints: tuple[list[Any], tuple[str, str] | None] | None = None
        self._loaded: dict[str, Any] = {}  # which samples the position that was loaded belongs to
        self._forget()

    def _forget(self) -> None:
        """Have no pass, and no workers."""
        self._inner: DataLoader[Any] | None = None
        self._left_state: Mapping[str, Any] | None = None  # by Lightning, and found there
        self._others: _BaseDataLoaderIter | None = None  # the persistent workers of a subclass that makes its own
        # DataLoader draws from it with each pass; from the global one, a resume would draw once more than no resume.
        self._draws = torch.Generator()
        self._orders = _Orders(iter(()))
        self._pass: weakref.ref[_Pass] | None = None
        self._shown = _Shown()
        self._last_misses = -1

    def _new_order(self) -> Order:
        is_batched = self.batch_sampler is not None
        if type(self.batch_sampler) is BatchSampler and isinstance(self.sampler, StorageSampler):
            # For those who know the loader by it alone. It stays a BatchSampler, which Lightning goes by.
            self.batch_sampler.set_epoch = self.sampler.set_epoch  # type: ignore[attr-defined]
        own = isinstance(self.sampler, StorageSampler) and type(self.batch_sampler) in {BatchSampler, type(None)}
        if own and getattr(self.batch_sampler, "sampler", self.sampler) is self.sampler:
            assert isinstance(self.sampler, StorageSampler)
            return OwnOrder(self.sampler, self.batch_size, drop_last=self.drop_last and is_batched)
        samplers = [self.batch_sampler, getattr(self.batch_sampler, "sampler", None), self.sampler]
        return ForeignOrder(
            self.batch_sampler if is_batched else self.sampler,  # type: ignore[arg-type]  # there is one
            [sampler for sampler in samplers if sampler is not None],
            self.seed,
            is_batched=is_batched,
        )

    # --- the epoch

    @property
    def epoch(self) -> int:
        """The epoch that is being gone through, or comes next."""
        return self._order.epoch

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be through this epoch; after `load_state_dict`, the same epoch goes on where it was."""
        self._order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the caller stands: after the last batch that it was given, whatever was fetched since.

        Of several passes, it is the one that was begun, or gave a batch, last. A look, as in ``next(iter(loader))`` in
        the midst of another pass, does not count once it is let go of.
        """
        return {**self._order.state_dict(), **self._samples()}

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
        check_state(state)
        self._compare(state)
        self._order.load_state_dict(state)
        self._loaded = {name: state[name] for name in ("samples", "versions") if name in state}

    def _samples(self) -> dict[str, str]:
        """What the files of all samples are, in brief; nothing where it is not known."""
        indexes = [dataset.index for dataset in self._datasets]
        if self._fingerprints is None or self._fingerprints[0] != indexes:
            self._fingerprints = indexes, nesting.fingerprints(self.dataset)
        found = self._fingerprints[1]
        return {} if found is None else {"samples": found[0], "versions": found[1]}

    def _compare(self, state: Mapping[str, Any]) -> None:
        """See that the samples are those of a state, if it tells which they were.

        Raises:
            ValueError: they are not.
        """
        if "samples" not in state or not (ours := self._samples()):
            return
        where = ", ".join(dataset.location for dataset in self._datasets)
        if state["samples"] != ours["samples"]:
            message = (
                "the order cannot be gone on with: the samples are not those that it was saved with. Files of "
                f"{where} have come or gone, or a split of them is another one. Use the same files (a lock file, "
                "index=, keeps to them; a split needs a seed), or begin anew without load_state_dict"
            )
            raise ValueError(message)
        if state.get("versions") != ours["versions"]:
            tell_once(f"{where}: files have changed since the state was saved; the epoch goes on with them as they are")

    def stats(self) -> dict[str, float]:
        """How the pass that is being made goes, or how the last one went.

        ``epoch``, ``images``, ``seconds``, ``images_per_s``, ``hit_rate`` (of the files that were used, siblings
        included, those that were not fetched in this epoch; NaN where none were seen, as over datasets that are none of
        ours), ``bytes_from_network``, ``first_batch_s``, ``waiting_share`` (of the time after the first batch);
        ``look_ahead_files``, ``look_ahead_bytes`` and ``look_ahead_cpu_s``. Other loaders over the same datasets count
        into the same hits and bytes.
        """
        return {} if self._shown.progress is None else self._shown.progress.figures()

    # --- a pass

    def __iter__(self) -> Any:
        """The batches of an epoch, or of the rest of one."""
        if self._others is not None:
            self._others._reset(self)  # noqa: SLF001  as DataLoader does
            return self._others
        made = self._get_iterator()
        if self._keeps_workers and isinstance(made, _BaseDataLoaderIter):
            self._others = made
        return made

    def _get_iterator(self) -> Any:
        """A pass; here subclasses of DataLoader have a hand in it."""
        self._tell_of_repeated()
        if self._keeps_workers and self._pass is not None and (going := self._pass()) is not None:
            going.give_way()
        if self._order.is_resumed:
            self._compare(self._loaded)  # the datasets may have been listed anew since it was loaded
        made = _Pass(self._order, self._shown, self._course, self._parts, self._confirmed, self._order.begin())
        self._pass = weakref.ref(made)
        return made

    def _confirmed(self, way: Way) -> Way:
        """The way of a pass whose first batch is wanted now."""
        if (state := left_state(self)) is not None and state is not self._left_state:
            self._left_state = state
            is_ended = bool(state.get("ended"))
            self.load_state_dict({**state, "told": state["epoch"] - 1} if is_ended else state)
            self._order.leave(way)
            way = self._order.begin()
            if is_ended:  # another loader, a longer one, was gone through alone
                self._order.set_epoch(state["epoch"] - 1)
        return self._order.confirm(way)

    def _parts(self, made: _Pass, way: Way) -> _Parts:
        """What goes through a way for a pass."""
        ahead = self._look_ahead(way.coming) if isinstance(way.coming, list) else None
        counters = [dataset.reader.files.counters for dataset in self._datasets]
        progress = self._shown.progress = Progress(way.epoch, counters, ahead)
        sizes: dict[int, int] = {}
        self._draws.manual_seed(derived_seed(way.seed, way.epoch))
        batches = self._batches(_handed_out(way, sizes, ahead))
        if ahead is not None:
            ahead.start(made)  # not before: workers are better forked from a process without it
        prepared = self._placement and PreparedPass(self, self._placement, way.samples_before)
        return _Parts(batches, sizes, progress, ahead, prepared)

    def _tell_of_repeated(self) -> None:
        """Say that an evaluation is not exact, as Lightning says it of its own samplers."""
        sampler = self.sampler
        if not isinstance(sampler, StorageSampler) or sampler.shuffle or self._placement is not None:
            return  # whoever prepares it takes what is repeated away when it gathers
        if sampler.repeated and sampler.rank == 0:
            tell_once(
                f"{sampler.repeated} of {sampler.length} samples will be given twice, so that {sampler.ranks} ranks "
                "make as many steps. For an evaluation in which each counts once, evaluate on one device, or give the "
                "loader even_batches=False, under which ranks may differ by a step"
            )

    @property
    def _keeps_workers(self) -> bool:
        return self.persistent_workers and self.num_workers > 0

    @property
    def _iterator(self) -> Any:
        """The persistent workers; those who know a DataLoader by its parts, as Lightning, end them here."""
        if self._others is not None:
            return self._others
        return None if self._inner is None else self._inner._iterator  # noqa: SLF001  it is our own DataLoader

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        if iterator is None and "_inner" in self.__dict__:  # DataLoader says so before there is one
            self._inner = self._others = None

    def __len__(self) -> int:
        """How many batches a whole epoch has, for this rank."""
        if isinstance(self._order, ForeignOrder):
            with self._order.drawn_as_wanted():
                return super().__len__()
        assert isinstance(self._order, OwnOrder)
        samples = self._order.sampler.epoch_samples
        size = self.batch_size or 1
        return samples // size if self.drop_last else -(-samples // size)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what runs."""
        running = dict.fromkeys(
            ("_fingerprints", "_inner", "_orders", "_others", "_left_state", "_pass", "_shown", "_draws")
        )
        return {**self.__dict__, **running}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with nothing that runs."""
        self.__dict__.update(state)
        self._forget()

    def _batches(self, wanted: Iterator[Wanted]) -> Iterator[Any]:
        """Start the workers, or let persistent ones go on."""
        if not self._keeps_workers:
            return iter(self._new_inner(_Orders(wanted)))
        self._orders.coming = wanted
        if self._inner is None:
            self._inner = self._new_inner(self._orders)
        return iter(self._inner)

    def _new_inner(self, orders: _Orders) -> DataLoader[Any]:
        """A plain DataLoader whose items are whole batches: it is what starts workers, waits for them and pins."""
        init = self.worker_init_fn
        newer = {name: getattr(self, name) for name in _NEWER_OPTIONS if hasattr(self, name)}
        return DataLoader(
            Work(self.dataset, self.collate_fn, is_batched=self.batch_sampler is not None, course=self._course),
            batch_size=None,
            sampler=orders,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            pin_memory=self.pin_memory,
            timeout=self.timeout,
            worker_init_fn=None if init is None else Start(init),
            multiprocessing_context=self.multiprocessing_context,
            generator=self.generator or self._draws,
            prefetch_factor=self.prefetch_factor,
            persistent_workers=self.persistent_workers,
            **newer,
        )

    def _look_ahead(self, batches: list[tuple[int, list[int]]]) -> LookAhead | None:
        caches = [dataset.reader.files.cache for dataset in self._datasets]
        limits = [cache.size_limit for cache in caches if cache is not None]
        if not limits or not batches or self._staged_bytes == 0:
            return None
        misses = sum(dataset.stats()["misses"] for dataset in self._datasets)
        is_quiet, self._last_misses = misses == self._last_misses, int(misses)
        dataset = self.dataset
        return LookAhead(
            batches,
            lambda indices: nesting.files(dataset, indices),
            staged_bytes=self._staged_bytes or default_bytes(min(limits)),
            trusting=is_quiet,
            workers=self.num_workers,
            together=any(dataset.reader.files.store.asks_together for dataset in self._datasets),
        )


def _has_length(dataset: Any) -> bool:
    """Whether it can be said how many samples there are; if not, DataLoader says so at the first batch."""
    try:
        len(dataset)
    except (TypeError, NotImplementedError):
        return False
    return True


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


class _Orders:
    """What a plain DataLoader takes for its sampler: the batches of the pass that is being made."""

    def __init__(self, coming: Iterator[Wanted]) -> None:
        self.coming = coming

    def __iter__(self) -> Iterator[Wanted]:
        return self.coming


class _Shown:
    """Which pass the loader's figures are of."""

    def __init__(self) -> None:
        self.progress: Progress | None = None


class _Parts(NamedTuple):
    """What goes through a way.

    Args:
        batches: as they are made.
        sizes: how many samples each has, by number.
        progress: takes in how it goes.
        ahead: is told of what the caller gets, and ends with the pass.
        prepared: lets an accelerator know how far it is, and brings batches to its device.
    """

    batches: Iterator[Any]
    sizes: dict[int, int]
    progress: Progress
    ahead: LookAhead | None
    prepared: PreparedPass | None


class _Pass:
    """One way through an epoch, as the caller goes through it.

    Args:
        order: is told of what the caller gets.
        shown: learns that it is this pass that goes on.
        course: is told of what the caller gets.
        parts: makes what goes through a way.
        confirmed: gives the way to go through when the first batch is wanted, which may be another one.
        way: what the caller gets.
    """

    def __init__(  # noqa: PLR0917  all are needed, and there is one call
        self,
        order: Order,
        shown: _Shown,
        course: Course | None,
        parts: Callable[[_Pass, Way], _Parts],
        confirmed: Callable[[Way], Way],
        way: Way,
    ) -> None:
        self._order = order
        self._shown = shown
        self._course = course
        self._parts: Callable[[_Pass, Way], _Parts] | None = parts
        self._confirmed: Callable[[Way], Way] | None = confirmed
        self._batches: Iterator[Any] | None = None
        self._failed: int | None = None
        self._left_out: LeftOut | None = None
        self._has_given = False
        self._gave_way = False
        self._go_through(way)

    def _go_through(self, way: Way) -> None:
        assert self._parts is not None
        self._way = way
        self._batches, self._sizes, self._progress, self._ahead, self._prepared = self._parts(self, way)
        self._tell_course()

    def _confirm(self) -> None:
        """See that it goes through what the caller wants, now that he wants the first batch."""
        assert self._confirmed is not None
        way = self._confirmed(self._way)
        if way is not self._way or way.is_emptied:
            self._batches = None  # its workers end
            self._end_look_ahead()
            if self._prepared is not None:
                self._prepared.end()
            self._go_through(way)
        self._parts = self._confirmed = None  # the loader need not outlive its passes

    def __iter__(self) -> _Pass:
        return self

    def __len__(self) -> int:
        """How many batches it has in all, those that were given included."""
        return len(self._way)

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        """Pickle as a pass that raises when it is used: workers stay behind."""
        return _PassElsewhere, ()

    def __next__(self) -> Any:
        if self._gave_way:
            message = (
                "this pass was ended by another one over the same loader: with persistent_workers=True there is one "
                "set of workers, for one pass at a time. Use a loader of its own for a pass inside another one"
            )
            raise RuntimeError(message)
        if self._batches is None:
            raise StopIteration
        self._go_on()
        begun_s = time.perf_counter()
        try:
            made = next(self._batches)
            while isinstance(made, LeftOut):
                self._leave_out(made)
                made = next(self._batches)
        except StopIteration:
            self._order.end(self._way)
            self.close()
            self._shown.progress = self._progress
            self._progress.tell()
            if self._left_out is not None and not self._has_given:
                self._left_out.raise_error()  # an epoch of bad samples alone is no short epoch
            raise
        except BaseException:
            self._end_look_ahead()  # a worker was killed, or the caller gives up
            raise
        waited_s = time.perf_counter() - begun_s
        if isinstance(made, Failed):
            self._failed = made.number
            made.raise_error()
        number, data = made
        self._has_given = True
        self._progress.given(self._give(number), waited_s)
        return data if self._prepared is None else self._prepared.placed(data, is_last=self._way.is_through)

    def _go_on(self) -> None:
        """Be ready for the next batch."""
        if self._parts is not None:
            self._confirm()
        if self._failed is not None:  # the caller goes on after it
            self._give(self._failed)
            self._failed = None
        if self._prepared is not None:
            self._prepared.begin()

    def give_way(self) -> None:
        """Leave it to another pass."""
        self._gave_way = self._batches is not None
        self.close()

    def close(self) -> None:
        """Leave it, and let nothing of it run on."""
        if self._batches is not None:
            self._batches = None
            self._order.leave(self._way)
            self._end_look_ahead()
            self._progress.end()
            if self._prepared is not None:
                self._prepared.end()

    def _leave_out(self, made: LeftOut) -> None:
        """Go on without a batch that has no good sample, where nobody waits for it.

        Raises:
            SampleError: other ranks make a step for this batch, and would wait for this one for ever.
        """
        if in_group():
            self._failed = made.number
            made.raise_error()
        self._left_out = made
        self._give(made.number)

    def _give(self, number: int) -> int:
        """Record that the caller has a batch; how many samples it has."""
        if self._ahead is not None:
            self._ahead.given(number)
        self._order.give(self._way, number)
        self._shown.progress = self._progress
        self._tell_course()
        return self._sizes.pop(number)

    def _tell_course(self) -> None:
        if self._course is not None:
            self._course.reach(self._way.epoch, self._way.place)

    def _end_look_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.end()

    def __del__(self) -> None:
        """Leave nothing running."""
        self.close()


class _PassElsewhere:
    """What comes of a pass in a pickle."""

    def __iter__(self) -> _PassElsewhere:
        return self

    def __next__(self) -> Any:
        message = (
            "this is the copy of a pass, from a pickle, and workers do not travel: iterate over the loader instead"
        )
        raise RuntimeError(message)


def _handed_out(way: Way, sizes: dict[int, int], ahead: LookAhead | None) -> Iterator[Wanted]:
    """The batches as workers are to make them, with a word to the look-ahead as each is handed out."""
    for number, indices in way.coming:
        sizes[number] = len(indices)
        if ahead is not None:
            ahead.handed_out(number)
        yield Wanted(number, way.seed, way.epoch, way.place, indices)
