"""The batches of an epoch in their order, and which of them the caller has been given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from ai4os_data import seeding
from ai4os_data.sampling import StorageSampler, dealt, derived_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Batch = list[int]
Batches = list[tuple[int, Batch]]


class Order(ABC):
    """Which batches come, and how far the caller has got.

    Batches have numbers in the epoch. Those below a number have been given, and, where a loader does not keep to the
    order, some others.

    Attributes:
        seed: what order and augmentations follow from.
        ranks: how many share the order.
        place: how far they have got in it together.
    """

    seed: int
    ranks = 1  # that share the order
    place = 0  # in the order that they share

    def __init__(self) -> None:
        self._below = 0
        self._others: set[int] = set()

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The epoch that is being gone through, or comes next."""

    @property
    @abstractmethod
    def is_begun(self) -> bool:
        """Whether batches of this epoch were asked for since it was set."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; one that was just loaded goes on where it was."""

    @abstractmethod
    def coming(self) -> Iterable[tuple[int, Batch]]:
        """The batches that are still to come, with their numbers. Asked a second time, the epoch begins anew."""

    def give(self, number: int) -> None:
        """Take in that the caller was given a batch."""
        self._others.add(number)
        while self._below in self._others:
            self._others.remove(self._below)
            self._passed(self._below)
            self._below += 1

    def _passed(self, number: int) -> None:  # noqa: B027  it does not concern every order
        """A batch and all before it have been given."""

    def state_dict(self) -> dict[str, Any]:
        """Where the caller stands."""
        return {"batches": self._below, "others": sorted(self._others)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there."""
        self._below = int(state["batches"])
        self._others = set(map(int, state["others"]))

    def _begin_anew(self) -> None:
        self._below = 0
        self._others = set()


class OwnOrder(Order):
    """That of a `StorageSampler`.

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
        self._batches: dict[int, Batch] = {}
        self._counted_epoch = sampler.epoch

    @property
    def seed(self) -> int:  # type: ignore[override]  # it is the sampler's
        """The sampler's seed."""
        return self.sampler.seed

    @property
    def epoch(self) -> int:
        """The sampler's epoch, which others may set too."""
        return self.sampler.epoch

    @property
    def ranks(self) -> int:  # type: ignore[override]  # it is the sampler's
        """Those of the sampler."""
        return self.sampler.ranks

    @property
    def place(self) -> int:  # type: ignore[override]  # it is the sampler's
        """How far all ranks together have got."""
        return self.sampler.done

    @property
    def is_begun(self) -> bool:
        """Whether the sampler was begun with."""
        return self.sampler.is_begun

    def set_epoch(self, epoch: int) -> None:
        """Set that of the sampler."""
        self.sampler.set_epoch(epoch)

    def coming(self) -> Batches:
        """The rest of the sampler's epoch."""
        sampler = self.sampler  # which others may have set to another epoch meanwhile
        if sampler.is_begun or sampler.epoch != self._counted_epoch or (self._below and not sampler.done):
            self._begin_anew()
        self._counted_epoch = sampler.epoch
        batches = enumerate(dealt(self.sampler.begin(), self._batch_size, drop_last=self._drop_last), self._below)
        self._batches = dict(batches)
        return [(number, batch) for number, batch in self._batches.items() if number not in self._others]

    def _passed(self, number: int) -> None:
        self.sampler.give(len(self._batches[number]))

    def state_dict(self) -> dict[str, Any]:
        """Where all ranks stand together."""
        return {**self.sampler.state_dict(), **super().state_dict(), **self._shape}

    @property
    def _shape(self) -> dict[str, int]:
        """What the numbers of batches depend on."""
        return {"world": self.sampler.ranks, "batch_size": self._batch_size or 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there, with this or with another number of ranks.

        Raises:
            ValueError: it is the state of another order, or has gaps that only the same ranks and batches can fill.
        """
        if state["others"] and any(state.get(name) != ours for name, ours in self._shape.items()):
            message = (
                "this state was saved under in_order=False, with batches given out of their order: it can be gone on "
                "with by as many ranks and with the batch size that it was saved with, and by no others"
            )
            raise ValueError(message)
        self.sampler.load_state_dict(state)
        self._counted_epoch = self.sampler.epoch
        super().load_state_dict(state)


class ForeignOrder(Order):
    """That of anybody's sampler: it is gone through anew up to where the caller was.

    It draws its batches while the global random generators are seeded with seed and epoch; a generator of its own, and
    what it has to save by itself, are set back to where they were when the epoch began.

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
        self._is_batched = is_batched
        self._epoch = 0
        self._is_begun = False
        self._at_begin: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """What was set last, or was reached."""
        return self._epoch

    @property
    def is_begun(self) -> bool:
        """Whether its batches were asked for."""
        return self._is_begun

    def set_epoch(self, epoch: int) -> None:
        """Go there, and tell the samplers."""
        if epoch != self._epoch or self._is_begun:
            self._begin_anew()
            self._at_begin = []
        self._epoch = epoch
        self._is_begun = False
        for sampler in self._samplers:
            if callable(tell := getattr(sampler, "set_epoch", None)):
                tell(epoch)

    def coming(self) -> Iterable[tuple[int, Batch]]:
        """What the samplers give, without what was given already."""
        if self._is_begun:
            self._begin_anew()
            self._at_begin = []
        self._is_begun = True
        if self._at_begin:
            for sampler, state in zip(self._samplers, self._at_begin, strict=True):
                _set_state(sampler, state)
        else:
            self._at_begin = [_state(sampler) for sampler in self._samplers]
        given = self._below, frozenset(self._others)
        drawn = self._all_drawn() if _has_end(self._source) else self._drawn_one_by_one()
        return ((number, batch) for number, batch in drawn if number >= given[0] and number not in given[1])

    def _all_drawn(self) -> Batches:
        with seeding.kept_states():
            seeding.plant(derived_seed(self.seed, self._epoch))
            return [(number, self._batch(drawn)) for number, drawn in enumerate(self._source)]

    def _drawn_one_by_one(self) -> Iterator[tuple[int, Batch]]:
        """An endless sampler's batches, each drawn when it is needed, and always from its own random numbers."""
        seed = derived_seed(self.seed, self._epoch)
        source = None
        number = 0
        while True:
            with seeding.kept_states():
                seeding.plant(derived_seed(seed, number))
                source = source or iter(self._source)
                try:
                    batch = self._batch(next(source))
                except StopIteration:
                    return
            yield number, batch
            number += 1

    def _batch(self, drawn: Any) -> Batch:
        return list(drawn) if self._is_batched else [drawn]

    def state_dict(self) -> dict[str, Any]:
        """How many batches of which epoch, and how the samplers stood when it began."""
        samplers = self._at_begin or [_state(sampler) for sampler in self._samplers]
        return {"seed": self.seed, "epoch": self._epoch, "samplers": samplers, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there.

        Raises:
            ValueError: it is the state of other samplers.
        """
        if len(state.get("samplers", ())) != len(self._samplers):
            message = "the order cannot be gone on with: it was saved with another kind of sampler"
            raise ValueError(message)
        super().load_state_dict(state)
        self.seed = int(state["seed"])
        self._epoch = int(state["epoch"])
        self._is_begun = False
        self._at_begin = list(state["samplers"])
        for sampler in self._samplers:
            if callable(tell := getattr(sampler, "set_epoch", None)):
                tell(self._epoch)


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
