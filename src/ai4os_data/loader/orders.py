"""The batches of an epoch in their order, and which of them the caller has been given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DistributedSampler

from ai4os_data.datasets import derived_seed, seeding
from ai4os_data.loader.callers import count_on
from ai4os_data.loader.rest import (
    POSITION,
    BatchedRest,
    DealtRest,
    EndlessRest,
    Position,
    Rest,
    digest,
    is_plain,
    kind_of,
)
from ai4os_data.loader.sampler import OF_ANOTHER_KIND, StorageSampler, dealt, group
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Batch = list[int]
Batches = list[tuple[int, Batch]]

_SHAPE = ("world", "batch_size", "run_length")
_PREDICTED = "_IndexBatchSamplerWrapper"  # what Lightning wraps a batch sampler in when it predicts
_A_LOOK = 1  # so many batches of a pass inside another one, and it was no more than a look


class Way:
    """One way through an epoch: the batches that come, and how far the caller has got.

    Batches have numbers in the epoch. Those below a number have been given, and, where a loader does not keep to the
    order, some others.

    Args:
        epoch: the number of the epoch.
        seed: what order and augmentations follow from.
        coming: the batches that are still to come, with their numbers.
        given: the number below which all had been given, and the others, when the way began.
    """

    place = 0  # in the order that all ranks share
    samples_before: int | None = None  # of all ranks together, when it began; None where that is not known
    is_asked = False  # whether the caller wanted its first batch
    told: int | None = None  # the epoch that the caller had set, where the position was loaded
    is_emptied = False  # whether it stands for the epoch before it, which had come to its end
    follows_end = False  # whether the epoch before it had come to its end, where the position was loaded
    instead_of: Way | None = None  # the one before it, of which nobody had wanted a batch

    def __init__(
        self, epoch: int, seed: int, coming: Iterable[tuple[int, Batch]], given: tuple[int, frozenset[int]]
    ) -> None:
        self.epoch = epoch
        self.seed = seed
        self.coming = coming
        self.taken = 0  # since it began
        self._below = given[0]
        self._others = set(given[1])

    def __len__(self) -> int:
        """How many batches it has; a ``TypeError`` where its sampler has no end."""
        return len(self.coming)  # type: ignore[arg-type]  # a generator says so itself

    @property
    def is_through(self) -> bool:
        """Whether the caller has been given all batches."""
        return isinstance(self.coming, list) and self.taken >= len(self.coming)

    def give(self, number: int) -> None:
        """Record that the caller was given a batch."""
        self.taken += 1
        self._others.add(number)
        while self._below in self._others:
            self._others.remove(self._below)
            self._passed(self._below)
            self._below += 1

    def _passed(self, number: int) -> None:
        """A batch and all before it have been given."""

    def state_dict(self) -> dict[str, Any]:
        """Where the caller stands in it."""
        return {"batches": self._below, "others": sorted(self._others)}


class Order(ABC):
    """Which batches come in the next pass, and where the caller stands in those that were begun.

    Passes do not disturb each other. The state is that of the pass that was begun, or gave a batch, last; after its
    end, or when another epoch has been set, that of the next one. A pass inside another one that is left after a
    single batch was a look, and does not count.
    """

    def __init__(self) -> None:
        self._loaded: tuple[int, frozenset[int]] = (0, frozenset())  # what the next pass leaves out
        self._loaded_told: tuple[int | None, bool] = (None, False)  # `Way.told` and `Way.follows_end` of the next pass
        self._told_epoch: int | None = None  # by the caller, last
        self._is_ended = False  # the last pass, with nothing begun or set since
        self._is_loaded = False  # the next pass, with nothing begun or set since
        self._have_no_ways()

    def _have_no_ways(self) -> None:
        self._current: Way | None = None
        self._latest: Way | None = None
        self._open: list[Way] = []
        self._is_set = False  # the next epoch, by the caller, since the last pass began

    @property
    def epoch(self) -> int:
        """The epoch that is being gone through, or comes next."""
        self._notice()
        return self._next_epoch if self._current is None else self._current.epoch

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be through this epoch; one that was just loaded goes on where it was."""

    def begin(self) -> Way:
        """The next way through an epoch, or through the rest of one."""
        self._notice()
        before = None if self._is_set else self._current
        way = self._begun()
        if before is not None and not before.is_asked:
            way.instead_of = before
        way.told, way.follows_end = self._loaded_told
        self._loaded, self._loaded_told = (0, frozenset()), (None, False)
        self._is_set = self._is_ended = self._is_loaded = False
        self._open.append(way)
        self._current = self._latest = way
        return way

    def confirm(self, way: Way) -> Way:
        """The way of a pass whose first batch is wanted now: maybe another one than it was begun with.

        The caller may have begun the pass, and then set the epoch, as Lightning does: it is for this pass. And he may
        have let go of an earlier pass from which nothing was taken: that one did not count, and this one is in its
        place.
        """
        self._notice()
        way.is_asked = True
        if way is not self._latest:
            return way
        if self._is_set:
            return self._told_to_be(way)
        first = way
        while (before := first.instead_of) is not None and not before.is_asked and before not in self._open:
            first = before
        if first is not way:
            self._replace(way, first)
        return first

    def _told_to_be(self, way: Way) -> Way:
        """The way for the epoch that was set since it began: itself, if that is where it is or was loaded from."""
        if way.follows_end and way.told == self._told_epoch:
            self._empty(way)
        if self._told_epoch in {way.epoch, way.told}:
            self._is_set = False
            self._show(way)
            return way
        self._open.remove(way)
        return self._asked(self.begin())

    def _asked(self, way: Way) -> Way:
        way.is_asked = True
        return way

    def _replace(self, way: Way, first: Way) -> None:
        self._open[self._open.index(way)] = first
        self._latest = self._asked(first)
        self._show(first)

    def _empty(self, way: Way) -> None:
        """Let a way be what is left of the epoch before it, which is nothing."""
        way.epoch -= 1
        way.coming = []
        way.is_emptied = True

    def give(self, way: Way, number: int) -> None:
        """Record that the caller was given a batch."""
        self._notice()
        way.give(number)
        self._show(way)

    def end(self, way: Way) -> None:
        """Record that the caller was given all batches of a way: the next epoch comes next."""
        self._notice()
        self._open.remove(way)
        self._current = None
        if not self._is_set:
            self._go_to(way.epoch + 1)
            self._is_ended = True
            if way.is_emptied:
                self._stand_before(way)

    def leave(self, way: Way) -> None:
        """Record that nobody goes on with a way."""
        if way in self._open:
            self._notice()
            self._open.remove(way)
            if self._current is way and way.taken <= _A_LOOK and self._open:
                self._show(self._open[-1])

    @property
    def is_resumed(self) -> bool:
        """Whether the next pass leaves out what was given before."""
        self._notice()
        return self._loaded != (0, frozenset())

    def state_dict(self) -> dict[str, Any]:
        """Where the caller stands."""
        self._notice()
        state = self._next_state() if self._current is None else self._current.state_dict()
        if self._told_epoch is not None:
            state["told"] = self._told_epoch
        if self._current is None and self._is_ended:
            state["ended"] = 1
        return state

    def _note(self, state: Mapping[str, Any]) -> None:
        """Record what a state tells of the caller."""
        self._told_epoch = told = None if state.get("told") is None else int(state["told"])
        self._loaded_told = told, bool(state.get("ended"))
        self._is_loaded = True
        self._is_ended = bool(state.get("ended"))

    def _note_told(self, epoch: int | None) -> None:
        """Record that the caller has set an epoch."""
        self._told_epoch, self._is_set, self._is_ended, self._is_loaded = epoch, True, False, False
        self._current = None

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there in the next pass."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the passes that are being made."""
        return {**self.__dict__, "_open": [], "_current": None, "_latest": None}

    # --- what each kind does in its own way

    @property
    @abstractmethod
    def _next_epoch(self) -> int:
        """That of the next pass."""

    @abstractmethod
    def _notice(self) -> None:
        """Record what others have told the samplers."""

    @abstractmethod
    def _begun(self) -> Way:
        """The next way, begun."""

    @abstractmethod
    def _show(self, way: Way) -> None:
        """Let a way be what the state tells of."""

    @abstractmethod
    def _go_to(self, epoch: int) -> None:
        """Let an epoch be the next, by our own choice."""

    @abstractmethod
    def _stand_before(self, way: Way) -> None:
        """Let the next way be one that was begun, and given up, once more."""

    @abstractmethod
    def _next_state(self) -> dict[str, Any]:
        """The state before the next pass."""

    def _loaded_state(self) -> dict[str, Any]:
        return {"batches": self._loaded[0], "others": sorted(self._loaded[1])}


