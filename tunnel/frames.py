"""
Frames: what a message of the carrier is made of (SPEC.md §3).

Every frame is a 12-byte header and ``length`` bytes of payload, so that a frame of an unknown type can be
skipped. The layout, big-endian:

    type u8 | flags u8 = 0 | reserved u16 = 0 | stream u32 | length u32 | payload

    HELLO      1   link    JSON object                                         hello.py
    HELLO_ACK  2   link    JSON object                                         hello.py
    REFUSED    3   link    JSON object                                         hello.py
    OPEN       4   stream  reference 8 | u8 n | server name n | u8 m | address m | first bytes   opening.py
    DATA       5   stream  1 … 65,536 bytes
    WINDOW     6   stream  credit u32
    FINISH     7   stream  nothing
    RESET      8   stream  code u16
    PING       9   link    8 opaque bytes
    PONG      10   link    the PING's 8 bytes
    GO_AWAY   11   link    last stream u32 | reason u16 | UTF-8 text 0 … 255
    CONTROL   12   link    JSON object                                         control.py
    RETURN    13   stream  credit u32

A message holds one or more whole frames. This file knows shapes only: which type belongs to a stream or to
the link, and how long its payload may be. What a frame means, and when it may come, is the mux's business.
"""

from enum import IntEnum
from struct import Struct
from typing import Final, NewType

from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.limits import (
    ADDRESS_MAX,
    CONTROL_MAX,
    DATA_MAX,
    HELLO_MAX,
    OPEN_FIRST_MAX,
    PING_SIZE,
    SERVER_NAME_MAX,
    STREAM_ID_MAX,
    TEXT_MAX,
)

StreamId = NewType("StreamId", int)

HEADER: Final = Struct("!BBHII")
HEADER_SIZE: Final = HEADER.size
# The same 12 bytes with type, flags and reserved bits in one word, which one look can judge; stream, length.
HEADER_WORDS: Final = Struct("!III")
# Types from here on are extensions: an end that does not know one skips it (SPEC.md §3).
FIRST_IGNORABLE: Final = 128

_CREDIT: Final = Struct("!I")
_CODE: Final = Struct("!H")
_GO_AWAY: Final = Struct("!IH")
_OPEN_FIXED: Final = 8 + 1 + 1


