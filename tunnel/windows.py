"""
Receive windows, and the memory that they are lent from (SPEC.md §7).

A window is what one stream may make this end hold: credit that the peer has not used, plus bytes that came
and were not yet taken by the consumer. Every stream owns ``INITIAL_WINDOW``. A window grows, up to
``MAX_WINDOW``, while its consumer empties it within a few round trips, which says that the window and not the
consumer is what holds the stream back; but not beyond what the fastest stream could fill in a round trip, for
more than that only stands in a queue, and everybody else's replies behind it. Growth is *lent* by one budget
for the whole process and goes back when the stream ends, or when the peer returns credit that it does not
use.

The budget counts, for each stream, the bytes that wait for the consumer or what it was lent, whichever is
more.

* Growth is lent while at most a quarter of the budget is used, so that lending alone never makes it short:
  what stalled streams hold beside it has a quarter of its own before anybody has to go.
* While all of it is used, no stream is opened.
* A stream is *stalled* while a quarter of its window or more waits and no credit was returned. With more
  than half of the budget used, streams that have been stalled for a minute are ended, longest first; with
  all of it used, the longest-stalled at once. Below half, a stalled stream is left alone: it hurts only
  itself.

So all links together can make this process hold ``total`` + ``INITIAL_WINDOW`` × streams, and no more.
"""

from collections.abc import Iterator
from typing import Final

from sallyport.tunnel.limits import (
    FASTEST_STREAM,
    INITIAL_WINDOW,
    MAX_WINDOW,
    MEMORY_BUDGET,
    RTT_FLOOR,
    SLOW_CONSUMER_AFTER,
    SLOW_CONSUMER_AT_LEAST,
)

# Credit goes back, and a stream counts as stalled, by this part of its window. A quarter and not a half: the
# peer never runs dry while the credit travels, and a slow consumer is noticed while it still takes something.
_PART: Final = 4
# A window that is emptied within this many round trips is what limits the stream. Its bytes come in bursts,
# one a round trip, and the count may begin and end in the middle of one: hence three, and not one.
_GROWTH_ROUND_TRIPS: Final = 3


