"""The fuzz contract: whatever arrives gives events or ProtocolViolation, and memory stays bounded."""

import pytest
from hypothesis import example, given, settings, strategies as st

from sallyport.tunnel import limits
from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.events import DataReceived, StreamOpened
from sallyport.tunnel.frames import HEADER, FrameType, ResetCode, StreamId, describe, encode
from sallyport.tunnel.hello import encode_hello
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.opening import encode_opening
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.mux_pair import MuxPair, ack, hello, opening

_EDGES_32 = st.sampled_from([0, 1, 2, 3, 4, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
_KINDS = st.one_of(st.sampled_from([*FrameType, 0, 14, 127, 128, 255]), st.integers(0, 255))
_STREAMS = st.one_of(st.integers(0, 6), _EDGES_32)
_PAYLOADS = st.one_of(
    st.binary(max_size=64),
    _EDGES_32.map(lambda number: number.to_bytes(4, "big")),
    st.integers(0, 2**16 - 1).map(lambda number: number.to_bytes(2, "big")),
    st.integers(0, limits.DATA_MAX + 1).map(bytes),
    st.sampled_from(
        [
            encode_opening(opening(b"first")),
            encode_hello(hello()),
            encode_hello(ack()),
            b'{"name":"x","body":{}}',
            b'{"code":1,"text":"no"}',
            bytes(8),
        ]
    ),
)


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """Draw a frame that is mostly right, with now and then a wrong header."""
    payload = draw(_PAYLOADS)
    flags, reserved, extra = draw(
        st.sampled_from([(0, 0, 0)] * 20 + [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1)])
    )
    length = max(0, len(payload) + extra)
    return HEADER.pack(draw(_KINDS), flags, reserved, draw(_STREAMS), length) + payload


_MESSAGES = st.one_of(st.binary(max_size=200), st.lists(_frames(), min_size=1, max_size=8).map(b"".join))


def ends() -> dict[str, tuple[Mux, MemoryBudget]]:
    """Return an end in each phase of each side."""
    up = MuxPair.up()
    for _ in range(3):
        up.open()
    asked_budget, new_budget = MemoryBudget(), MemoryBudget()
    asked = Mux(Side.GATEWAY, now=1000.0, budget=asked_budget)
    asked.send_hello(hello())
    return {
        "gateway, up": (up.gateway.mux, up.budgets[1]),
        "relay, up": (up.relay.mux, up.budgets[0]),
        "gateway, asked": (asked, asked_budget),
        "relay, new": (Mux(Side.RELAY, now=1000.0, budget=new_budget), new_budget),
    }


@pytest.mark.parametrize("phase", ends())
@settings(max_examples=300, deadline=None)
@given(messages=st.lists(_MESSAGES, max_size=12))
@example(messages=[encode(FrameType.GO_AWAY, 0, b"\xff" * 261)])
@example(messages=[encode(FrameType.CONTROL, 0, b"[" * 16_000)])
def test_arbitrary_messages(phase: str, messages: list[bytes]) -> None:
    """Events or ProtocolViolation, and nothing else; what is held stays within the windows."""
    mux, budget = ends()[phase]
    now = 1000.0
    held = 0
    for message in messages:
        describe(message)
        try:
            events = mux.receive(message, now)
        except ProtocolViolation:
            assert budget.used == 0
            assert mux.message_to_send() is not None
            assert not mux.output.has_output
            return
        for event in events:
            if isinstance(event, DataReceived):
                assert type(event.data) is bytes
                held += len(event.data)
            elif isinstance(event, StreamOpened):
                held += len(event.opening.first)
        assert held <= limits.INITIAL_WINDOW * mux._streams.last
        now += 0.01
        mux.handle_timer(now)
        while mux.message_to_send() is not None:
            pass


@pytest.mark.parametrize("kind", FrameType)
@pytest.mark.parametrize("phase", ends())
def test_each_type_with_short_payloads(phase: str, kind: FrameType) -> None:
    """Every frame type with payloads of 0 to 12 bytes is judged in every phase, and the verdict has words."""
    for size in range(13):
        for stream in (0, 1):
            mux, _ = ends()[phase]
            detail = "taken"
            try:
                mux.receive(encode(kind, stream, bytes(size)), 1000.0)
            except ProtocolViolation as error:
                detail = error.detail
            assert detail


def test_a_flood_of_what_is_ignored_holds_nothing() -> None:
    """A million frames that mean nothing leave nothing behind."""
    pair = MuxPair.up()
    stream = pair.open()
    pair.relay.mux.reset(stream, ResetCode.CANCELLED)
    pair.pump()
    message = (encode(FrameType.DATA, StreamId(1), b"x") + HEADER.pack(200, 0, 0, 0, 0)) * 4000
    for _ in range(125):
        assert pair.gateway.mux.receive(message, pair.now) == []
    assert not pair.gateway.mux.output.has_output
    assert pair.budgets[1].used == 0
