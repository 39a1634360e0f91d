"""A copy of the trained weights, kept while callbacks may put other weights into the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ai4os_data.checkpoint import Staging, with_arrays
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from ai4os_data.lightning.moments import Moment

_LIGHTNING = ("lightning", "pytorch_lightning", "ai4os_data")
AROUND_VALIDATION = (
    "on_validation_model_zero_grad",
    "on_validation_model_eval",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_validation_model_train",
)


def suspects(trainer: Trainer, *hooks: str) -> list[str]:
    """The callbacks, and the model, that override one of these hooks, and may swap weights there."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set elsewhere
    found = [callback for callback in callbacks if any(has_own(callback, hook) for hook in hooks)]
    found += [trainer.lightning_module] if any(has_own(trainer.lightning_module, hook) for hook in hooks) else []
    return [type(one).__name__ for one in found]


def has_own(one: Any, hook: str) -> bool:
    """Whether a hook is the user's own, or of a callback of Lightning that changes weights (averaging, pruning)."""
    method = getattr(type(one), hook, None)
    owner = str(getattr(method, "__module__", ""))
    return method is not None and (
        owner.partition(".")[0] not in _LIGHTNING or owner.endswith(("weight_averaging", "pruning"))
    )


class Kept:
    """At most one copy of a checkpoint, in host memory that the next copy uses again."""

    def __init__(self) -> None:
        self.moment: Moment | None = None
        self.is_swapped = False  # whether the weights were swapped when the last validation ended, with no batch since
        self.is_change_for_good = False  # whether weights that were changed at the end of an epoch stayed changed
        self._state: dict[str, Any] = {}
        self._staging = Staging()
        self._has_seen = False  # whether there was a validation without swapped weights
        self._has_swapped = False
        self._has_told = False

    def is_needed(self, names: list[str]) -> bool:
        """Whether a copy is needed: the first time, and if weights have been swapped before."""
        is_known = any("WeightAveraging" in name for name in names)
        return self._has_swapped or is_known or (bool(names) and not self._has_seen)

    def note_validation(self, *, is_swapped: bool) -> None:
        """Record whether the weights are swapped during a validation."""
        self._has_swapped = self._has_swapped or is_swapped

    def end_validation(self, *, is_swapped: bool) -> None:
        """Record whether the weights are swapped after a validation."""
        self._has_swapped = self._has_swapped or is_swapped
        self._has_seen, self.is_swapped = True, is_swapped

    def note_late(self, *, is_swapped_back: bool) -> None:
        """Record whether weights that were changed at the end of an epoch came back before the next batch."""
        self._has_swapped = self._has_swapped or is_swapped_back
        self.is_change_for_good = not is_swapped_back

    def keep(self, moment: Moment, checkpoint: dict[str, Any]) -> None:
        """Copy a checkpoint."""
        self.drop()
        begun = time.perf_counter()
        staged = self._staging.stage(checkpoint)
        self._state, self.moment = with_arrays(staged.state, staged.arrays), moment
        if not self._has_told:
            self._has_told = True
            log.info(
                "weights may be swapped around a validation or at the end, so a copy of what was trained is kept "
                "meanwhile: %.1f MB of memory, %.1f ms each time",
                staged.size_bytes / 1e6,
                1000 * (time.perf_counter() - begun),
            )

    def take(self) -> dict[str, Any]:
        """The copy, which is kept until it is dropped."""
        return dict(self._state)

    def drop(self) -> None:
        """Free the memory for the next copy."""
        self.is_swapped = False
        if self.moment is not None:
            self.moment, self._state = None, {}
            self._staging.release()
