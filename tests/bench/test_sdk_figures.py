"""The benchmark behind an SDK server: how figures become ratios, and ratios verdicts."""

import pytest

from bench.sdk.caller import Era
from bench.sdk.figures import BARS, is_ahead, judge, lines_behind, medians, ratios, table
from bench.sdk.load import ERAS
from bench.sdk.paths import CONNECTOR, DIRECT
from bench.sdk.rounds import ONE_MB, P50, P99, RATE, TEN_MB, percentile

_GOOD = {CONNECTOR: {P50: 1.2, RATE: 0.97, TEN_MB: 1.2}}


def test_a_ratio_is_taken_within_a_round() -> None:
    """A machine that is three times slower in one round leaves the ratio as it is."""
    values = {DIRECT: {P50: [1.0, 3.0, 1.0]}, CONNECTOR: {P50: [1.5, 4.5, 1.6]}}
    assert ratios(values)[CONNECTOR][P50] == 1.5
    assert medians(values)[CONNECTOR][P50] == 1.6


def test_a_path_of_one_round_is_compared_with_the_first_of_the_others() -> None:
    """A path that was given up after a round has that round's ratio."""
    assert ratios({DIRECT: {RATE: [800.0, 400.0]}, "slow": {RATE: [4.0]}})["slow"][RATE] == 0.005


@pytest.mark.parametrize("era", ERAS)
def test_all_gates_and_targets_hold_for_a_fast_path(era: Era) -> None:
    """Figures within every bar hold for the gate, for speed and for the target."""
    verdicts = judge(era, _GOOD)
    assert [verdict.bar for verdict in verdicts] == list(BARS[era])
    assert all(verdict.holds and verdict.holds_for_speed and verdict.on_target for verdict in verdicts)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("metric", "ratio"), [(P50, 2.01), (RATE, 0.79), (TEN_MB, 1.61)])
def test_a_gate_falls_when_its_own_metric_is_beyond_it(era: Era, metric: str, ratio: float) -> None:
    """One metric beyond its gate fails that gate, and no other."""
    verdicts = judge(era, {CONNECTOR: {**_GOOD[CONNECTOR], metric: ratio}})
    assert [verdict.bar.metric for verdict in verdicts if not verdict.holds] == [metric]


@pytest.mark.parametrize("era", ERAS)
def test_what_could_not_be_measured_holds_no_gate(era: Era) -> None:
    """A path that failed has not passed."""
    assert not any(verdict.holds for verdict in judge(era, {}))


@pytest.mark.parametrize(("metric", "mine", "other"), [(RATE, 9.0, 8.0), (P99, 8.0, 9.0)])
def test_ahead_is_more_calls_and_less_of_all_else(metric: str, mine: float, other: float) -> None:
    """Which of two figures is better depends on the metric, and level is not ahead."""
    assert is_ahead(metric, mine, other)
    assert not is_ahead(metric, other, mine)
    assert not is_ahead(metric, mine, mine)


def test_a_proxy_is_beaten_where_it_failed() -> None:
    """Lines that a proxy could not finish are not lost; one that it does better is."""
    measured = {CONNECTOR: {P50: 1.0, RATE: 900.0, ONE_MB: 9.0}, "proxy": {P50: 2.0, ONE_MB: 8.0}}
    assert lines_behind(measured, "proxy") == [ONE_MB]


def test_a_line_that_only_the_proxy_finished_is_lost() -> None:
    """A failure of the tunnel is not ahead of a figure."""
    assert lines_behind({"proxy": {P50: 2.0}}, "proxy") == [P50]


def test_the_table_shows_why_a_figure_is_not_there() -> None:
    """A failed path has its row and its reason."""
    values = {DIRECT: {P50: [1.0]}}
    lines = table("legacy", medians(values), ratios(values), {"proxy": {P50: "answered 400"}})
    assert any(line.startswith("proxy") and "–" in line for line in lines)
    assert any("p50 ms: answered 400" in line for line in lines)


def test_percentiles_are_times_that_were_measured() -> None:
    """The median of one time is that time, and the 99th percentile of few the largest."""
    assert percentile([0.5], 0.5) == 0.5
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
