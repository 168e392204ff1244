"""
Keepalive: is the peer still there, and how far away is it?

A PING goes out after a short silence, and a longer silence is the end of the link; any frame counts as a sign
of life. The answers also measure the round trip, by which windows grow, so one goes out now and then under
traffic too. Time comes in as an argument; nothing here sends.
"""

from struct import Struct
from typing import Final

from sallyport.tunnel.errors import LinkTimedOut
from sallyport.tunnel.limits import DEAD_AFTER, OVERSLEPT, PING_AFTER, RTT_EVERY

_NUMBER: Final = Struct("!Q")
# The estimate follows a shorter round trip at once and a longer one slowly: queues on the path only ever add.
_SLOWLY: Final = 8


class Keepalive:
    """
    One link's keepalive, from the moment the link is up.

    Args:
        now: The time, in seconds.

    Attributes:
        heard: When the last message came, a sign of life whatever it was. Whoever receives it sets this.
        is_waiting: Whether nothing at all has come since the last PING. Whoever receives something ends it.
        rtt: The round trip in seconds, None before the first answer.
    """

    __slots__ = ("_number", "_pinged", "heard", "is_waiting", "rtt")

    def __init__(self, now: float) -> None:
        self.rtt: float | None = None
        self.heard = now
        self.is_waiting = False
        # When the last PING went; the first one is due at once, for the round trip.
        self._pinged = now - RTT_EVERY
        self._number = 0  # its payload, so that an old answer is not taken for the last

    def pong_received(self, payload: bytes, now: float) -> bool:
        """Measure the round trip if this answers the last PING, and say whether it does."""
        if not self._number or payload != _NUMBER.pack(self._number):
            return False
        sample = now - self._pinged
        if self.rtt is None or sample < self.rtt:
            self.rtt = sample
        else:
            self.rtt += (sample - self.rtt) / _SLOWLY
        return True

    def deadline(self) -> float:
        """Return when ``tick`` wants to be called."""
        if self.is_waiting:
            return self.heard + DEAD_AFTER
        silence, round_trip = self.heard + PING_AFTER, self._pinged + RTT_EVERY
        return silence if silence < round_trip else round_trip

    def tick(self, now: float) -> bytes | None:
        """
        Let time pass.

        Returns:
            The payload of a PING to send, or None.

        Raises:
            LinkTimedOut: The peer is gone.
        """
        late = now - self.deadline()
        if late < 0:
            return None
        if late > OVERSLEPT and self._number:
            # This process slept, not the peer: what it sent meanwhile waits unread, so ask anew.
            self.heard = now
        silence = now - self.heard
        if silence >= DEAD_AFTER:
            raise LinkTimedOut(silence)
        self._pinged = now
        self.is_waiting = True
        self._number += 1
        return _NUMBER.pack(self._number)
