"""
Events: what has happened on a link, as the mux tells it to whoever carries it out.

Each is an immutable record without methods: a frozen dataclass, but for the one that is made for every frame
of data, which is a tuple, because that costs a third. The order in which the mux gives them is the order in
which they happened; handle all of them.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

from sallyport.tunnel.frames import GoAwayReason, ResetCode, StreamId
from sallyport.tunnel.hello import Hello, HelloAck, Refusal
from sallyport.tunnel.json_object import JsonObject
from sallyport.tunnel.opening import Opening

__all__ = [
    "ControlReceived",
    "DataReceived",
    "Event",
    "GoAwayReceived",
    "Hello",
    "HelloAck",
    "HelloReceived",
    "LinkAccepted",
    "Opening",
    "Refusal",
    "RefusalReceived",
    "SeldomEvent",
    "StreamFinished",
    "StreamOpened",
    "StreamWasReset",
    "StreamWritable",
]


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """
    A gateway has said HELLO: answer it with ``accept`` or ``refuse`` (relay's side).

    Attributes:
        hello: What it said.
    """

    hello: Hello


@dataclass(frozen=True, slots=True)
class LinkAccepted:
    """
    The relay has answered HELLO_ACK: the link is up (gateway's side).

    Attributes:
        ack: What it answered.
    """

    ack: HelloAck


@dataclass(frozen=True, slots=True)
class RefusalReceived:
    """
    The relay has answered REFUSED: drop the carrier (gateway's side).

    Attributes:
        refusal: Why, and when to come back.
    """

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """
    The relay has opened a stream for a caller (gateway's side).

    Attributes:
        stream: Its number on this link.
        opening: What the relay says of it. Its first bytes count as received: report them to ``consumed``.
    """

    stream: StreamId
    opening: Opening


@final
class DataReceived(NamedTuple):
    """
    Bytes have come on a stream: report them to ``consumed`` when they have been taken.

    Attributes:
        stream: Which stream.
        data: The bytes, owned by whoever gets this event; never empty.
    """

    stream: StreamId
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """
    The peer sends no more on a stream; the other direction goes on.

    Attributes:
        stream: Which stream.
    """

    stream: StreamId


@dataclass(frozen=True, slots=True)
class StreamWasReset:
    """
    A stream has ended at once in both directions; nothing more can be sent on it.

    Attributes:
        stream: Which stream.
        code: Why.
        by_peer: Whether the peer did it; else the mux has, for a slow consumer or the peer's error.
    """

    stream: StreamId
    code: ResetCode
    by_peer: bool


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """
    A stream that had more than ``limits.HIGH_WATER`` unsent bytes has ``limits.LOW_WATER`` or fewer.

    Attributes:
        stream: Which stream.
    """

    stream: StreamId


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """
    The peer leaves the link: open no new streams; those that are open go on.

    Attributes:
        reason: Why.
        last_stream: The last stream that the peer takes; each later one comes as a ``StreamWasReset``.
        text: More about it, for the log.
    """

    reason: GoAwayReason
    last_stream: StreamId
    text: str


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """
    A named message has come; ignore it if the name is not known.

    Attributes:
        name: Its name.
        body: What it carries.
    """

    name: str
    body: JsonObject


SeldomEvent: TypeAlias = (
    HelloReceived
    | LinkAccepted
    | RefusalReceived
    | StreamOpened
    | StreamFinished
    | StreamWasReset
    | StreamWritable
    | GoAwayReceived
    | ControlReceived
)
Event: TypeAlias = DataReceived | SeldomEvent
