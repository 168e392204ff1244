"""
Token buckets: how many frames of a kind a peer may send before it is a flooder (SPEC.md §10).

A bucket holds at most ``burst`` tokens, gains ``rate`` of them a second, and each frame takes one. The
numbers and their reasons are in limits.py.
"""

from sallyport.tunnel import limits
from sallyport.tunnel.frames import GoAwayReason, violation


class TokenBucket:
    """
    One bucket, full at first.

    Args:
        burst: The most tokens that it holds.
        rate: Tokens gained a second.
        now: The time, in seconds.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = self._tokens = burst
        self._rate = rate
        self._updated = now

    def take(self, now: float) -> bool:
        """Take one token if there is one, and say whether there was."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class FloodGuard:
    """The buckets of one link for what its peer sends, and for what the peer's errors make us send."""

    __slots__ = ("_controls", "_faults", "_opens", "_pings", "_resets")

    def __init__(self, now: float) -> None:
        self._opens = TokenBucket(limits.OPEN_BURST, limits.OPEN_RATE, now)
        self._resets = TokenBucket(limits.RESET_BURST, limits.RESET_RATE, now)
        self._faults = TokenBucket(limits.FAULT_BURST, limits.FAULT_RATE, now)
        self._pings = TokenBucket(limits.PING_BURST, limits.PING_RATE, now)
        self._controls = TokenBucket(limits.CONTROL_BURST, limits.CONTROL_RATE, now)

    # Each raises ProtocolViolation (FLOOD) when the peer sends more than a working peer would.

    def open_received(self, now: float) -> None:
        """Count an OPEN."""
        _spend(self._opens, now, "OPEN")

    def reset_received(self, now: float) -> None:
        """Count a RESET, for whatever stream."""
        _spend(self._resets, now, "RESET")

    def fault_received(self, now: float) -> None:
        """Count an error of the peer that ends one stream only."""
        _spend(self._faults, now, "stream errors")

    def ping_received(self, now: float) -> None:
        """Count a PING, or a PONG that nobody asked for."""
        _spend(self._pings, now, "PING")

    def control_received(self, now: float) -> None:
        """Count a CONTROL or GO_AWAY."""
        _spend(self._controls, now, "CONTROL")


def _spend(bucket: TokenBucket, now: float, what: str) -> None:
    if not bucket.take(now):
        raise violation(f"a flood of {what}", GoAwayReason.FLOOD)
