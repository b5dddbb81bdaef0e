"""Draw results as an SVG: horizontal bars, one panel a figure, for a README.

It draws from the plain data of `results.json`, so a chart can be made again without measuring. The colours
are of the Okabe-Ito palette, told apart with any colour vision and in grey; the labels say all they say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

__all__ = ["draw_bars", "draw_lines", "draw_timelines", "panels"]

_OURS, _PEER, _FLOOR = "#0072B2", "#E69F00", "#999999"
_MARKERS = "osD^vPX"
_LINES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")


def _color(peer: str) -> str:
    if peer.startswith("rawws"):
        return _OURS
    return _FLOOR if peer == "floor" else _PEER


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.0f} k".replace(",", " ")
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def panels(data: Mapping[str, Any], cases: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return what there is to draw: one panel a figure, its bars sorted with the best on top."""
    found = []
    for case in data["cases"]:
        if cases is not None and case["name"] not in cases:
            continue
        for metric in case["metrics"]:
            bars = [
                {"peer": row["peer"], "label": row["label"], **row["figures"][metric["key"]]}
                for row in case["rows"]
                if metric["key"] in row["figures"] and not row["error"]
            ]
            bars.sort(key=lambda bar: bar["median"], reverse=metric["higher_is_better"])
            title = case["title"] if len(case["metrics"]) == 1 else f"{case['title']}: {metric['title']}"
            better = "" if metric["higher_is_better"] else ", lower is better"
            if bars:
                found.append({"title": f"{title}\n{metric['unit']}{better}", "bars": bars})
    return found


def _figure(rows: int, columns: int, width: float, height: float) -> Any:
    """Make an empty figure that is written the same way every time."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "rawws", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def _foot(data: Mapping[str, Any]) -> str:
    machine = data["machine"]
    return f"{machine['cpu']}, {machine['kernel']}, {machine['python']}, {machine['date'][:10]}"


def _draw_panel(axes: Axes, panel: Mapping[str, Any]) -> None:
    bars = panel["bars"][::-1]
    values = [bar["median"] for bar in bars]
    spread = [[bar["median"] - bar["min"] for bar in bars], [bar["max"] - bar["median"] for bar in bars]]
    axes.barh(
        [bar["label"] for bar in bars],
        values,
        color=[_color(bar["peer"]) for bar in bars],
        xerr=spread,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
    )
    room = max(bar["max"] for bar in bars)
    for place, bar in enumerate(bars):
        axes.text(bar["max"] + room * 0.015, place, _number(bar["median"]), va="center", fontsize=8)
    axes.set_xlim(0, room * 1.18)
    axes.set_title(panel["title"], fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: _number(value) if value else "0")


def draw_bars(data: Mapping[str, Any], path: Path, cases: Sequence[str] | None = None) -> int:
    """Draw the figures of `results.json`, of the named cases or all, and return how many panels there are.

    Bars are medians, the thin lines reach from the least to the greatest measurement.
    """
    found = panels(data, cases)
    if not found:
        return 0
    columns = 1 if len(found) == 1 else 2
    rows = math.ceil(len(found) / columns)
    tallest = max(len(panel["bars"]) for panel in found)
    figure, grid = _figure(rows, columns, 7.5 * columns, (0.27 * tallest + 0.9) * rows + 0.3)
    for place, axes in enumerate(grid.flat):
        if place < len(found):
            _draw_panel(axes, found[place])
        else:
            axes.set_visible(False)
    figure.supxlabel(f"median, least and greatest of the runs; {_foot(data)}", fontsize=7, color="#555555")
    _save(figure, path)
    return len(found)


def draw_lines(data: Mapping[str, Any], path: Path) -> int:
    """Draw the plots of a growth run, one panel each, and return how many there are."""
    plots = [plot for plot in data["plots"] if plot["series"]]
    if not plots:
        return 0
    figure, grid = _figure(1, len(plots), 5.2 * len(plots), 3.8)
    for axes, plot in zip(grid.flat, plots, strict=True):
        for color, marker, (label, points) in zip(_LINES * 2, _MARKERS * 2, plot["series"].items(), strict=False):
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker=marker,
                markersize=4,
                color=color,
                label=label,
            )
        axes.set_xscale("log")
        if plot["log"]:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(f"{plot['title']}\n{plot['unit']}", fontsize=10, loc="left")
        axes.set_xlabel(plot["axis"])
        axes.grid(visible=True, linewidth=0.4, color="#cccccc")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    figure.supxlabel(_foot(data), fontsize=7, color="#555555")
    _save(figure, path)
    return len(plots)


def draw_timelines(data: Mapping[str, Any], path: Path) -> int:
    """Draw plots over seconds, one below the other, and return how many there are."""
    plots = data["plots"]
    figure, grid = _figure(len(plots), 1, 8.0, 2.4 * len(plots))
    for axes, plot in zip(grid.flat, plots, strict=True):
        for color, (label, points) in zip(_LINES, plot["series"].items(), strict=False):
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, label=label, linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.set_title(plot["title"], fontsize=10, loc="left")
        axes.grid(visible=True, linewidth=0.4, color="#cccccc")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, loc=plot["legend"])
    figure.supxlabel(f"seconds; {_foot(data)}", fontsize=7, color="#555555")
    _save(figure, path)
    return len(plots)
