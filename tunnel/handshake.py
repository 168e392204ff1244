"""
The phases of a link, and which frames may come before it is up (SPEC.md §4).

Both ends pass through the same phases; which frames one waits for depends on its side and is data.

    NEW ──HELLO──► ASKED ──HELLO_ACK──► READY
     │               │                    │
     └───────────────┴── REFUSED, GO_AWAY for an error, time-out, carrier lost ──► ENDED
"""

from enum import Enum
from typing import Final

from sallyport.tunnel.frames import FrameType, violation


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


# GO_AWAY is missing on purpose: it may come in any phase, since an end that gives up says so by it.
_AWAITED: Final[dict[tuple[Side, Phase], frozenset[int]]] = {
    (Side.RELAY, Phase.NEW): frozenset({FrameType.HELLO}),
    (Side.RELAY, Phase.ASKED): frozenset(),
    (Side.GATEWAY, Phase.NEW): frozenset(),
    (Side.GATEWAY, Phase.ASKED): frozenset({FrameType.HELLO_ACK, FrameType.REFUSED}),
}


def check_awaited(side: Side, phase: Phase, kind: int) -> None:
    """
    Refuse a frame that may not come before the link is up.

    Raises:
        ProtocolViolation: It may not.
    """
    if kind != FrameType.GO_AWAY and kind not in _AWAITED.get((side, phase), ()):
        raise violation(f"{FrameType(kind).name} before the link is up")


def waiting_for(side: Side) -> str:
    """Say what an end waits for while the link is not up."""
    return "HELLO" if side is Side.RELAY else "an answer to HELLO"


