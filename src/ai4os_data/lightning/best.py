"""The best checkpoint of a Lightning training, chosen among those that are still on the storage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ai4os_data import errors
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ai4os_data.checkpoint import Checkpoint, Mode
    from ai4os_data.lightning.runs import Runs


@dataclass
class Best:
    """The best checkpoint, as of the last look.

    Attributes:
        monitor: the metric that ranks checkpoints; None if none does.
        mode: whether a low or a high metric is good.
        score: the metric of the best one; None if none was measured.
        earlier: the earlier locations of this training, the latest first.
        earlier_score: the metric of the best one there.
    """

    monitor: str | None
    mode: Mode
    score: float | None = None
    earlier: list[str] = field(default_factory=list)
    earlier_score: float | None = None

    def look(self, runs: Runs) -> tuple[str, Checkpoint] | None:
        """The best existing checkpoint, and its location. Of equal ones, one at the current location is taken.

        Raises:
            StorageError: a location cannot be listed.
        """
        if self.monitor is None:
            return None
        found = [(location, one) for location in (runs.location, *self.earlier) for one in runs.list(location)]
        self.earlier_score = self._among(one.metrics for location, one in found if location != runs.location)
        self.note(one.metrics for location, one in found if location == runs.location)
        measured = [each for each in found if not math.isnan(self._score(each[1].metrics))]
        return min(measured, key=lambda each: self._rank(self._score(each[1].metrics)), default=None)

    def refresh(self, runs: Runs, warn: Callable[[str], None] = log.warning) -> None:
        """Bring the score up to date; if the storage cannot be listed, it stays as it was, with a warning."""
        try:
            self.look(runs)
        except errors.StorageError as error:
            warn(f"best_model_score may be out of date: {error}")

    def note(self, here: Iterable[Mapping[str, float]]) -> None:
        """Update the score with the metrics at this location; for earlier locations, those of the last look count."""
        there = [] if self.earlier_score is None else [{self.monitor or "": self.earlier_score}]
        self.score = self._among([*here, *there])

    def state_dict(self, location: str) -> dict[str, Any]:
        """The state for the next training, which reads the rest from the metrics."""
        return {"location": location, "score": self.score, "earlier": self.earlier}

    def load_state_dict(self, state: Mapping[str, Any], location: str) -> None:
        """Load a state, at the location that it was saved for or at another."""
        before = state.get("before")  # in states of older versions: the location before, and the score there
        left = [*state.get("earlier", []), *(before[:1] if before else [])]
        if state["score"] is not None:
            left = [state["location"], *left]
        self.score = state["score"]
        self.earlier = [earlier for earlier in dict.fromkeys(left) if earlier != location]

    def _among(self, measured: Iterable[Mapping[str, float]]) -> float | None:
        """The best score among some metrics; None if none was measured."""
        scores = (self._score(metrics) for metrics in measured)
        return min((score for score in scores if not math.isnan(score)), key=self._rank, default=None)

    def _score(self, metrics: Mapping[str, float]) -> float:
        return math.nan if self.monitor is None else metrics.get(self.monitor, math.nan)

    def _rank(self, score: float) -> float:
        """A number that is lower for a better score."""
        return score if self.mode == "min" else -score
