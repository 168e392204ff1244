"""
The hostile corpus of the link: everything of SPEC.md §8, by name, and the attacks that muxes are known for.

Each case is what a peer sends to an end whose link is up and which has three streams: 1 is open, on 2 the
peer has finished, 3 has ended. SPEC.md says what ends by it; a sane talk afterwards shows that nothing else
did.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sallyport.tunnel
from sallyport.tunnel import limits
from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.events import Event, StreamWasReset
from sallyport.tunnel.frames import (
    HEADER,
    FrameType,
    GoAwayReason,
    ResetCode,
    StreamId,
    encode_credit,
    encode_go_away,
    encode_reset,
    read_go_away,
)
from sallyport.tunnel.hello import encode_hello
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.opening import encode_opening
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.mux_pair import MuxPair, ack, frames_of, hello, opening

SPEC = (Path(sallyport.tunnel.__file__).parent / "SPEC.md").read_text()

OPEN, FINISHED, ENDED, NEVER = 1, 2, 3, 999
WINDOW = limits.INITIAL_WINDOW
OPENING = encode_opening(opening())


def frame(kind: int, stream: int, payload: bytes = b"", *, flags: int = 0, reserved: int = 0) -> bytes:
    """Return a frame that may be wrong in any field."""
    return HEADER.pack(kind, flags, reserved, stream, len(payload)) + payload


def credit(kind: FrameType, stream: int, count: int) -> bytes:
    """Return WINDOW or RETURN with any number."""
    return encode_credit(kind, StreamId(stream), count)


@dataclass(frozen=True)
class Case:
    """
    One thing that a peer may send.

    Attributes:
        rule: The row of SPEC.md §8 that it breaks.
        name: What it is.
        messages: What is sent, in one turn.
        side: The end that receives it.
        is_up: Whether the link is up.
    """

    rule: str
    name: str
    messages: tuple[bytes, ...]
    side: Side = Side.GATEWAY
    is_up: bool = True

    def __str__(self) -> str:
        return f"{self.name} to {self.side.value}"


def cases(rule: str, named: dict[str, bytes | tuple[bytes, ...]], sides: Iterable[Side] = Side) -> list[Case]:
    """Return the cases of one rule, for each end that may meet them."""
    return [
        Case(rule, name, messages if isinstance(messages, tuple) else (messages,), side)
        for name, messages in named.items()
        for side in sides
    ]


_GATEWAY, _RELAY = [Side.GATEWAY], [Side.RELAY]
_DATA, _FINISH, _RETURN = frame(FrameType.DATA, 1, b"x"), FrameType.FINISH, FrameType.RETURN

CASES = [
    *cases(
        "an empty message, or one of more than 131,072 bytes",
        {
            "empty": b"",
            "one byte too long": _DATA + frame(200, 0, bytes(limits.MESSAGE_MAX + 1 - len(_DATA) - 12)),
            "a megabyte": bytes(1024 * 1024),
        },
    ),
    *cases(
        "a message that ends within a frame",
        {
            "half a header": _DATA + bytes(6),
            "half a payload": _DATA[:-1],
            "length of 2^31": HEADER.pack(FrameType.DATA, 0, 0, 1, 2**31) + b"x",
            "length of all ones": HEADER.pack(FrameType.DATA, 0, 0, 1, 2**32 - 1),
            "extension that is cut": HEADER.pack(200, 0, 0, 0, 100) + bytes(99),
        },
    ),
    *cases(
        "flags or reserved bits that are not 0",
        {
            "flag": frame(FrameType.DATA, 1, b"x", flags=1),
            "all flags": frame(FrameType.PING, 0, bytes(8), flags=255),
            "reserved": frame(FrameType.DATA, 1, b"x", reserved=0x8000),
            "extension with a flag": frame(200, 0, flags=1),
        },
    ),
    *cases(
        "an unknown type below 128",
        {"type 0": frame(0, 0), "type 14": frame(14, 1), "type 127": frame(127, 0)},
    ),
    *cases(
        "a payload shorter or longer than its type allows",
        {
            "empty DATA": frame(FrameType.DATA, 1),
            "DATA of 64 KiB and one": frame(FrameType.DATA, 1, bytes(limits.DATA_MAX + 1)),
            "WINDOW of 3 bytes": frame(FrameType.WINDOW, 1, bytes(3)),
            "WINDOW of 8 bytes": frame(FrameType.WINDOW, 1, bytes(8)),
            "FINISH with a byte": frame(_FINISH, 1, b"x"),
            "RESET of 4 bytes": frame(FrameType.RESET, 1, bytes(4)),
            "PING of 7 bytes": frame(FrameType.PING, 0, bytes(7)),
            "PING of 64 KiB": frame(FrameType.PING, 0, bytes(65_536)),
            "GO_AWAY of 5 bytes": frame(FrameType.GO_AWAY, 0, bytes(5)),
            "HELLO of 100,000 bytes": frame(FrameType.HELLO, 0, bytes(100_000)),
            "CONTROL of 16 KiB and one": frame(FrameType.CONTROL, 0, bytes(16_385)),
            "OPEN of 9 bytes": frame(FrameType.OPEN, 9, bytes(9)),
            "OPEN with more first bytes than a window": frame(FrameType.OPEN, 9, OPENING + bytes(WINDOW)),
        },
    ),
    *cases(
        "a frame of the link on a stream, or of a stream on 0 or above 2^31 − 1",
        {
            "DATA on 0": frame(FrameType.DATA, 0, b"x"),
            "DATA on 2^31": frame(FrameType.DATA, 2**31, b"x"),
            "DATA on all ones": frame(FrameType.DATA, 2**32 - 1, b"x"),
            "OPEN on 0": frame(FrameType.OPEN, 0, OPENING),
            "OPEN on 2^31": frame(FrameType.OPEN, 2**31, OPENING),
            "RESET on 0": frame(FrameType.RESET, 0, bytes(2)),
            "PING on a stream": frame(FrameType.PING, 1, bytes(8)),
            "GO_AWAY on a stream": frame(FrameType.GO_AWAY, 1, bytes(6)),
            "CONTROL on a stream": frame(FrameType.CONTROL, 1, b"{}"),
        },
    ),
    *cases(
        "HELLO, HELLO_ACK or REFUSED when the link is up",
        {
            "HELLO": frame(FrameType.HELLO, 0, encode_hello(hello())),
            "HELLO_ACK": frame(FrameType.HELLO_ACK, 0, encode_hello(ack())),
            "REFUSED": frame(FrameType.REFUSED, 0, b'{"code":1,"text":""}'),
        },
    ),
    *cases(
        "JSON that is not strict, or lacks a field, or has one of the wrong type or range",
        {
            "CONTROL that is no JSON": frame(FrameType.CONTROL, 0, b"name=x"),
            "CONTROL with a key twice": frame(FrameType.CONTROL, 0, b'{"name":"x","name":"y"}'),
            "CONTROL without a name": frame(FrameType.CONTROL, 0, b'{"body":{}}'),
            "CONTROL that nests too deeply": frame(FrameType.CONTROL, 0, b"[" * 16_384),
        },
    ),
    *cases("OPEN from a gateway", {"OPEN": frame(FrameType.OPEN, 9, OPENING)}, _RELAY),
    *cases(
        "OPEN after the relay's GO_AWAY",
        {"OPEN": encode_go_away(3, GoAwayReason.SHUTDOWN, "") + frame(FrameType.OPEN, 9, OPENING)},
        _GATEWAY,
    ),
    *cases(
        "OPEN with a number that is not above all before it",
        {
            "open stream": frame(FrameType.OPEN, OPEN, OPENING),
            "ended stream": frame(FrameType.OPEN, ENDED, OPENING),
            "falling": frame(FrameType.OPEN, 9, OPENING) + frame(FrameType.OPEN, 8, OPENING),
        },
        _GATEWAY,
    ),
    *cases(
        "OPEN with fields that are too long, or not printable ASCII",
        {
            "name beyond the frame": frame(FrameType.OPEN, 9, bytes(8) + b"\xff\x00"),
            "name of 254": frame(FrameType.OPEN, 9, bytes(8) + b"\xfe" + b"n" * 254 + b"\x00"),
            "name with an escape": frame(FrameType.OPEN, 9, bytes(8) + b"\x03\x1b[m\x00"),
            "address of 65": frame(FrameType.OPEN, 9, bytes(8) + b"\x00\x41" + b"a" * 65),
        },
        _GATEWAY,
    ),
    *cases(
        "a frame for a stream that was never opened",
        {
            "DATA": frame(FrameType.DATA, NEVER, b"x"),
            "WINDOW": credit(FrameType.WINDOW, NEVER, 1),
            "FINISH": frame(_FINISH, NEVER),
            "RESET": encode_reset(StreamId(NEVER), ResetCode.CANCELLED),
            "RETURN": credit(_RETURN, NEVER, 1),
        },
    ),
    *cases(
        "GO_AWAY with a last stream that was never opened, or a text that is not printable UTF-8",
        {
            "text in Latin-1": frame(FrameType.GO_AWAY, 0, bytes(6) + b"\xe4"),
            "text with a line break": frame(FrameType.GO_AWAY, 0, bytes(6) + b"a\nb"),
        },
    ),
    *cases(
        "GO_AWAY with a last stream that was never opened, or a text that is not printable UTF-8",
        {"last stream": encode_go_away(NEVER, GoAwayReason.SHUTDOWN, "")},
        _RELAY,
    ),
    *cases(
        "more of a kind of frame than §10 allows",
        {
            "a million PINGs": (frame(FrameType.PING, 0, bytes(8)) * 5000,) * 200,
            "a million PONGs": (frame(FrameType.PONG, 0, bytes(8)) * 5000,) * 200,
            "a million RESETs": (encode_reset(StreamId(ENDED), ResetCode.CANCELLED) * 5000,) * 200,
            "CONTROL": (frame(FrameType.CONTROL, 0, b'{"name":"x"}') * 1000,),
            "GO_AWAY": (encode_go_away(0, GoAwayReason.SHUTDOWN, "") * 1000,),
        },
    ),
    *cases(
        "more of a kind of frame than §10 allows",
        {
            "OPEN and RESET": tuple(
                frame(FrameType.OPEN, number, OPENING) + encode_reset(StreamId(number), ResetCode.CANCELLED)
                for number in range(10, 10 + limits.OPEN_BURST + 1)
            ),
            "resets that it provokes": tuple(
                frame(FrameType.OPEN, number, OPENING) + credit(FrameType.WINDOW, number, 0)
                for number in range(10, 10 + limits.FAULT_BURST + 1)
            ),
        },
        _GATEWAY,
    ),
    *cases(
        "DATA, FINISH or RETURN after FINISH",
        {
            "DATA": frame(FrameType.DATA, FINISHED, b"x"),
            "FINISH": frame(_FINISH, FINISHED),
            "RETURN": credit(_RETURN, FINISHED, 1),
        },
    ),
    *cases(
        "DATA beyond the credit",
        {
            "one byte": frame(FrameType.DATA, OPEN, bytes(WINDOW)) + _DATA,
            "in small pieces": frame(FrameType.DATA, OPEN, bytes(100)) * (WINDOW // 100 + 1),
            "a second window": (frame(FrameType.DATA, OPEN, bytes(WINDOW)),) * 2,
        },
    ),
    *cases(
        "WINDOW of 0, or beyond 2^31 − 1 in sum",
        {
            "0": credit(FrameType.WINDOW, OPEN, 0),
            "all at once": credit(FrameType.WINDOW, OPEN, 2**31 - 1),
            "negative": credit(FrameType.WINDOW, OPEN, 2**32 - 1),
            "2^31": credit(FrameType.WINDOW, OPEN, 2**31),
            "in sum": credit(FrameType.WINDOW, OPEN, 2**30) * 2,
        },
    ),
    *cases(
        "RETURN of 0, or of more than was granted above 65,536",
        {
            "0": credit(_RETURN, OPEN, 0),
            "1": credit(_RETURN, OPEN, 1),
            "all ones": credit(_RETURN, OPEN, 2**32 - 1),
        },
    ),
    *cases(
        "a frame for a stream that has ended",
        {
            "DATA": frame(FrameType.DATA, ENDED, bytes(limits.DATA_MAX)),
            "WINDOW of 0": credit(FrameType.WINDOW, ENDED, 0),
            "FINISH": frame(_FINISH, ENDED),
            "RESET": encode_reset(StreamId(ENDED), ResetCode.CANCELLED),
            "RETURN": credit(_RETURN, ENDED, 9),
            "a million small DATA": (frame(FrameType.DATA, ENDED, b"x") * 10_000,) * 100,
        },
    ),
    *cases(
        "an unknown type from 128",
        {
            "empty": frame(128, 0),
            "long": frame(255, 2**32 - 1, bytes(100_000)),
            "many": (frame(200, 7) * 10_000,) * 10,
        },
    ),
    *cases(
        "a code or reason that is not known",
        {"GO_AWAY": frame(FrameType.GO_AWAY, 0, b"\x00\x00\x00\x03\xff\xff")},
    ),
    Case("HELLO in another version", "version 2", (frame(1, 0, b'{"version":2}'),), Side.RELAY, is_up=False),
    Case("HELLO in another version", "ACK", (frame(2, 0, b'{"version":2}'),), Side.GATEWAY, is_up=False),
    *(
        Case("a frame that may not come before the link is up", name, (message,), side, is_up=False)
        for side in Side
        for name, message in {
            "OPEN": frame(FrameType.OPEN, 1, OPENING),
            "DATA": _DATA,
            "PING": frame(FrameType.PING, 0, bytes(8)),
            "CONTROL": frame(FrameType.CONTROL, 0, b'{"name":"x"}'),
            "HELLO of the wrong end": frame(1 if side is Side.GATEWAY else 2, 0, encode_hello(ack())),
            "PING behind the handshake": (
                frame(1, 0, encode_hello(hello())) if side is Side.RELAY else frame(200, 0)
            )
            + frame(FrameType.PING, 0, bytes(8)),
        }.items()
    ),
    *(
        Case(
            "JSON that is not strict, or lacks a field, or has one of the wrong type or range",
            f"HELLO: {payload[:20]!r}",
            (frame(1, 0, payload),),
            Side.RELAY,
            is_up=False,
        )
        for payload in (b"{}", b"[]", b'{"version":true}', b'{"version":1}', b'{"version":0}', b"\xff\xff")
    ),
]

# The two rows that need full memory, or a GO_AWAY of this end's own, have tests of their own in test_mux.py.
ELSEWHERE = {"OPEN while memory or streams are short", "OPEN after the gateway's GO_AWAY"}


def spec_rows() -> dict[str, tuple[str, str]]:
    """Read the table of SPEC.md §8: what is sent, what it ends, the code."""
    table = SPEC.partition("<!-- errors")[2].partition("<!-- end -->")[0]
    rows = re.findall(r"^\| (.+?) \| (link|stream|nothing) \| (\w*) ?\|$", table, re.MULTILINE)
    return {what: (ends, code) for what, ends, code in rows}


ROWS = spec_rows()


def test_each_row_of_the_spec_has_cases() -> None:
    """The table of SPEC.md §8 and this corpus have the same rules."""
    assert {case.rule for case in CASES} | ELSEWHERE == set(ROWS)


def receiving_end(case: Case) -> tuple[Mux, MemoryBudget]:
    """Return the end that the case is sent to, with streams 1 (open), 2 (the peer finished) and 3 (ended)."""
    if not case.is_up:
        budget = MemoryBudget()
        mux = Mux(case.side, now=0.0, budget=budget)
        if case.side is Side.GATEWAY:
            mux.send_hello(hello())
            mux.message_to_send()
        return mux, budget
    pair = MuxPair.up()
    for _ in range(3):
        pair.open()
    gateway_receives = case.side is Side.GATEWAY
    end, peer = (pair.gateway, pair.relay) if gateway_receives else (pair.relay, pair.gateway)
    peer.mux.finish(StreamId(FINISHED))
    peer.mux.reset(StreamId(ENDED), ResetCode.CANCELLED)
    pair.pump()
    return end.mux, pair.budgets[gateway_receives]


def deliver(mux: Mux, messages: Iterable[bytes], now: float) -> Iterator[Event]:
    """Give messages to an end that consumes nothing and whose output nobody reads."""
    for message in messages:
        yield from mux.receive(message, now)


def output(mux: Mux) -> list[tuple[int, int, bytes]]:
    """Return all frames that an end has to send."""
    frames = []
    while (message := mux.message_to_send()) is not None:
        frames += frames_of(message)
    return frames


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    """What a peer sends ends what SPEC.md says, with the code that it says, and nothing else."""
    mux, budget = receiving_end(case)
    now = 1000.0
    ends, code = ROWS[case.rule]
    if ends == "link":
        with pytest.raises(ProtocolViolation) as caught:
            list(deliver(mux, case.messages, now))
        assert caught.value.code == GoAwayReason[code]
        assert_last_word(mux, case, GoAwayReason[code])
        assert budget.used == 0
        return
    events = list(deliver(mux, case.messages, now))
    resets = [event for event in events if isinstance(event, StreamWasReset)]
    kinds = [kind for kind, _, _ in output(mux)]
    if ends == "stream":
        assert [(event.code, event.by_peer) for event in resets] == [(ResetCode[code], False)]
        assert kinds == [FrameType.RESET]
    else:
        assert not resets
        assert not kinds
    assert_sane(mux, now)


def assert_last_word(mux: Mux, case: Case, reason: GoAwayReason) -> None:
    """Check that the end says why it leaves, in one short message, and nothing after it."""
    [(kind, _, payload)] = output(mux)
    if reason is GoAwayReason.VERSION and case.side is Side.RELAY:
        assert kind == FrameType.REFUSED
    else:
        assert kind == FrameType.GO_AWAY
        assert read_go_away(memoryview(payload))[1] is reason
    assert len(payload) < 512


def assert_sane(mux: Mux, now: float) -> None:
    """Check that the link works as before: a PING is answered."""
    mux.receive(frame(FrameType.PING, 0, b"are you?"), now)
    assert (FrameType.PONG, 0, b"are you?") in output(mux)
