"""
From what was measured to what is said: medians, ratios, gates and targets. Pure.

A ratio is that of a path to the direct path in the same round, and of those the median counts. *Gates* must
hold; *bars* of the byte path's own work, stricter, are shown beside them and fail nothing here, because the
benchmark against other tunnels judges them.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.sdk.paths import CONNECTOR, DIRECT
from bench.sdk.rounds import METRICS, ONE_MB, P50, P99, RATE, TEN_MB

Values = Mapping[str, Mapping[str, Sequence[float]]]
Medians = dict[str, dict[str, float]]

_TITLES = {P50: "p50 ms", P99: "p99 ms", RATE: "calls/s", ONE_MB: "1 MB ms", TEN_MB: "10 MB ms"}


@dataclass(frozen=True)
class Bar:
    """
    How far the path through the connector may be from the direct one.

    Attributes:
        metric: Of which.
        gate: The ratio that has to hold.
        speed_gate: That which the benchmark of speed asks for.
        target: What it aims at.
    """

    metric: str
    gate: float
    speed_gate: float
    target: float


BARS: Mapping[str, tuple[Bar, ...]] = {
    "legacy": (Bar(P50, 2.0, 1.6, 1.3), Bar(RATE, 0.8, 0.9, 0.95), Bar(TEN_MB, 1.6, 1.5, 1.3)),
    "modern": (Bar(P50, 2.0, 2.0, 1.6), Bar(RATE, 0.8, 0.9, 0.95), Bar(TEN_MB, 1.6, 1.5, 1.3)),
}


@dataclass(frozen=True)
class Verdict:
    """One bar and what was measured; ``ratio`` is None where the path failed, which no bar allows."""

    era: str
    bar: Bar
    ratio: float | None

    @property
    def holds(self) -> bool:
        """Whether the gate holds."""
        return self._reaches(self.bar.gate)

    @property
    def holds_for_speed(self) -> bool:
        """Whether the stricter gate does."""
        return self._reaches(self.bar.speed_gate)

    @property
    def on_target(self) -> bool:
        """Whether the target is reached."""
        return self._reaches(self.bar.target)

    def _reaches(self, bound: float) -> bool:
        return self.ratio is not None and is_ahead(self.bar.metric, self.ratio, bound, or_level=True)

    def __str__(self) -> str:
        measured = "failed" if self.ratio is None else f"{self.ratio:.2f}×"
        sign = "≥" if self.bar.metric == RATE else "≤"
        parts = (
            (f"gate {sign} {self.bar.gate}", self.holds),
            (f"for speed {sign} {self.bar.speed_gate}", self.holds_for_speed),
            (f"target {self.bar.target}", self.on_target),
        )
        marks = ", ".join(f"{text} {'✓' if held else '✗'}" for text, held in parts)
        return f"{self.era:<7}{_TITLES[self.bar.metric]:<9}{measured:>7}   {marks}"


def medians(values: Values) -> Medians:
    """Return the median over the rounds, by path and metric."""
    return {
        path: {metric: statistics.median(rounds) for metric, rounds in by_metric.items()}
        for path, by_metric in values.items()
    }


def ratios(values: Values) -> Medians:
    """Return the median of the rounds' ratios to the direct path, by path and metric."""
    direct = values.get(DIRECT, {})
    return {
        path: {
            # A path that is measured less often was measured in the first rounds.
            metric: statistics.median(mine / its for mine, its in zip(rounds, direct[metric], strict=False))
            for metric, rounds in by_metric.items()
            if metric in direct
        }
        for path, by_metric in values.items()
    }


def judge(era: str, measured: Medians) -> list[Verdict]:
    """Hold the ratios of the path through the connector to the bars of an era."""
    mine = measured.get(CONNECTOR, {})
    return [Verdict(era, bar, mine.get(bar.metric)) for bar in BARS[era]]


def lines_behind(measured: Medians, proxy: str) -> list[str]:
    """Return the metrics in which a proxy is level with the path through the connector, or ahead of it."""
    mine, its = measured.get(CONNECTOR, {}), measured.get(proxy, {})
    return [
        metric
        for metric in METRICS
        if metric in its and not (metric in mine and is_ahead(metric, mine[metric], its[metric]))
    ]


def is_ahead(metric: str, mine: float, other: float, *, or_level: bool = False) -> bool:
    """Tell whether one figure is better than another: more calls a second, less of everything else."""
    if mine == other:
        return or_level
    return (mine > other) == (metric == RATE)


def table(
    era: str, measured: Medians, compared: Medians, failures: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """
    Return the lines of an era's table: medians, and in brackets the ratios to direct.

    Args:
        era: The heading.
        measured: Medians by path and metric.
        compared: Ratios by path and metric.
        failures: Why a figure is not there, by path and metric.
    """
    lines = [f"{era:<20}" + "".join(f"{_TITLES[metric]:>18}" for metric in METRICS)]
    for path in [*measured, *(path for path in failures if path not in measured)]:
        cells = (_cell(measured.get(path, {}), compared.get(path, {}), metric) for metric in METRICS)
        lines.append(f"{path:<20}" + "".join(f"{cell:>18}" for cell in cells))
    for path, by_metric in failures.items():
        for reason in dict.fromkeys(by_metric.values()):
            failed = ", ".join(_TITLES[metric] for metric, why in by_metric.items() if why == reason)
            lines.append(f"  {path}: {failed}: {reason}")
    return lines


def _cell(measured: Mapping[str, float], compared: Mapping[str, float], metric: str) -> str:
    if metric not in measured:
        return "–"
    digits = 0 if metric == RATE else 2
    return f"{measured[metric]:.{digits}f} ({compared[metric]:.2f}×)" if metric in compared else "?"