class FrameType(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    HELLO_ACK = 2
    REFUSED = 3
    OPEN = 4
    DATA = 5
    WINDOW = 6
    FINISH = 7
    RESET = 8
    PING = 9
    PONG = 10
    GO_AWAY = 11
    CONTROL = 12
    RETURN = 13


# The first word of DATA, the one frame that is frequent enough to be known by sight.
DATA_WORD: Final = int(FrameType.DATA) << 24


class ResetCode(IntEnum):
    """Why a stream was reset. A code that this end does not know is read as INTERNAL."""

    CANCELLED = 1  # the sender's own side went away, or wants no more of it
    INTERNAL = 2  # the sender failed; its log says how
    REFUSED = 3  # not taken, never begun: opening it elsewhere repeats nothing
    OVERLOADED = 4  # not taken, never begun, for want of memory or streams
    PROTOCOL = 5  # the peer broke a rule of this stream
    FLOW_CONTROL = 6  # the peer sent beyond its credit, or gave credit beyond the limit
    SLOW_CONSUMER = 7  # whoever reads it took too little for too long, while memory was short
    TIMED_OUT = 8  # a time limit above the mux, such as the inner handshake's

    @classmethod
    def _missing_(cls, value: object) -> "ResetCode":
        return cls.INTERNAL


class RefusalCode(IntEnum):
    """Why a relay refuses a link. A code that this end does not know is read as INTERNAL."""

    INTERNAL = 1
    VERSION = 2  # no protocol version in common
    TUNNEL_UNKNOWN = 3
    TUNNEL_DISABLED = 4  # archived or switched off by the relay's operator
    CERTIFICATE_EXPIRED = 5
    CERTIFICATE_NOT_YET_VALID = 6
    CERTIFICATE_REFUSED = 7  # wrong role, label, issuer or shape
    REVOKED = 8
    TOO_MANY_LINKS = 9
    OVERLOADED = 10
    LEAVING = 11  # the relay is about to stop

    @classmethod
    def _missing_(cls, value: object) -> "RefusalCode":
        return cls.INTERNAL


class GoAwayReason(IntEnum):
    """Why an end leaves a link. A reason that this end does not know is read as INTERNAL."""

    SHUTDOWN = 1  # the process is about to stop
    INTERNAL = 2
    PROTOCOL = 3  # the peer broke the link protocol
    FLOOD = 4  # the peer sends more of something than a working peer would (HTTP/2: ENHANCE_YOUR_CALM)
    VERSION = 5  # no protocol version in common
    STREAM_IDS = 6  # the last stream id was used
    REPLACED = 7  # a newer link has taken this one's place
    REVOKED = 8  # the certificate, or the tunnel, is no longer good

    @classmethod
    def _missing_(cls, value: object) -> "GoAwayReason":
        return cls.INTERNAL


# Shape of each type: the least and the most that its stream's number may be, and its payload's length.
_LINK, _STREAM = (0, 0), (1, STREAM_ID_MAX)
_SHAPES: Final[dict[int, tuple[tuple[int, int], int, int]]] = {
    FrameType.HELLO: (_LINK, 2, HELLO_MAX),
    FrameType.HELLO_ACK: (_LINK, 2, HELLO_MAX),
    FrameType.REFUSED: (_LINK, 2, HELLO_MAX),
    FrameType.OPEN: (_STREAM, _OPEN_FIXED, _OPEN_FIXED + SERVER_NAME_MAX + ADDRESS_MAX + OPEN_FIRST_MAX),
    FrameType.DATA: (_STREAM, 1, DATA_MAX),
    FrameType.WINDOW: (_STREAM, 4, 4),
    FrameType.FINISH: (_STREAM, 0, 0),
    FrameType.RESET: (_STREAM, 2, 2),
    FrameType.PING: (_LINK, PING_SIZE, PING_SIZE),
    FrameType.PONG: (_LINK, PING_SIZE, PING_SIZE),
    FrameType.GO_AWAY: (_LINK, 6, 6 + TEXT_MAX),
    FrameType.CONTROL: (_LINK, 2, CONTROL_MAX),
    FrameType.RETURN: (_STREAM, 4, 4),
}

# The same by a header's first word as it must be, with neither flags nor reserved bits: so one look tells
# that and all that there is to check. A plain number for the type, because an enum's member costs more
# wherever it goes.
_SHAPES_BY_WORD: Final = {
    kind << 24: (int(kind), *streams, least, most) for kind, (streams, least, most) in _SHAPES.items()
}

# Receiving


def frame_at(message: memoryview, start: int) -> tuple[int, StreamId, int]:
    """
    Read the header of the frame that begins at some place of a message, and check the frame's shape.

    Args:
        message: One whole message of the carrier.
        start: Where the frame begins, before the message's end.

    Returns:
        Its type, its stream, and where it ends; 0 for a type that this end does not know and skips by rule.

    Raises:
        ProtocolViolation: The frame breaks SPEC.md §3.
    """
    begin, size = start + HEADER_SIZE, message.nbytes
    if begin > size:
        raise violation(f"{size - start} stray bytes after the last frame of a message")
    word, stream, length = HEADER_WORDS.unpack_from(message, start)
    end = begin + length
    shape = _SHAPES_BY_WORD.get(word)
    if shape is None or end > size:
        _check_unusual(word, length, size - begin)
        return 0, StreamId(stream), end
    kind, lowest, highest, least, most = shape
    if not least <= length <= most:
        raise violation(f"{FrameType(kind).name} with {length} bytes; {least} to {most} are allowed")
    if not lowest <= stream <= highest:
        raise violation(f"{FrameType(kind).name} on stream {stream}")
    return kind, StreamId(stream), end


def _check_unusual(word: int, length: int, left: int) -> None:
    """Refuse a header that is not the usual one, given its first word, unless it is an extension's."""
    kind, flags, reserved = word >> 24, word >> 16 & 0xFF, word & 0xFFFF
    if flags or reserved:
        raise violation(f"flags {flags:#x} and reserved bits {reserved:#x} in a frame of type {kind}")
    if length > left:
        raise violation(
            f"a frame of type {kind} with {length} bytes of payload in a message with {left} left"
        )
    if kind < FIRST_IGNORABLE:
        raise violation(f"unknown frame type {kind}")


def violation(detail: str, code: GoAwayReason = GoAwayReason.PROTOCOL) -> ProtocolViolation:
    """Make the error for a peer that broke the protocol."""
    return ProtocolViolation(code, detail)


def read_credit(payload: memoryview) -> int:
    """Read the credit of WINDOW and RETURN, in bytes."""
    credit: int = _CREDIT.unpack(payload)[0]
    return credit


def read_reset(payload: memoryview) -> ResetCode:
    """Read the code of RESET."""
    return ResetCode(_CODE.unpack(payload)[0])


def read_go_away(payload: memoryview) -> tuple[StreamId, GoAwayReason, str]:
    """
    Read GO_AWAY: the last stream that its sender takes, the reason, and a text for the log.

    Raises:
        ProtocolViolation: The text is not UTF-8 or cannot be shown on one line.
    """
    last_stream, reason = _GO_AWAY.unpack_from(payload)
    try:
        text = str(payload[_GO_AWAY.size :], "utf-8")
    except UnicodeDecodeError:
        raise violation("GO_AWAY with a text that is not UTF-8") from None
    if not text.isprintable():
        raise violation("GO_AWAY with a text that is not printable")
    return StreamId(last_stream), GoAwayReason(reason), text


# Sending


def encode(kind: FrameType, stream: int, payload: bytes = b"") -> bytes:
    """Make a frame; the payload's shape is the caller's promise."""
    return HEADER.pack(kind, 0, 0, stream, len(payload)) + payload


def encode_credit(kind: FrameType, stream: StreamId, credit: int) -> bytes:
    """Make WINDOW or RETURN."""
    return encode(kind, stream, _CREDIT.pack(credit))


def encode_reset(stream: StreamId, code: ResetCode) -> bytes:
    """Make RESET."""
    return encode(FrameType.RESET, stream, _CODE.pack(code))


def encode_go_away(last_stream: int, reason: GoAwayReason, text: str) -> bytes:
    """Make GO_AWAY; a text that is too long is cut between characters, what is not printable is replaced."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    cut = shown.encode("utf-8", "replace")[:TEXT_MAX].decode("utf-8", "ignore")
    return encode(FrameType.GO_AWAY, 0, _GO_AWAY.pack(last_stream, reason) + cut.encode())


# For the debug log


def describe(message: bytes | memoryview) -> list[str]:
    """
    Say in a few words what each frame of a message is, without any payload that belongs to a stream.

    Args:
        message: What was received, or is about to be sent. It need not be well formed.
    """
    lines: list[str] = []
    view = memoryview(message)
    while len(view) >= HEADER_SIZE:
        kind, _, _, stream, length = HEADER.unpack_from(view)
        lines.append(_describe_frame(kind, stream, view[HEADER_SIZE : HEADER_SIZE + length]))
        view = view[HEADER_SIZE + length :]
    if len(view):
        lines.append(f"{len(view)} stray bytes")
    return lines


def _describe_frame(kind: int, stream: int, payload: memoryview) -> str:
    known = kind in _SHAPES
    name = FrameType(kind).name if known else f"type {kind}"
    words = [name, f"stream {stream}"] if stream else [name]
    if kind in (FrameType.WINDOW, FrameType.RETURN) and len(payload) == _CREDIT.size:
        words.append(f"credit {read_credit(payload)}")
    elif kind == FrameType.RESET and len(payload) == _CODE.size:
        words.append(read_reset(payload).name)
    elif kind == FrameType.GO_AWAY and len(payload) >= _GO_AWAY.size:
        words.append(GoAwayReason(_GO_AWAY.unpack_from(payload)[1]).name)
    elif payload:
        words.append(f"{len(payload)} bytes")
    return " ".join(words)
