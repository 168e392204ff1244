"""
Every number of the link protocol, once, with the attack or the cost that it answers.

Two kinds, kept apart. *Spec* limits are part of SPEC.md: both ends must agree on them, and a peer that passes
one has broken the protocol. *Implementation* limits are this implementation's own choices: another end may
choose differently, and may be told by a code that it has met one.

``LIMITS`` holds all of them with unit and reason. A number that belongs to one file of the product stands
there, marked with ``limit``; docs/limits.md is generated from both.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeVar

Kind = Literal["spec", "implementation"]
Unit = Literal[
    "bytes", "seconds", "milliseconds", "per second", "frames", "streams", "characters", "number", "levels",
    "heads", "fields", "handshakes", "connections", "links", "contexts", "descriptors",
]  # fmt: skip
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Limit:
    """
    One limit, as a reader of the documentation wants it.

    Attributes:
        name: The constant's name in this file.
        value: Its value, in ``unit``.
        unit: What it counts.
        kind: Whether SPEC.md fixes it or this implementation chose it.
        reason: The attack or the cost that it answers.
    """

    name: str
    value: float
    unit: Unit
    kind: Kind
    reason: str


_limits: list[Limit] = []


def limit(value: _Number, unit: Unit, reason: str) -> _Number:
    """
    Mark a number as a limit, beside the code that keeps to it.

    It costs nothing and does nothing: the page of limits is made from the source, where this says what the
    number counts and why it is what it is.

    Args:
        value: The limit.
        unit: What it counts.
        reason: The attack or the cost that it answers, or what it is enough for: a clause that goes on from
            the unit.

    Returns:
        The value.
    """
    return value


def _spec(name: str, value: _Number, unit: Unit, reason: str) -> _Number:
    _limits.append(Limit(name, value, unit, "spec", reason))
    return value


def _own(name: str, value: _Number, unit: Unit, reason: str) -> _Number:
    _limits.append(Limit(name, value, unit, "implementation", reason))
    return value


KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- Spec: messages and frames ---

MESSAGE_MAX: Final = _spec(
    "MESSAGE_MAX", 128 * KIB, "bytes",
    "what a carrier may have to hold whole before it can hand it over; judged before memory is taken",
)  # fmt: skip
DATA_MAX: Final = _spec(
    "DATA_MAX", 64 * KIB, "bytes",
    "one stream's longest hold on the link: a larger frame would delay every other stream behind it",
)  # fmt: skip
OPEN_FIRST_MAX: Final = _spec(
    "OPEN_FIRST_MAX", 32 * KIB, "bytes",
    "a ClientHello of at most 16 KiB and what came with it; less than the initial window, so OPEN needs no "
    "credit",
)  # fmt: skip
SERVER_NAME_MAX: Final = _spec(
    "SERVER_NAME_MAX", 253, "characters", "the longest DNS name (RFC 1035 §2.3.4)"
)  # fmt: skip
ADDRESS_MAX: Final = _spec(
    "ADDRESS_MAX", 64, "characters", "the longest IPv6 address with a zone and a port, in text"
)  # fmt: skip
HELLO_MAX: Final = _spec(
    "HELLO_MAX", 4 * KIB, "bytes",
    "HELLO is parsed before anything is known of the peer: ten times what it needs, and cheap to refuse",
)  # fmt: skip
CONTROL_MAX: Final = _spec(
    "CONTROL_MAX", 16 * KIB, "bytes", "a signed revocation statement with a few hundred names; more is a file"
)  # fmt: skip
TEXT_MAX: Final = _spec(
    "TEXT_MAX", 255, "bytes", "a peer's text goes to a log and a terminal: one line of it"
)  # fmt: skip
PING_SIZE: Final = _spec(
    "PING_SIZE", 8, "bytes", "opaque to the peer, which sends it back: fixed, so that PONG amplifies nothing"
)  # fmt: skip
JSON_DEPTH_MAX: Final = _spec(
    "JSON_DEPTH_MAX", 16, "levels", "deep nesting ends a recursive parser (or whoever walks the value) first"
)  # fmt: skip

# --- Spec: streams and credit ---

STREAM_ID_MAX: Final = _spec(
    "STREAM_ID_MAX", 2**31 - 1, "number", "ids are never reused; at the last one a GO_AWAY is due"
)  # fmt: skip
INITIAL_WINDOW: Final = _spec(
    "INITIAL_WINDOW", 64 * KIB, "bytes",
    "memory that a stream may take unasked: 10,000 stalled streams cost 625 MiB at most, and small calls "
    "never wait for credit (yamux: 256 KiB, HTTP/2: 64 KiB)",
)  # fmt: skip
CREDIT_MAX: Final = _spec(
    "CREDIT_MAX", 2**31 - 1, "bytes", "outstanding credit never overflows a signed 32-bit number (as HTTP/2)"
)  # fmt: skip

# --- Implementation: sending ---

JOINED_MESSAGE: Final = _own(
    "JOINED_MESSAGE", 64 * KIB, "bytes",
    "small frames share a message up to this size: joining saves 20 % of the CPU per call, and a longer "
    "message only delays the frames of the next turn",
)  # fmt: skip
TURN: Final = _own(
    "TURN", 16 * KIB, "bytes",
    "what one stream sends before the next has its turn, while others wait: a small reply passes a bulk "
    "transfer after one turn (p99 beside bulk 2.5 ms with 16 KiB, 6.1 ms with 256 KiB)",
)  # fmt: skip
HIGH_WATER: Final = _own(
    "HIGH_WATER", 64 * KIB, "bytes", "unsent bytes of one stream above which its writer is asked to pause"
)  # fmt: skip
LOW_WATER: Final = _own(
    "LOW_WATER", 16 * KIB, "bytes", "unsent bytes of one stream at which a paused writer is told to go on"
)  # fmt: skip
PENDING_PONGS: Final = _own(
    "PENDING_PONGS", 8, "frames",
    "PONGs kept for a peer that pings and does not read (418 MiB in 12 s were seen without a limit); older "
    "ones are dropped, since only the last answers say anything about now",
)  # fmt: skip
CONTROL_LANE: Final = _own(
    "CONTROL_LANE", MIB, "bytes",
    "control frames queued for a peer that makes us answer and does not read; beyond it no stream is "
    "opened, and what the peer provokes breaks the link",
)  # fmt: skip

# --- Implementation: streams and memory ---

MAX_STREAMS: Final = _own(
    "MAX_STREAMS", 10_000, "streams",
    "open streams of one link; with the initial window it bounds what a hostile peer can make us hold",
)  # fmt: skip
MAX_WINDOW: Final = _own(
    "MAX_WINDOW", 4 * MIB, "bytes",
    "20 MB/s for one stream at 200 ms; more helps nobody on such a path and is taken from the others",
)  # fmt: skip
FASTEST_STREAM: Final = _own(
    "FASTEST_STREAM", 512 * MIB, "bytes",
    "a second, more than one stream gets through the two processes. A window beyond what that fills in a "
    "round trip only makes a queue, in which everybody else's replies wait",
)  # fmt: skip
MEMORY_BUDGET: Final = _own(
    "MEMORY_BUDGET", 64 * MIB, "bytes",
    "the default for one process: eight fully grown windows, or a thousand stalled streams",
)  # fmt: skip
RTT_FLOOR: Final = _own(
    "RTT_FLOOR", 0.001, "seconds",
    "on one machine a round trip is shorter than a turn of the event loop, which is what a window must span",
)  # fmt: skip
SLOW_CONSUMER_AFTER: Final = _own(
    "SLOW_CONSUMER_AFTER", 60.0, "seconds",
    "a consumer that took less than a quarter of a window in this time holds memory that others need",
)  # fmt: skip
SLOW_CONSUMER_AT_LEAST: Final = _own(
    "SLOW_CONSUMER_AT_LEAST", 1.0, "seconds",
    "even with no memory left, a consumer that paused for a moment is not yet a slow one",
)  # fmt: skip
SWEEP_EVERY: Final = _own(
    "SWEEP_EVERY", 1.0, "seconds", "how often stalled streams are judged; only while there are any"
)  # fmt: skip
IDLE_CREDIT_EVERY: Final = _own(
    "IDLE_CREDIT_EVERY", 10.0, "seconds",
    "a stream that sent nothing from one check to the next gives its extra credit back: sixteen idle "
    "keep-alive connections would else hold the whole default budget",
)  # fmt: skip

# --- Implementation: liveness ---

HELLO_TIMEOUT: Final = _own(
    "HELLO_TIMEOUT", 20.0, "seconds",
    "a link without HELLO or its answer is nobody's; generous, because a relay may be taking back thousands "
    "of gateways at once (with 10 s none of 8,000 came through)",
)  # fmt: skip
PING_AFTER: Final = _own(
    "PING_AFTER", 2.5, "seconds",
    "silence before a PING. A path that is down for 5 s is felt up to 6.2 s later (TCP's backoff): with this "
    "much silence before it, such a link still lives",
)  # fmt: skip
DEAD_AFTER: Final = _own(
    "DEAD_AFTER", 9.0, "seconds",
    "silence after which the link is dead: a half-open connection is noticed in less than 10 s",
)  # fmt: skip
RTT_EVERY: Final = _own(
    "RTT_EVERY", 15.0, "seconds",
    "a PING under constant traffic too: windows grow by the round trip that it measures",
)  # fmt: skip
OVERSLEPT: Final = _own(
    "OVERSLEPT", 2.0, "seconds",
    "a timer later than this says that this process was stopped or blocked: the peer's silence then proves "
    "nothing, since its frames may wait unread",
)  # fmt: skip

# --- Implementation: floods (token buckets: burst, then a steady rate) ---

OPEN_BURST: Final = _own(
    "OPEN_BURST", 30_000, "frames",
    "every caller of a full link coming back at once, twice, after a pause in which the path held OPENs back",
)  # fmt: skip
OPEN_RATE: Final = _own(
    "OPEN_RATE", 4_000.0, "per second",
    "twice what a relay may send (below); a handshake costs 650 µs, so no gateway serves more",
)  # fmt: skip
OPEN_BURST_SENT: Final = _own(
    "OPEN_BURST_SENT", 10_000, "frames", "what a relay opens at once: as many callers as a link has streams"
)  # fmt: skip
OPEN_RATE_SENT: Final = _own(
    "OPEN_RATE_SENT", 2_000.0, "per second",
    "what a relay opens steadily, well below what breaks the link, so that strangers who connect to the "
    "relay cannot make it a flooder",
)  # fmt: skip
RESET_BURST: Final = _own(
    "RESET_BURST", 30_000, "frames",
    "as OPEN: a caller that hangs up is a RESET, so an honest relay sends up to one for each stream. With "
    "the 1,000 and 33/s of HTTP/2 servers, strangers who connect and hang up could cut a tenant's link",
)  # fmt: skip
RESET_RATE: Final = _own("RESET_RATE", 4_000.0, "per second", "see RESET_BURST")
FAULT_BURST: Final = _own(
    "FAULT_BURST", 1_000, "frames",
    "RESETs that the peer's errors provoke from us (the MadeYouReset attack); an honest peer causes none",
)  # fmt: skip
FAULT_RATE: Final = _own("FAULT_RATE", 33.0, "per second", "see FAULT_BURST; both as HTTP/2 servers chose")
PING_BURST: Final = _own(
    "PING_BURST", 40, "frames", "two seconds of the rate: a path that held PINGs back delivers them together"
)  # fmt: skip
PING_RATE: Final = _own(
    "PING_RATE", 20.0, "per second", "50 times what an honest peer sends; each costs an answer"
)  # fmt: skip
CONTROL_BURST: Final = _own(
    "CONTROL_BURST", 100, "frames", "CONTROL and GO_AWAY: statements sent again to a gateway that comes back"
)  # fmt: skip
CONTROL_RATE: Final = _own("CONTROL_RATE", 20.0, "per second", "each costs a JSON parse of up to 16 KiB")

LIMITS: Final[tuple[Limit, ...]] = tuple(_limits)