class OwnWay(Way):
    """One in the order of a `StorageSampler`."""

    def __init__(self, order: OwnOrder, given: tuple[int, frozenset[int]]) -> None:
        sampler = order.sampler
        batches = list(enumerate(order.dealt(), given[0]))
        super().__init__(sampler.epoch, sampler.seed, [item for item in batches if item[0] not in given[1]], given)
        self.start = self.place = sampler.start
        if not sampler.drop_last:
            self.samples_before = sampler.length - sampler.start
        self.samples = 0  # that this rank was given
        self._sizes = {number: len(batch) for number, batch in batches}
        self._sampler = sampler
        self._order = order.description

    def _passed(self, number: int) -> None:
        self.samples += self._sizes[number]
        self.place = self._sampler.done_after(self.start, self.samples)

    def state_dict(self) -> dict[str, Any]:
        """Where all ranks stand together."""
        return {**self._order, **super().state_dict(), "done": self.place}


class OwnOrder(Order):
    """That of a `StorageSampler`, which others may set to an epoch too.

    Args:
        sampler: gives the samples of this rank.
        batch_size: how many make a batch; None gives them one by one.
        drop_last: leave out a batch that is not full.
    """

    def __init__(self, sampler: StorageSampler, batch_size: int | None, *, drop_last: bool) -> None:
        super().__init__()
        self.sampler = sampler
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._loaded_at = (sampler.epoch, sampler.start)
        self._digest: tuple[Any, str] = (None, "")  # of the order that a subclass makes, and of which
        self._changes = sampler.changes  # when we last had a hand in it

    def dealt(self) -> list[Batch]:
        """Begin with the sampler, and deal out what it has."""
        return dealt(self.sampler.begin(), self._batch_size, drop_last=self._drop_last)

    @property
    def shape(self) -> dict[str, int]:
        """What the numbers of batches depend on."""
        run = {} if self.sampler.run_length == 1 else {"run_length": self.sampler.run_length}
        return {"world": self.sampler.ranks, "batch_size": self._batch_size or 0, **run}

    @property
    def description(self) -> dict[str, Any]:
        """What a state tells of the order."""
        return {**self.sampler.state_dict(), **self.shape, "own_order": self._kind}

    @property
    def _kind(self) -> str:
        """Empty for an order that follows from seed and epoch alone; a digest of one that a subclass makes."""
        sampler = self.sampler
        if type(sampler).order is StorageSampler.order:
            return ""
        at = sampler.seed, sampler.epoch, sampler.length, sampler.shuffle
        if self._digest[0] != at:
            self._digest = at, digest(sampler.order(sampler.epoch))
        return self._digest[1]

    def set_epoch(self, epoch: int) -> None:
        """Set that of the sampler."""
        self.sampler.set_epoch(epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there, with this or with another number of ranks.

        Raises:
            ValueError: it is the state of another order, or has gaps that only the same ranks and batches can fill.
        """
        check_state(state)
        others = frozenset(map(int, state["others"]))
        if others and any(state.get(name, 1) != self.shape.get(name, 1) for name in _SHAPE):
            message = (
                "cannot resume: the state was saved under in_order=False, with batches given out of turn, which only "
                "the same number of ranks and the same batch size can resume. Use these, or begin anew without "
                "load_state_dict"
            )
            raise ValueError(message)
        before = dict(self.sampler.__dict__)
        self.sampler.load_state_dict(state)
        if state.get("own_order", self._kind) != self._kind:
            self.sampler.__dict__.update(before)
            raise ValueError(
                "cannot resume: the sampler gives the samples in another order than the one that the state was saved "
                "with. Use the same class of sampler, or begin anew without load_state_dict"
            )
        self._note(state)
        self._loaded = int(state["batches"]), others
        self._loaded_at = (self.sampler.epoch, self.sampler.start)
        self._changes = self.sampler.changes
        self._is_set = True
        self._current = None

    @property
    def _next_epoch(self) -> int:
        return self.sampler.epoch

    def _notice(self) -> None:
        if self.sampler.changes != self._changes:
            self._changes = self.sampler.changes
            self._note_told(self.sampler.told)
            if (self.sampler.epoch, self.sampler.start) != self._loaded_at:
                self._loaded, self._loaded_told = (0, frozenset()), (None, False)

    def _begun(self) -> Way:
        if self.sampler.is_begun:
            self._go_to(self.sampler.epoch + 1)
            self._loaded = (0, frozenset())
        way = OwnWay(self, self._loaded)
        self._changes = self.sampler.changes
        return way

    def _show(self, way: Way) -> None:
        assert isinstance(way, OwnWay)
        self._current = way
        if not self._is_set:
            self.sampler.stand(way.epoch, way.start, way.samples)

    def _go_to(self, epoch: int) -> None:
        told = self.sampler.told
        self.sampler.set_epoch(epoch)
        self.sampler.told = told
        self._changes = self.sampler.changes

    def _stand_before(self, way: Way) -> None:
        """It follows from the epoch alone."""

    def _next_state(self) -> dict[str, Any]:
        return {**self.description, **self._loaded_state()}


class ForeignWay(Way):
    """One in the order of anybody's sampler.

    Args:
        epoch: as for a `Way`.
        seed: as for a `Way`.
        rest: what is still to come.
        others: the numbers of batches that had been given out of their order, when the way began.
        at_begin: how the samplers stood when the epoch began.
    """

    def __init__(
        self, epoch: int, seed: int, rest: Rest, others: frozenset[int], at_begin: list[dict[str, Any]]
    ) -> None:
        super().__init__(epoch, seed, rest.coming, (rest.first, others))
        self.at_begin = at_begin
        self._rest = rest

    def _passed(self, number: int) -> None:
        self._rest.passed(number)

    def state_dict(self) -> dict[str, Any]:
        """How many batches and samples of which epoch, of which order, and how the samplers stood when it began."""
        named = {"seed": self.seed, "epoch": self.epoch, "samplers": self.at_begin}
        return {**named, **super().state_dict(), **self._rest.state_dict()}


class ForeignOrder(Order):
    """That of anybody's sampler: it is gone through anew up to where the caller was.

    It draws its batches while the global random generators are seeded with seed and epoch; a generator of its own, and
    what it has to save by itself, are set back to where they were when the epoch began. A state tells which order it
    is, so that another one is not taken for it. What is loaded is drawn at once and compared, and the next pass goes
    through what was drawn.

    Args:
        source: gives batches of indices, or indices.
        samplers: those that may be told of the epoch, or have a state.
        seed: what a sampler that draws from the global generators follows.
        is_batched: whether the source gives batches.
    """

    def __init__(self, source: Iterable[Any], samplers: Iterable[Any], seed: int, *, is_batched: bool) -> None:
        super().__init__()
        self.seed = seed
        self._source = source
        self._samplers = list({id(sampler): sampler for sampler in samplers}.values())
        self._told = self._epochs()
        self._is_batched = is_batched
        self._epoch = next((int(epoch) for epoch in self._told if epoch is not None), 0)
        self._is_begun = False
        self._at_begin: list[dict[str, Any]] = []
        self._position: dict[str, Any] = {}  # what was loaded of the next pass: it is compared with what is drawn
        self._ready: _Ready | None = None  # what was loaded, drawn and compared

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what was drawn."""
        return {**super().__getstate__(), "_ready": None}

    @property
    def rank(self) -> list[int]:
        """Which part of how many the samplers give: as they say themselves, or as the process group does."""
        world, rank = group()
        for sampler in self._samplers:
            ranks = getattr(sampler, "ranks", getattr(sampler, "num_replicas", None))
            own = getattr(sampler, "rank", None)
            if isinstance(ranks, int) and isinstance(own, int):
                return [own, ranks]
        return [rank, world]

    def set_epoch(self, epoch: int) -> None:
        """Go there, and tell the samplers."""
        if self._is_loaded and epoch != self._epoch and count_on(epoch, self._epoch):
            epoch = self._epoch
        if epoch != self._epoch:
            self._loaded_told = (None, False)
        self._warn_of_lost_position(epoch)
        self._go_to(epoch)
        self._note_told(epoch)

    def _warn_of_lost_position(self, epoch: int) -> None:
        if epoch != self._epoch and not self._is_begun and self._loaded[0]:
            tell_once(
                f"set_epoch({epoch}) gives up the position that was loaded: epoch {self._epoch}, after "
                f"{self._loaded[0]} batches. To resume there, set the loader to that epoch, or to none"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there.

        Raises:
            ValueError: it is the state of other samplers, or of the same ones in another order.
        """
        check_state(state)
        others = frozenset(map(int, state["others"]))
        before, stood = dict(self.__dict__), self._states()
        samplers = _states_for(stood, state)
        self._loaded = int(state["batches"]), others
        self._position = {name: state[name] for name in POSITION if name in state}
        self.seed = int(state["seed"])
        self._at_begin = samplers
        self._epoch = int(state["epoch"])
        self._is_begun = False
        self._is_set = True
        self._current = None
        self._note(state)
        self._tell()
        is_loaded = False
        try:
            self._compare_early()
            is_loaded = True
        finally:
            if not is_loaded:  # the loader stays as it was
                self.__dict__.update(before)
                self._tell()
                self._set_states(stood)

    def _compare_early(self) -> None:
        """Draw what was loaded, if that can be done by now, so that an error comes where the state was loaded."""
        if self._ready is not None and self._ready.wanted == self._wanted:
            return  # it was loaded before, and is at hand: some samplers give another order each time
        self._ready = None
        self._refuse_other_ranks()
        may_have_more_ranks = self._position.get("rank", [0, 1])[1] > self.rank[1]  # a group may be made later
        if may_have_more_ranks or any(isinstance(sampler, StorageSampler) for sampler in self._samplers):
            return
        if self._loaded != (0, frozenset()) or "order" in self._position:
            self._ready = _Ready(self._wanted, self._settings, self._drawn())

    @property
    def _wanted(self) -> tuple[Any, ...]:
        """What was loaded, in brief."""
        return self.seed, self._epoch, self._loaded, self._position

    @property
    def _settings(self) -> tuple[Any, ...]:
        """What may be changed between a load and the first batch."""
        length = len(self._source) if _has_end(self._source) else None  # type: ignore[arg-type]  # it has one
        dealing = getattr(self._source, "batch_size", None), getattr(self._source, "drop_last", None)
        return self.rank, length, dealing

    def _refuse_other_ranks(self) -> None:
        ranks = [sampler.num_replicas for sampler in self._samplers if _is_torchs(sampler)]
        saved = self._position.get("rank")
        if saved is not None and ranks and saved[1] != ranks[0]:
            raise ValueError(
                f"cannot resume: a DistributedSampler shared out the samples among {saved[1]} ranks when the state "
                f"was saved, and does so among {ranks[0]} now. Start {saved[1]} ranks; or begin anew without "
                "load_state_dict, and leave out sampler=: the loader's own order resumes with any number of ranks"
            )

    @property
    def _next_epoch(self) -> int:
        return self._epoch

    def _notice(self) -> None:
        for epoch, told in zip(self._epochs(), self._told, strict=True):
            is_ours = epoch is told if isinstance(told, _Epoch) else epoch == told
            if epoch is not None and not is_ours:  # the user has told it, maybe of the same epoch
                self.set_epoch(int(epoch))
                return

    def _begun(self) -> Way:
        if self._is_begun:
            self._go_to(self._epoch + 1)
        self._tell(only_to_know=True)
        rest = self._drawn() if self._ready is None or self._is_to_be_drawn(self._ready) else self._ready.rest
        way = ForeignWay(self._epoch, self.seed, rest, self._loaded[1], self._at_begin)
        self._is_begun = True
        self._have_nothing_loaded()
        return way

    def _is_to_be_drawn(self, ready: _Ready) -> bool:
        """Whether what was drawn at the load may be another order by now, or a sampler stands elsewhere."""
        return ready.settings != self._settings or any(self._states())

    def _drawn(self) -> Rest:
        """Draw the next pass, and leave out what was given of it before.

        Raises:
            ValueError: it is not the order that was loaded.
        """
        try:
            return self._drawn_from_begin()
        except ValueError:
            # The own state of some samplers is that of the last epoch, until they are gone through.
            without = [{name: kept for name, kept in state.items() if name != "own"} for state in self._at_begin]
            if [len(state) for state in without] == [len(state) for state in self._at_begin]:
                raise
        self._at_begin = without
        return self._drawn_from_begin()

    def _drawn_from_begin(self) -> Rest:
        if self._at_begin:
            self._set_states(self._at_begin)
        else:
            self._at_begin = self._states()
        position = Position(*self._loaded, self._position, self.rank, kind_of(self._source))
        if not _has_end(self._source):
            rest: Rest = EndlessRest(self._drawn_one_by_one(), position)
        elif is_plain(self._source) or not self._is_batched:
            rest = self._dealt_rest(position)
        else:
            rest = BatchedRest(self._all_batches(), position)
        self._told = self._epochs()  # some count by themselves
        return rest

    def _show(self, way: Way) -> None:
        self._current = way
        if not self._is_set:
            self._epoch = way.epoch
            self._is_begun = True

    def _go_to(self, epoch: int) -> None:
        if epoch != self._epoch or self._is_begun:
            self._loaded = (0, frozenset())
            self._have_nothing_loaded()
        self._epoch = epoch
        self._is_begun = False
        self._tell()

    def _stand_before(self, way: Way) -> None:
        assert isinstance(way, ForeignWay)
        self._at_begin = way.at_begin

    def _have_nothing_loaded(self) -> None:
        self._at_begin = []
        self._position = {}
        self._ready = None

    def _next_state(self) -> dict[str, Any]:
        samplers = self._at_begin or self._states()
        named = {"seed": self.seed, "epoch": self._epoch, "samplers": samplers}
        return {**named, **self._position, **self._loaded_state()}

    def _tell(self, *, only_to_know: bool = False) -> None:
        """Tell the samplers of the next epoch.

        Args:
            only_to_know: tell none but those of whom it can be known afterwards whether the user has told them too.
        """
        for sampler in self._samplers:
            # What a sampler saves by itself has to be plain.
            is_known = isinstance(sampler, DistributedSampler) and not hasattr(sampler, "state_dict")
            if callable(tell := getattr(sampler, "set_epoch", None)) and (is_known or not only_to_know):
                tell(_Epoch(self._epoch) if is_known else self._epoch)
        self._told = self._epochs()

    def _epochs(self) -> list[int | None]:
        """What those samplers stand at that can be told of an epoch."""
        told = [
            getattr(sampler, "epoch", None) if callable(getattr(sampler, "set_epoch", None)) else None
            for sampler in self._samplers
        ]
        return [epoch if isinstance(epoch, int) else None for epoch in told]

    def _states(self) -> list[dict[str, Any]]:
        return [_state(sampler) for sampler in self._samplers]

    def _set_states(self, states: list[dict[str, Any]]) -> None:
        for sampler, state in zip(self._samplers, states, strict=True):
            _set_state(sampler, state)

    def _dealt_rest(self, position: Position) -> DealtRest:
        dealer = self._source if isinstance(self._source, BatchSampler) and self._is_batched else None
        samples = self._all_samples(self._source if dealer is None else dealer.sampler)
        return DealtRest(
            samples,
            None if dealer is None else dealer.batch_size,
            position,
            drop_last=dealer is not None and dealer.drop_last,
            compared=samples if position.is_of_this_rank else self._samples_of_rank(position),
        )

    def _samples_of_rank(self, position: Position) -> list[Any] | None:
        """What the rank that saved a position would draw; None if that is not known."""
        inner = getattr(self._source, "sampler", None) if self._is_batched else self._source
        if type(inner) is not DistributedSampler or "order" not in position.saved:
            return None
        other = copy(inner)
        other.rank = position.saved["rank"][0]
        return self._all_samples(other)

    def _all_samples(self, sampler: Iterable[Any]) -> list[Any]:
        with self._seeded():
            return list(sampler)

    def _all_batches(self) -> list[Batch]:
        with self._seeded():
            return [list(batch) for batch in self._source]

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with seeding.kept_states(), self.drawn_as_wanted():
            seeding.seed_all(derived_seed(self.seed, self._epoch))
            yield

    @contextmanager
    def drawn_as_wanted(self) -> Iterator[None]:
        """Draw, or count, each sample once if Lightning predicts, as it does with samplers of its own."""
        with ExitStack() as stack:
            if type(self._source).__name__ == _PREDICTED:
                for sampler in self._samplers:
                    if isinstance(sampler, StorageSampler):
                        stack.enter_context(sampler.unrepeated())
            yield

    def _drawn_one_by_one(self) -> Iterator[Batch]:
        """An endless sampler's batches, each drawn when it is needed, and always from its own random numbers."""
        seed = derived_seed(self.seed, self._epoch)
        source = None
        for number in count():
            with seeding.kept_states():
                seeding.seed_all(derived_seed(seed, number))
                source = source or iter(self._source)
                try:
                    drawn = next(source)
                except StopIteration:
                    return
            yield list(drawn) if self._is_batched else [drawn]


def _states_for(ours: list[dict[str, Any]], state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The saved states of samplers, each for one that has a state.

    Raises:
        ValueError: they are others.
    """
    saved = list(state.get("samplers", ()))
    if len(saved) == len(ours):
        return saved
    filled = [own for own in saved if own]
    if "samplers" not in state or "order" not in state or len(filled) != sum(map(bool, ours)):
        raise ValueError(OF_ANOTHER_KIND)
    return [filled.pop(0) if own else {} for own in ours]  # a BatchSampler more, or less: the order will be compared


def _is_torchs(sampler: Any) -> bool:
    return isinstance(sampler, DistributedSampler) and not isinstance(sampler, StorageSampler)


class _Ready(NamedTuple):
    """What was loaded, and its rest.

    Args:
        wanted: what was loaded, in brief.
        settings: those that the rest was drawn with.
        rest: of what was loaded.
    """

    wanted: tuple[Any, ...]
    settings: tuple[Any, ...]
    rest: Rest


class _Epoch(int):
    """The number of an epoch that we have told a sampler of; the user's own, though equal, is another object."""

    __slots__ = ()


def check_state(state: Any) -> None:
    """See that a state is one.

    Raises:
        ValueError: it is no state of a loader.
    """
    if not isinstance(state, Mapping) or not {"batches", "others", "seed", "epoch"} <= state.keys():
        message = "the order cannot be gone on with: this is not what the state_dict() of a StorageDataLoader gave"
        raise ValueError(message)


def _has_end(source: Any) -> bool:
    try:
        len(source)
    except (TypeError, NotImplementedError):
        return False
    return True


def _state(sampler: Any) -> dict[str, Any]:
    """What a sampler would have to be given to draw the same again."""
    state: dict[str, Any] = {}
    if callable(tell := getattr(sampler, "state_dict", None)):
        state["own"] = tell()
    if isinstance(generator := getattr(sampler, "generator", None), torch.Generator):
        state["generator"] = generator.get_state()
    return state


def _set_state(sampler: Any, state: Mapping[str, Any]) -> None:
    if "own" in state:
        sampler.load_state_dict(state["own"])
    if "generator" in state and isinstance(generator := getattr(sampler, "generator", None), torch.Generator):
        generator.set_state(state["generator"])
