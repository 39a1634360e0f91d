"""The chart of a report: a bar for each case, and how each ratio stands to its bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure
except ImportError as error:
    message = "drawing a chart needs matplotlib: pip install 'ai4os-data[bench]'"
    raise ImportError(message) from error

from benchmarks.report import short

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.report import Case, Report

_BLUE, _RED, _GREY = "#3b6ea5", "#b5413b", "#555555"


def draw(report: Report, path: Path) -> None:
    """Draw a report: its cases by unit, one below the other; or its columns side by side, where it has some."""
    figure = _columns(report) if report.columns else _by_unit(report)
    ratios = report.as_json()["bars"]
    assert isinstance(ratios, dict)
    said = [
        f"{name} {report.ratios[name]:.3g} ({found['bar']}{'' if found['holds'] else ', missed'})"
        for name, found in ratios.items()
    ]
    lines = [", ".join(said[begin : begin + 3]) for begin in range(0, len(said), 3)]
    figure.suptitle("\n".join([f"ai4os-data: {report.name}", *lines]), fontsize=7)
    line = str(report.environment["line"])
    figure.supxlabel(line[: len(line) // 2] + "\n" + line[len(line) // 2 :], fontsize=5, color=_GREY)
    figure.savefig(path, dpi=150)


def _by_unit(report: Report) -> Figure:
    by_unit: dict[str, list[Case]] = {}
    for case in report.cases.values():
        by_unit.setdefault(case.unit, []).append(case)
    heights = [len(cases) + 1.5 for cases in by_unit.values()]
    figure = Figure(figsize=(9, 0.32 * sum(heights) + 1.6), layout="constrained")
    axes = figure.subplots(len(by_unit), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, cases) in zip(axes, by_unit.items(), strict=True):
        _bars(axis, unit, {case.name: case for case in cases})
    return figure


def _columns(report: Report) -> Figure:
    """Who is compared stands once, at the left."""
    found = [
        {name.removesuffix(f": {column}"): case for name, case in report.cases.items() if name.endswith(f": {column}")}
        for column in report.columns
    ]
    figure = Figure(figsize=(3 + 2.2 * len(found), 0.32 * len(found[0]) + 1.6), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axis, column, cases in zip(axes, report.columns, found, strict=True):
        (unit,) = {case.unit for case in cases.values()}
        _bars(axis, f"{column}, {unit}", cases)
    return figure


def _bars(axis: Axes, unit: str, cases: dict[str, Case]) -> None:
    medians = [case.median for case in cases.values()]
    below = [case.median - min(case.values) for case in cases.values()]
    above = [max(case.values) - case.median for case in cases.values()]
    colours = [_BLUE if name.startswith("ours") else _GREY for name in cases]
    axis.barh(list(cases), medians, xerr=[below, above], color=colours, ecolor=_RED, height=0.7)
    if not axis.yaxis_inverted():  # once, where it is shared
        axis.invert_yaxis()
    if min(medians) > 0 and max(medians) / min(medians) > 30:
        axis.set_xscale("log")
    axis.set_xlabel(unit, fontsize=7)
    axis.tick_params(labelsize=7)
    for number, median in enumerate(medians):
        axis.annotate(short(median), (1.01, number), xycoords=("axes fraction", "data"), va="center", fontsize=7)
