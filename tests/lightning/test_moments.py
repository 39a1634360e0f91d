"""Whatever happens at whatever moment of a Lightning training, it ends with the weights of one that was left alone."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.optim.swa_utils import SWALR, get_ema_avg_fn

from ai4os_data import StorageCheckpoint
from tests.support.odd_moments import BATCHES, EPOCHS, HOOKS, STEPS, Ended, Mill, Trip, TrippedError, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers

_ALONE: dict[str, Ended] = {}


def alone(*makers: Callable[[], Any], kind: type[Mill] = Mill, **options: Any) -> Ended:
    """The training that was left alone; once for all tests."""
    key = repr((makers, kind, options))
    if key not in _ALONE:
        _ALONE[key] = run(None, Trip(), *makers, kind=kind, **options)
    return _ALONE[key]


OPTIONS: dict[str, dict[str, Any]] = {
    "by epochs": {},
    "validated twice": {"val_check_interval": 0.5},
    "accumulated": {"accumulate_grad_batches": 4, "val_check_interval": 0.5},
    "by steps": {"max_steps": EPOCHS * BATCHES, "max_epochs": -1},
}


PLACES = [*HOOKS, *STEPS, "own on_train_batch_end", "own on_validation_epoch_end"]
ENDS = ["validation_step", "after the step", "on_validation_end", "on_train_epoch_end", "on_train_epoch_start"]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        *(("accumulated", place) for place in PLACES),
        *((options, place) for options in OPTIONS if options != "accumulated" for place in ENDS),
    ],
)
def test_exception_anywhere_changes_nothing(tmp_path: Path, options: str, place: str) -> None:
    """An exception in any hook of callbacks and models leads to the same weights, running means and learning rates."""
    chosen = OPTIONS[options]
    expected = alone(**chosen)
    run(tmp_path, Trip(place, 2), **chosen)
    assert run(tmp_path, Trip(), **chosen).state == expected.state


@pytest.mark.parametrize("place", ["validation_step", "training_step", "after the step", "on_validation_epoch_start"])
def test_interrupt_anywhere_changes_nothing(tmp_path: Path, place: str) -> None:
    """Ctrl-C comes twice."""
    for times in (3, 2):
        run(tmp_path, Trip(place, times, KeyboardInterrupt), val_check_interval=0.5)
    assert run(tmp_path, Trip(), val_check_interval=0.5).state == alone(val_check_interval=0.5).state


@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize("options", ["by epochs", "validated twice"])
def test_lost_process_misses_no_update_of_the_learning_rate(tmp_path: Path, every: int, options: str) -> None:
    """The last checkpoint is a regular one, from before, at or after a validation."""
    chosen = OPTIONS[options]
    saving = {"every_n_train_steps": every, "save_on_exception": False}
    run(tmp_path, Trip("on_train_batch_start", 2 * every + 2), saving=saving, **chosen)
    assert run(tmp_path, Trip(), saving=saving, **chosen).state == alone(**chosen).state


# --- validations


def early() -> EarlyStopping:
    """One that counts validations."""
    return EarlyStopping("val_loss", patience=99, min_delta=9.0)


@pytest.mark.parametrize("number", [1, 2, 5, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": None, "val_check_interval": 5},
        {"accumulate_grad_batches": 2},
    ],
)
def test_validation_that_was_cut_off_is_made_up(tmp_path: Path, options: dict[str, Any], number: int) -> None:
    """It runs once, at the same step, before the next batch, and is counted once."""

    class Lenient(Mill):
        def configure_optimizers(self) -> Any:
            (optimizer,), schedulers = super().configure_optimizers()
            return [optimizer], [one for one in schedulers if one.get("monitor") != "val_loss"]

    expected = alone(early, kind=Lenient, **options)
    one = run(tmp_path, Trip("validation_step", number), early, kind=Lenient, **options)
    two = run(tmp_path, Trip(), early, kind=Lenient, **options)
    assert two.state == expected.state
    assert one.model.validated + two.model.validated == expected.model.validated
    assert one.model.batches + two.model.batches == expected.model.batches
    assert two.callbacks[0].state_dict() == expected.callbacks[0].state_dict()


def test_metric_of_a_validation_that_was_made_up_decides(tmp_path: Path) -> None:
    """The checkpoint is saved once more, with its metric, and may be the best."""
    saving = {"monitor": "val_loss", "save_top_k": 1, "keep_last": 9}
    run(tmp_path, Trip("validation_step", 5), saving=saving)
    run(tmp_path, Trip(), saving=saving, max_epochs=2)
    with StorageCheckpoint(tmp_path / "run", spool=tmp_path / "looking") as kept:
        newest = kept.list()[0]
    assert newest.step == 2 * BATCHES
    assert newest.metrics["val_loss"] == newest.metrics["val_loss"]


# --- averaged weights


class Averaging(lightning.Callback):
    """Averages weights as users write it, and swaps them in one of the ways there are."""

    way = "copy_"

    def __init__(self) -> None:
        self.shadow: dict[str, Any] = {}
        self.trained: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """Follow the weights."""
        for name, weight in pl_module.named_parameters():
            self.shadow.setdefault(name, weight.detach().clone()).lerp_(weight.detach(), 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Return what it has averaged."""
        return {"shadow": dict(self.shadow)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on averaging."""
        self.shadow = state_dict["shadow"]

    def put(self, model: Any, weights: dict[str, Any]) -> None:
        """Put weights into the model."""
        if self.way == "load_state_dict":
            model.load_state_dict(weights, strict=False)
            return
        for name, weight in model.named_parameters():
            if self.way == "data":
                weight.data = weights[name]
            elif self.way == "data.copy_":
                weight.data.copy_(weights[name])
            else:
                with torch.no_grad():
                    weight.copy_(weights[name])

    def swap(self, trainer: Any, model: Any) -> None:
        """Put the averaged weights in."""
        if self.shadow and not self.trained and not trainer.sanity_checking:
            self.trained = {name: weight.detach().clone() for name, weight in model.named_parameters()}
            self.put(model, self.shadow)

    def swap_back(self, model: Any) -> None:
        """Put the trained weights in."""
        if self.trained:
            self.put(model, self.trained)
            self.trained = {}


class AroundValidation(Averaging):
    """Swaps around a validation, and at the end."""

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Swap."""
        self.swap(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Swap back."""
        self.swap_back(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Swap for good."""
        self.swap(trainer, pl_module)


class AtEndOfEpoch(Averaging):
    """Swaps when an epoch has ended."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Swap."""
        self.swap(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Swap back."""
        self.swap_back(pl_module)


class UntilNextBatch(Averaging):
    """Swaps when a validation has ended, as for others that save then, and back when training continues."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Swap."""
        self.swap(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """Swap back."""
        self.swap_back(pl_module)


def averaging() -> WeightAveraging:
    """Lightning's own."""
    return WeightAveraging(avg_fn=get_ema_avg_fn(0.5))  # type: ignore[no-untyped-call]


def late() -> EMAWeightAveraging:
    """Lightning's own, which begins in the second epoch and has every second step."""
    return EMAWeightAveraging(decay=0.5, update_every_n_steps=2, update_starting_at_step=BATCHES + 1)


def swapping(base: type[Averaging], chosen: str) -> type[Averaging]:
    """A callback that swaps in a way."""
    return type(f"{base.__name__}By{chosen}", (base,), {"way": chosen})


WAYS = ("copy_", "data", "data.copy_", "load_state_dict")
SWAPPING = [averaging, late, *(swapping(AroundValidation, way) for way in WAYS), AtEndOfEpoch, UntilNextBatch]


@pytest.mark.parametrize("make", SWAPPING)
@pytest.mark.parametrize(
    ("trip", "first", "options"),
    [
        (("validation_step", 4), {}, {}),
        (("validation_step", 8, KeyboardInterrupt), {}, {"val_check_interval": 0.5}),
        ((), {"max_steps": 9}, {}),
        ((), {"max_steps": 4}, {"accumulate_grad_batches": 2}),
        ((), {"max_epochs": 2}, {}),
    ],
)
def test_what_was_trained_is_what_is_saved(
    tmp_path: Path, make: Callable[[], Any], trip: Any, first: dict[str, Any], options: dict[str, Any]
) -> None:
    """A callback has swapped the weights at an error, at Ctrl-C or at the end; the trained ones are saved."""
    expected = alone(make, **options)
    run(tmp_path, Trip(*trip), make, **{**options, **first})
    two = run(tmp_path, Trip(), make, **options)
    assert two.state == expected.state
    for name, weight in getattr(expected.callbacks[0], "shadow", {}).items():
        assert torch.equal(two.callbacks[0].shadow[name], weight)


@pytest.mark.parametrize("make", [AtEndOfEpoch, UntilNextBatch])
def test_weights_that_are_first_swapped_at_the_end_are_not_saved(tmp_path: Path, make: Callable[[], Any]) -> None:
    """A training of one epoch has no earlier epoch that could show the swap."""
    expected = alone(make)
    run(tmp_path, Trip(), make, max_epochs=1)
    assert run(tmp_path, Trip(), make).state == expected.state


@pytest.mark.skipif(
    not hasattr(SWALR, "_set_anneal_func"),
    reason="this torch keeps a function in the state of SWALR, which a save refuses: the error says so",
)
@pytest.mark.parametrize("trips", [[8], [14], [14, 5]])
def test_rate_of_stochastic_averages_goes_on_in_mid_epoch(tmp_path: Path, trips: list[int]) -> None:
    """Lightning makes its scheduler only at the beginning of an epoch."""

    def make() -> StochasticWeightAveraging:
        return StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)

    class Simple(Mill):
        def __init__(self, trip: Trip) -> None:
            super().__init__(trip)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.05)

    for times in trips:
        run(tmp_path, Trip("on_train_batch_start", times), make, kind=Simple, max_epochs=4)
    expected = run(None, Trip(), make, kind=Simple, max_epochs=4)
    assert run(tmp_path, Trip(), make, kind=Simple, max_epochs=4).state == expected.state


@pytest.mark.parametrize("times", [10, 11])
def test_gradients_are_accumulated_as_before_in_an_epoch_that_is_resumed(tmp_path: Path, times: int) -> None:
    """Lightning sets their number only at the beginning of an epoch."""

    def make() -> GradientAccumulationScheduler:
        return GradientAccumulationScheduler({0: 1, 1: 3})

    run(tmp_path, Trip("on_train_batch_start", times), make)
    assert run(tmp_path, Trip(), make).state == run(None, Trip(), make).state


def test_validation_that_only_a_stop_has_called_for_draws_nothing(tmp_path: Path) -> None:
    """The resumed training has no such validation; random numbers drawn in it leave no trace."""

    class Stopping(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 9

    one = run(tmp_path, Trip(), Stopping)
    assert one.model.validated == [6, 9]
    assert run(tmp_path, Trip()).state["net.0.weight"] == alone().state["net.0.weight"]


def test_what_a_model_does_after_a_batch_is_in_its_checkpoint(tmp_path: Path) -> None:
    """A model keeps an average in a hook that runs after those of callbacks."""

    class Averaged(Mill):
        def __init__(self, trip: Trip) -> None:
            super().__init__(trip)
            self.register_buffer("average", torch.zeros(8, 4))

        def on_train_batch_end(self, *_: Any) -> None:
            self.average.lerp_(self.net[0].weight.detach(), 0.5)  # type: ignore[operator]

    saving = {"every_n_train_steps": 4, "save_on_exception": False}
    run(tmp_path, Trip("on_train_batch_start", 12), kind=Averaged, saving=saving)
    two = run(tmp_path, Trip("on_train_batch_start", 4), kind=Averaged)
    assert len(two.model.batches) == 3
    assert run(tmp_path, Trip(), kind=Averaged).state == alone(kind=Averaged).state


def test_weights_that_cannot_be_had_are_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The error names who has swapped them; the last good checkpoint stays, and leads to the same weights."""

    class AfterThree(AroundValidation):
        """Begins late, so that nothing was kept: the first validations were harmless."""

        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step > BATCHES:
                super().on_validation_epoch_start(trainer, pl_module)

    expected = alone(AfterThree)
    run(tmp_path, Trip("validation_step", 4), AfterThree)
    (text,) = [record.getMessage() for record in caplog.records if "its end is not saved" in record.getMessage()]
    assert "AfterThree" in text
    with StorageCheckpoint(tmp_path / "run", spool=tmp_path / "looking") as kept:
        assert [found.step for found in kept.list()] == [BATCHES]
    assert run(tmp_path, Trip(), AfterThree).state == expected.state


def test_copy_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The memory and the time that it takes are logged once."""
    with caplog.at_level(logging.INFO, "ai4os_data"):
        run(tmp_path, Trip(), averaging, val_check_interval=0.5)
    (text,) = [record.getMessage() for record in caplog.records if "a copy of what was trained" in record.getMessage()]
    assert "MB" in text
    assert "ms" in text


# --- in the middle of a batch


@pytest.mark.parametrize("batches", [7, 8, 9, 10, 11])
def test_sigterm_in_the_midst_of_a_window_counts_no_batch_twice(tmp_path: Path, batches: int) -> None:
    """Running means are those of the last step, like the weights."""

    class Term(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx + 1 == batches:
                os.kill(os.getpid(), signal.SIGTERM)

    one = run(tmp_path, Trip(), Term, accumulate_grad_batches=4)
    assert len(one.model.batches) == batches
    assert run(tmp_path, Trip(), accumulate_grad_batches=4).state == alone(accumulate_grad_batches=4).state


class ByHand(Mill):
    """Two optimizers, by hand."""

    def __init__(self, trip: Trip) -> None:
        super().__init__(trip)
        self.automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> None:  # type: ignore[override]
        """Step both."""
        x, y = batch
        self.batches.append(float(x.sum()))
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = nn.functional.mse_loss(self.net(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.trip.reach("between")

    def configure_optimizers(self) -> Any:
        """One for each layer."""
        return [torch.optim.Adam(self.net[number].parameters(), 0.05) for number in (0, 4)]


@pytest.mark.parametrize(("place", "times"), [("between", 17), ("between", 18), ("on_train_batch_end", 9)])
def test_half_of_a_step_is_not_saved(tmp_path: Path, place: str, times: int, caplog: pytest.LogCaptureFixture) -> None:
    """Between two optimizers, or if another may still step, nothing is saved; at the end of the batch it is."""
    one = run(tmp_path, Trip(place, times), kind=ByHand)
    told = [record.getMessage() for record in caplog.records if "half of one step" in record.getMessage()]
    assert len(told) == (place == "between")
    two = run(tmp_path, Trip(), kind=ByHand)
    assert two.state == alone(kind=ByHand).state
    assert len(two.model.batches) == EPOCHS * BATCHES - (BATCHES if told else len(one.model.batches))


class Halved(torch.optim.AdamW):
    """An optimizer that is interrupted between two weights."""

    trip = Trip()

    def step(self, closure: Any = None) -> Any:
        """Step, the second time by halves."""
        loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                with torch.no_grad():
                    weight.sub_(0.05 * weight.grad)
                self.trip.reach("weight")
        return loss


def test_step_that_is_half_made_is_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C comes in the middle of a batch."""

    class Own(Mill):
        def configure_optimizers(self) -> Any:
            optimizer = Halved(self.parameters())
            optimizer.trip = self.trip
            return optimizer

    expected = alone(kind=Own)
    weights = len(list(expected.model.parameters()))
    run(tmp_path, Trip("weight", 8 * weights + 2, KeyboardInterrupt), kind=Own)
    assert "in the midst of a step" in caplog.text
    assert run(tmp_path, Trip(), kind=Own).state == expected.state


@pytest.mark.parametrize("place", ["before the step", "training_step", "clip"])
def test_error_before_the_step_saves_the_moment_before(tmp_path: Path, place: str) -> None:
    """Only the batch that failed is trained again."""
    one = run(tmp_path, Trip(place, 9))
    two = run(tmp_path, Trip())
    assert len(two.model.batches) == EPOCHS * BATCHES - 8
    assert len(one.model.batches) == 8 + (place == "clip")


def test_what_an_exception_cut_off_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hooks of callbacks that would have followed the step are not made up."""
    run(tmp_path, Trip("after the step", 9))
    assert "TrippedError came between the optimizer's step and the end of its batch" in caplog.text
    assert TrippedError.__name__ in caplog.text
