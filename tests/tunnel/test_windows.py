"""Windows and the memory budget, without frames."""

import pytest
from hypothesis import given, strategies as st

from sallyport.tunnel.limits import (
    FASTEST_STREAM,
    INITIAL_WINDOW,
    MAX_WINDOW,
    RTT_FLOOR,
    SLOW_CONSUMER_AFTER,
    SLOW_CONSUMER_AT_LEAST,
)
from sallyport.tunnel.windows import MemoryBudget, ReceiveWindow

KIB = 1024
RTT = 0.1
LINK = object()
GROWN = 4 * INITIAL_WINDOW  # after the first step
LENT = GROWN - INITIAL_WINDOW


def window(budget: MemoryBudget | None = None, stream: int = 1, owner: object = LINK) -> ReceiveWindow:
    """Return the window of a stream that has just begun."""
    return ReceiveWindow(stream, owner, budget if budget is not None else MemoryBudget(64 * 1024 * KIB))


def fill_and_drain(subject: ReceiveWindow, now: float, seconds: float, round_trip: float = RTT) -> int:
    """Use up the credit and take all of it after some seconds; return the credit that came back."""
    count = subject.credit
    assert subject.received(count, now)
    return subject.consumed(count, now + seconds, round_trip)


def test_credit_is_used_up() -> None:
    """Bytes are taken up to the credit, and not one beyond it."""
    subject = window()
    assert subject.received(INITIAL_WINDOW - 1, 0.0)
    assert not subject.received(2, 0.0)
    assert subject.received(1, 0.0)
    assert not subject.received(1, 0.0)
    assert (subject.credit, subject.waiting) == (0, INITIAL_WINDOW)


