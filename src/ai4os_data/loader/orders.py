"""The order of batches: which ones of which epoch come next, and which ones the caller has been given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

from ai4os_data.loader.rest import Rest, digest
from ai4os_data.loader.sampler import AGAIN, StorageSampler, begin, sharing_now
from ai4os_data.loader.sharing import batched

Batch = list[int]

_SHAPE = ("world", "batch_size", "run_length")
_A_LOOK = 1  # a pass inside another one that gave no more batches than this does not count


class Resume(NamedTuple):
    """The position at which a pass begins.

    Attributes:
        below: all batches with a smaller number had been given.
        others: the numbers of further ones that had been given, under ``in_order=False``.
        epoch_set: the epoch that the caller had set when the state was saved.
        is_ended: whether the epoch before it had ended when the state was saved.
    """

    below: int = 0
    others: frozenset[int] = frozenset()
    epoch_set: int | None = None
    is_ended: bool = False

    @classmethod
    def of(cls, state: Any) -> Resume:
        """What a state says.

        Raises:
            ValueError: it is no state of a loader.
        """
        if not isinstance(state, Mapping) or not {"batches", "others", "seed", "epoch"} <= state.keys():
            message = "cannot resume: this is not what the state_dict() of a StorageDataLoader gave"
            raise ValueError(message)
        epoch_set = None if state.get("told") is None else int(state["told"])
        return cls(int(state["batches"]), frozenset(map(int, state["others"])), epoch_set, bool(state.get("ended")))

    @property
    def is_rest(self) -> bool:
        """Whether some batches had been given."""
        return bool(self.below or self.others)

    def state_dict(self) -> dict[str, Any]:
        """The batches that had been given."""
        return {"batches": self.below, "others": sorted(self.others)}


class EpochPass:
    """A pass through an epoch: the batches that come, and those that the caller was given.

    Batches have numbers in the epoch. Those below a number have been given, and, under ``in_order=False``, some others.

    Args:
        epoch: its number.
        seed: the seed of order and augmentations.
        rest: the coming batches, with their numbers, and the description of their order in a state.
        resume: where it begins.
        described: what else a state says.
    """

    is_asked = False  # whether the caller wanted its first batch
    is_emptied = False  # whether it is the empty rest of the epoch before it, which had ended
    instead_of: EpochPass | None = None  # the pass before it, of which nobody wanted a batch

    def __init__(self, epoch: int, seed: int, rest: Rest, resume: Resume, **described: Any) -> None:
        self.epoch = epoch
        self.seed = seed
        self.rest = rest
        self.resume = resume
        self.described = described
        self.coming = rest.coming
        self.taken = 0  # batches, since it began
        self._below = rest.first
        self._others = set(resume.others)

    def __len__(self) -> int:
        """How many batches it has; a ``TypeError`` if its sampler has no end."""
        return len(self.coming)  # type: ignore[arg-type]  # a generator says so itself

    @property
    def is_through(self) -> bool:
        """Whether the caller has been given all batches."""
        return isinstance(self.coming, list) and self.taken >= len(self.coming)

    def empty(self) -> None:
        """Become the rest of the epoch before it, which is empty."""
        self.epoch -= 1
        self.coming = []
        self.is_emptied = True

    def give(self, number: int) -> None:
        """Record that the caller was given a batch."""
        self.taken += 1
        self._others.add(number)
        while self._below in self._others:
            self._others.remove(self._below)
            self.rest.passed(self._below)
            self._below += 1

    def state_dict(self) -> dict[str, Any]:
        """The caller's position in the pass."""
        named = {"seed": self.seed, "epoch": self.epoch, **self.described}
        return {**named, "batches": self._below, "others": sorted(self._others), **self.rest.state_dict()}


class OpenPasses:
    """The passes that are being iterated over, and which of them the state describes. A pickle has none of them."""

    def __init__(self) -> None:
        self.current: EpochPass | None = None  # the one that the state describes
        self._latest: EpochPass | None = None
        self._open: list[EpochPass] = []

    def __reduce__(self) -> tuple[type[OpenPasses], tuple[()]]:
        """Pickle as if no pass had begun."""
        return OpenPasses, ()

    def add(self, begun: EpochPass) -> None:
        """Record that a pass has begun."""
        self._open.append(begun)
        self.current = self._latest = begun

    def is_latest(self, one: EpochPass) -> bool:
        """Whether no other pass has begun after it."""
        return one is self._latest

    def replaced(self, latest: EpochPass) -> EpochPass:
        """The first of the passes before the latest one that were dropped untouched; it takes that one's place."""
        first = latest
        while (before := first.instead_of) is not None and not before.is_asked and before not in self._open:
            first = before
        self._open[self._open.index(latest)] = self._latest = first
        return first

    def end(self, one: EpochPass) -> None:
        """Record that a pass has come to its end, or is not wanted."""
        self._open.remove(one)

    def leave(self, one: EpochPass) -> EpochPass | None:
        """Record that nobody iterates over a pass. Returns the pass that the state describes now, if that changes."""
        if one not in self._open:
            return None
        self._open.remove(one)
        was_a_look = self.current is one and one.taken <= _A_LOOK
        return self._open[-1] if was_a_look and self._open else None


