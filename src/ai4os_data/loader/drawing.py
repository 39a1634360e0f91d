"""Draws the order of another library's samplers: the same for the same seed, epoch and state of the samplers."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from copy import copy
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DistributedSampler

from ai4os_data.datasets import derived_seed, seeding
from ai4os_data.loader.rest import EndlessRest, Position, Rest, is_plain, kind_of, rest_of_batches, rest_of_samples
from ai4os_data.loader.sampler import OF_ANOTHER_KIND, StorageSampler
from ai4os_data.loader.sharing import group, has_length, share_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

States = list[dict[str, Any]]

_PREDICTED = "_IndexBatchSamplerWrapper"  # Lightning's wrapper of a batch sampler during prediction


class Samplers:
    """Another library's samplers: their epochs, and the states with which they would draw the same again.

    Args:
        samplers: those that may have an epoch or a state, the one that gives batches first.
    """

    def __init__(self, samplers: Iterable[Any]) -> None:
        self._samplers = list({id(sampler): sampler for sampler in samplers}.values())
        self.look()

    def look(self) -> None:
        """Note their present epochs: some samplers count by themselves."""
        self._epochs = self._standing()

    def _standing(self) -> list[int | None]:
        """The epoch of each; None if it has none that could be set."""
        epochs = [
            getattr(sampler, "epoch", None) if callable(getattr(sampler, "set_epoch", None)) else None
            for sampler in self._samplers
        ]
        return [epoch if isinstance(epoch, int) else None for epoch in epochs]

    @property
    def first_epoch(self) -> int:
        """Their epoch at the last look."""
        return next((int(epoch) for epoch in self._epochs if epoch is not None), 0)

    def epoch_set(self) -> int | None:
        """The epoch that the user has set since the last look, maybe the same one; None if none was set."""
        for epoch, before in zip(self._standing(), self._epochs, strict=True):
            is_ours = epoch is before if isinstance(before, _Epoch) else epoch == before
            if epoch is not None and not is_ours:
                return int(epoch)
        return None

    def set_epoch(self, epoch: int, *, only_to_know: bool = False) -> None:
        """Set an epoch on them.

        Args:
            epoch: the next one.
            only_to_know: only on samplers that show afterwards whether the user has set it too.
        """
        for sampler in self._samplers:
            # A sampler's own state must stay plain.
            is_known = isinstance(sampler, DistributedSampler) and not hasattr(sampler, "state_dict")
            if callable(set_epoch := getattr(sampler, "set_epoch", None)) and (is_known or not only_to_know):
                set_epoch(_Epoch(epoch) if is_known else epoch)
        self.look()

    @property
    def share(self) -> list[int]:
        """The rank whose part they give, and the number of ranks: as they say, or as the process group does."""
        ranks, rank = next((share for sampler in self._samplers if (share := share_of(sampler))), group())
        return [rank, ranks]

    @property
    def has_ours(self) -> bool:
        """Whether one is a `StorageSampler`."""
        return any(isinstance(sampler, StorageSampler) for sampler in self._samplers)

    def refuse_other_ranks(self, saved: list[int] | None) -> None:
        """Raise if torch's sampler now shares out an order among another number of ranks than when it was saved.

        Raises:
            ValueError: it does.
        """
        ranks = next((one.num_replicas for one in self._samplers if _is_torchs(one)), None)
        if saved is not None and ranks is not None and saved[1] != ranks:
            raise ValueError(
                f"cannot resume: a DistributedSampler shared out the samples among {saved[1]} ranks when the state "
                f"was saved, and does so among {ranks} now. Start {saved[1]} ranks; or begin anew without "
                "load_state_dict, and leave out sampler=: the loader's own order resumes with any number of ranks"
            )

    def states(self) -> States:
        """The state of each, from which it would draw the same again."""
        return [_state(sampler) for sampler in self._samplers]

    def set_states(self, states: States) -> None:
        """Set these states."""
        for sampler, state in zip(self._samplers, states, strict=True):
            if "own" in state:
                sampler.load_state_dict(state["own"])
            if "generator" in state and isinstance(found := getattr(sampler, "generator", None), torch.Generator):
                found.set_state(state["generator"])

    @contextmanager
    def unrepeated(self) -> Iterator[None]:
        """Let our own samplers give each sample exactly once, during a block."""
        before = [(one, one.even_batches) for one in self._samplers if isinstance(one, StorageSampler)]
        try:
            for sampler, _ in before:
                sampler.even_batches = False
            yield
        finally:
            for sampler, even_batches in before:
                sampler.even_batches = even_batches


class Drawing:
    """Draws while the global random generators are seeded with seed and epoch.

    Args:
        source: gives batches of indices, or indices.
        samplers: that one, and those inside it.
        is_batched: whether the source gives batches.
    """

    def __init__(self, source: Iterable[Any], samplers: Samplers, *, is_batched: bool) -> None:
        self._source = source
        self._samplers = samplers
        self._is_batched = is_batched

    @property
    def kind(self) -> str:
        """The classes of the samplers."""
        return kind_of(self._source)

    @property
    def settings(self) -> tuple[Any, ...]:
        """The settings that may change between a load and the first batch."""
        length = len(self._source) if has_length(self._source) else None  # type: ignore[arg-type]  # it has one
        batching = getattr(self._source, "batch_size", None), getattr(self._source, "drop_last", None)
        return self._samplers.share, length, batching

    def rest(self, seed: int, epoch: int, position: Position) -> Rest:
        """The rest of an epoch after a position.

        Raises:
            ValueError: the position is one of another order.
        """
        seed = derived_seed(seed, epoch)
        if not has_length(self._source):
            return EndlessRest(self._one_by_one(seed), position)
        if self._is_batched and not is_plain(self._source):
            with self._seeded(seed):
                batches = [list(batch) for batch in self._source]
            return rest_of_batches(batches, position)
        batching: Any = self._source if self._is_batched else None
        sampler = self._source if batching is None else batching.sampler
        samples = self._samples(sampler, seed)
        compared: list[Any] | None = samples
        if not position.is_of_this_rank:  # compare with what the rank that saved it would draw, if that is known
            other = _of_rank(sampler, position)
            compared = None if other is None else self._samples(other, seed)
        return rest_of_samples(
            samples,
            None if batching is None else batching.batch_size,
            position,
            drop_last=batching is not None and batching.drop_last,
            compared=compared,
        )

    def as_wanted(self) -> AbstractContextManager[None]:
        """Draw or count each sample once if Lightning predicts, as Lightning does with its own samplers."""
        return self._samplers.unrepeated() if type(self._source).__name__ == _PREDICTED else nullcontext()

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        with seeding.kept_states(), self.as_wanted():
            seeding.seed_all(seed)
            yield

    def _samples(self, sampler: Iterable[Any], seed: int) -> list[Any]:
        with self._seeded(seed):
            return list(sampler)

    def _one_by_one(self, seed: int) -> Iterator[list[Any]]:
        """An endless sampler's batches, each drawn when it is needed, and always from its own random numbers."""
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


def states_for(ours: States, state: Mapping[str, Any]) -> States:
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
    return [filled.pop(0) if own else {} for own in ours]  # one BatchSampler more or less: the order will be compared


class _Epoch(int):
    """The number of an epoch that we have set on a sampler; an equal number set by the user is another object."""

    __slots__ = ()


def _is_torchs(sampler: Any) -> bool:
    return isinstance(sampler, DistributedSampler) and not isinstance(sampler, StorageSampler)


def _of_rank(sampler: Any, position: Position) -> Any | None:
    """A sampler that draws what the rank would draw that saved a position; None if that is not known."""
    if type(sampler) is not DistributedSampler or "order" not in position.saved:
        return None
    other = copy(sampler)
    other.rank = position.saved["rank"][0]
    return other


def _state(sampler: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    if callable(state_dict := getattr(sampler, "state_dict", None)):
        state["own"] = state_dict()
    if isinstance(generator := getattr(sampler, "generator", None), torch.Generator):
        state["generator"] = generator.get_state()
    return state
