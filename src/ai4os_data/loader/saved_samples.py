"""Checks that a state belongs to the present samples: over other files, the rest of an epoch would be another epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.loader import nesting
from ai4os_data.loader.sampler import AGAIN
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Mapping


class SavedSamples:
    """The samples of a dataset as fingerprints, and those of the state that was loaded.

    Args:
        dataset: that of the loader.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._datasets = nesting.storage_datasets(dataset)
        self._found: tuple[list[Any], dict[str, str]] | None = None
        self._loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, str]:
        """The fingerprints of all samples for a state; empty if they are not known."""
        indexes = [dataset.index for dataset in self._datasets]
        if self._found is None or self._found[0] != indexes:
            found = nesting.fingerprints(self._dataset)
            self._found = indexes, {} if found is None else {"samples": found[0], "versions": found[1]}
        return self._found[1]

    def load(self, state: Mapping[str, Any]) -> None:
        """Remember those of a state."""
        self._loaded = {name: state[name] for name in ("samples", "versions") if name in state}

    def compare(self, state: Mapping[str, Any] | None = None) -> None:
        """Compare with a state, by default the one that was loaded, if it says which samples it was saved with.

        Raises:
            ValueError: they are others.
        """
        state = self._loaded if state is None else state
        if "samples" not in state or not (ours := self.state_dict()):
            return
        locations = ", ".join(dataset.location for dataset in self._datasets)
        if state["samples"] != ours["samples"]:
            raise ValueError(
                "cannot resume: the samples are not those that the state was saved with. Files of "
                f"{locations} have come or gone, or a split of them is another one. Use the same files (a lock file, "
                f"index=, keeps to them; a split needs a seed), {AGAIN}"
            )
        if state.get("versions") != ours["versions"]:
            tell_once(
                f"{locations}: files have changed since the state was saved; it resumes with them as they are now"
            )
