"""The sampler: its order follows from seed and epoch alone, and can be resumed at any position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DistributedSampler

from ai4os_data.datasets import derived_seed
from ai4os_data.loader.accelerated import refuse_to_share_again
from ai4os_data.loader.callers import count_on
from ai4os_data.loader.sharing import Sharing, group, share_of
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

AGAIN = "or begin anew without load_state_dict"
OF_ANOTHER_KIND = (
    "cannot resume: the state was saved with another kind of sampler, or by none. Use the sampler that it was saved "
    f"with, {AGAIN}"
)


class StorageSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` whose order can be resumed in mid-epoch, also with another number of ranks.

    All ranks share one global order, which follows from seed and epoch. Rank r takes samples r, r + n, r + 2n, … of it.
    So the samples that all ranks have been given together are its beginning, and the rest can be shared out anew.
    Without a process group it is the only rank. A group that is made later is noticed.

    Args:
        dataset: what is sampled; only its length counts.
        num_replicas: the number of ranks; by default that of the process group.
        rank: which of them this is; by default that of the process group.
        shuffle: another order in each epoch; otherwise the order of the indices.
        seed: the same in all ranks.
        drop_last: if the ranks do not divide the samples, leave a few out, instead of giving a few twice.
        even_batches: give a few samples twice, so that all ranks have as many. With False each sample is given exactly
            once, and some ranks have one sample less, so maybe one batch less: right for an evaluation without a
            collective in each step, and no training under ``DistributedDataParallel`` (it would wait for ever).

    Example:
        >>> sampler = StorageSampler(dataset, seed=1)
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=64, sampler=sampler)
        >>> sampler.set_epoch(3)
    """

    dataset: Any  # it has a length

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
        self.chosen_ranks = num_replicas, rank
        ranks, own = group()
        super().__init__(
            dataset,  # type: ignore[arg-type]  # only its length counts
            ranks if num_replicas is None else num_replicas,
            own if rank is None else rank,
            shuffle,
            seed,
            drop_last,
        )
        self.even_batches = even_batches
        self.run_length = 1  # how many samples of the global order a rank takes in a row
        self.position = SamplerPosition()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, which begins at its first sample.

        After `load_state_dict`, the same epoch is resumed: the one that was set when the state was saved, or that of
        the pass that was being made.
        """
        position = self.position
        if position.is_loaded and epoch != self.epoch and count_on(epoch, self.epoch):
            epoch = self.epoch
        is_resumed = not position.is_begun and (
            epoch == self.epoch or (epoch == position.epoch_set and position.start > 0)
        )
        if not is_resumed:
            self._warn_of_lost_position(epoch)
            position.start = 0
            position.is_loaded = False
            super().set_epoch(epoch)
        position.set_epoch(epoch)

    def _warn_of_lost_position(self, epoch: int) -> None:
        start, length = self.position.start, len(self.dataset)
        if not self.position.is_begun and 0 < start < length:
            tell_once(
                f"set_epoch({epoch}) gives up the position that was loaded: epoch {self.epoch}, after {start} of "
                f"{length} samples. To resume there, set the loader's own epoch, or none"
            )

    def order(self, epoch: int) -> list[int]:
        """The global order of an epoch, over all ranks."""
        if not self.shuffle:
            return list(range(len(self.dataset)))
        generator = torch.Generator()
        generator.manual_seed(derived_seed(self.seed, epoch))
        order: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return order

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch, the same in every rank."""
        length = len(self.dataset)
        return {
            "seed": self.seed,
            "epoch": int(self.epoch),
            "done": _sharing(self).done_after(length, self.position.start, self.position.given),
            "length": length,
            "shuffle": int(self.shuffle),
        }

    def load_state_dict(self, state: Any) -> None:
        """Resume with exactly the rest of an epoch, with this or with another number of ranks.

        Raises:
            ValueError: it is the state of another order.
        """
        if not isinstance(state, Mapping) or not {"length", "shuffle"} <= state.keys():
            raise ValueError(OF_ANOTHER_KIND)
        saved = {"length": state["length"], "shuffle": state["shuffle"]}
        _refuse_another_order(self, saved)
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.position.load(state, {**saved, "seed": self.seed})

    def __iter__(self) -> Iterator[int]:
        """The indices of this rank.

        Raises:
            RuntimeError: Accelerate would share them out among the ranks once more.
        """
        refuse_to_share_again(sharing_now(self).ranks)
        for index in begin(self):
            self.position.given += 1
            yield index

    def __len__(self) -> int:
        """How many samples this rank has in the pass that is being made, or in the next one."""
        return sharing_now(self).own(len(self.dataset) - self.position.start)


