"""The batches that are left of an epoch: under another library's sampler, only in the order that was saved."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler

from ai4os_data.loader.sampler import AGAIN
from ai4os_data.loader.sharing import batched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Batch = list[Any]

POSITION = ("order", "drawn", "given", "batch_size", "batching", "rank", "kind")  # describe an order

_DIGEST_BYTES = 16


class Position(NamedTuple):
    """The position of a state in an order, and the state's description of that order.

    Args:
        below: the number below which all batches had been given.
        others: the numbers of further batches that had been given.
        saved: the state's description of its order; empty if an older version saved it.
        rank: the rank, and the number of ranks, whose part the sampler gives now.
        kind: of the present samplers.
    """

    below: int
    others: frozenset[int]
    saved: Mapping[str, Any]
    rank: list[int]
    kind: str

    @property
    def described(self) -> dict[str, Any]:
        """The part of a state that names the rank and the sampler."""
        return {"rank": self.rank, "kind": self.kind}

    @property
    def given(self) -> int | None:
        """How many samples had been given; None if the state does not say."""
        return self.saved.get("given")

    @property
    def is_of_this_rank(self) -> bool:
        """Whether the saved order belongs to this rank: others may have other samples."""
        return "order" in self.saved and self.saved["rank"][0] == self.rank[0]

    def compare(self, order: str, drawn: int | None) -> None:
        """Raise if an order is not the one that was saved.

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
                f"{AGAIN}"
            )
        if self.saved["order"] != order:
            raise ValueError(
                f"cannot resume: {now} gives the samples in another order than {before} did when the state was saved. "
                "Use the same sampler with the same settings (seed, weights, indices, ranks). One with a random "
                "generator of its own needs a state_dict() and load_state_dict(), or an order that follows from "
                f"set_epoch(); {AGAIN}"
            )

    def refuse_gaps(self) -> None:
        """Raise if a batch had overtaken another one: the gaps cannot be filled if batches are made in another way now.

        Raises:
            ValueError: one had.
        """
        if self.others:
            raise ValueError(
                "cannot resume: this state was saved under in_order=False, with batches given out of their order, and "
                f"the batches are other ones now. Use the batch size that it was saved with, {AGAIN}"
            )

    def refuse_end(self, batches: int) -> None:
        """Raise if an order ends before the position of the state.

        Raises:
            ValueError: it does.
        """
        if self.below > batches:
            raise ValueError(
                f"cannot resume: the state was saved after {self.below} batches, and {self._kinds[1]} gives {batches}. "
                f"Use the dataset, the sampler and the batch size that it was saved with, {AGAIN}"
            )

    @property
    def _kinds(self) -> tuple[str, str]:
        """The sampler that the state was saved with, and the present one, in the fewest words that distinguish them."""
        before = str(self.saved.get("kind", self.kind))
        short = _short(before), _short(self.kind)
        return (before, self.kind) if short[0] == short[1] and before != self.kind else short


class Rest:
    """The rest of an epoch that was drawn as a whole.

    Attributes:
        coming: the batches, with their numbers.
        first: the number of the first one; others were given before.
        given: the number of samples before the first batch that was not given yet.
        position: in the order that all ranks share, if there is one.
        samples_before: the number of samples of all ranks together when it began; None if that is not known.
        described: what a state says of its order.
    """

    coming: Iterable[tuple[int, Batch]]
    position = 0
    samples_before: int | None = None

    def __init__(
        self, batches: list[Batch], first: int, given: int, others: frozenset[int], described: dict[str, Any]
    ) -> None:
        self.first = first
        self.given = given
        self.coming = [item for item in enumerate(batches, first) if item[0] not in others]
        self.described = described
        self._sizes = [len(batch) for batch in batches]

    def passed(self, number: int) -> None:
        """Record that a batch and all before it have been given."""
        self.given += self._sizes[number - self.first]

    def state_dict(self) -> dict[str, Any]:
        """The values of a `Position`."""
        return {**self.described, "given": self.given}


