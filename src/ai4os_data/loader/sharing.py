"""Shares samples among ranks: those that all ranks have been given together are the beginning of one global order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Sequence


class Sharing(NamedTuple):
    """The part of a rank in a global order.

    Attributes:
        ranks: how many there are.
        rank: which of them this is.
        run_length: how many samples in a row a rank takes.
        drop_last: leave out the samples that the ranks do not divide.
        even: otherwise, whether a few samples are given twice, so that all ranks have the same number.
    """

    ranks: int
    rank: int
    run_length: int
    drop_last: bool
    even: bool

    @property
    def is_uneven(self) -> bool:
        """Whether some ranks may have fewer samples than others."""
        return not self.even and not self.drop_last

    def repeated(self, samples: int) -> int:
        """The number of samples that are given twice."""
        return max(0, self.total(samples) - samples)

    def total(self, samples: int) -> int:
        """The number of samples that all ranks get."""
        if self.is_uneven:
            return samples
        return samples - samples % self.ranks if self.drop_last else samples + -samples % self.ranks

    def own(self, samples: int) -> int:
        """The number of samples that this rank gets."""
        rounds, left = divmod(self.total(samples), self.ranks * self.run_length)
        share, odd = divmod(left, self.ranks)
        return rounds * self.run_length + share + (self.rank < odd)

    def part(self, order: list[int], start: int) -> list[int]:
        """The samples of this rank, from a position of the global order on."""
        rest = order[start:]
        padding = self.total(len(rest)) - len(rest)
        if padding > 0:
            rest += (order * -(-padding // len(order)))[:padding]
        elif padding:
            del rest[padding:]
        if self.run_length == 1:
            return rest[self.rank :: self.ranks]
        part = []
        for begin in range(0, len(rest), self.ranks * self.run_length):
            of_round = rest[begin : begin + self.ranks * self.run_length]
            share, odd = divmod(len(of_round), self.ranks)  # a fair share of the last round
            first = self.rank * share + min(self.rank, odd)
            part += of_round[first : first + share + (self.rank < odd)]
        return part

    def done_after(self, length: int, start: int, given: int) -> int:
        """The position that all ranks have reached in an order, if each was given as many samples as this one.

        Args:
            length: of the global order.
            start: the position at which they began.
            given: the number of samples that this rank was given after that.
        """
        is_all = self.is_uneven and 0 < self.own(length - start) <= given
        return length if is_all else min(start + given * self.ranks, length)


def group() -> tuple[int, int]:
    """The number of ranks, and the rank of this process."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def share_of(sampler: Any) -> tuple[int, int] | None:
    """The number of ranks, and the rank whose part a sampler gives; None if it does not say."""
    chosen = getattr(sampler, "chosen_ranks", None)
    if chosen is not None:  # a StorageSampler: the process group may have been made after it
        ranks, rank = (there if own is None else own for own, there in zip(chosen, group(), strict=True))
    else:
        ranks, rank = getattr(sampler, "num_replicas", None), getattr(sampler, "rank", None)
    return (ranks, rank) if isinstance(ranks, int) and isinstance(rank, int) else None


def has_length(one: Any) -> bool:
    """Whether a dataset or a sampler says how many samples it has."""
    try:
        len(one)
    except (TypeError, NotImplementedError):
        return False
    return True


def batched(indices: Sequence[Any], batch_size: int | None, *, drop_last: bool) -> list[list[Any]]:
    """Indices in batches, as ``BatchSampler`` makes them; each by itself without a batch size."""
    size = batch_size or 1
    end = len(indices) - len(indices) % size if drop_last else len(indices)
    return [list(indices[begin : begin + size]) for begin in range(0, end, size)]
