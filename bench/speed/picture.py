"""
One picture of the run, as PNG and SVG: for each workload its main figure, a bar for each system.

The longer bar is not always the better one, so each panel says which way is better; ours is the coloured one.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench.speed.gates import OURS
from bench.speed.rounds import DIRECT, Medians
from bench.speed.workloads.workload import Metric, Workload

_PANELS = (
    ("small-32", "calls_per_s"),
    ("small-256", "calls_per_s"),
    ("small-32", "p99_us"),
    ("small-1", "added_p50_us"),
    ("small-32", "cpu_us_per_call"),
    ("beside-bulk", "p99_us"),
    ("beside-bulk", "bulk_mb_per_s"),
    ("connections-mutual", "connections_per_s"),
    ("download", "mb_per_s"),
    ("upload", "mb_per_s"),
    ("idle-1000", "kib_per_stream"),
    ("events", "delay_p99_ms"),
)
_COLUMNS = 3
_REFERENCE = "frp"  # to which bars are also given as a ratio
_COLOURS = {OURS: "#c2410c", "sallyport-tunnel": "#e9a27e", "sallyport-fallback": "#e9a27e"}
_PEER_COLOUR = "#7b8794"
_TEXT_COLOUR = "#1f2933"


def draw(medians: Medians, workloads: Sequence[Workload], folder: Path, *, note: str) -> None:
    """
    Write ``bench.png`` and ``bench.svg``.

    Args:
        medians: Of the run.
        workloads: For titles.
        folder: Where.
        note: One line below the picture: the conditions.
    """
    named = {(each.name, metric.name): (each, metric) for each in workloads for metric in each.metrics}
    panels = [key for key in _PANELS if key in named and _bars(medians, key)]
    if not panels:
        return
    rows = -(-len(panels) // _COLUMNS)
    # Text stays text in the SVG, and the same run gives the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9})
    figure = Figure(
        figsize=(4.6 * _COLUMNS, 2.7 * rows + 0.8), layout=ConstrainedLayoutEngine(wspace=0.05, hspace=0.05)
    )
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, key in zip(grid, panels, strict=False):
        _panel(axes, _bars(medians, key), *named[key])
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Sallyport and its peers under the same load, caller TLS end to end", fontsize=13, color=_TEXT_COLOUR
    )
    figure.supxlabel(note, fontsize=8, color=_TEXT_COLOUR)
    figure.savefig(folder / "bench.png", dpi=130)
    figure.savefig(folder / "bench.svg", metadata={"Date": None})


def _bars(medians: Medians, key: tuple[str, str]) -> dict[str, float]:
    workload, metric = key
    return {
        system: figures[metric]
        for system, figures in medians.get(workload, {}).items()
        if metric in figures and system != DIRECT
    }


def _panel(axes: Axes, bars: dict[str, float], workload: Workload, metric: Metric) -> None:
    systems = sorted(bars, key=bars.__getitem__, reverse=metric.more_is_better)
    colours = [_COLOURS.get(system, _PEER_COLOUR) for system in systems]
    drawn = axes.barh(systems, [max(bars[system], 0.0) for system in systems], color=colours)
    axes.bar_label(drawn, labels=[_label(bars, system, metric) for system in systems], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.38)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=_TEXT_COLOUR)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == OURS else "normal")
    way = "more is better" if metric.more_is_better else "less is better"
    axes.set_title(f"{workload.title}\n{metric.title}, {way}", loc="left", fontsize=9, color=_TEXT_COLOUR)


def _label(bars: dict[str, float], system: str, metric: Metric) -> str:
    shown = f"{bars[system]:,.{metric.digits}f}"
    reference = bars.get(_REFERENCE, 0.0)
    if system == _REFERENCE or reference <= 0:
        return shown
    return f"{shown}  ({bars[system] / reference:.2f}× {_REFERENCE})"
