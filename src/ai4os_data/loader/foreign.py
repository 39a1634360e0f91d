"""Resumes the order of another library's sampler: draws it again, and compares it with what was saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.loader.callers import count_on
from ai4os_data.loader.drawing import Drawing, Samplers, States, states_for
from ai4os_data.loader.orders import EpochPass, Order, Resume
from ai4os_data.loader.rest import POSITION, Position, Rest
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager


class ForeignOrder(Order):
    """The order of any other sampler: it is drawn again up to the position of the caller.

    Its own generator and its own state are set back to where they were when the epoch began. A state says which order
    it belongs to, so that no other order is taken for it. A loaded order is drawn and compared at once, and the next
    pass uses what was drawn.

    Args:
        source: gives batches of indices, or indices.
        samplers: those on which an epoch may be set, or that have a state.
        seed: seeds the global generators, for samplers that draw from them.
        is_batched: whether the source gives batches.
    """

    def __init__(self, source: Iterable[Any], samplers: Iterable[Any], seed: int, *, is_batched: bool) -> None:
        super().__init__()
        self.seed = seed
        self._samplers = Samplers(samplers)
        self._drawing = Drawing(source, self._samplers, is_batched=is_batched)
        self._epoch = self._samplers.first_epoch
        self._is_begun = False
        self._have_nothing_loaded()

    def _have_nothing_loaded(self) -> None:
        self._at_begin: States = []  # the samplers' states when the epoch began
        self._saved: dict[str, Any] = {}  # the loaded description of the order, to compare with the drawn one
        self._ready: _Ready | None = None  # the loaded position, after it was drawn and compared

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the drawn order."""
        return {**self.__dict__, "_ready": None}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch here and on the samplers."""
        if self._is_loaded and epoch != self._epoch and count_on(epoch, self._epoch):
            epoch = self._epoch
        if epoch != self._epoch and not self._is_begun and self._resume.below:
            tell_once(
                f"set_epoch({epoch}) gives up the position that was loaded: epoch {self._epoch}, after "
                f"{self._resume.below} batches. To resume there, set the loader to that epoch, or to none"
            )
        self._go_to(epoch)
        self._note_set(epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume there.

        Raises:
            ValueError: it is the state of other samplers, or of the same ones in another order.
        """
        resume = Resume.of(state)
        before, current, stood = dict(self.__dict__), self._passes.current, self._samplers.states()
        self._at_begin = states_for(stood, state)
        self._saved = {name: state[name] for name in POSITION if name in state}
        self.seed, self._epoch = int(state["seed"]), int(state["epoch"])
        self._is_begun = False
        self._note_set(resume.epoch_set, resume=resume)
        self._samplers.set_epoch(self._epoch)
        is_loaded = False
        try:
            self._compare_early()
            is_loaded = True
        finally:
            if not is_loaded:  # the loader stays as it was
                self.__dict__.update(before)
                self._passes.current = current
                self._samplers.set_epoch(self._epoch)
                self._samplers.set_states(stood)

    def _compare_early(self) -> None:
        """Draw the loaded order, if that is possible now: then a mismatch raises here, and not at the first batch."""
        if self._ready is not None and self._ready.wanted == self._wanted:
            return  # it was drawn at an earlier load; some samplers give another order each time
        self._ready = None
        self._samplers.refuse_other_ranks(self._saved.get("rank"))
        may_have_more_ranks = self._saved.get("rank", [0, 1])[1] > self._samplers.share[1]  # a group may be made later
        if may_have_more_ranks or self._samplers.has_ours:
            return
        if self._resume.is_rest or "order" in self._saved:
            self._ready = _Ready(self._wanted, self._drawing.settings, self._drawn())

    @property
    def _wanted(self) -> tuple[Any, ...]:
        """The loaded position, in brief."""
        return self.seed, self._epoch, self._resume[:2], self._saved

    @property
    def _next_epoch(self) -> int:
        return self._epoch

    def _notice(self) -> None:
        if (epoch := self._samplers.epoch_set()) is not None:
            self.set_epoch(epoch)

    def _begun(self) -> EpochPass:
        if self._is_begun:
            self._go_to(self._epoch + 1)
        self._samplers.set_epoch(self._epoch, only_to_know=True)
        ready = self._ready
        # Since the load the order may have changed, or a sampler may have moved on.
        is_drawn = ready is not None and ready.settings == self._drawing.settings and not any(self._samplers.states())
        rest = ready.rest if ready is not None and is_drawn else self._drawn()
        begun = EpochPass(self._epoch, self.seed, rest, self._resume, samplers=self._at_begin)
        self._is_begun = True
        self._have_nothing_loaded()
        return begun

    def _drawn(self) -> Rest:
        """Draw the next pass, without the batches that were given before.

        Raises:
            ValueError: it is not the order that was loaded.
        """
        try:
            return self._drawn_from_begin()
        except ValueError:
            if not any("own" in state for state in self._at_begin):
                raise
        # Until they are iterated over, some samplers have the state of the last epoch.
        self._at_begin = [{name: kept for name, kept in state.items() if name != "own"} for state in self._at_begin]
        return self._drawn_from_begin()

    def _drawn_from_begin(self) -> Rest:
        if self._at_begin:
            self._samplers.set_states(self._at_begin)
        else:
            self._at_begin = self._samplers.states()
        position = Position(
            self._resume.below, self._resume.others, self._saved, self._samplers.share, self._drawing.kind
        )
        rest = self._drawing.rest(self.seed, self._epoch, position)
        self._samplers.look()
        return rest

    def _show(self, one: EpochPass) -> None:
        self._passes.current = one
        if not self._is_set:
            self._epoch = one.epoch
            self._is_begun = True

    def _go_to(self, epoch: int, *, again: EpochPass | None = None) -> None:
        if epoch != self._epoch or self._is_begun:
            self._resume = Resume()
            self._have_nothing_loaded()
        self._epoch = epoch
        self._is_begun = False
        self._samplers.set_epoch(epoch)
        if again is not None:
            self._at_begin = again.described["samplers"]

    def _next_state(self) -> dict[str, Any]:
        samplers = self._at_begin or self._samplers.states()
        named = {"seed": self.seed, "epoch": self._epoch, "samplers": samplers}
        return {**named, **self._saved, **self._resume.state_dict()}

    def drawn_as_wanted(self) -> AbstractContextManager[None]:
        """Count each sample once if Lightning predicts."""
        return self._drawing.as_wanted()


class _Ready(NamedTuple):
    """A loaded position, drawn and compared.

    Args:
        wanted: what was loaded, in brief.
        settings: those that the rest was drawn with.
        rest: of what was loaded.
    """

    wanted: tuple[Any, ...]
    settings: tuple[Any, ...]
    rest: Rest
