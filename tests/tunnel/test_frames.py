"""The frame codec: shapes, boundaries of every field, and nothing read beyond a frame."""

import pytest

from sallyport.tunnel import limits
from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.frames import (
    HEADER,
    HEADER_SIZE,
    FrameType,
    GoAwayReason,
    RefusalCode,
    ResetCode,
    StreamId,
    describe,
    encode,
    encode_credit,
    encode_go_away,
    encode_reset,
    frame_at,
    read_credit,
    read_go_away,
    read_reset,
)

# Type, whether it belongs to a stream, least and most bytes: written down from SPEC.md §3, not from the code.
SHAPES = [
    (FrameType.HELLO, False, 2, 4096),
    (FrameType.HELLO_ACK, False, 2, 4096),
    (FrameType.REFUSED, False, 2, 4096),
    (FrameType.OPEN, True, 10, 10 + 253 + 64 + 32_768),
    (FrameType.DATA, True, 1, 65_536),
    (FrameType.WINDOW, True, 4, 4),
    (FrameType.FINISH, True, 0, 0),
    (FrameType.RESET, True, 2, 2),
    (FrameType.PING, False, 8, 8),
    (FrameType.PONG, False, 8, 8),
    (FrameType.GO_AWAY, False, 6, 6 + 255),
    (FrameType.CONTROL, False, 2, 16_384),
    (FrameType.RETURN, True, 4, 4),
]


def split(message: bytes) -> list[tuple[int, int, bytes]]:
    """Take a message apart and own the payloads."""
    frames, start = [], 0
    while start < len(message):
        kind, stream, end = frame_at(memoryview(message), start)
        if kind:
            frames.append((kind, int(stream), message[start + HEADER_SIZE : end]))
        start = end
    return frames


def header(kind: int, stream: int, length: int, *, flags: int = 0, reserved: int = 0) -> bytes:
    """Return a header with whatever is asked for."""
    return HEADER.pack(kind, flags, reserved, stream, length)


def test_the_header_is_the_one_of_the_spec() -> None:
    """A frame on the wire is byte for byte what SPEC.md §3 draws."""
    assert encode(FrameType.DATA, 0x01020304, b"hi") == bytes.fromhex("05 00 0000 01020304 00000002") + b"hi"


def test_every_type_has_a_shape() -> None:
    """No frame type is missing from the table of shapes."""
    assert [kind for kind, *_ in SHAPES] == list(FrameType)


@pytest.mark.parametrize(("kind", "in_stream", "least", "most"), SHAPES)
def test_payload_sizes(kind: FrameType, in_stream: bool, least: int, most: int) -> None:
    """A payload has between the least and the most bytes of its type, both included."""
    stream = 1 if in_stream else 0
    for size in {least, most}:
        assert split(encode(kind, stream, bytes(size))) == [(kind, stream, bytes(size))]
    for size in {least - 1, most + 1} - {-1}:
        with pytest.raises(ProtocolViolation, match=kind.name):
            split(encode(kind, stream, bytes(size)))


@pytest.mark.parametrize(("kind", "in_stream", "least", "most"), SHAPES)
@pytest.mark.parametrize("stream", [0, 1, 2, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1])
def test_stream_numbers(kind: FrameType, in_stream: bool, least: int, most: int, stream: int) -> None:
    """A frame of a stream has 1 to 2^31 - 1, a frame of the link has 0."""
    frame = encode(kind, stream, bytes(least))
    if (0 < stream < 2**31) if in_stream else stream == 0:
        assert split(frame) == [(kind, stream, bytes(least))]
    else:
        with pytest.raises(ProtocolViolation, match=f"on stream {stream}"):
            split(frame)


@pytest.mark.parametrize("kind", [0, 14, 15, 126, 127])
def test_unknown_types_below_128(kind: int) -> None:
    """An unknown type below 128 is refused."""
    with pytest.raises(ProtocolViolation, match=f"unknown frame type {kind}"):
        split(header(kind, 0, 0))


@pytest.mark.parametrize("kind", [128, 129, 254, 255])
@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_unknown_types_from_128(kind: int, size: int) -> None:
    """An unknown type from 128 is skipped with its payload, whatever its stream; what follows is read."""
    extension = header(kind, 2**32 - 1, size) + bytes(size)
    assert split(extension + encode(FrameType.FINISH, 7)) == [(FrameType.FINISH, 7, b"")]


@pytest.mark.parametrize("kind", [FrameType.FINISH, 127, 200])
@pytest.mark.parametrize(
    ("flags", "reserved"), [(1, 0), (128, 0), (255, 0), (0, 1), (0, 0x8000), (255, 0xFFFF)]
)
def test_flags_and_reserved_bits(kind: int, flags: int, reserved: int) -> None:
    """Flags and reserved bits are 0 in every frame, also in one that would be skipped."""
    with pytest.raises(ProtocolViolation, match="flags"):
        split(header(kind, 1, 0, flags=flags, reserved=reserved))


