"""The delays between dials of the relay."""

import pytest
from hypothesis import given, strategies as st

from sallyport.gateway.backoff import (
    CEILING_SECONDS,
    FIRST_CEILING_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    STABLE_SECONDS,
    Backoff,
)


def test_ceilings_double_from_half_a_second_to_thirty() -> None:
    """With the largest draw each delay is its ceiling."""
    backoff = Backoff(lambda: 1.0)

    assert [backoff.next_delay() for _ in range(9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_whole_range_below_a_ceiling_is_used() -> None:
    """Full jitter: the smallest draw gives no delay at all."""
    assert Backoff(lambda: 0.0).next_delay() == 0.0
    assert Backoff(lambda: 0.5).next_delay() == FIRST_CEILING_SECONDS / 2


def test_a_stable_link_starts_over_and_a_short_one_does_not() -> None:
    """Being accepted and cut at once does not count as success."""
    backoff = Backoff(lambda: 1.0)
    backoff.next_delay()
    backoff.next_delay()

    backoff.lasted(STABLE_SECONDS - 0.001)
    assert backoff.next_delay() == 2.0

    backoff.lasted(STABLE_SECONDS)
    assert backoff.next_delay() == FIRST_CEILING_SECONDS


@pytest.mark.parametrize(
    ("retry_after", "floor"),
    [(None, 0.0), (0.0, 0.0), (-5.0, 0.0), (10.0, 10.0), (1e9, MAX_RETRY_AFTER_SECONDS)],
)
def test_the_relays_wish_is_a_floor_with_a_bound(retry_after: float | None, floor: float) -> None:
    """The jitter comes on top, so that those told the same do not come back at once."""
    assert Backoff(lambda: 0.0).next_delay(retry_after=retry_after) == floor
    assert Backoff(lambda: 1.0).next_delay(retry_after=retry_after) == floor + FIRST_CEILING_SECONDS


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_no_draw_leaves_the_bounds(draws: list[float]) -> None:
    """Whatever is drawn, a delay is between nothing and the ceiling."""
    values = iter(draws)
    backoff = Backoff(lambda: next(values))

    assert all(0 <= backoff.next_delay() <= CEILING_SECONDS for _ in draws)
