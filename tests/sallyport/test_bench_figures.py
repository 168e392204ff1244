"""The arithmetic of ``sallyport bench``, and what it says of the figures."""

import pytest

from sallyport.bench_figures import (
    Bulk,
    Findings,
    Samples,
    Way,
    as_json,
    next_size,
    percentile,
    reading,
    shown,
)


def _findings(**medians: float) -> Findings:
    """Make findings in which every call of a way took the same time, in milliseconds."""
    ways = {Way(name): Samples(alone=[value / 1000] * 3) for name, value in medians.items()}
    return Findings(8, ways)


@pytest.mark.parametrize(("rank", "expected"), [(50, 50), (99, 99), (100, 100), (0.5, 1), (1, 1), (1.5, 2)])
def test_percentile_is_the_nearest_rank(rank: float, expected: int) -> None:
    """Of a hundred values in any order, one that is among them."""
    assert percentile([*range(100, 0, -1)], rank) == expected


@pytest.mark.parametrize("rank", [50, 99, 100])
def test_percentile_of_one_value_is_that_value(rank: float) -> None:
    """With few calls p99 is the slowest."""
    assert percentile([7.0], rank) == 7.0


@pytest.mark.parametrize(("values", "rank"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_percentile_of_nothing_is_refused(values: list[float], rank: float) -> None:
    """A mistake of ours, not a figure."""
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, rank)


@pytest.mark.parametrize(
    ("size", "seconds", "expected"), [(100, 0.01, 400), (300, 0.01, 1000), (100, 1.0, 100), (1000, 0.0, 1000)]
)
def test_transfers_grow_while_they_are_short(size: int, seconds: float, expected: int) -> None:
    """Up to the most, and not where one takes long enough to tell."""
    assert next_size(size, seconds, 1000) == expected


def test_difference_is_added_where_the_direct_way_is_known() -> None:
    """Else it is the server's share; without a server there is none."""
    with_direct = _findings(tunnel=1, call=5, direct=3).difference()
    assert with_direct is not None
    assert (with_direct.name, round(with_direct.p50, 6), round(with_direct.p99, 6)) == ("added", 0.002, 0.002)
    without = _findings(tunnel=1, call=5).difference()
    assert without is not None
    assert (without.name, round(without.p50, 6)) == ("server", 0.004)
    assert _findings(tunnel=1).difference() is None


def test_difference_waits_for_both_ways() -> None:
    """An interrupt may come before a way was measured."""
    findings = Findings(8, {Way.TUNNEL: Samples(alone=[1.0]), Way.CALL: Samples()})
    assert findings.difference() is None
    assert findings.has_any
    assert not Findings(8, {Way.TUNNEL: Samples()}).has_any


@pytest.mark.parametrize(
    ("medians", "words"),
    [
        ({"tunnel": 1, "call": 5, "direct": 3}, "the tunnel adds 2.00 ms to a call's median"),
        ({"tunnel": 1, "call": 2, "direct": 3}, "drowns in noise"),
        ({"tunnel": 1, "call": 5}, "of a call's 5.00 ms (median) the tunnel takes 1.00 ms, 20 % of it"),
        ({"tunnel": 6, "call": 5}, "the tunnel takes 6.00 ms, all of it"),
        ({"tunnel": 1}, "a call that the gateway answers itself takes 1.00 ms"),
        ({}, ""),
    ],
)
def test_one_sentence_says_what_it_means(medians: dict[str, float], words: str) -> None:
    """Of what there is."""
    assert words in reading(_findings(**medians))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.001234, "1.23 ms"), (0.01234, "12.3 ms"), (1.5, "1500 ms"), (-0.02, "-20.0 ms")]
)
def test_times_have_the_digits_that_mean_something(seconds: float, text: str) -> None:
    """Three of them, or so."""
    assert shown(seconds) == text


def test_json_has_every_figure_or_null() -> None:
    """Units are in the names; what was not measured is there and says so."""
    samples = Samples(connections=[0.005], alone=[0.001, 0.003], together=[0.002] * 10, together_for=2.0)
    findings = Findings(2, {Way.TUNNEL: samples, Way.CALL: Samples()}, down=Bulk(3_000_000, 2.0))
    told = as_json(findings)
    assert told == {
        "callers": 2,
        "ways": {
            "tunnel": {
                "calls": 2,
                "p50_ms": 1.0,
                "p99_ms": 3.0,
                "calls_per_second": 5.0,
                "p99_ms_at_callers": 2.0,
                "new_connection_ms": 5.0,
            },
            "call": {
                "calls": 0,
                "p50_ms": None,
                "p99_ms": None,
                "calls_per_second": None,
                "p99_ms_at_callers": None,
                "new_connection_ms": None,
            },
        },
        "down_mb_per_second": 1.5,
        "up_mb_per_second": None,
    }
