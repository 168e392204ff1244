"""Token buckets, with time as an argument."""

import pytest
from hypothesis import given, strategies as st

from sallyport.tunnel import limits
from sallyport.tunnel.buckets import FloodGuard, TokenBucket
from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.frames import GoAwayReason


def test_a_burst_then_the_rate() -> None:
    """A full bucket gives its burst at once, then one token for each share of a second."""
    bucket = TokenBucket(3, 2.0, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.5), bucket.take(10.5)] == [True, False]


def test_it_never_holds_more_than_its_burst() -> None:
    """A long pause earns no more than the burst."""
    bucket = TokenBucket(3, 2.0, now=0.0)
    assert [bucket.take(1e6) for _ in range(4)] == [True, True, True, False]


@given(st.floats(1, 50), st.floats(0.1, 100), st.lists(st.floats(0, 10, allow_subnormal=False), max_size=200))
def test_never_more_than_burst_and_rate(burst: float, rate: float, pauses: list[float]) -> None:
    """In any time it gives at most its burst and what that time earns."""
    now = 0.0
    taken = 0
    bucket = TokenBucket(burst, rate, now)
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 1e-6


@pytest.mark.parametrize(
    ("count", "burst", "rate"),
    [
        ("open_received", limits.OPEN_BURST, limits.OPEN_RATE),
        ("reset_received", limits.RESET_BURST, limits.RESET_RATE),
        ("fault_received", limits.FAULT_BURST, limits.FAULT_RATE),
        ("ping_received", limits.PING_BURST, limits.PING_RATE),
        ("control_received", limits.CONTROL_BURST, limits.CONTROL_RATE),
    ],
)
def test_each_flood(count: str, burst: int, rate: float) -> None:
    """Each kind has its own bucket, and passing it is a flood."""
    guard = FloodGuard(now=0.0)
    spend = getattr(guard, count)
    for _ in range(burst):
        spend(0.0)
    with pytest.raises(ProtocolViolation, match="a flood of") as caught:
        spend(0.0)
    assert caught.value.code == GoAwayReason.FLOOD
    for _ in range(int(rate)):
        spend(1.0)
