"""The limits: each one once, with a reason, and in agreement with the others."""

import pytest

from sallyport.tunnel import limits
from sallyport.tunnel.limits import LIMITS, Limit


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_each_limit(limit: Limit) -> None:
    """A limit has the name of its constant, its value, and a reason."""
    assert getattr(limits, limit.name) == limit.value
    assert limit.value > 0
    assert len(limit.reason) > 10


def test_names_are_unique() -> None:
    """No limit is listed twice."""
    assert len({limit.name for limit in LIMITS}) == len(LIMITS)


def test_what_must_fit_into_what() -> None:
    """Frames fit into messages, first bytes into the window, and our floods stay below the peer's limits."""
    assert limits.DATA_MAX + 12 <= limits.MESSAGE_MAX
    assert limits.JOINED_MESSAGE <= limits.MESSAGE_MAX
    assert limits.OPEN_FIRST_MAX <= limits.INITIAL_WINDOW <= limits.MAX_WINDOW <= limits.CREDIT_MAX
    assert (
        limits.OPEN_FIRST_MAX + 12 + 10 + limits.SERVER_NAME_MAX + limits.ADDRESS_MAX < limits.JOINED_MESSAGE
    )
    assert limits.LOW_WATER < limits.HIGH_WATER
    assert limits.OPEN_BURST_SENT < limits.OPEN_BURST
    assert limits.OPEN_RATE_SENT < limits.OPEN_RATE
    assert 1 / limits.PING_AFTER < limits.PING_RATE


def test_a_dead_peer_is_noticed_in_ten_seconds() -> None:
    """The promise of half-open detection, and of a path that is down for 5 s (felt for up to 6.2 s)."""
    assert limits.DEAD_AFTER < 10
    assert limits.PING_AFTER + 6.2 < limits.DEAD_AFTER
