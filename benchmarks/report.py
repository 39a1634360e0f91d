"""The report of a run: cases with their spread, ratios with their bars; printed, and written as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.environment import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


@dataclass
class Case:
    """One way of doing the work, measured in several rounds."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of all rounds."""
        return statistics.median(self.values)

    def as_json(self) -> dict[str, object]:
        """The case in the form of the report."""
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)}
        return {"name": self.name, "unit": self.unit, **spread, "values": self.values, "note": self.note}


@dataclass(frozen=True)
class Bar:
    """The bar of a ratio: at most, or at least, some number."""

    relation: str
    number: float

    def holds(self, value: float) -> bool:
        """Whether a value is within the bar."""
        return value <= self.number if self.relation == "<=" else value >= self.number

    def __str__(self) -> str:
        """The bar as a table shows it."""
        return f"{self.relation} {self.number:g}"


def at_most(number: float) -> Bar:
    """A ratio that should be small."""
    return Bar("<=", number)


def at_least(number: float) -> Bar:
    """A ratio that should be large."""
    return Bar(">=", number)


class Report:
    """The measurements of one benchmark.

    Args:
        name: of the benchmark.
        bars: the bar of each ratio.
        settings: such as the number and the size of the files.
    """

    def __init__(self, name: str, bars: Mapping[str, Bar], settings: Mapping[str, object]) -> None:
        self.name = name
        self.environment = environment()
        self.settings = dict(settings)
        self.cases: dict[str, Case] = {}
        self._bars = dict(bars)
        self._ratios: dict[str, list[float]] = {}
        self.tables: list[list[tuple[str, ...]]] = []  # what is better seen side by side; printed first

    def add(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Record the value that one round of a case has given."""
        self.cases.setdefault(name, Case(name, unit, note=note)).values.append(value)

    def ratio(self, name: str, over: str, under: str) -> None:
        """Record the ratio of two cases, round by round: a disturbance of the machine affects both."""
        pairs = zip(self.cases[over].values, self.cases[under].values, strict=True)
        self._ratios[name] = [a / b for a, b in pairs]

    def figure(self, name: str, values: Iterable[float]) -> None:
        """Record a ratio, or another number with a bar, that was measured directly in each round."""
        self._ratios[name] = list(values)

    @property
    def ratios(self) -> dict[str, float]:
        """Each ratio: the median of its rounds."""
        return {name: statistics.median(values) for name, values in self._ratios.items()}

    def as_json(self) -> dict[str, object]:
        """The whole report."""
        bars = {
            name: {
                "bar": str(bar),
                "holds": bar.holds(self.ratios[name]),
                "min": min(self._ratios[name]),
                "max": max(self._ratios[name]),
                "rounds": len(self._ratios[name]),
            }
            for name, bar in self._bars.items()
            if name in self._ratios
        }
        return {
            "benchmark": self.name,
            "environment": self.environment,
            "settings": self.settings,
            "cases": [case.as_json() for case in self.cases.values()],
            "ratios": self.ratios,
            "bars": bars,
            **({"tables": self.tables} if self.tables else {}),
        }

    def write(self, path: Path) -> None:
        """Write the JSON."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        """The report as tables of text."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [str(self.environment["line"]), settings, ""]
        for table in self.tables:
            lines += [*_table(table, left=1), ""]
        rows: list[tuple[str, ...]] = [("case", "unit", "median", "min", "max", "rounds")]
        for case in self.cases.values():
            spread = (case.median, min(case.values), max(case.values))
            rows.append((case.name, case.unit, *map(short, spread), str(len(case.values))))
        lines += _table(rows, left=2)
        rows = [("ratio", "bar", "median", "min", "max", "holds")]
        for name, values in self._ratios.items():
            bar = self._bars.get(name)
            held = "" if bar is None else "yes" if bar.holds(self.ratios[name]) else "NO"
            spread = (self.ratios[name], min(values), max(values))
            rows.append((name, str(bar or ""), *map(short, spread), held))
        return "\n".join([*lines, "", *_table(rows, left=2)])


def short(value: float) -> str:
    """A number as a table shows it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.3f}"


def _table(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
