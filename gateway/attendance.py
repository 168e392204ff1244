"""
How many connections each caller has open (pure).

A link has a number of streams for everybody. One caller that opens and never closes, an agent in a loop or a
stolen bundle, would take them all; so each may have a part of them. Callers are counted by principal, which
the gateway has proven itself: an address is only what the relay claims, and many callers may share one.
"""

from collections import Counter


class Attendance:
    """
    Counts callers' connections.

    Args:
        most: How many one caller may have open at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()

    def arrive(self, principal: str) -> bool:
        """Count a connection, unless that caller has too many: then False, and ``leave`` is not due."""
        if self.of(principal) >= self.most:
            return False
        self._open[principal] += 1
        return True

    def leave(self, principal: str) -> None:
        """Take note that a counted connection has ended; nothing is kept of a caller who has none."""
        self._open[principal] -= 1
        if not self._open[principal]:
            del self._open[principal]

    def of(self, principal: str) -> int:
        """Return how many connections a caller has open."""
        return self._open.get(principal, 0)

    def __len__(self) -> int:
        """Return how many callers have a connection."""
        return len(self._open)
