"""The order of an epoch: it follows from seed and epoch alone, and can be resumed at any position in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.utils.data import DistributedSampler

from ai4os_data.datasets import derived_seed
from ai4os_data.loader.accelerated import refuse_to_share_again
from ai4os_data.loader.callers import count_on
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

OF_ANOTHER_KIND = (
    "the order cannot be gone on with: it was saved with another kind of sampler, or by none. Use the sampler that it "
    "was saved with, or begin anew without load_state_dict"
)


class StorageSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` whose order can be resumed in mid-epoch, also with another number of ranks.

    All ranks share one global order, which follows from seed and epoch. Rank r takes samples r, r + n, r + 2n, … of it,
    so that what all have been given together is its beginning, and the rest can be dealt out anew. It works without a
    process group, as the only rank. One that is made later is noticed.

    Args:
        dataset: what is sampled; its length alone counts.
        num_replicas: the number of ranks; by default that of the process group.
        rank: which of them this is; by default that of the process group.
        shuffle: in another order each epoch; otherwise in that of the indices.
        seed: the same in all ranks.
        drop_last: leave a few samples out, instead of giving a few twice, where the ranks do not divide them.
        even_batches: give a few samples twice, so that all ranks have as many. With False each sample is given exactly
            once, and some ranks have one sample less, so maybe one batch less: right for an evaluation without a
            collective in each step, and no training under ``DistributedDataParallel`` (it would wait for ever).
    """

    def __init__(  # noqa: PLR0917  as in DistributedSampler
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,  # noqa: FBT001, FBT002  as in DistributedSampler
        seed: int = 0,
        drop_last: bool = False,  # noqa: FBT001, FBT002  as in DistributedSampler
        *,
        even_batches: bool = True,
    ) -> None:
        replicas, own = group()
        self._own_replicas, self._own_rank = num_replicas, rank
        super().__init__(
            dataset,  # type: ignore[arg-type]  # its length alone counts
            replicas if num_replicas is None else num_replicas,
            own if rank is None else rank,
            shuffle,
            seed,
            drop_last,
        )
        self.even_batches = even_batches
        self.run_length = 1  # how many samples of the global order a rank takes in a row
        self.start = 0  # of the global order, where the pass begins
        self._given = 0  # to this rank, in this pass
        self.is_begun = False
        self.is_loaded = False  # from a state, with nothing begun since
        self.changes = 0  # how often it was told of an epoch, or begun with
        self._loaded: dict[str, int] = {}  # what the position that was loaded belongs to
        self.told: int | None = None  # the epoch that it was told of last

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; after `load_state_dict`, the same epoch goes on where it was.

        The same is the one that was set when the state was saved, or the one that was being gone through by then.
        """
        if self.is_loaded and epoch != self.epoch and count_on(epoch, self.epoch):
            epoch = self.epoch
        goes_on = not self.is_begun and (epoch == self.epoch or (epoch == self.told and self.start > 0))
        if not goes_on:
            self._warn_of_lost_position(epoch)
            self.start = 0
            self.is_loaded = False
            super().set_epoch(epoch)
        self._given = 0
        self.is_begun = False
        self.changes += 1
        self.told = epoch

    def _warn_of_lost_position(self, epoch: int) -> None:
        if not self.is_begun and 0 < self.start < self.length:
            tell_once(
                f"set_epoch({epoch}) gives up the position that was loaded: epoch {self.epoch}, after {self.start} of "
                f"{self.length} samples. To resume there, set the loader's own epoch, or none"
            )

    def begin(self) -> list[int]:
        """The indices of this rank that are still to come. A second call begins the epoch anew.

        Raises:
            ValueError: the order has become another one since a position in it was loaded.
        """
        if self.is_begun:
            self.start = 0
        elif self.start:
            self._refuse_another_order(self._loaded)
        self.is_begun, self.is_loaded = True, False
        self._given = 0
        self.changes += 1
        self._deal()
        order = self.order(self.epoch)
        rest = order[self.start :]
        if self.total_size > len(rest):
            padding = self.total_size - len(rest)
            rest += (order * -(-padding // len(order)))[:padding]
        return _share(rest[: self.total_size], self.num_replicas, self.rank, self.run_length)

    def give(self, samples: int) -> None:
        """Record that so many more samples of this pass have been given."""
        self._given += samples

    def stand(self, epoch: int, start: int, given: int) -> None:
        """Stand in the midst of a pass that was begun earlier."""
        self.epoch, self.start, self._given, self.is_begun = epoch, start, given, True

    def order(self, epoch: int) -> list[int]:
        """The global order of an epoch, over all ranks."""
        length = self.length
        if not self.shuffle:
            return list(range(length))
        generator = torch.Generator()
        generator.manual_seed(derived_seed(self.seed, epoch))
        order: list[int] = torch.randperm(length, generator=generator).tolist()
        return order

    @property
    def done(self) -> int:
        """How many samples of the global order have been given to all ranks together, if each had as many as this."""
        return self.done_after(self.start, self._given)

    def done_after(self, start: int, given: int) -> int:
        """How many samples all ranks have been given, after a pass from a start on gave so many to this one."""
        is_all = self.is_uneven and 0 < self._own_share(self.length - start) <= given
        return self.length if is_all else min(start + given * self.num_replicas, self.length)

    @property
    def is_uneven(self) -> bool:
        """Whether some ranks may have fewer samples than others."""
        return not self.even_batches and not self.drop_last

    @property
    def repeated(self) -> int:
        """How many samples are given twice in a whole epoch."""
        self._deal()
        return 0 if self.drop_last or self.is_uneven else -self.length % self.num_replicas

    @contextmanager
    def unrepeated(self) -> Iterator[None]:
        """Give each sample exactly once, for a while."""
        before, self.even_batches = self.even_batches, False
        try:
            yield
        finally:
            self.even_batches = before

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands, the same in every rank."""
        return {
            "seed": self.seed,
            "epoch": int(self.epoch),
            "done": self.done,
            "length": self.length,
            "shuffle": int(self.shuffle),
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on with exactly the rest of an epoch, with this or with another number of ranks.

        Raises:
            ValueError: it is the state of another order.
        """
        if not isinstance(state, Mapping) or not {"length", "shuffle"} <= state.keys():
            raise ValueError(OF_ANOTHER_KIND)
        saved = {"length": state["length"], "shuffle": state["shuffle"]}
        self._refuse_another_order(saved)
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.start, self._given = int(state["done"]), 0
        self.told = None if state.get("told") is None else int(state["told"])
        self.is_loaded = True
        self._loaded = {**saved, "seed": self.seed}
        self.is_begun = False
        self.changes += 1

    def _refuse_another_order(self, saved: Mapping[str, int]) -> None:
        ours = {"length": self.length, "shuffle": int(self.shuffle), "seed": self.seed}
        for name, before in saved.items():
            if ours[name] != before:
                raise ValueError(
                    f"the order cannot be gone on with: its {name} was {before}, and is {ours[name]}. Use the dataset "
                    "and the options that it was saved with, or begin anew without load_state_dict"
                )

    def __iter__(self) -> Iterator[int]:
        """The indices of this rank.

        Raises:
            RuntimeError: Accelerate would share them out among the ranks once more.
        """
        refuse_to_share_again(self.ranks)
        for index in self.begin():
            self.give(1)
            yield index

    def __len__(self) -> int:
        """How many samples this rank has in the pass that is being made, or in the next one."""
        self._deal()
        return self.num_samples

    @property
    def epoch_samples(self) -> int:
        """How many samples this rank has in a whole epoch."""
        self._deal()
        return self._own_share(self.length)

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        self._deal()
        return self.num_replicas

    def _deal(self) -> None:
        """Find out how the samples are dealt out: the process group may have been made after us."""
        replicas, rank = group()
        self.num_replicas = replicas if self._own_replicas is None else self._own_replicas
        self.rank = rank if self._own_rank is None else self._own_rank
        rest = self.length - self.start
        self.num_samples = self._own_share(rest)
        self.total_size = self._shared(rest)

    def _shared(self, samples: int) -> int:
        """How many samples all ranks get, of so many."""
        if self.is_uneven:
            return samples
        return samples - samples % self.num_replicas if self.drop_last else samples + -samples % self.num_replicas

    def _own_share(self, samples: int) -> int:
        """How many samples this rank gets, of so many."""
        rounds, left = divmod(self._shared(samples), self.num_replicas * self.run_length)
        share, odd = divmod(left, self.num_replicas)
        return rounds * self.run_length + share + (self.rank < odd)

    @property
    def length(self) -> int:
        """How many samples there are, over all ranks."""
        return len(self.dataset)  # type: ignore[arg-type]  # it is Sized


def _share(order: list[int], ranks: int, rank: int, run_length: int) -> list[int]:
    """The part of a rank: of each round of ``ranks * run_length`` samples one run; of the last round a fair share."""
    if run_length == 1:
        return order[rank::ranks]
    part = []
    for begin in range(0, len(order), ranks * run_length):
        of_round = order[begin : begin + ranks * run_length]
        share, odd = divmod(len(of_round), ranks)
        first = rank * share + min(rank, odd)
        part += of_round[first : first + share + (rank < odd)]
    return part


def group() -> tuple[int, int]:
    """The number of ranks, and which of them this is."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def in_group() -> bool:
    """Whether there are other ranks."""
    return group()[0] > 1


def dealt(indices: Sequence[int], batch_size: int | None, *, drop_last: bool) -> list[list[int]]:
    """Indices in batches, as ``BatchSampler`` makes them; each by itself without a batch size."""
    size = batch_size or 1
    end = len(indices) - len(indices) % size if drop_last else len(indices)
    return [list(indices[begin : begin + size]) for begin in range(0, end, size)]
