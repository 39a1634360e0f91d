"""A pass through an epoch gives the batches in their order, and records which of them the caller has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai4os_data.loader.batches import Failed, LeftOut, Wanted
from ai4os_data.loader.sharing import group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai4os_data.loader.accelerated import PreparedPass
    from ai4os_data.loader.look_ahead import LookAhead
    from ai4os_data.loader.next_uses import NextUses
    from ai4os_data.loader.orders import EpochPass, Order
    from ai4os_data.loader.progress import Progress

    _PartsOf = Callable[["Pass", EpochPass], "Parts"]
    _Confirmed = Callable[[EpochPass], EpochPass]


class Shown:
    """The pass whose figures the loader shows."""

    def __init__(self) -> None:
        self.progress: Progress | None = None


@dataclass
class Parts:
    """The parts that make the batches of a pass, until it ends.

    Attributes:
        batches: yielded as they are made; None after the end, so that workers end even if something still refers to
            this.
        sizes: how many samples each has, by number.
        progress: counts what the caller gets.
        ahead: is notified of what the caller gets, and ends with the pass.
        prepared: lets an accelerator know how far it is, and brings batches to its device.
    """

    batches: Iterator[Any] | None
    sizes: dict[int, int]
    progress: Progress
    ahead: LookAhead | None
    prepared: PreparedPass | None

    def end(self) -> None:
        """End everything that runs for the pass."""
        self.batches = None
        self.end_look_ahead()
        if self.prepared is not None:
            self.prepared.end()

    def end_look_ahead(self) -> None:
        """End the look-ahead."""
        if self.ahead is not None:
            self.ahead.end()


class Pass:
    """A pass as the caller iterates over it.

    Args:
        order: is notified of what the caller gets.
        shown: is notified that this is the pass to show.
        next_uses: is notified of what the caller gets.
        parts_of: makes the parts that give the batches of an epoch.
        confirmed: gives the epoch pass when the first batch is wanted; it may have changed by then.
        begun: the epoch pass until then.
    """

    def __init__(  # noqa: PLR0917  all are needed, and there is one call
        self,
        order: Order,
        shown: Shown,
        next_uses: NextUses | None,
        parts_of: _PartsOf,
        confirmed: _Confirmed,
        begun: EpochPass,
    ) -> None:
        self._order = order
        self._shown = shown
        self._next_uses = next_uses
        self._until_confirmed: tuple[_PartsOf, _Confirmed] | None = (parts_of, confirmed)
        self._failed: int | None = None
        self._left_out: LeftOut | None = None
        self._has_given = False
        self._gave_way = False
        self._epoch_pass = begun
        self._parts = parts_of(self, begun)
        self._reach()

    def __iter__(self) -> Pass:
        """Itself: it can be iterated over once."""
        return self

    def __len__(self) -> int:
        """How many batches it has in all, those that were given included."""
        return len(self._epoch_pass)

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        """Pickle as a pass that raises when it is used, since workers cannot be pickled."""
        return _PassElsewhere, ()

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            RuntimeError: with persistent workers, another pass has begun since.
            SampleError: a sample of the batch is bad.
        """
        if self._gave_way:
            message = (
                "this pass was ended by another one over the same loader: with persistent_workers=True there is one "
                "set of workers, for one pass at a time. Use a loader of its own for a pass inside another one"
            )
            raise RuntimeError(message)
        if self._parts.batches is None:
            raise StopIteration
        self._go_on()
        begun_s = time.perf_counter()
        try:
            while isinstance(made := next(self._parts.batches), LeftOut):
                self._leave_out(made)
        except StopIteration:
            self._end()
            raise
        except BaseException:
            self._parts.end_look_ahead()  # a worker was killed, or the caller interrupts
            raise
        ended_s = time.perf_counter()
        if isinstance(made, Failed):
            self._failed = made.number
            made.raise_error()
        number, data, spent = made
        self._has_given = True
        self._parts.progress.given(self._give(number), begun_s, ended_s, spent)
        prepared = self._parts.prepared
        return data if prepared is None else prepared.on_device(data, is_last=self._epoch_pass.is_through)

    def _go_on(self) -> None:
        """Be ready for the next batch."""
        if self._until_confirmed is not None:
            self._confirm(*self._until_confirmed)
            self._until_confirmed = None  # so that the loader need not live as long as its passes
        if self._failed is not None:  # the caller continues after an error
            self._give(self._failed)
            self._failed = None
        if self._parts.prepared is not None:
            self._parts.prepared.begin()

    def _confirm(self, parts_of: _PartsOf, confirmed: _Confirmed) -> None:
        """Settle what the pass goes through, at its first batch."""
        wanted = confirmed(self._epoch_pass)
        if wanted is not self._epoch_pass or wanted.is_emptied:
            self._parts.end()
            self._epoch_pass = wanted
            self._parts = parts_of(self, wanted)
            self._reach()

    def _end(self) -> None:
        """Record that the caller has been given all batches.

        Raises:
            SampleError: no batch had a good sample, which must not look like a short epoch.
        """
        self._order.end(self._epoch_pass)
        self.close()
        self._shown.progress = self._parts.progress
        self._parts.progress.log()
        if self._left_out is not None and not self._has_given:
            self._left_out.raise_error()

    def give_way(self) -> None:
        """End, since another pass needs the workers."""
        self._gave_way = self._parts.batches is not None
        self.close()

    def close(self) -> None:
        """Leave the pass, and end everything that runs for it."""
        if self._parts.batches is not None:
            self._parts.end()
            self._order.leave(self._epoch_pass)
            self._parts.progress.end()

    def _leave_out(self, made: LeftOut) -> None:
        """Continue without a batch that has no good sample, if no other rank waits for it.

        Raises:
            SampleError: other ranks make a step for this batch, and would wait for this one for ever.
        """
        ranks, _ = group()
        if ranks > 1:
            self._failed = made.number
            made.raise_error()
        self._left_out = made
        self._give(made.number)

    def _give(self, number: int) -> int:
        """Record that the caller has a batch. Returns how many samples it has."""
        if self._parts.ahead is not None:
            self._parts.ahead.given(number)
        self._order.give(self._epoch_pass, number)
        self._shown.progress = self._parts.progress
        self._reach()
        return self._parts.sizes.pop(number)

    def _reach(self) -> None:
        if self._next_uses is not None:
            self._next_uses.reach(self._epoch_pass.epoch, self._epoch_pass.rest.position)

    def __del__(self) -> None:
        """Leave nothing running."""
        if hasattr(self, "_parts"):  # its construction may have failed before
            self.close()


class _PassElsewhere:
    """The copy of a pass from a pickle: it raises when it is used."""

    def __iter__(self) -> _PassElsewhere:
        return self

    def __next__(self) -> Any:
        message = (
            "this is the copy of a pass, from a pickle, and workers do not travel: iterate over the loader instead"
        )
        raise RuntimeError(message)


def handed_out(epoch_pass: EpochPass, sizes: dict[int, int], ahead: LookAhead | None) -> Iterator[Wanted]:
    """The batches for workers to make; the look-ahead is notified of each one that is handed out."""
    for number, indices in epoch_pass.coming:
        sizes[number] = len(indices)
        if ahead is not None:
            ahead.handed_out(number)
        yield Wanted(number, epoch_pass.seed, epoch_pass.epoch, epoch_pass.rest.position, indices)