class MemoryBudget:
    """
    The memory that all links of one process share.

    Args:
        total: In bytes.

    Attributes:
        total: In bytes.
        used: What streams hold or were lent, in bytes.
        stalled: Streams that do not drain and since when, the longest-stalled first.
    """

    __slots__ = ("stalled", "total", "used")

    def __init__(self, total: int = MEMORY_BUDGET) -> None:
        self.total: Final = total
        self.used = 0
        self.stalled: Final[dict[ReceiveWindow, float]] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether all of it is used: no stream may be opened."""
        return self.used >= self.total

    def status(self) -> dict[str, int]:
        """Describe it to an operator: bytes, and how many streams do not drain."""
        return {"total": self.total, "used": self.used, "stalled_streams": len(self.stalled)}

    @property
    def lendable(self) -> int:
        """By how many bytes a window may grow."""
        return self.total // 4 - self.used

    def slow_consumers(self, now: float) -> "Iterator[ReceiveWindow]":
        """
        Go through the streams that must end now, longest-stalled first.

        They may belong to any link; each link ends its own, so what the others hold counts as given back.
        """
        used = self.used
        for window, since in list(self.stalled.items()):
            stalled_for = now - since
            is_slow = stalled_for >= SLOW_CONSUMER_AFTER and used * 2 > self.total
            is_in_the_way = stalled_for >= SLOW_CONSUMER_AT_LEAST and used >= self.total
            if is_slow or is_in_the_way:
                used -= window.charge
                yield window


class ReceiveWindow:
    """
    One stream's window at the end that receives.

    Args:
        stream: The stream's number.
        owner: Its link, so that one budget can serve many.
        budget: Where growth is lent from.

    Attributes:
        stream: The stream's number.
        owner: Its link.
        size: Credit, waiting bytes and bytes taken but not yet returned as credit, together.
        credit: What the peer may still send.
        waiting: Bytes that came and were not yet taken.
        charge: What the budget counts for this stream.
    """

    __slots__ = (
        "_budget",
        "_measured",
        "_measured_since",
        "_taken",
        "charge",
        "credit",
        "owner",
        "size",
        "stream",
        "waiting",
    )

    def __init__(self, stream: int, owner: object, budget: MemoryBudget) -> None:
        self.stream: Final = stream
        self.owner: Final = owner
        self.size = self.credit = INITIAL_WINDOW
        self.waiting = 0
        self.charge = 0
        self._budget: Final = budget
        self._taken = 0
        self._measured = 0  # bytes returned as credit since the time below
        self._measured_since: float | None = None

    def received(self, count: int, now: float) -> bool:
        """Take note of bytes that came; False when they are beyond the credit, and then nothing is noted."""
        credit = self.credit - count
        if credit < 0:
            return False
        self.credit = credit
        self.waiting = waiting = self.waiting + count
        if self._measured_since is None:
            self._measured_since = now
        if waiting * _PART >= self.size:
            self._budget.stalled.setdefault(self, now)
        if waiting > self.charge:  # which is no less than what was lent
            self._budget.used += waiting - self.charge
            self.charge = waiting
        return True

    def consumed(self, count: int, now: float, rtt: float | None) -> int:
        """
        Take note of bytes that the consumer took.

        Args:
            count: How many.
            now: The time, in seconds.
            rtt: The link's round trip in seconds, None when it is not known.

        Returns:
            The credit to return to the peer now, in bytes; often 0.
        """
        waiting = self.waiting - count
        if count < 0 or waiting < 0:
            raise ValueError(f"{count} bytes consumed of {self.waiting} that wait on stream {self.stream}")
        self.waiting = waiting
        self._taken = taken = self._taken + count
        size = self.size
        # Before growth is decided: the bytes taken are memory that it can be lent from.
        lent = size - INITIAL_WINDOW
        charge = waiting if waiting > lent else lent
        if charge != self.charge:
            self._budget.used += charge - self.charge
            self.charge = charge
        if taken * _PART < size:
            return 0
        grant = taken + self._growth(now, rtt)
        self._taken = 0
        self.credit += grant
        self._restart_stall(now)
        return grant

    def credit_returned(self, count: int) -> bool:
        """Shrink by credit that the peer gives back; False when it had no such credit to give."""
        if not 0 < count <= min(self.credit, self.size - INITIAL_WINDOW):
            return False
        self.credit -= count
        # Nor does the peer need what was taken and is still to be returned, as far as that was lent.
        unneeded = min(self._taken, self.size - count - INITIAL_WINDOW)
        self._taken -= unneeded
        self.size -= count + unneeded
        self._recharge()
        return True

    def finished(self) -> None:
        """Give back what was lent: nothing more will come, and only what waits is held."""
        self.size = INITIAL_WINDOW
        self.credit = 0
        self._measured_since = None
        self._recharge()

    def release(self) -> None:
        """Give everything back: the stream has ended and its bytes were dropped."""
        self._budget.used -= self.charge
        self.charge = 0
        self._budget.stalled.pop(self, None)

    def _recharge(self) -> None:
        lent = self.size - INITIAL_WINDOW
        charge = self.waiting if self.waiting > lent else lent
        if charge != self.charge:
            self._budget.used += charge - self.charge
            self.charge = charge

    def _restart_stall(self, now: float) -> None:
        stalled = self._budget.stalled
        if stalled.pop(self, None) is not None and self.waiting * _PART >= self.size:
            stalled[self] = now  # behind the others: it has just drained a little

    def _growth(self, now: float, rtt: float | None) -> int:
        """Decide, once for each window of bytes, by how much to grow."""
        self._measured += self._taken
        since = self._measured_since
        if self._measured < self.size or since is None:
            return 0
        self._measured = 0
        self._measured_since = now if self.waiting else None
        if rtt is None:
            return 0
        round_trip = max(rtt, RTT_FLOOR)
        if now - since > _GROWTH_ROUND_TRIPS * round_trip:
            return 0
        # A small window is mostly much too small, and each step to the right one costs a round trip or two.
        wanted = self.size * (4 if self.size * 4 < MAX_WINDOW else 2)
        most = min(wanted, MAX_WINDOW, int(round_trip * FASTEST_STREAM))
        growth = min(most - self.size, self._budget.lendable)
        if growth <= 0:
            return 0
        self.size += growth
        self._recharge()
        return growth