class Order(ABC):
    """The batches of the next pass, and the caller's positions in the passes that have begun.

    Passes do not disturb each other. The state is that of the pass that was begun, or gave a batch, last; after its
    end, or if another epoch has been set, that of the next one. A pass inside another one that is left after a single
    batch does not count.
    """

    def __init__(self) -> None:
        self._passes = OpenPasses()
        self._resume = Resume()  # of the next pass
        self._epoch_set: int | None = None  # by the caller, last
        self._is_set = False  # whether the caller has set the next epoch since the last pass began
        self._is_ended = False  # whether the last pass has ended, with nothing begun or set since
        self._is_loaded = False  # whether the next pass was loaded, with nothing begun or set since

    @property
    def epoch(self) -> int:
        """The epoch of the pass that is being made, or of the next one."""
        self._notice()
        current = self._passes.current
        return self._next_epoch if current is None else current.epoch

    @property
    def is_resumed(self) -> bool:
        """Whether the next pass leaves out what was given before."""
        self._notice()
        return self._resume.is_rest

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; an epoch that was just loaded is resumed."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume there in the next pass."""

    def begin(self) -> EpochPass:
        """The next pass through an epoch, or through the rest of one."""
        self._notice()
        before = None if self._is_set else self._passes.current
        begun = self._begun()
        if before is not None and not before.is_asked:
            begun.instead_of = before
        self._resume = Resume()
        self._is_set = self._is_ended = self._is_loaded = False
        self._passes.add(begun)
        return begun

    def confirm(self, begun: EpochPass) -> EpochPass:
        """What a pass goes through, now that its first batch is wanted: it may not be what it was begun with.

        The caller may have begun the pass, and then set the epoch, as Lightning does: it is for this pass. Or the
        caller has dropped an earlier pass without taking a batch: that one does not count, and this one replaces it.
        """
        self._notice()
        begun.is_asked = True
        if not self._passes.is_latest(begun):
            return begun
        wanted = self._set_since(begun) if self._is_set else self._passes.replaced(begun)
        wanted.is_asked = True
        if wanted is not begun or self._is_set:
            self._is_set = False
            self._show(wanted)
        return wanted

    def _set_since(self, begun: EpochPass) -> EpochPass:
        """The pass for the epoch that was set after a pass began; the same one, if it is of that epoch or loaded."""
        resume = begun.resume
        if resume.is_ended and resume.epoch_set == self._epoch_set:
            begun.empty()
        if self._epoch_set in {begun.epoch, resume.epoch_set}:
            return begun
        self._passes.end(begun)
        return self.begin()

    def give(self, one: EpochPass, number: int) -> None:
        """Record that the caller was given a batch."""
        self._notice()
        one.give(number)
        self._show(one)

    def end(self, one: EpochPass) -> None:
        """Record that the caller was given all batches of a pass: the next epoch follows."""
        self._notice()
        self._passes.end(one)
        self._passes.current = None
        if not self._is_set:
            self._go_to(one.epoch + 1, again=one if one.is_emptied else None)
            self._is_ended = True

    def leave(self, one: EpochPass) -> None:
        """Record that nobody iterates over a pass any more."""
        self._notice()
        if (other := self._passes.leave(one)) is not None:
            self._show(other)

    def state_dict(self) -> dict[str, Any]:
        """The position of the caller."""
        self._notice()
        current = self._passes.current
        state = self._next_state() if current is None else current.state_dict()
        if self._epoch_set is not None:
            state["told"] = self._epoch_set
        if current is None and self._is_ended:
            state["ended"] = 1
        return state

    def _note_set(self, epoch: int | None, *, resume: Resume | None = None) -> None:
        """Record that the caller has set an epoch, or loaded a state."""
        self._epoch_set, self._is_set = epoch, True
        self._is_loaded, self._is_ended = resume is not None, resume is not None and resume.is_ended
        if resume is not None:
            self._resume = resume
        self._passes.current = None

    # --- what differs between samplers

    @property
    @abstractmethod
    def _next_epoch(self) -> int:
        """The epoch of the next pass."""

    @abstractmethod
    def _notice(self) -> None:
        """Record what was set on the samplers directly."""

    @abstractmethod
    def _begun(self) -> EpochPass:
        """The next pass, begun."""

    @abstractmethod
    def _show(self, one: EpochPass) -> None:
        """Let the state describe a pass."""

    @abstractmethod
    def _go_to(self, epoch: int, *, again: EpochPass | None = None) -> None:
        """Make an epoch the next one, by our own choice; with ``again``, that of a pass that was given up."""

    @abstractmethod
    def _next_state(self) -> dict[str, Any]:
        """The state before the next pass."""


