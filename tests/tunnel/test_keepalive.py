"""Keepalive in virtual time: who is there, who is gone, who only slept."""

import pytest

from sallyport.tunnel.errors import LinkTimedOut
from sallyport.tunnel.keepalive import Keepalive
from sallyport.tunnel.limits import DEAD_AFTER, PING_AFTER, RTT_EVERY


def hear(keepalive: Keepalive, now: float) -> None:
    """Do what whoever receives a message does."""
    keepalive.heard = now
    keepalive.is_waiting = False


def started(now: float = 100.0, rtt: float = 0.01) -> Keepalive:
    """Return a keepalive whose first PING was answered at ``now``."""
    keepalive = Keepalive(now - rtt)
    ping = keepalive.tick(now - rtt)
    assert ping is not None
    hear(keepalive, now)
    assert keepalive.pong_received(ping, now)
    return keepalive


def test_the_first_ping_goes_at_once() -> None:
    """A link that has just come up measures its round trip."""
    keepalive = Keepalive(5.0)
    assert keepalive.rtt is None
    assert keepalive.deadline() <= 5.0
    ping = keepalive.tick(5.0)
    assert ping is not None
    assert len(ping) == 8
    assert keepalive.pong_received(ping, 5.25)
    assert keepalive.rtt == 0.25


def test_a_ping_after_a_short_silence() -> None:
    """Silence is followed by one PING, and not by another while it is unanswered."""
    keepalive = started()
    assert keepalive.deadline() == 100 + PING_AFTER
    assert keepalive.tick(99.99 + PING_AFTER) is None
    assert keepalive.tick(100 + PING_AFTER) is not None
    assert keepalive.deadline() == 100 + DEAD_AFTER
    assert keepalive.tick(99.99 + DEAD_AFTER) is None


def test_a_long_silence_is_the_end() -> None:
    """A peer from which nothing comes is dead after the limit, and the error says how long it was silent."""
    keepalive = started()
    keepalive.tick(100 + PING_AFTER)
    with pytest.raises(LinkTimedOut) as caught:
        keepalive.tick(100 + DEAD_AFTER)
    assert caught.value.silence == DEAD_AFTER


def test_anything_is_a_sign_of_life() -> None:
    """A message that is no answer also puts off the end."""
    keepalive = started()
    keepalive.tick(100 + PING_AFTER)
    hear(keepalive, 100 + DEAD_AFTER - 0.1)
    assert keepalive.tick(100 + DEAD_AFTER) is None
    assert keepalive.deadline() == 100 + DEAD_AFTER - 0.1 + PING_AFTER


def test_a_ping_under_traffic() -> None:
    """The round trip is measured now and then although the peer is never silent."""
    keepalive = started()
    now, pinged = 100.0, []
    while now < 100 + 2.5 * RTT_EVERY:
        now += 0.5
        hear(keepalive, now)
        if keepalive.tick(now) is not None:
            pinged.append(now)
    assert len(pinged) == 2


def test_a_process_that_slept() -> None:
    """A timer that is very late says that we slept: the peer is asked anew before it is given up."""
    keepalive = started()
    keepalive.tick(100 + PING_AFTER)
    woken = 100 + DEAD_AFTER + 3600
    assert keepalive.tick(woken) is not None
    assert keepalive.tick(woken + DEAD_AFTER - 0.1) is None
    with pytest.raises(LinkTimedOut):
        keepalive.tick(woken + DEAD_AFTER)


def test_only_the_last_ping_measures() -> None:
    """An old answer, one to nothing, and one that was made up measure nothing."""
    fresh = Keepalive(0.0)
    assert not fresh.pong_received(bytes(8), 1.0)
    keepalive = Keepalive(0.0)
    old = keepalive.tick(0.0)
    assert old is not None
    hear(keepalive, 1.0)
    new = keepalive.tick(1.0 + PING_AFTER)
    assert new is not None
    assert not keepalive.pong_received(old, 5.0)
    assert not keepalive.pong_received(b"\xff" * 8, 5.0)
    assert keepalive.rtt is None
    assert keepalive.pong_received(new, 1.5 + PING_AFTER)
    assert keepalive.rtt == 0.5


def test_the_estimate_falls_at_once_and_rises_slowly() -> None:
    """Queues only add to a round trip, so the shortest is nearest to the truth."""
    keepalive = started(now=100.0, rtt=0.1)
    assert keepalive.rtt == pytest.approx(0.1)
    now = 100.0
    for sample, expected in ((0.9, 0.2), (0.05, 0.05), (0.45, 0.1)):
        now += PING_AFTER
        ping = keepalive.tick(now)
        assert ping is not None
        hear(keepalive, now + sample)
        keepalive.pong_received(ping, now + sample)
        assert keepalive.rtt == pytest.approx(expected)
        now += sample
