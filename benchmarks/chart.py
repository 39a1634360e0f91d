"""The chart of a report: bars on a linear axis that begins at zero, ours marked by their colour.

``python -m benchmarks.chart benchmarks/results/*.json`` draws the charts of reports that are there, without measuring.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

try:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    message = "drawing a chart needs matplotlib: pip install 'ai4os-data[bench]'"
    raise ImportError(message) from error

from benchmarks.report import short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

# All of them are legible on a white page and on a dark one: the picture has no background of its own.
_OURS, _OTHERS, _TEXT, _SPREAD = "#2f7fd0", "#8d8d8d", "#838383", "#d08a2f"
_LATER = {_OURS: "#8ab8e6", _OTHERS: "#c3c3c3"}
_TITLES = {
    "checkpoints": "What a checkpoint costs the training, and how fast it travels",
    "epochs": "Epochs over a link of 400 Mbit/s",
    "fill": "What it costs to put a file into a full cache",
    "folders": "A whole directory on the local disk",
    "gpu": "Checkpoints and loading with a GPU",
    "listing": "Listing files, and opening a dataset again",
    "network_vs_local": "Your network beside your local disk",
    "reads": "Reading files of 110 KB",
    "shrinking": "Photographs of 12 megapixels that are read at 256 pixels",
    "transfers": "Uploads and downloads of large files",
}
_REFERENCE = "plain local files, for reference"
_CALLED = {
    "ours": "ai4os-data",
    _REFERENCE: "files already on the local disk",
    "rclone mount, --vfs-cache-mode full": "rclone mount with a cache of its own",
    "rclone mount, the sidecar's flags": "the mount at /storage",
    "litdata's raw dataset over the mount": "litdata over the mount",
    "rclone copy first": "rclone copy first, then local files",
    "webdav4's fsspec file system": "webdav4",
    "fsspec filecache:: over it": "webdav4 behind fsspec's filecache",
}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report in the form of its JSON into a PNG."""
    figure_of(report).savefig(path, dpi=150, transparent=True)


def figure_of(report: Mapping[str, Any]) -> Figure:
    """The chart of a report: ours beside others on one axis, or an axis for each unit."""
    is_race = any(case["name"] == "ours: warm epoch" for case in report["cases"])
    return _peers(report) if is_race else _by_unit(report)


def _peers(report: Mapping[str, Any]) -> Figure:
    """Who is compared, with the time of the first epoch and of a later one on the same axis."""
    seconds = {
        case["name"]: case["median"] / (1000 if case["unit"] == "ms" else 1)
        for case in report["cases"]
        if case["unit"] in {"s", "ms"}
    }
    who = [name.removesuffix(": warm epoch") for name in seconds if name.endswith(": warm epoch")]
    who.sort(key=lambda name: (name != "ours", name == _REFERENCE, seconds[f"{name}: cold epoch"]))
    figure = Figure(figsize=(6.8, 0.5 * len(who) + 1.2), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(who):
        colour = _OURS if name == "ours" else _OTHERS
        _bar(axis, number - 0.2, seconds[f"{name}: cold epoch"], colour)
        _bar(axis, number + 0.2, seconds[f"{name}: warm epoch"], _LATER[colour])
    axis.set_yticks(range(len(who)), [_CALLED.get(name, name) for name in who])
    axis.invert_yaxis()
    _style(axis)
    axis.get_yticklabels()[0].set(color=_OURS, fontweight="bold")
    files, size = report["settings"]["files"], report["settings"]["bytes a file"]
    axis.set_title(
        f"Seconds to read {files} files of {round(size / 1000)} KB from a server {report['settings']['RTT']} away",
        fontsize=11,
        color=_TEXT,
        loc="right",
    )
    axis.set_xlabel("upper bar: first epoch; lower bar: each later one; shorter is better", fontsize=9, color=_TEXT)
    return figure


def _bar(axis: Axes, at: float, seconds: float, colour: str) -> None:
    axis.barh(at, seconds, color=colour, height=0.36)
    text = f"{seconds:.3f} s" if seconds < 0.1 else f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    right_of_it = (4, 0)
    axis.annotate(
        text, (seconds, at), xytext=right_of_it, textcoords="offset points", va="center", fontsize=9, color=_TEXT
    )


def _by_unit(report: Mapping[str, Any]) -> Figure:
    """The cases of one unit share an axis."""
    by_unit: dict[str, list[Mapping[str, Any]]] = {}
    for case in report["cases"]:
        by_unit.setdefault(case["unit"], []).append(case)
    heights = [len(cases) + 1.6 for cases in by_unit.values()]
    figure = Figure(figsize=(9, 0.3 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(by_unit), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, cases) in zip(axes, by_unit.items(), strict=True):
        _bars(axis, unit, cases)
    name = report["benchmark"]
    figure.suptitle(_TITLES.get(name, name), fontsize=12, color=_TEXT)
    return figure


def _bars(axis: Axes, unit: str, cases: list[Mapping[str, Any]]) -> None:
    names = [case["name"] for case in cases]
    medians = [case["median"] for case in cases]
    below = [case["median"] - case["min"] for case in cases]
    above = [case["max"] - case["median"] for case in cases]
    colours = [_OURS if _is_ours(name) else _OTHERS for name in names]
    axis.barh(names, medians, xerr=[below, above], color=colours, ecolor=_SPREAD, height=0.7)
    axis.invert_yaxis()
    _style(axis)
    axis.set_xlabel(f"{unit} ({'longer' if unit.endswith('/s') else 'shorter'} is better)", fontsize=8, color=_TEXT)
    for number, median in enumerate(medians):
        axis.annotate(
            short(median),
            (1.01, number),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=_TEXT,
        )


def _is_ours(name: str) -> bool:
    return name.startswith(("ours", "save, ", "upload, ", "download, ", "step, beside"))


def _style(axis: Axes) -> None:
    """One linear axis from zero, nothing that is not needed."""
    axis.set_xlim(left=0)
    axis.margins(x=0.12)
    axis.tick_params(labelsize=10, colors=_TEXT, length=0)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.grid(axis="x", color=_TEXT, alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in axis.spines.values():
        side.set_visible(False)


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:]):
        draw(json.loads(given.read_text(encoding="utf-8")), given.with_suffix(".png"))
