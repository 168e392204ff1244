"""The doctor's verdicts: every hop is told, in one order, with what to do."""

import pytest

from sallyport.hops import Hop, Verdict, failed, in_order, judge_clock, passed


class _Error(Exception):
    hint = "mend it"


@pytest.mark.parametrize(
    ("offset", "state", "what"),
    [
        (0.4, "ok", "agrees with the relay's clock"),
        (-12.0, "ok", "12 s ahead of the relay's clock"),
        (30.0, "ok", "30 s behind the relay's clock"),
        (31.0, "warning", "31 s behind the relay's clock"),
        (-300.0, "warning", "300 s ahead of the relay's clock"),
        (301.0, "failed", "301 s behind the relay's clock: certificates begin and end at the wrong time"),
    ],
)
def test_clock_is_judged_by_how_far_it_is_off(offset: float, state: str, what: str) -> None:
    """Half a minute is a warning, five minutes a failure."""
    verdict = judge_clock(offset, "the relay's")
    assert (verdict.hop, verdict.state, verdict.what) == (Hop.CLOCK, state, what)
    assert bool(verdict.hint) == (state != "ok")


def test_hops_are_told_in_one_order() -> None:
    """The clock is second, whenever it could be judged."""
    told = in_order(
        [passed(Hop.FILES, "f"), passed(Hop.RELAY, "r"), passed(Hop.LINK, "l"), passed(Hop.CLOCK, "c")]
    )
    assert [verdict.hop for verdict in told] == list(Hop)
    assert told[4] == Verdict(Hop.CANARY, "skipped", "not tried")


def test_what_comes_after_a_failure_is_skipped() -> None:
    """The rest names the hop that it waits for."""
    told = in_order([passed(Hop.FILES, "f"), failed(Hop.RELAY, _Error("no relay"))])
    assert told[2] == Verdict(Hop.RELAY, "failed", "no relay", "mend it")
    assert [verdict.state for verdict in told] == ["ok", "skipped", "failed", "skipped", "skipped"]
    assert told[3].what == "not tried, because of the relay"
