"""The best checkpoint of a training of Lightning's, told by the metrics of what is there; never one that is gone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ai4os_data.checkpoint import Checkpoint, Mode


@dataclass
class Best:
    """What is known of the best one.

    Attributes:
        monitor: the metric that says how good one is; None where nothing does.
        mode: whether a low or a high metric is good.
        score: of the best one at the last look; None where none was measured.
        earlier: the locations that the training has left, the last one first.
        earlier_score: of the best one there, at the last look.
    """

    monitor: str | None
    mode: Mode
    score: float | None = None
    earlier: list[str] = field(default_factory=list)
    earlier_score: float | None = None

    def among(self, measured: Iterable[Mapping[str, float]]) -> float | None:
        """The best of some metrics."""
        scores = (self._score(metrics) for metrics in measured)
        return min((score for score in scores if not math.isnan(score)), key=self._rank, default=None)

    def of(self, found: Iterable[Checkpoint]) -> Checkpoint | None:
        """The best of some checkpoints; of equals the first."""
        measured = [one for one in found if not math.isnan(self._score(one.metrics))]
        return min(measured, key=lambda one: self._rank(self._score(one.metrics)), default=None)

    def note(self, here: Iterable[Mapping[str, float]]) -> None:
        """Record the metrics of what is there, beside what the earlier locations had."""
        there = [] if self.earlier_score is None else [{self.monitor or "": self.earlier_score}]
        self.score = self.among([*here, *there])

    def state_dict(self, location: str) -> dict[str, Any]:
        """What the next training has to know: the metrics tell it the rest."""
        return {"location": location, "score": self.score, "earlier": self.earlier}

    def load_state_dict(self, state: Mapping[str, Any], location: str) -> None:
        """Go on at a location, be it the same one or another."""
        before = state.get("before")  # as a state was written once: the location of before, and the score there
        left = [*state.get("earlier", []), *(before[:1] if before else [])]
        if state["score"] is not None:
            left = [state["location"], *left]
        self.score = state["score"]
        self.earlier = [place for place in dict.fromkeys(left) if place != location]

    def _score(self, metrics: Mapping[str, float]) -> float:
        return math.nan if self.monitor is None else metrics.get(self.monitor, math.nan)

    def _rank(self, score: float) -> float:
        """The lower the better."""
        return score if self.mode == "min" else -score
