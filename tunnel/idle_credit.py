"""
Idle credit: a sender gives back what it was lent and does not use (SPEC.md §7).

Credit that was granted cannot be taken away, so a stream that once carried a large answer would hold its
grown window for as long as it stays open, and a few idle keep-alive connections would hold the receiver's
budget. Therefore the end that *sends* looks at such streams now and then, and returns the credit above the
initial window of each that sent nothing since the last look (the second-chance rule of page replacement: no
clock per stream).
"""

from collections.abc import Iterator
from typing import Final

from sallyport.tunnel.limits import IDLE_CREDIT_EVERY, INITIAL_WINDOW
from sallyport.tunnel.scheduler import SendLane


class IdleCredit:
    """The streams of one link that hold more credit than they began with."""

    __slots__ = ("_enlarged", "_looked")

    def __init__(self, now: float) -> None:
        self._enlarged: Final[dict[int, SendLane]] = {}
        self._looked = now

    def watch(self, lane: SendLane, now: float) -> None:
        """Look after a stream whose credit has grown."""
        if not self._enlarged:
            self._looked = now
        lane.has_sent = True
        self._enlarged[lane.stream] = lane

    def forget(self, stream: int) -> None:
        """Look after it no longer: its sending side has ended."""
        self._enlarged.pop(stream, None)

    def deadline(self) -> float | None:
        """Return when ``sweep`` wants to be called; None while there is nothing to look after."""
        return self._looked + IDLE_CREDIT_EVERY if self._enlarged else None

    def sweep(self, now: float) -> Iterator[tuple[SendLane, int]]:
        """Go through the streams that must return credit now, with the number of bytes each."""
        if now - self._looked < IDLE_CREDIT_EVERY:
            return
        self._looked = now
        for lane in list(self._enlarged.values()):
            excess = lane.credit - INITIAL_WINDOW
            if lane.unsent or lane.has_sent:
                lane.has_sent = False
                continue
            del self._enlarged[lane.stream]
            if excess > 0:
                lane.credit -= excess
                yield lane, excess
