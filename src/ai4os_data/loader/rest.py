"""The rest of an epoch in the order of somebody else's sampler: it is compared with the order that was saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler

from ai4os_data.loader.sampler import dealt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Batch = list[Any]
Batches = list[tuple[int, Batch]]

POSITION = ("order", "drawn", "given", "batch_size", "batching", "rank", "kind")  # what a state tells of an order

_DIGEST_BYTES = 16
_AGAIN = "or begin anew without load_state_dict"


class Position(NamedTuple):
    """Where a state stands in an order, and what it tells of that order.

    Args:
        below: the number of the batch below which all had been given.
        others: the numbers of those that had been given besides.
        saved: what the state tells of its order; nothing if an older version saved it.
        rank: which part of how many the sampler gives now.
        kind: of the samplers that are there now.
    """

    below: int
    others: frozenset[int]
    saved: Mapping[str, Any]
    rank: list[int]
    kind: str

    @property
    def given(self) -> int | None:
        """How many samples had been given; None if the state does not tell."""
        return self.saved.get("given")

    @property
    def is_of_this_rank(self) -> bool:
        """Whether the order that was saved is that of this rank: others may have another part of the samples."""
        return "order" in self.saved and self.saved["rank"][0] == self.rank[0]

    def compare(self, order: str, drawn: int | None) -> None:
        """See that an order is the one that was saved.

        Args:
            order: its digest.
            drawn: how many samples it has; None if it has no end.

        Raises:
            ValueError: it is another one.
        """
        before, now = self._kinds
        if self.saved.get("drawn") != drawn:
            raise ValueError(
                f"cannot resume: {before} gave {_counted(self.saved.get('drawn'))} when the state was saved, and {now} "
                f"gives {_counted(drawn)}. Use the dataset, the sampler and the options that it was saved with, "
                f"{_AGAIN}"
            )
        if self.saved["order"] != order:
            raise ValueError(
                f"cannot resume: {now} gives the samples in another order than {before} did when the state was saved. "
                "Use the same sampler with the same settings (seed, weights, indices, ranks). One with a random "
                "generator of its own needs a state_dict() and load_state_dict(), or an order that follows from "
                f"set_epoch(); {_AGAIN}"
            )

    def refuse_gaps(self) -> None:
        """See that no batch had overtaken another: such gaps are those of batches that are no longer made.

        Raises:
            ValueError: one had.
        """
        if self.others:
            raise ValueError(
                "cannot resume: this state was saved under in_order=False, with batches given out of their order, and "
                f"the batches are other ones now. Use the batch size that it was saved with, {_AGAIN}"
            )

    def refuse_end(self, batches: int) -> None:
        """See that an order of so many batches reaches as far as the state does.

        Raises:
            ValueError: it ends before.
        """
        if self.below > batches:
            raise ValueError(
                f"cannot resume: the state was saved after {self.below} batches, and {self._kinds[1]} gives {batches}. "
                f"Use the dataset, the sampler and the batch size that it was saved with, {_AGAIN}"
            )

    @property
    def _kinds(self) -> tuple[str, str]:
        """The sampler that the state was saved with, and the one that is there now, in as few words as tell them."""
        before = str(self.saved.get("kind", self.kind))
        short = _short(before), _short(self.kind)
        return (before, self.kind) if short[0] == short[1] and before != self.kind else short


class Rest(ABC):
    """What is still to come of an epoch.

    Args:
        position: where it begins.
    """

    coming: Iterable[tuple[int, Batch]]  # with their numbers
    first = 0  # the number of the first one; others were given before
    given = 0  # samples, before the first batch that is still to be given

    def __init__(self, position: Position) -> None:
        self._named = {"rank": position.rank, "kind": position.kind}

    @property
    @abstractmethod
    def order(self) -> str:
        """The digest of the order."""

    @abstractmethod
    def passed(self, number: int) -> None:
        """A batch and all before it have been given."""

    def state_dict(self) -> dict[str, Any]:
        """What a `Position` is made of."""
        return {**self._named, "order": self.order, "given": self.given}


class _EndingRest(Rest):
    """One of an order that has an end, and was drawn as a whole."""

    def __init__(self, samples: Sequence[Any], position: Position) -> None:
        super().__init__(position)
        self._order = digest(samples)
        self._drawn = len(samples)
        self._sizes: list[int] = []  # of the batches from the first one on

    @property
    def order(self) -> str:
        """Over all of its samples, whatever batches they make."""
        return self._order

    def _come(self, batches: list[Batch], position: Position) -> None:
        self._sizes = [len(batch) for batch in batches]
        others = position.others
        self.coming = [item for item in enumerate(batches, self.first) if item[0] not in others]

    def passed(self, number: int) -> None:
        """Count its samples."""
        self.given += self._sizes[number - self.first]

    def state_dict(self) -> dict[str, Any]:
        """With the number of samples in the whole order."""
        return {**super().state_dict(), "drawn": self._drawn}


class DealtRest(_EndingRest):
    """Samples that are dealt out in batches of one size: the rest may be dealt out in batches of another.

    Args:
        samples: of the whole epoch.
        batch_size: how many make a batch; None gives them one by one.
        drop_last: leave out a batch that is not full.
        position: what was given before.
        compared: what the rank that saved the position would draw; None if that is not known.
    """

    def __init__(
        self,
        samples: list[Any],
        batch_size: int | None,
        position: Position,
        *,
        drop_last: bool,
        compared: list[Any] | None,
    ) -> None:
        super().__init__(samples, position)
        self._batch_size = batch_size or 0
        size = batch_size or 1
        if position.saved.get("batch_size", self._batch_size) != self._batch_size:
            position.refuse_gaps()
        if position.given is None:
            position.refuse_end(-(-len(samples) // size))
            self.given = min(position.below * size, len(samples))
        else:
            if compared is not None:
                position.compare(digest(compared), len(compared))
            self.given = min(position.given, len(samples))
        self.first = position.below
        self._come(dealt(samples[self.given :], batch_size, drop_last=drop_last), position)

    def state_dict(self) -> dict[str, Any]:
        """With the size of a batch."""
        return {**super().state_dict(), "batch_size": self._batch_size}


class BatchedRest(_EndingRest):
    """Batches that a sampler makes by itself: they stay as it makes them.

    Args:
        batches: of the whole epoch.
        position: what was given before.
    """

    def __init__(self, batches: list[Batch], position: Position) -> None:
        samples = [sample for batch in batches for sample in batch]
        super().__init__(samples, position)
        sizes = [len(batch) for batch in batches]
        self._batching = digest(sizes)
        if position.is_of_this_rank:
            position.compare(self._order, self._drawn)
        if position.is_of_this_rank and position.saved.get("batching") != self._batching:
            position.refuse_gaps()
            self.first = _boundary(sizes, position)
        else:
            position.refuse_end(len(batches))
            self.first = position.below
        self.given = sum(sizes[: self.first])
        self._come(batches[self.first :], position)

    def state_dict(self) -> dict[str, Any]:
        """With a digest of the sizes of its batches."""
        return {**super().state_dict(), "batching": self._batching}


class EndlessRest(Rest):
    """Batches of a sampler that does not tell whether it ends: they are drawn when they are needed.

    Args:
        batches: from the beginning of the epoch on.
        position: what was given before; it is drawn, compared and left out.
    """

    def __init__(self, batches: Iterator[Batch], position: Position) -> None:
        super().__init__(position)
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        self._waiting: dict[int, tuple[int, bytes]] = {}  # batches that were drawn, and not given
        self._numbered = zip(count(), batches)
        self._go_to(position)
        self.coming = (item for item in self._drawn() if item[0] not in position.others)

    def _drawn(self) -> Iterator[tuple[int, Batch]]:
        for number, batch in self._numbered:
            self._waiting[number] = len(batch), _encoded(batch)
            yield number, batch

    def _go_to(self, position: Position) -> None:
        is_compared = position.is_of_this_rank and position.given is not None
        drawn = self._drawn()
        while self.given < position.given if is_compared else self.first < position.below:  # type: ignore[operator]
            number, _ = next(drawn, (None, None))
            if number is None:
                position.refuse_end(self.first)
                break
            self.passed(number)
            self.first = number + 1
        if is_compared:
            self._compare(position)

    def _compare(self, position: Position) -> None:
        if "drawn" in position.saved:
            position.compare(self.order, None)
        if self.given != position.given:
            raise _between(position)
        position.compare(self.order, None)
        if self.first != position.below:
            position.refuse_gaps()

    @property
    def order(self) -> str:
        """Over the samples that were given."""
        return self._digest.hexdigest()

    def passed(self, number: int) -> None:
        """Count its samples, and take them into the digest."""
        if number not in self._waiting:
            next(self._drawn())  # it had been given before, out of its order, and was not drawn again yet
        samples, encoded = self._waiting.pop(number)
        self.given += samples
        self._digest.update(encoded)


def digest(samples: Sequence[Any]) -> str:
    """A few letters that tell one order of samples from another."""
    return blake2b(_encoded(samples), digest_size=_DIGEST_BYTES).hexdigest()


def is_plain(source: Any) -> bool:
    """Whether batches are only what a sampler gives, dealt out in one size."""
    return isinstance(source, BatchSampler) and type(source).__iter__ is BatchSampler.__iter__


def kind_of(source: Any) -> str:
    """The class of a sampler, and of the one that it gives batches of."""
    inner = getattr(source, "sampler", None)
    if is_plain(source):
        return kind_of(inner)
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    return kind if inner is None else f"{kind} over {kind_of(inner)}"


def _short(kind: str) -> str:
    """The names of classes without those of their modules."""
    return " ".join(word.rpartition(".")[2] for word in kind.split())


def _boundary(sizes: list[int], position: Position) -> int:
    """How many batches hold the samples that were given.

    Raises:
        ValueError: no batch ends there.
    """
    ends = [0, *accumulate(sizes)]
    if position.given not in ends:
        raise _between(position)
    return ends.index(position.given)


def _between(position: Position) -> ValueError:
    return ValueError(
        f"cannot resume: the state was saved after {position.given} samples, and no batch of {_short(position.kind)} "
        f"ends there. Use the batch size that it was saved with, {_AGAIN}"
    )


def _counted(drawn: int | None) -> str:
    return "samples without an end" if drawn is None else f"{drawn} samples"


def _encoded(samples: Iterable[Any]) -> bytes:
    """Samples as bytes: those of one after those of the other, however they are grouped."""
    samples = list(samples)
    try:
        return array("q", samples).tobytes()
    except (TypeError, OverflowError):  # they are not all whole numbers
        return b"".join(map(_encoded_one, samples))


def _encoded_one(sample: Any) -> bytes:
    if isinstance(sample, (torch.Tensor, np.ndarray)) and sample.ndim:
        sample = sample.tolist()
    if isinstance(sample, Mapping):
        sample = list(sample.items())
    if isinstance(sample, (list, tuple)):
        return b"(" + str(len(sample)).encode() + b"".join(map(_encoded_one, sample)) + b")"
    try:
        return array("q", [sample]).tobytes()
    except (TypeError, OverflowError):
        is_plain = isinstance(sample, (str, bytes, int, float, complex, type(None)))
        return repr(sample if is_plain else type(sample)).encode()  # what it shows of itself may be its address