@pytest.mark.parametrize("kind", [FrameType.DATA, FrameType.OPEN, FrameType.HELLO, 200])
@pytest.mark.parametrize("length", [6, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_declared_length_beyond_the_message(kind: int, length: int) -> None:
    """A length that the message does not hold is refused before anything is taken for it."""
    with pytest.raises(ProtocolViolation):
        split(header(kind, 1, length) + b"five!")


def test_a_frame_cut_at_each_byte() -> None:
    """A frame that the message cuts short is refused, wherever it is cut, also behind whole frames."""
    whole = encode(FrameType.FINISH, 1)
    cut = encode(FrameType.DATA, 2, b"twelve bytes")
    for size in range(1, len(cut)):
        for message in (cut[:size], whole + cut[:size]):
            with pytest.raises(ProtocolViolation):
                split(message)


def test_frames_before_a_bad_one_are_given_out() -> None:
    """A bad frame does not undo the frames before it."""
    message = memoryview(encode(FrameType.FINISH, 1) + b"rubbish")
    kind, stream, end = frame_at(message, 0)
    assert (kind, stream) == (FrameType.FINISH, 1)
    with pytest.raises(ProtocolViolation, match="7 stray bytes"):
        frame_at(message, end)


def test_the_longest_message() -> None:
    """A message of exactly the limit is read."""
    half = encode(FrameType.DATA, 1, bytes(limits.MESSAGE_MAX // 2 - 12))
    assert len(split(half + half)) == 2


def test_a_thousand_frames_in_a_message() -> None:
    """Many frames of one message come out in order."""
    message = b"".join(encode_credit(FrameType.WINDOW, StreamId(number), number) for number in range(1, 1001))
    assert [stream for _, stream, _ in split(message)] == list(range(1, 1001))


@pytest.mark.parametrize("credit", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_credit(credit: int) -> None:
    """Credit goes through WINDOW and RETURN unchanged; judging it is the mux's business."""
    for kind in (FrameType.WINDOW, FrameType.RETURN):
        [(_, _, payload)] = split(encode_credit(kind, StreamId(3), credit))
        assert read_credit(memoryview(payload)) == credit


@pytest.mark.parametrize("code", ResetCode)
def test_reset_codes(code: ResetCode) -> None:
    """Each reset code goes through RESET unchanged."""
    [(_, _, payload)] = split(encode_reset(StreamId(3), code))
    assert read_reset(memoryview(payload)) is code


@pytest.mark.parametrize("codes", [ResetCode, RefusalCode, GoAwayReason])
@pytest.mark.parametrize("number", [0, 99, 2**16 - 1])
def test_unknown_codes(codes: type[ResetCode | RefusalCode | GoAwayReason], number: int) -> None:
    """A code that this end does not know is read as INTERNAL."""
    assert codes(number).name == "INTERNAL"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", ""),
        ("bye", "bye"),
        ("ä" * 127, "ä" * 127),
        ("x" * 255, "x" * 255),
        ("x" * 256, "x" * 255),
        ("x" + "ä" * 200, "x" + "ä" * 127),
        ("red \x1b[31m\nline", "red ?[31m?line"),
        ("lone \ud800", "lone ?"),
    ],
)
def test_go_away_texts(text: str, read: str) -> None:
    """GO_AWAY's text is cut between characters at 255 bytes, and has nothing that a terminal would obey."""
    [(_, _, payload)] = split(encode_go_away(2**31 - 1, GoAwayReason.FLOOD, text))
    assert read_go_away(memoryview(payload)) == (2**31 - 1, GoAwayReason.FLOOD, read)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"a\nb", b"\x1b[2J", b"\x00", b"\x7f"])
def test_bad_go_away_texts(text: bytes) -> None:
    """A text that is not UTF-8, or not printable, is refused."""
    with pytest.raises(ProtocolViolation, match="GO_AWAY"):
        read_go_away(memoryview(bytes(6) + text))


def test_describe() -> None:
    """A message is described frame by frame, without a byte of what streams carry."""
    message = b"".join(
        (
            encode(FrameType.DATA, 7, b"secret"),
            encode_credit(FrameType.WINDOW, StreamId(7), 4096),
            encode_reset(StreamId(9), ResetCode.CANCELLED),
            encode_go_away(9, GoAwayReason.SHUTDOWN, "bye"),
            encode(FrameType.FINISH, 7),
            header(200, 0, 3) + b"ext",
            b"left",
        )
    )
    assert describe(message) == [
        "DATA stream 7 6 bytes",
        "WINDOW stream 7 credit 4096",
        "RESET stream 9 CANCELLED",
        "GO_AWAY SHUTDOWN",
        "FINISH stream 7",
        "type 200 3 bytes",
        "4 stray bytes",
    ]