class OwnRest(Rest):
    """The rest of an epoch of a `StorageSampler` that has just begun.

    Args:
        sampler: gives the samples of this rank.
        batches: of these samples.
        resume: where they begin.
        description: what a state says of the order.
    """

    def __init__(
        self, sampler: StorageSampler, batches: list[Batch], resume: Resume, description: dict[str, Any]
    ) -> None:
        super().__init__(batches, resume.below, 0, resume.others, description)
        self.start = self.position = sampler.position.start
        self._length = len(sampler.dataset)
        self._sharing = sharing_now(sampler)
        if not sampler.drop_last:
            self.samples_before = self._length - self.start

    def passed(self, number: int) -> None:
        """Count its samples."""
        super().passed(number)
        self.position = self._sharing.done_after(self._length, self.start, self.given)

    def state_dict(self) -> dict[str, Any]:
        """The position of all ranks together."""
        return {**self.described, "done": self.position}


class OwnOrder(Order):
    """The order of a `StorageSampler`, on which the user may set an epoch too.

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
        self._loaded_at = (sampler.epoch, sampler.position.start)
        self._digest: tuple[Any, str] = (None, "")  # an order that a subclass makes, and its digest
        self._changes = sampler.position.changes  # at our last change of the sampler

    @property
    def _shape(self) -> dict[str, int]:
        """The values that the numbers of batches depend on."""
        run = {} if self.sampler.run_length == 1 else {"run_length": self.sampler.run_length}
        return {"world": sharing_now(self.sampler).ranks, "batch_size": self._batch_size or 0, **run}

    @property
    def _description(self) -> dict[str, Any]:
        """What a state says of the order."""
        return {**self.sampler.state_dict(), **self._shape, "own_order": self._kind}

    @property
    def _kind(self) -> str:
        """Empty for an order that follows from seed and epoch alone; a digest of one that a subclass makes."""
        sampler = self.sampler
        if type(sampler).order is StorageSampler.order:
            return ""
        at = sampler.seed, sampler.epoch, len(sampler.dataset), sampler.shuffle
        if self._digest[0] != at:
            self._digest = at, digest(sampler.order(sampler.epoch))
        return self._digest[1]

    def set_epoch(self, epoch: int) -> None:
        """Set that of the sampler."""
        self.sampler.set_epoch(epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume there, with this or with another number of ranks.

        Raises:
            ValueError: it is the state of another order, or has gaps that only the same ranks and batches can fill.
        """
        resume = Resume.of(state)
        if resume.others and any(state.get(name, 1) != self._shape.get(name, 1) for name in _SHAPE):
            raise ValueError(
                "cannot resume: the state was saved under in_order=False, with batches given out of turn, which only "
                f"the same number of ranks and the same batch size can resume. Use these, {AGAIN}"
            )
        before = {**self.sampler.__dict__, "position": copy(self.sampler.position)}
        self.sampler.load_state_dict(state)
        if state.get("own_order", self._kind) != self._kind:
            self.sampler.__dict__.update(before)
            raise ValueError(
                "cannot resume: the sampler gives the samples in another order than the one that the state was saved "
                f"with. Use the same class of sampler, {AGAIN}"
            )
        self._note_set(resume.epoch_set, resume=resume)
        self._loaded_at = (self.sampler.epoch, self.sampler.position.start)
        self._changes = self.sampler.position.changes

    @property
    def _next_epoch(self) -> int:
        return self.sampler.epoch

    def _notice(self) -> None:
        position = self.sampler.position
        if position.changes != self._changes:
            self._changes = position.changes
            self._note_set(position.epoch_set)
            if (self.sampler.epoch, position.start) != self._loaded_at:
                self._resume = Resume()

    def _begun(self) -> EpochPass:
        if self.sampler.position.is_begun:
            self._go_to(self.sampler.epoch + 1)
            self._resume = Resume()
        batches = batched(begin(self.sampler), self._batch_size, drop_last=self._drop_last)
        rest = OwnRest(self.sampler, batches, self._resume, self._description)
        self._changes = self.sampler.position.changes
        return EpochPass(self.sampler.epoch, self.sampler.seed, rest, self._resume)

    def _show(self, one: EpochPass) -> None:
        assert isinstance(one.rest, OwnRest)
        self._passes.current = one
        if not self._is_set:
            self.sampler.epoch = one.epoch
            self.sampler.position.show(one.rest.start, one.rest.given)

    def _go_to(self, epoch: int, *, again: EpochPass | None = None) -> None:  # noqa: ARG002  it follows from the epoch
        position = self.sampler.position
        epoch_set = position.epoch_set
        self.sampler.set_epoch(epoch)
        position.epoch_set = epoch_set
        self._changes = position.changes

    def _next_state(self) -> dict[str, Any]:
        return {**self._description, **self._resume.state_dict()}
