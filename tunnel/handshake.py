"""
The handshake of a link: HELLO and its answer, and which frames may come before them (SPEC.md §4).

Both ends pass through the same phases; which frames one waits for depends on its side and is data.

    NEW ──HELLO──► ASKED ──HELLO_ACK──► READY
     │               │                    │
     └───────────────┴────────────────────┴── REFUSED, an error, a time-out, carrier lost ──► ENDED
"""

from enum import Enum
from typing import Final

from sallyport.tunnel.errors import LinkTimedOut
from sallyport.tunnel.frames import FrameType, GoAwayReason, encode, violation
from sallyport.tunnel.hello import (
    PROTOCOL_VERSION,
    Hello,
    HelloAck,
    Refusal,
    encode_hello,
    encode_refusal,
    read_hello,
    read_hello_ack,
    read_refusal,
    read_version,
)
from sallyport.tunnel.limits import HELLO_TIMEOUT


class Side(Enum):
    """Which end of a link this is: the relay opens streams, the gateway accepts them."""

    RELAY = "relay"
    GATEWAY = "gateway"


class Phase(Enum):
    """How far a link has come."""

    NEW = "new"  # no HELLO yet
    ASKED = "asked"  # HELLO is under way or being judged
    READY = "ready"  # HELLO_ACK was sent or received: the link is up
    ENDED = "ended"  # nothing more is to be received


# The frames of this file, and GO_AWAY, which may come in every phase: an end that gives up says so by it.
_AWAITED: Final[dict[tuple[Side, Phase], frozenset[int]]] = {
    (Side.RELAY, Phase.NEW): frozenset({FrameType.HELLO, FrameType.GO_AWAY}),
    (Side.RELAY, Phase.ASKED): frozenset({FrameType.GO_AWAY}),
    (Side.RELAY, Phase.READY): frozenset({FrameType.GO_AWAY}),
    (Side.GATEWAY, Phase.NEW): frozenset({FrameType.GO_AWAY}),
    (Side.GATEWAY, Phase.ASKED): frozenset({FrameType.HELLO_ACK, FrameType.REFUSED, FrameType.GO_AWAY}),
    (Side.GATEWAY, Phase.READY): frozenset({FrameType.GO_AWAY}),
}


class Handshake:
    """
    One end's part in it.

    Args:
        side: Which end.
        now: The time, in seconds.

    Attributes:
        side: Which end.
        phase: How far the link has come.
    """

    __slots__ = ("_began", "phase", "side")

    def __init__(self, side: Side, now: float) -> None:
        self.side: Final = side
        self.phase = Phase.NEW
        self._began = now

    # Receiving: each raises ProtocolViolation when it may not come now, or is not as SPEC.md §4 says.

    def check_awaited(self, kind: int) -> None:
        """Refuse a frame that may not come in this phase."""
        if kind not in _AWAITED.get((self.side, self.phase), ()):
            raise violation(f"{FrameType(kind).name} while the link is {self.phase.value}")

    def hello_received(self, payload: memoryview) -> Hello:
        """Take HELLO (relay's side); it must be answered by ``accept`` or ``refuse``."""
        _check_version(payload, "HELLO")
        hello = read_hello(payload)
        self.phase = Phase.ASKED
        return hello

    def ack_received(self, payload: memoryview) -> HelloAck:
        """Take HELLO_ACK (gateway's side): the link is up."""
        _check_version(payload, "HELLO_ACK")
        ack = read_hello_ack(payload)
        self.phase = Phase.READY
        return ack

    def refused_received(self, payload: memoryview) -> Refusal:
        """Take REFUSED (gateway's side): there will be no link."""
        refusal = read_refusal(payload)
        self.phase = Phase.ENDED
        return refusal

    # Sending: each returns the frame, and raises RuntimeError when this end's own code may not send it now.

    def hello(self, hello: Hello) -> bytes:
        """Make HELLO (gateway's side, once)."""
        self._check(Side.GATEWAY, Phase.NEW)
        frame = encode(FrameType.HELLO, 0, encode_hello(hello))
        self.phase = Phase.ASKED
        return frame

    def accept(self, ack: HelloAck) -> bytes:
        """Make HELLO_ACK (relay's side): the link is up."""
        self._check(Side.RELAY, Phase.ASKED)
        frame = encode(FrameType.HELLO_ACK, 0, encode_hello(ack))
        self.phase = Phase.READY
        return frame

    def refuse(self, refusal: Refusal) -> bytes:
        """Make REFUSED (relay's side): there will be no link."""
        self._check(Side.RELAY, Phase.ASKED)
        frame = encode_refused(refusal)
        self.phase = Phase.ENDED
        return frame

    def _check(self, side: Side, phase: Phase) -> None:
        if (self.side, self.phase) != (side, phase):
            raise RuntimeError(f"a {self.side.value} cannot do this while its link is {self.phase.value}")

    # Time

    def begin(self, now: float) -> None:
        """Count the wait from now: there was no carrier before that could have brought anything."""
        self._began = now

    def deadline(self) -> float:
        """Return when the handshake must be over."""
        return self._began + HELLO_TIMEOUT

    def tick(self, now: float) -> None:
        """Let time pass; raises LinkTimedOut when the peer took too long."""
        if now >= self.deadline():
            self.phase = Phase.ENDED
            waiting_for = "HELLO" if self.side is Side.RELAY else "an answer to HELLO"
            raise LinkTimedOut(now - self._began, waiting_for)


def encode_refused(refusal: Refusal) -> bytes:
    """Make REFUSED."""
    return encode(FrameType.REFUSED, 0, encode_refusal(refusal))


def _check_version(payload: memoryview, what: str) -> None:
    """Judge the version before any field whose meaning may depend on it."""
    if (version := read_version(payload, what)) != PROTOCOL_VERSION:
        detail = f"{what} in version {version} of the link protocol; this end speaks {PROTOCOL_VERSION}"
        raise violation(detail, GoAwayReason.VERSION)
