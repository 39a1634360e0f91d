"""The order of an epoch: it follows from seed and epoch alone, and can be gone on with from any place in it."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.utils.data import DistributedSampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

OF_ANOTHER_KIND = "the order cannot be gone on with: it was saved with another kind of sampler, or by none"

_SEED_BYTES = 8


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits that follows from these numbers; numbers next to each other give seeds that are not."""
    digest = blake2b(",".join(map(str, numbers)).encode(), digest_size=_SEED_BYTES).digest()
    return int.from_bytes(digest, "little") >> 1


class StorageSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` whose order can be gone on with in mid-epoch, also with another number of ranks.

    All ranks share one global order, which follows from seed and epoch. Each takes every so-manieth sample of it, so
    that what all have been given together is its beginning, and the rest can be dealt out anew. It works without a
    process group, as the only rank. One that is made later is noticed.

    Args:
        dataset: what is sampled; its length alone counts.
        num_replicas: the number of ranks; by default that of the process group.
        rank: which of them this is; by default that of the process group.
        shuffle: in another order each epoch; otherwise in that of the indices.
        seed: the same in all ranks.
        drop_last: leave a few samples out, instead of giving a few twice, where the ranks do not divide them.
    """

    def __init__(  # noqa: PLR0917  as in DistributedSampler
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,  # noqa: FBT001, FBT002  as in DistributedSampler
        seed: int = 0,
        drop_last: bool = False,  # noqa: FBT001, FBT002  as in DistributedSampler
    ) -> None:
        replicas, own = _group()
        self._own_replicas, self._own_rank = num_replicas, rank
        super().__init__(
            dataset,  # type: ignore[arg-type]  # its length alone counts
            replicas if num_replicas is None else num_replicas,
            own if rank is None else rank,
            shuffle,
            seed,
            drop_last,
        )
        self.start = 0  # of the global order, where the pass begins
        self._given = 0  # to this rank, in this pass
        self.is_begun = False
        self.changes = 0  # how often it was told of an epoch, or begun with

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; after `load_state_dict`, the same epoch goes on where it was."""
        if epoch != self.epoch or self.is_begun:
            self.start = 0
        self._given = 0
        self.is_begun = False
        self.changes += 1
        super().set_epoch(epoch)

    def begin(self) -> list[int]:
        """The indices of this rank that are still to come. A second call begins the epoch anew."""
        if self.is_begun:
            self.start = 0
        self.is_begun = True
        self._given = 0
        self.changes += 1
        self._deal()
        order = self.order(self.epoch)
        rest = order[self.start :]
        if self.total_size > len(rest):
            padding = self.total_size - len(rest)
            rest += (order * -(-padding // len(order)))[:padding]
        return rest[self.rank : self.total_size : self.num_replicas]

    def give(self, samples: int) -> None:
        """Take in that so many more samples of this pass have been given."""
        self._given += samples

    def stand(self, epoch: int, start: int, given: int) -> None:
        """Stand in the midst of a pass that was begun earlier."""
        self.epoch, self.start, self._given, self.is_begun = epoch, start, given, True

    def order(self, epoch: int) -> list[int]:
        """The global order of an epoch, over all ranks."""
        length = self._length
        if not self.shuffle:
            return list(range(length))
        generator = torch.Generator()
        generator.manual_seed(derived_seed(self.seed, epoch))
        order: list[int] = torch.randperm(length, generator=generator).tolist()
        return order

    @property
    def done(self) -> int:
        """How many samples of the global order have been given to all ranks together, if each had as many as this."""
        return min(self.start + self._given * self.num_replicas, self._length)

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands, the same in every rank."""
        return {
            "seed": self.seed,
            "epoch": int(self.epoch),
            "done": self.done,
            "length": self._length,
            "shuffle": int(self.shuffle),
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on with exactly the rest of an epoch, with this or with another number of ranks.

        Raises:
            ValueError: it is the state of another order.
        """
        for name, ours in (("length", self._length), ("shuffle", int(self.shuffle))):
            if not isinstance(state, Mapping) or name not in state:
                raise ValueError(OF_ANOTHER_KIND)
            if state[name] != ours:
                message = (
                    f"the order cannot be gone on with: its {name} was {state[name]}, and is {ours}. Use the dataset "
                    "and the options that it was saved with, or begin anew without load_state_dict"
                )
                raise ValueError(message)
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.start, self._given = int(state["done"]), 0
        self.is_begun = False
        self.changes += 1

    def __iter__(self) -> Iterator[int]:
        """The indices of this rank."""
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
        return self._per_rank(self._length)

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        self._deal()
        return self.num_replicas

    def _deal(self) -> None:
        """Find out how the samples are dealt out: the process group may have been made after us."""
        replicas, rank = _group()
        self.num_replicas = replicas if self._own_replicas is None else self._own_replicas
        self.rank = rank if self._own_rank is None else self._own_rank
        self.num_samples = self._per_rank(self._length - self.start)
        self.total_size = self.num_samples * self.num_replicas

    def _per_rank(self, samples: int) -> int:
        return samples // self.num_replicas if self.drop_last else -(-samples // self.num_replicas)

    @property
    def _length(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # it is Sized


def _group() -> tuple[int, int]:
    """The number of ranks, and which of them this is."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def in_group() -> bool:
    """Whether there are other ranks."""
    return _group()[0] > 1


def dealt(indices: Sequence[int], batch_size: int | None, *, drop_last: bool) -> list[list[int]]:
    """Indices in batches, as ``BatchSampler`` makes them; each by itself without a batch size."""
    size = batch_size or 1
    end = len(indices) - len(indices) % size if drop_last else len(indices)
    return [list(indices[begin : begin + size]) for begin in range(0, end, size)]
