"""
A deadline that is cheap to move.

A timer of the event loop costs more than most of what happens between two timers. So the loop's timer is
not moved with the deadline: when it fires early, it looks at the deadline and is set again. A connection
that carries a thousand chunks a second has its deadline moved a thousand times and its timer set twice a
minute.
"""

import asyncio
from collections.abc import Callable


class Deadline:
    """
    One moment at which to be called, unless it is moved or cancelled before.

    Args:
        loop: The running loop, for its clock and its timer.
        expired: Called at the deadline, once for each ``set``.
    """

    __slots__ = ("_at", "_expired", "_fires", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired: Callable[[], None] | None = expired
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires = 0.0  # when the timer, if there is one, does

    def set(self, seconds: float, now: float | None = None) -> None:
        """Move the deadline to so many seconds from now; ``now`` where the loop's clock was just read."""
        self._at = at = (self._loop.time() if now is None else now) + seconds
        if self._timer is not None:
            if self._fires <= at:
                return
            self._timer.cancel()
        self._start_timer(at)

    def cancel(self) -> None:
        """
        Have no deadline, no timer and no owner, at the end of his life.

        He holds the deadline and the deadline him: let go, he is freed when he is forgotten, with whatever
        memory OpenSSL has behind him, and not whenever the garbage collector comes by.
        """
        self._at = None
        self._expired = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fired(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._at > self._loop.time():
            self._start_timer(self._at)
            return
        self._at = None
        if self._expired is not None:
            self._expired()

    def _start_timer(self, at: float) -> None:
        self._fires = at
        self._timer = self._loop.call_at(at, self._fired)
