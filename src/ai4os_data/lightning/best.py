"""The best checkpoint of a training of Lightning's, by the metrics of what is there; never one that is gone."""

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
    """What is known of the best one.

    Attributes:
        monitor: the metric that says how good one is; None if nothing does.
        mode: whether a low or a high metric is good.
        score: of the best one at the last look; None if none was measured.
        earlier: the locations that the training has left, the last one first.
        earlier_score: of the best one there, at the last look.
    """

    monitor: str | None
    mode: Mode
    score: float | None = None
    earlier: list[str] = field(default_factory=list)
    earlier_score: float | None = None

    def look(self, runs: Runs) -> tuple[str, Checkpoint] | None:
        """The best one that is there, and its location; of equals the one here, and not one of an earlier location.

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
        """Record the metrics of what is here, beside what the earlier locations had."""
        there = [] if self.earlier_score is None else [{self.monitor or "": self.earlier_score}]
        self.score = self._among([*here, *there])

    def state_dict(self, location: str) -> dict[str, Any]:
        """What the next training has to know: it reads the rest from the metrics."""
        return {"location": location, "score": self.score, "earlier": self.earlier}

    def load_state_dict(self, state: Mapping[str, Any], location: str) -> None:
        """Resume at a location, be it the same one or another."""
        before = state.get("before")  # as a state was written once: the location of before, and the score there
        left = [*state.get("earlier", []), *(before[:1] if before else [])]
        if state["score"] is not None:
            left = [state["location"], *left]
        self.score = state["score"]
        self.earlier = [earlier for earlier in dict.fromkeys(left) if earlier != location]

    def _among(self, measured: Iterable[Mapping[str, float]]) -> float | None:
        """The best of some metrics."""
        scores = (self._score(metrics) for metrics in measured)
        return min((score for score in scores if not math.isnan(score)), key=self._rank, default=None)

    def _score(self, metrics: Mapping[str, float]) -> float:
        return math.nan if self.monitor is None else metrics.get(self.monitor, math.nan)

    def _rank(self, score: float) -> float:
        """The lower the better."""
        return score if self.mode == "min" else -score