def test_credit_returns_at_a_quarter() -> None:
    """Credit goes back when a quarter of the window was taken, all of it together."""
    subject = window()
    subject.received(INITIAL_WINDOW, 0.0)
    assert subject.consumed(INITIAL_WINDOW // 4 - 1, 9.0, RTT) == 0
    assert subject.consumed(1, 9.0, RTT) == INITIAL_WINDOW // 4
    assert subject.consumed(INITIAL_WINDOW // 2, 9.0, RTT) == INITIAL_WINDOW // 2


@pytest.mark.parametrize("count", [-1, 101])
def test_only_what_came_can_be_consumed(count: int) -> None:
    """Consuming what did not come is a mistake in the program."""
    subject = window()
    subject.received(100, 0.0)
    with pytest.raises(ValueError, match="stream 1"):
        subject.consumed(count, 0.0, RTT)


def test_a_window_grows_while_it_is_the_limit() -> None:
    """A consumer that empties its window within three round trips gets a larger one, up to the largest."""
    budget = MemoryBudget(64 * 1024 * KIB)
    subject, now, sizes = window(budget), 0.0, []
    for _ in range(8):
        fill_and_drain(subject, now, RTT)
        sizes.append(subject.size // KIB)
        now += RTT
    assert sizes == [256, 1024, 2048, 4096, 4096, 4096, 4096, 4096]
    assert budget.used == MAX_WINDOW - INITIAL_WINDOW


def test_a_slow_consumer_gets_no_more() -> None:
    """A consumer that needs longer than three round trips is itself what limits the stream."""
    subject = window()
    assert fill_and_drain(subject, 0.0, 3.1 * RTT) == INITIAL_WINDOW
    assert subject.size == INITIAL_WINDOW


def test_no_growth_without_a_round_trip() -> None:
    """Before the round trip is known nobody can say what limits a stream."""
    subject = window()
    subject.received(INITIAL_WINDOW, 0.0)
    assert subject.consumed(INITIAL_WINDOW, 0.0, None) == INITIAL_WINDOW


def test_the_floor_of_the_round_trip() -> None:
    """On one machine a window spans a turn of the event loop, not the microseconds of the path."""
    subject = window()
    subject.received(INITIAL_WINDOW, 0.0)
    subject.consumed(INITIAL_WINDOW, 2 * RTT_FLOOR, 0.00001)
    assert subject.size == 4 * INITIAL_WINDOW


@pytest.mark.parametrize(
    ("round_trip", "largest"),
    [
        (RTT_FLOOR / 10, int(RTT_FLOOR * FASTEST_STREAM)),
        (0.002, int(0.002 * FASTEST_STREAM)),
        (0.2, MAX_WINDOW),
    ],
)
def test_no_window_is_larger_than_a_stream_can_fill(round_trip: float, largest: int) -> None:
    """What is lent beyond that only makes a queue, in which everybody else's bytes wait."""
    subject, now = window(MemoryBudget(64 * 1024 * KIB)), 0.0
    for _ in range(12):
        fill_and_drain(subject, now, round_trip, round_trip)
        now += round_trip
    assert subject.size == largest


def test_idle_time_does_not_count() -> None:
    """A stream that was idle for long, then carries much, grows: only the time in which bytes came counts."""
    subject = window()
    fill_and_drain(subject, 0.0, 1.0)
    fill_and_drain(subject, 500.0, RTT)
    assert subject.size == 4 * INITIAL_WINDOW


def test_lending_stops_at_a_quarter() -> None:
    """Growth is lent as far as a quarter of the budget goes, then windows keep their size."""
    budget = MemoryBudget(16 * INITIAL_WINDOW)
    first, second = window(budget, 1), window(budget, 2)
    fill_and_drain(first, 0.0, RTT)
    fill_and_drain(second, 0.0, RTT)
    assert (first.size, second.size) == (4 * INITIAL_WINDOW, 2 * INITIAL_WINDOW)
    assert budget.used == budget.total // 4
    fill_and_drain(first, 1.0, RTT)
    assert first.size == 4 * INITIAL_WINDOW


@pytest.mark.parametrize("how", ["release", "finished", "credit_returned"])
def test_what_was_lent_goes_back(how: str) -> None:
    """What a stream was lent goes back when it ends, when its peer finishes, and when its peer returns it."""
    budget = MemoryBudget(64 * 1024 * KIB)
    grown = window(budget)
    fill_and_drain(grown, 0.0, RTT)
    assert budget.used == LENT
    match how:
        case "release":
            grown.release()
        case "finished":
            grown.finished()
        case "credit_returned":
            assert grown.credit_returned(LENT)
    assert budget.used == 0


def test_bytes_that_wait_stay_counted() -> None:
    """After FINISH the bytes that wait are counted until they are taken, and nothing grows any more."""
    budget = MemoryBudget(64 * 1024 * KIB)
    subject = window(budget)
    fill_and_drain(subject, 0.0, RTT)
    subject.received(100_000, 1.0)
    subject.finished()
    assert budget.used == 100_000
    subject.consumed(60_000, 1.0, RTT)
    assert budget.used == 40_000
    subject.consumed(40_000, 1.0, RTT)
    assert (budget.used, subject.size) == (0, INITIAL_WINDOW)


@pytest.mark.parametrize("count", [0, LENT + 1, 2**32 - 1])
def test_credit_that_cannot_be_returned(count: int) -> None:
    """A peer returns only what it was granted above the initial window."""
    subject = window()
    fill_and_drain(subject, 0.0, RTT)
    assert not subject.credit_returned(count)
    assert subject.size == GROWN


def test_credit_that_was_used_cannot_be_returned() -> None:
    """Credit that was used up is not there to be returned."""
    subject = window()
    fill_and_drain(subject, 0.0, RTT)
    subject.received(GROWN - 10, 1.0)
    assert not subject.credit_returned(11)
    assert subject.credit_returned(10)


def test_returned_credit_takes_what_is_still_to_be_returned_along() -> None:
    """A peer that is idle does not need the credit that was not sent to it yet either."""
    budget = MemoryBudget(64 * 1024 * KIB)
    subject = window(budget)
    fill_and_drain(subject, 0.0, RTT)
    subject.received(20_000, 1.0)
    assert subject.consumed(20_000, 1.0, RTT) == 0
    assert subject.credit_returned(GROWN - 20_000 - INITIAL_WINDOW)
    assert (subject.size, subject.credit, budget.used) == (INITIAL_WINDOW, INITIAL_WINDOW, 0)


def stalled(budget: MemoryBudget, stream: int, now: float, owner: object = LINK) -> ReceiveWindow:
    """Return a window that is full since ``now``."""
    subject = window(budget, stream, owner)
    assert subject.received(INITIAL_WINDOW, now)
    return subject


def victims(budget: MemoryBudget, now: float) -> list[int]:
    """Return the streams that must end now."""
    return [subject.stream for subject in budget.slow_consumers(now)]


def test_below_half_nobody_is_ended() -> None:
    """While half of the budget is free, a stalled stream hurts only itself."""
    budget = MemoryBudget(4 * INITIAL_WINDOW)
    for stream in (1, 2):
        stalled(budget, stream, 0.0)
    assert victims(budget, 1e6) == []


def test_above_half_the_longest_stalled_end_after_a_minute() -> None:
    """With more than half used, streams end in the order in which they stalled, until half is free."""
    budget = MemoryBudget(8 * INITIAL_WINDOW)
    for now, stream in enumerate((3, 1, 2, 4, 5, 6)):
        stalled(budget, stream, float(now))
    assert victims(budget, SLOW_CONSUMER_AFTER - 0.1) == []
    assert victims(budget, SLOW_CONSUMER_AFTER) == [3]
    assert victims(budget, 10 + SLOW_CONSUMER_AFTER) == [3, 1]


def test_when_all_is_used_the_longest_stalled_ends_at_once() -> None:
    """With no memory left, streams end one by one until some is free; a pause of a moment is no stall."""
    budget = MemoryBudget(3 * INITIAL_WINDOW)
    for stream in (1, 2, 3):
        stalled(budget, stream, float(stream))
    assert budget.is_exhausted
    assert victims(budget, 1 + SLOW_CONSUMER_AT_LEAST - 0.1) == []
    assert victims(budget, 1 + SLOW_CONSUMER_AT_LEAST) == [1]


def test_the_order_is_one_for_all_links() -> None:
    """A link learns of another's streams too, so that the longest-stalled of the process comes first."""
    budget = MemoryBudget(2 * INITIAL_WINDOW)
    other = object()
    stalled(budget, 7, 0.0, other)
    stalled(budget, 8, 1.0)
    assert [subject.owner for subject in budget.slow_consumers(5.0)] == [other]


def test_a_consumer_that_drains_is_not_stalled() -> None:
    """Whoever returns credit goes to the end of the queue, and leaves it when little waits."""
    budget = MemoryBudget(3 * INITIAL_WINDOW)
    first, _, _ = (stalled(budget, stream, 0.0) for stream in (1, 2, 3))
    first.consumed(INITIAL_WINDOW // 4, 50.0, RTT)
    first.received(INITIAL_WINDOW // 4, 50.0)
    assert victims(budget, 52.0) == [2]
    first.consumed(INITIAL_WINDOW, 53.0, RTT)
    assert first not in budget.stalled


def test_more_bytes_do_not_make_a_stall_younger() -> None:
    """A stream stalls when a quarter of its window waits, and trickling in the rest does not put that off."""
    budget = MemoryBudget(INITIAL_WINDOW)
    subject = window(budget)
    subject.received(INITIAL_WINDOW // 4 - 1, 0.0)
    assert not budget.stalled
    for now in range(1, 40):
        subject.received(INITIAL_WINDOW // 60, float(now))
    assert budget.stalled == {subject: 1.0}


def test_a_released_window_is_not_stalled() -> None:
    """A stream that has ended is not ended again."""
    budget = MemoryBudget(INITIAL_WINDOW)
    stalled(budget, 1, 0.0).release()
    assert victims(budget, 1e6) == []
    assert budget.used == 0


_STEP = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["receive", "consume", "return", "finish", "release"]),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.05, 0.15, 2.0]),
)


@given(st.integers(1, 20), st.lists(_STEP, max_size=200))
def test_the_bound_holds(quarters: int, steps: list[tuple[int, str, float, float]]) -> None:
    """Whatever happens, memory held is at most the budget and one initial window for each stream."""
    budget = MemoryBudget(quarters * INITIAL_WINDOW)
    windows = [window(budget, stream) for stream in range(4)]
    finished: set[int] = set()
    now = 0.0
    for number, step, share, pause in steps:
        now += pause
        subject = windows[number]
        match step:
            case "receive" if number not in finished:
                assert subject.received(round(subject.credit * share), now)
            case "consume":
                subject.consumed(round(subject.waiting * share), now, RTT)
            case "return" if number not in finished:
                subject.credit_returned(round(subject.credit * share))
            case "finish":
                subject.finished()
                finished.add(number)
            case "release":
                subject.release()
                windows[number] = window(budget, number)
                finished.discard(number)
        assert all(subject.credit >= 0 and subject.waiting >= 0 for subject in windows)
        held = sum(
            subject.waiting + (0 if number in finished else subject.credit)
            for number, subject in enumerate(windows)
        )
        assert held <= budget.total + INITIAL_WINDOW * len(windows)
        assert budget.used == sum(subject.charge for subject in windows)
    for subject in windows:
        subject.release()
    assert budget.used == 0
    assert not budget.stalled