def rest_of_samples(
    samples: list[Any], batch_size: int | None, position: Position, *, drop_last: bool, compared: list[Any] | None
) -> Rest:
    """The rest of an epoch with batches of one size; the rest may be batched in another size.

    Args:
        samples: of the whole epoch.
        batch_size: how many make a batch; None gives them one by one.
        position: what was given before.
        drop_last: leave out a batch that is not full.
        compared: the samples that the rank which saved the position would draw; None if that is not known.
    """
    size = batch_size or 1
    if position.saved.get("batch_size", batch_size or 0) != (batch_size or 0):
        position.refuse_gaps()
    if position.given is None:
        position.refuse_end(-(-len(samples) // size))
    elif compared is not None:
        position.compare(digest(compared), len(compared))
    given = min(position.below * size if position.given is None else position.given, len(samples))
    batches = batched(samples[given:], batch_size, drop_last=drop_last)
    described = {"order": digest(samples), "drawn": len(samples), "batch_size": batch_size or 0}
    return Rest(batches, position.below, given, position.others, {**position.described, **described})


def rest_of_batches(batches: list[Batch], position: Position) -> Rest:
    """The rest of an epoch whose batches a sampler makes by itself: they stay as they are.

    Args:
        batches: of the whole epoch.
        position: what was given before.
    """
    samples = [sample for batch in batches for sample in batch]
    sizes = [len(batch) for batch in batches]
    described: dict[str, Any] = {"order": digest(samples), "drawn": len(samples), "batching": digest(sizes)}
    if position.is_of_this_rank:
        position.compare(described["order"], described["drawn"])
    if position.is_of_this_rank and position.saved.get("batching") != described["batching"]:
        position.refuse_gaps()
        first = _boundary(sizes, position)
    else:
        position.refuse_end(len(batches))
        first = position.below
    return Rest(batches[first:], first, sum(sizes[:first]), position.others, {**position.described, **described})


class EndlessRest(Rest):
    """Batches of a sampler that does not say whether it ends: they are drawn when they are needed.

    Args:
        batches: from the beginning of the epoch on.
        position: the batches that were given before; they are drawn, compared and left out.
    """

    def __init__(self, batches: Iterator[Batch], position: Position) -> None:
        super().__init__([], 0, 0, position.others, position.described)
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        self._waiting: dict[int, tuple[int, bytes]] = {}  # batches that were drawn and not given yet
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
        order = self._digest.hexdigest()
        if "drawn" in position.saved:
            position.compare(order, None)
        if self.given != position.given:
            raise _between(position)
        position.compare(order, None)
        if self.first != position.below:
            position.refuse_gaps()

    def passed(self, number: int) -> None:
        """Count its samples, and add them to the digest."""
        if number not in self._waiting:
            next(self._drawn())  # it was given out of its order before the resume, and was not drawn again yet
        samples, encoded = self._waiting.pop(number)
        self.given += samples
        self._digest.update(encoded)

    def state_dict(self) -> dict[str, Any]:
        """The position, with a digest of the samples that were given."""
        return {**super().state_dict(), "order": self._digest.hexdigest()}


def digest(samples: Sequence[Any]) -> str:
    """A few letters that differ between orders of samples."""
    return blake2b(_encoded(samples), digest_size=_DIGEST_BYTES).hexdigest()


def is_plain(source: Any) -> bool:
    """Whether batches are just a sampler's samples, in batches of one size."""
    return isinstance(source, BatchSampler) and type(source).__iter__ is BatchSampler.__iter__


def kind_of(source: Any) -> str:
    """The class of a sampler, and that of the sampler inside it."""
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
        f"ends there. Use the batch size that it was saved with, {AGAIN}"
    )


def _counted(drawn: int | None) -> str:
    return "samples without an end" if drawn is None else f"{drawn} samples"


def _encoded(samples: Iterable[Any]) -> bytes:
    """Samples as bytes, one after the other, however they are grouped."""
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
        return repr(sample if is_plain else type(sample)).encode()  # its repr may hold its address
