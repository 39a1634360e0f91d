"""The command line that all benchmarks share: how much to measure, and where the report goes."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.report import Report


_LEAST_ROUNDS = 3
_MOST_ROUNDS = 25
_FULL = 2  # times the quick one


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        quick: less of everything, done within two minutes.
        tiny: so little that the figures mean nothing, for the tests of the benchmarks.
        directory: an empty folder to work in, removed afterwards.
        only: the parts to measure; all if it is empty.
        location: what is measured, if the user says so.
    """

    quick: bool
    tiny: bool
    directory: Path
    only: frozenset[str] = frozenset()
    location: str = ""

    def choose(self, tiny: int, quick: int, full: int) -> int:
        """How much of something to measure."""
        return tiny if self.tiny else quick if self.quick else full

    def rounds(self, part: str, quick_s: float) -> Iterator[int]:
        """Count the rounds of a part: as many as its time allows, at least three."""
        least, most = (1, 1) if self.tiny else (_LEAST_ROUNDS, _MOST_ROUNDS)
        begun = time.monotonic()
        until = begun + quick_s * (1 if self.quick else _FULL)
        number = 0
        while number < least or (number < most and time.monotonic() < until):
            yield number
            number += 1
        print(f"{part}: {number} rounds in {time.monotonic() - begun:.1f} s", file=sys.stderr)

    def wants(self, part: str) -> bool:
        """Whether a part was asked for."""
        return not self.only or part in self.only


def run(
    measure: Callable[[Options], Report],
    description: str,
    parts: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
    *,
    takes_location: bool = False,
) -> int:
    """Measure, print the tables, write the JSON and draw the chart; returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="less of everything: at most two minutes")
    parser.add_argument("--tiny", action="store_true", help="so little that the figures mean nothing: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, and a PNG beside it")
    parser.add_argument(
        "--chart",
        action=argparse.BooleanOptionalAction,
        help="draw the PNG, and fail if that is impossible; by default it is drawn if matplotlib is there",
    )
    parser.add_argument("--directory", type=Path, help="the disk to measure on; by default that of temporary files")
    if takes_location:
        parser.add_argument("location", help="a folder on your storage, such as rshare:benchmark or /storage/benchmark")
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, default=(), help="measure these parts alone")
    given = parser.parse_args(arguments)
    if given.chart and given.json is None:
        parser.error("--chart draws beside the JSON: give --json FILE")
    with tempfile.TemporaryDirectory(prefix="ai4os-data-bench-", dir=given.directory) as directory:
        only, location = frozenset(getattr(given, "only", ())), getattr(given, "location", "")
        options = Options(given.quick, given.tiny, Path(directory), only, location)
        report = measure(options)
    print(report)
    if given.json is None:
        return 0
    given.json.parent.mkdir(parents=True, exist_ok=True)
    report.write(given.json)
    return 0 if given.chart is False else _draw(report, given.json.with_suffix(".png"), required=bool(given.chart))


def _draw(report: Report, path: Path, *, required: bool) -> int:
    try:
        from benchmarks.chart import draw
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1 if required else 0
    draw(report.as_json(), path)
    return 0
