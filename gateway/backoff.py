"""
How long to wait before the next dial of the relay, or before a worker is started again (pure).

Full jitter: a delay is drawn evenly between zero and a ceiling that doubles with every failure. Eight
thousand gateways that lose one relay at once come back spread over the first half second instead of
together, and a relay that stays away is asked at most twice a minute by each. A link counts as good only
after it was up for a while, so that one which is accepted and cut at once does not start from zero. For a
worker that ends the same holds.

Randomness is an argument; the time that a link or a worker lasted is measured by the caller.
"""

from collections.abc import Callable
from typing import Final

from sallyport.tunnel.limits import limit

FIRST_CEILING_SECONDS: Final = limit(
    0.5, "seconds",
    "the first wait for another dial is random below this: gateways that lost a relay together do not "
    "come back together",
)  # fmt: skip
CEILING_SECONDS: Final = limit(
    30.0, "seconds",
    "the wait for another dial doubles up to this: a relay that is back is found within half a minute",
)  # fmt: skip
STABLE_SECONDS: Final = limit(
    30.0, "seconds",
    "a link that lived this long was good, and the next wait begins small again; a shorter one may be a "
    "relay that accepts and drops",
)  # fmt: skip

MAX_RETRY_AFTER_SECONDS: Final = limit(
    300.0, "seconds",
    "the relay's wish to be left alone is obeyed up to here: it is not trusted to park a gateway for a "
    "day by one number",
)  # fmt: skip


class Backoff:
    """The delays of one uplink or one worker, growing with failures in a row."""

    def __init__(self, random: Callable[[], float]) -> None:
        """
        Start with no failure counted.

        Args:
            random: Draws evenly from [0, 1), as ``random.random`` does.
        """
        self._random = random
        self._ceiling = FIRST_CEILING_SECONDS

    def next_delay(self, *, retry_after: float | None = None) -> float:
        """
        Count one failure and return how long to wait before the next try.

        Args:
            retry_after: Seconds that the relay asked for, as a floor. The jitter comes on top of it, or
                everybody who was told the same would return at the same instant.

        Returns:
            Seconds.
        """
        jitter = self._random() * self._ceiling
        self._ceiling = min(2 * self._ceiling, CEILING_SECONDS)
        floor = min(max(retry_after or 0.0, 0.0), MAX_RETRY_AFTER_SECONDS)
        return floor + jitter

    def lasted(self, seconds: float) -> None:
        """
        Forget the failures if a link (or a worker) that has ended was stable.

        Call this when one ends, before :meth:`next_delay`.

        Args:
            seconds: How long it was up; a link from the relay's acceptance to its end.
        """
        if seconds >= STABLE_SECONDS:
            self._ceiling = FIRST_CEILING_SECONDS
