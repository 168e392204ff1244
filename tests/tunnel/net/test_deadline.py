"""A deadline is cheap to move: the loop's timer is set only when it must be."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import cast

from sallyport.tunnel.net.deadline import Deadline


class Clock:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.started = 0
        self._timers: list[tuple[float, Callable[[], None], Handle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> "Handle":
        self.started += 1
        handle = Handle()
        self._timers.append((when, callback, handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Move the clock and fire what is due, in order."""
        self.now += seconds
        due = sorted((timer for timer in self._timers if timer[0] <= self.now), key=lambda timer: timer[0])
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _when, callback, handle in due:
            if not handle.is_cancelled:
                callback()


class Handle:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Owner:
    """Whose life a deadline is part of."""

    def __init__(self, clock: Clock) -> None:
        self.deadline = Deadline(cast(asyncio.AbstractEventLoop, clock), self.expired)

    def expired(self) -> None:
        """Be told."""


def deadline(clock: Clock) -> tuple[Deadline, list[float]]:
    """Return a deadline and the moments at which it expired."""
    expired: list[float] = []
    loop = cast(asyncio.AbstractEventLoop, clock)
    return Deadline(loop, lambda: expired.append(clock.now)), expired


def test_it_expires_once() -> None:
    """At its time and not before."""
    clock = Clock()
    subject, expired = deadline(clock)
    subject.set(10)
    clock.advance(9)
    assert expired == []
    clock.advance(1)
    clock.advance(100)
    assert expired == [110.0]


def test_moving_it_later_starts_no_timer() -> None:
    """Nine hundred moves cost one look at the clock when the first timer fires."""
    clock = Clock()
    subject, expired = deadline(clock)
    for _ in range(900):
        subject.set(10)
        clock.advance(0.01)
    assert (clock.started, expired) == (1, [])
    clock.advance(5)
    assert (clock.started, expired) == (2, [])
    clock.advance(5)
    assert len(expired) == 1


def test_it_may_be_told_the_time() -> None:
    """Whoever has just read the loop's clock need not have it read again."""
    clock = Clock()
    subject, expired = deadline(clock)
    subject.set(10, clock.now - 4)
    clock.advance(6)
    assert expired == [106.0]


def test_moving_it_earlier_is_heeded() -> None:
    """The timer that would fire too late is replaced."""
    clock = Clock()
    subject, expired = deadline(clock)
    subject.set(10)
    subject.set(2)
    clock.advance(2)
    assert expired == [102.0]
    clock.advance(100)
    assert len(expired) == 1


def test_setting_it_again_after_it_has_expired() -> None:
    """It expires once for each time that it is set."""
    clock = Clock()
    subject, expired = deadline(clock)
    subject.set(10)
    clock.advance(10)
    subject.set(20)
    clock.advance(100)
    assert expired == [110.0, 210.0]
    assert clock.started == 2


def test_cancelling_leaves_no_timer() -> None:
    """At the end of the owner's life nothing holds him."""
    clock = Clock()
    subject, expired = deadline(clock)
    subject.set(10)
    subject.cancel()
    clock.advance(100)
    assert expired == []


def test_cancelling_lets_the_owner_go() -> None:
    """He and his deadline hold each other no more, so that he needs no garbage collector."""
    owner = Owner(Clock())
    owner.deadline.set(10)
    gone = weakref.ref(owner)
    owner.deadline.cancel()
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()
