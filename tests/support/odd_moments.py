"""A Lightning training in which something happens at a chosen moment, beside one that was left alone."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning
import torch
from torch import nn
from torch.optim import lr_scheduler

from ai4os_data import StorageDataLoader
from ai4os_data.lightning import StorageCheckpointCallback
from tests.support.lit import trainer_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BATCHES = 6  # in an epoch
EPOCHS = 3

HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
)
STEPS = (
    "training_step",
    "validation_step",
    "before the step",
    "after the step",
    "before the rate",
    "after the rate",
    "zero_grad",
    "clip",
)


class TrippedError(Exception):
    """What happens."""


class Trip:
    """Something that happens when a named point of the training is reached for the n-th time."""

    def __init__(self, place: str = "", times: int = 0, error: type[BaseException] = TrippedError) -> None:
        self._place = place
        self._left = times
        self._error = error

    def reach(self, place: str) -> None:
        """Count, and raise when it is time."""
        if place == self._place:
            self._left -= 1
            if self._left == 0:
                raise self._error


class Points(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Points and about their sums."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._x = torch.randn(count, 4, generator=generator)
        self._y = self._x.sum(1, keepdim=True) + 0.3 * torch.randn(count, 1, generator=generator)

    def __len__(self) -> int:
        """How many."""
        return len(self._x)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A point and its sum."""
        return self._x[number], self._y[number]


class Mill(lightning.LightningModule):
    """A network in which all shows that comes twice or never: running means, dropout, momentum, five schedulers."""

    def __init__(self, trip: Trip) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.trip = trip
        self.batches: list[float] = []
        self.validated: list[int] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """Learn the sum."""
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("train_loss", loss)
        self.trip.reach("training_step")
        self.batches.append(float(x.sum()))
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """Measure."""
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.net(x), y) + 0.1 * torch.rand(()))
        self.trip.reach("validation_step")

    def on_validation_epoch_end(self) -> None:
        """Note at which step it was measured."""
        if not self.trainer.sanity_checking:
            self.validated.append(self.trainer.global_step)
        self.trip.reach("own on_validation_epoch_end")

    def on_train_batch_end(self, *_: Any) -> None:
        """Come after all callbacks."""
        self.trip.reach("own on_train_batch_end")

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Step."""
        self.trip.reach("before the step")
        super().optimizer_step(*arguments, **named)
        self.trip.reach("after the step")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Update the learning rate."""
        self.trip.reach("before the rate")
        super().lr_scheduler_step(scheduler, metric)
        self.trip.reach("after the rate")

    def optimizer_zero_grad(self, *arguments: Any) -> None:
        """Begin anew."""
        self.trip.reach("zero_grad")
        super().optimizer_zero_grad(*arguments)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip."""
        self.trip.reach("clip")
        self.clip_gradients(optimizer, gradient_clip_val=1.0)

    def configure_optimizers(self) -> Any:
        """Use each kind of scheduler."""
        optimizer = torch.optim.AdamW(self.parameters(), 0.05)

        def plateau(factor: float, monitor: str, **more: Any) -> dict[str, Any]:
            kind = lr_scheduler.ReduceLROnPlateau(
                optimizer, patience=0, factor=factor, threshold=10.0, threshold_mode="abs"
            )
            return {"scheduler": kind, "monitor": monitor, **more}

        return [optimizer], [
            plateau(0.9, "val_loss", interval="epoch"),
            plateau(0.97, "val_loss", interval="step", strict=False, frequency=2),
            plateau(0.98, "train_loss", interval="step"),
            {"scheduler": lr_scheduler.StepLR(optimizer, 1, 0.95), "interval": "epoch"},
            {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.99), "interval": "step"},
        ]


class Tripping(lightning.Callback):
    """A callback in each hook of which something may happen."""

    def __init__(self, trip: Trip) -> None:
        self.trip = trip


def _reaching(hook: str) -> Callable[..., None]:
    def reach(self: Tripping, trainer: Any, *_: Any, **__: Any) -> None:
        if not trainer.sanity_checking:
            self.trip.reach(hook)

    return reach


for _hook in HOOKS:
    setattr(Tripping, _hook, _reaching(_hook))


class Ended(NamedTuple):
    """A training that has ended, one way or the other."""

    model: Any
    trainer: lightning.Trainer
    callbacks: list[Any]

    @property
    def state(self) -> dict[str, Any]:
        """All that is trained: weights, running means, learning rates."""
        optimizers = self.trainer.optimizers
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        return {"rates": rates} | {name: value.tolist() for name, value in self.model.state_dict().items()}


def run(
    place: Path | None,
    trip: Trip,
    *makers: Callable[[], Any],
    kind: type[Mill] = Mill,
    saving: dict[str, Any] | None = None,
    **options: Any,
) -> Ended:
    """Train from wherever the run is; if there is no folder for it, without saving."""
    model = kind(trip)
    callback = (
        None if place is None else StorageCheckpointCallback(place / "run", spool=place / "spool", **saving or {})
    )
    path = None if callback is None else callback.resume_path()
    torch.manual_seed(5 if path else 11)
    callbacks = [make() for make in makers]
    options = {"num_sanity_val_steps": 0, "max_epochs": EPOCHS, **options}
    if callback is None:
        options["enable_checkpointing"] = False
    trainer = trainer_of(*callbacks, Tripping(trip), *([callback] if callback else []), **options)
    train = StorageDataLoader(Points(4 * BATCHES, 3), batch_size=4, shuffle=True, seed=5)
    try:
        trainer.fit(model, train, StorageDataLoader(Points(12, 9), batch_size=4), ckpt_path=path)
    except (TrippedError, SystemExit):
        pass
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return Ended(model, trainer, callbacks)
