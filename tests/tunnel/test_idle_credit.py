"""Idle credit: what a sender gives back, and when."""

import pytest

from sallyport.tunnel.frames import StreamId
from sallyport.tunnel.idle_credit import IdleCredit
from sallyport.tunnel.limits import IDLE_CREDIT_EVERY, INITIAL_WINDOW
from sallyport.tunnel.scheduler import SendLane

MIB = 1024 * 1024


@pytest.fixture
def lane() -> SendLane:
    """Return the lane of a stream with a megabyte of credit."""
    lane = SendLane(StreamId(1))
    lane.credit = MIB
    return lane


def returned(idle: IdleCredit, now: float) -> list[tuple[int, int]]:
    """Return what is given back now, by stream."""
    return [(lane.stream, credit) for lane, credit in idle.sweep(now)]


def test_an_idle_stream_gives_back(lane: SendLane) -> None:
    """A stream that sent nothing between two looks keeps the initial window and gives the rest back, once."""
    idle = IdleCredit(0.0)
    assert idle.deadline() is None
    idle.watch(lane, 100.0)
    assert idle.deadline() == 100.0 + IDLE_CREDIT_EVERY
    assert returned(idle, 100.0 + IDLE_CREDIT_EVERY) == []
    assert returned(idle, 100.0 + 2 * IDLE_CREDIT_EVERY) == [(1, MIB - INITIAL_WINDOW)]
    assert lane.credit == INITIAL_WINDOW
    assert idle.deadline() is None
    assert returned(idle, 1e6) == []


def test_a_stream_that_sends_keeps_its_credit(lane: SendLane) -> None:
    """Sending, and having something to send, put it off."""
    idle = IdleCredit(0.0)
    idle.watch(lane, 0.0)
    for look in range(1, 4):
        lane.has_sent = True
        assert returned(idle, look * IDLE_CREDIT_EVERY) == []
    lane.unsent = 5
    assert returned(idle, 4 * IDLE_CREDIT_EVERY) == []
    assert returned(idle, 5 * IDLE_CREDIT_EVERY) == []
    lane.unsent = 0
    assert len(returned(idle, 6 * IDLE_CREDIT_EVERY)) == 1


def test_looks_have_their_distance(lane: SendLane) -> None:
    """Being called often does not make a stream idle sooner."""
    idle = IdleCredit(0.0)
    idle.watch(lane, 0.0)
    assert returned(idle, IDLE_CREDIT_EVERY) == []
    assert returned(idle, IDLE_CREDIT_EVERY + 1) == []
    assert lane.credit == MIB


def test_a_stream_that_used_its_credit_gives_nothing(lane: SendLane) -> None:
    """Nothing above the initial window, nothing to give back."""
    idle = IdleCredit(0.0)
    idle.watch(lane, 0.0)
    lane.credit = 10
    assert returned(idle, IDLE_CREDIT_EVERY) == []
    assert returned(idle, 2 * IDLE_CREDIT_EVERY) == []
    assert idle.deadline() is None


def test_a_forgotten_stream(lane: SendLane) -> None:
    """A stream whose sending side has ended is not looked after."""
    idle = IdleCredit(0.0)
    idle.watch(lane, 0.0)
    idle.forget(1)
    assert idle.deadline() is None
