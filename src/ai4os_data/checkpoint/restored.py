"""The values that `restore` and `list` return: a state with its names and metrics, and descriptions of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai4os_data.checkpoint.names import CheckpointName


class _Named:
    """An object with the name of a checkpoint, and so with its step and attempt."""

    name: CheckpointName

    @property
    def step(self) -> int:
        """The step of the training."""
        return self.name.step

    @property
    def attempt(self) -> int:
        """The number of the start of the run that it comes from."""
        return self.name.attempt.number


@dataclass(frozen=True)
class Checkpoint(_Named):
    """A checkpoint that exists, by its manifest; its bytes were not checked.

    Attributes:
        name: its folder within the run's.
        metrics: what was measured at its step.
        size_bytes: of its files.
        parent: the folder of the checkpoint that its attempt was resumed from.
        on_store: whether it lies on the store.
        in_spool: whether it lies in the spool of this machine.
    """

    name: CheckpointName
    metrics: dict[str, float]
    size_bytes: int
    parent: CheckpointName | None
    on_store: bool
    in_spool: bool


@dataclass(frozen=True, eq=False)
class Restored(_Named, Mapping[str, Any]):
    """A mapping with the saved state, by the keys that it was saved under.

    Attributes:
        name: the checkpoint's folder within the run's.
        metrics: what was measured at its step.
        skipped: newer checkpoints that were skipped, each with the reason.
        size_bytes: of its files.
    """

    name: CheckpointName
    metrics: dict[str, float]
    skipped: dict[str, str]
    state: Mapping[str, Any] = field(repr=False)
    size_bytes: int

    @property
    def _metadata(self) -> Any:
        """The versions in a ``state_dict()`` that was saved as the whole state: `load_state_dict` reads this."""
        return getattr(self.state, "_metadata", None)

    def __getitem__(self, key: str) -> Any:
        """What was saved under a key; objects as their ``state_dict``."""
        return self.state[key]

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self.state)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self.state)