class SamplerPosition:
    """How far a sampler has come in an epoch, and what was set or loaded since."""

    def __init__(self) -> None:
        self.start = 0  # of the pass, in the global order
        self.given = 0  # samples, to this rank in this pass
        self.is_begun = False
        self.is_loaded = False  # whether it comes from a state, with nothing begun or set since
        self.saved: dict[str, int] = {}  # the loaded state's description of the order
        self.epoch_set: int | None = None  # by the caller, last
        self.changes = 0  # how often an epoch was set, loaded or begun

    def begin(self) -> None:
        """Record that a pass begins: the first one at `start`, a second one at the beginning of the epoch."""
        if self.is_begun:
            self.start = 0
        self.given, self.is_begun, self.is_loaded = 0, True, False
        self.changes += 1

    def set_epoch(self, epoch: int) -> None:
        """Record that the caller has set an epoch."""
        self.given, self.is_begun, self.epoch_set = 0, False, epoch
        self.changes += 1

    def load(self, state: Mapping[str, Any], saved: dict[str, int]) -> None:
        """Load the position of a state, and its description of the order."""
        self.start, self.given = int(state["done"]), 0
        self.epoch_set = None if state.get("told") is None else int(state["told"])
        self.is_begun, self.is_loaded, self.saved = False, True, saved
        self.changes += 1

    def show(self, start: int, given: int) -> None:
        """Show the position of a pass that was begun earlier."""
        self.start, self.given, self.is_begun = start, given, True


def begin(sampler: StorageSampler) -> list[int]:
    """Begin a pass. Returns the coming indices of this rank; a second call begins the epoch anew.

    Raises:
        ValueError: the order has become another one since a position in it was loaded.
    """
    position = sampler.position
    if not position.is_begun and position.start:
        _refuse_another_order(sampler, position.saved)
    position.begin()
    return sharing_now(sampler).part(sampler.order(sampler.epoch), position.start)


def sharing_now(sampler: StorageSampler) -> Sharing:
    """How a sampler shares its samples among the present ranks; its attributes then show it, as torch's do."""
    found = share_of(sampler)
    assert found is not None
    sampler.num_replicas, sampler.rank = found
    sharing = _sharing(sampler)
    rest = len(sampler.dataset) - sampler.position.start
    sampler.num_samples, sampler.total_size = sharing.own(rest), sharing.total(rest)
    return sharing


def _sharing(sampler: StorageSampler) -> Sharing:
    """The same for the last known ranks: a state may be asked for when the process group is gone."""
    return Sharing(
        sampler.num_replicas, sampler.rank, sampler.run_length, drop_last=sampler.drop_last, even=sampler.even_batches
    )


def _refuse_another_order(sampler: StorageSampler, saved: Mapping[str, int]) -> None:
    """Raise if the order is not the one that a state was saved with.

    Raises:
        ValueError: it is another one.
    """
    length = len(sampler.dataset)
    if saved["length"] != length:
        raise ValueError(
            f"cannot resume: the state was saved for {saved['length']} samples, this dataset has {length}. Use the "
            f"dataset that it was saved with, {AGAIN}"
        )
    for name, now in (("shuffle", int(sampler.shuffle)), ("seed", sampler.seed)):
        if saved.get(name, now) != now:
            raise ValueError(
                f"cannot resume: the state was saved with {name}={saved[name]}, this sampler has {name}={now}. Use the "
                f"options that it was saved with, {AGAIN}"
            )
