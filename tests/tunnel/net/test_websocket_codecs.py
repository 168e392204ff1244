"""
The two codecs against each other: the same verdict on any bytes, or picows's is the stricter one.

``websockets`` is the oracle. picows is stricter where it refuses what stands behind a close frame, which the
oracle does not look at, and where it drops the whole frame before a broken one. Either ends the link.
"""

import asyncio
import gc
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from websockets.protocol import Side

from sallyport.tunnel.errors import LinkLost, SettingRefused
from sallyport.tunnel.limits import MESSAGE_MAX
from sallyport.tunnel.net import websocket_codec
from sallyport.tunnel.net.websocket_codec import (
    CodecName,
    FrameCodec,
    Opcode,
    chosen_codec,
    codec_maker,
)
from tests.harness.link_pair import CODECS

# Also on what is no coroutine, where it does nothing.
pytestmark = pytest.mark.anyio

_CLOSE_CODES = (0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535)


@dataclass
class Verdict:
    """
    A receiver that notes what a codec tells it.

    Attributes:
        messages: Whole binary messages.
        frames: Pings and pongs.
        written: What the codec wrote, joined.
        closed: Whether the peer closed in order.
        broken: Whether the codec found that this is no WebSocket of ours.
    """

    messages: list[bytes] = field(default_factory=list)
    frames: list[Opcode] = field(default_factory=list)
    written: bytes = b""
    closed: bool = False
    broken: bool = False

    def message_received(self, message: bytes | bytearray | memoryview) -> None:
        self.messages.append(bytes(message))

    def frame_received(self, opcode: Opcode) -> None:
        if opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION):
            raise LinkLost("as the carrier does")
        self.frames.append(opcode)

    def peer_closed(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        self.written += data


def judge(name: CodecName, side: Side, pieces: list[bytes]) -> Verdict:
    """Feed pieces as a carrier does, until the codec has had enough."""
    verdict = Verdict()

    async def feed() -> None:
        codec = codec_maker(name)(side, verdict)
        for piece in pieces:
            if verdict.closed or verdict.broken:
                break
            try:
                codec.receive(piece)
            except LinkLost:
                verdict.broken = True

    asyncio.run(feed())
    return verdict


def frame(first: int, payload: bytes, mask: bytes | None, *, wide: int = 0) -> bytes:
    """Make a frame from its first byte on; ``wide`` takes a longer length field than needed."""
    mask_bit = 0 if mask is None else 0x80
    size = len(payload)
    if size > 65535 or wide == 2:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    elif size > 125 or wide == 1:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BB", first, mask_bit | size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


_CLOSES = st.builds(
    lambda code, reason: struct.pack("!H", code) + reason,
    st.sampled_from(_CLOSE_CODES),
    st.sampled_from([b"", b"bye", "ö".encode(), b"\xff", b"x" * 123, b"x" * 124]),
)


def _frames(mask: bytes | None) -> st.SearchStrategy[bytes]:
    """Frames, mostly right ones, so that what follows them is looked at too; ``mask`` is the right one."""
    right, small = st.just(mask), st.binary(max_size=125)
    masks = st.sampled_from([mask, mask, None, bytes(4), b"\xff\x00\xff\x01"])
    return st.one_of(
        st.builds(frame, st.sampled_from([0x82, 0x82, 0x89, 0x8A]), small, right),
        st.builds(frame, st.just(0x82), st.binary(min_size=126, max_size=300), right),
        st.builds(frame, st.just(0x88), st.one_of(st.just(b""), st.just(b"\x03"), _CLOSES), right),
        st.builds(frame, st.integers(0, 255), small, masks, wide=st.sampled_from([0, 0, 0, 1, 2])),
        st.binary(min_size=1, max_size=20),
    )


@st.composite
def _exchanges(draw: st.DrawFn, *, right: bool = False) -> tuple[Side, list[bytes]]:
    """Draw a side, and a stream of frames to it, cut anywhere."""
    side = draw(st.sampled_from(Side))
    mask = b"mask" if side is Side.SERVER else None
    if right:
        payload = st.one_of(st.binary(max_size=125), st.just(b"y" * 125))
        sent = [
            *draw(st.lists(st.builds(frame, st.sampled_from([0x82, 0x89, 0x8A]), payload, st.just(mask)))),
            *draw(st.sampled_from([[], [frame(0x88, b"", mask)], [frame(0x88, b"\x03\xe9bye", mask)]])),
        ]
    else:
        sent = draw(st.lists(_frames(mask), min_size=1, max_size=6))
    data = b"".join(sent)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return side, [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example((Side.SERVER, [frame(0x82, b"one", b"mask") + frame(0x83, b"two", b"mask")]))
@example((Side.SERVER, [frame(0x88, b"", b"mask") + b"whatever"]))
@example((Side.SERVER, [frame(0x88, b"", b"mask") * 2]))
@example((Side.SERVER, [frame(0xC2, b"one", b"mask") + frame(0x88, b"", b"mask")]))
@example((Side.CLIENT, [frame(0x82, b"one", None), frame(0x89, b"two", None)]))
@given(_exchanges())
def test_picows_is_never_laxer_than_websockets(exchange: tuple[Side, list[bytes]]) -> None:
    """What it lets through the oracle lets through too, answered with the same bytes."""
    side, pieces = exchange
    oracle, verdict = judge("websockets", side, pieces), judge("picows", side, pieces)
    if not verdict.broken:
        assert not oracle.broken
        assert (verdict.closed, verdict.messages, verdict.frames) == (
            oracle.closed,
            oracle.messages,
            oracle.frames,
        )
        assert unmasked(verdict.written) == unmasked(oracle.written)
    assert verdict.messages == oracle.messages[: len(verdict.messages)]
    assert verdict.frames == oracle.frames[: len(verdict.frames)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_exchanges(right=True))
def test_what_is_right_is_taken_alike(exchange: tuple[Side, list[bytes]]) -> None:
    """Messages, pings and pongs in any order, with a close in order or none, cut anywhere."""
    side, pieces = exchange
    oracle, verdict = judge("websockets", side, pieces), judge("picows", side, pieces)
    assert not oracle.broken
    assert not verdict.broken
    assert (verdict.closed, verdict.messages, verdict.frames) == (
        oracle.closed,
        oracle.messages,
        oracle.frames,
    )
    assert unmasked(verdict.written) == unmasked(oracle.written)


def unmasked(written: bytes) -> list[tuple[int, bytes]]:
    """Read frames without their masks, which are random."""
    frames = []
    while written:
        first, second = written[:2]
        size, masked = second & 0x7F, second & 0x80
        assert size < 126, "the codecs answer with control frames only"
        at = 6 if masked else 2
        mask = written[2:6] if masked else bytes(4)
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(written[at : at + size]))
        frames.append((first, payload))
        written = written[at + size :]
    return frames


@pytest.mark.parametrize("receiving", CODECS)
@pytest.mark.parametrize("sending", CODECS)
@pytest.mark.parametrize("side", list(Side))
async def test_messages_of_every_size_arrive(
    anyio_backend: object, side: Side, sending: CodecName, receiving: CodecName
) -> None:
    """Around each size at which the head, or the way of sending, changes; however the bytes are cut."""
    sizes = [0, 1, 125, 126, 127, 8_191, 8_192, 8_193, 65_535, 65_536, 65_537, MESSAGE_MAX - 1, MESSAGE_MAX]
    messages = [bytes(number % 251 for number in range(size)) for size in sizes]
    other = Side.CLIENT if side is Side.SERVER else Side.SERVER
    sent, received = Verdict(), Verdict()
    sender, receiver = codec_maker(sending)(side, sent), codec_maker(receiving)(other, received)
    for message in messages:
        sender.send(message)
    data = sent.written
    for step in (1_000, 70_000, len(data)):
        received.messages.clear()
        for at in range(0, len(data), step):
            receiver.receive(data[at : at + step])
        assert received.messages == messages


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("side", list(Side))
async def test_what_is_written_is_the_transports_own(
    anyio_backend: object, side: Side, codec: CodecName
) -> None:
    """
    What a codec writes may be kept: nothing that is sent later changes it.

    A loop's ``write`` keeps what the kernel does not take at once, so a view of a codec's buffer would be
    overwritten before it leaves.
    """
    kept: list[object] = []

    class Keeping(Verdict):
        def write(self, data: bytes) -> None:
            kept.append(data)

    made = codec_maker(codec)(side, Keeping())
    for number in range(200):
        made.send(bytes((number,)) * (20_000 if number % 2 else 200))
    assert all(type(chunk) is bytes for chunk in kept)
    other = Side.CLIENT if side is Side.SERVER else Side.SERVER
    received = Verdict()
    receiver = codec_maker("websockets")(other, received)
    for chunk in kept:
        assert isinstance(chunk, bytes)
        receiver.receive(chunk)
    assert received.messages == [bytes((n,)) * (20_000 if n % 2 else 200) for n in range(200)]


@pytest.mark.parametrize("codec", CODECS)
async def test_a_codec_that_was_dropped_is_freed(anyio_backend: object, codec: CodecName) -> None:
    """Ten thousand links that came and went leave no codec behind, and no complaint about its futures."""
    loop = asyncio.get_running_loop()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))

    def hurt(side: Side) -> None:
        made = codec_maker(codec)(side, Verdict())
        with pytest.raises(LinkLost):
            made.receive(b"\xff" * 20)

    hurt(Side.CLIENT)
    await asyncio.sleep(0.02)  # picows's own timer, which closes nothing, holds it for 10 ms
    gc.collect()
    before = _count_codecs()
    for side in (Side.CLIENT, Side.SERVER) * 10:
        hurt(side)
    await asyncio.sleep(0.02)
    gc.collect()
    assert _count_codecs() == before
    assert complaints == []


def _count_codecs() -> int:
    return sum(1 for each in gc.get_objects() if type(each).__name__ in {"WSProtocol", "Protocol"})


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("side", list(Side))
async def test_nothing_is_sent_behind_a_close(anyio_backend: object, side: Side, codec: CodecName) -> None:
    """After its own close frame, or the peer's, a codec is not open."""
    for end in (_close_itself, _be_closed):
        verdict = Verdict()
        made = codec_maker(codec)(side, verdict)
        before = made.is_open
        end(made, side)
        assert (before, made.is_open) == (True, False)
        assert [first for first, _ in unmasked(verdict.written)] == [0x88]


def _close_itself(codec: FrameCodec, side: Side) -> None:
    codec.close()


def _be_closed(codec: FrameCodec, side: Side) -> None:
    codec.receive(frame(0x88, struct.pack("!H", 1000), b"mask" if side is Side.SERVER else None))


Setting = Callable[[str | None], None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Set SALLYPORT_CARRIER, or take it away."""

    def put(value: str | None) -> None:
        if value is None:
            monkeypatch.delenv("SALLYPORT_CARRIER", raising=False)
        else:
            monkeypatch.setenv("SALLYPORT_CARRIER", value)

    return put


@pytest.mark.parametrize(
    ("value", "name"), [(None, "picows"), ("", "picows"), ("picows", "picows"), ("websockets", "websockets")]
)
def test_the_environment_chooses(setting: Setting, value: str | None, name: str) -> None:
    """picows where it is installed, as it is for tests, unless the other is asked for."""
    setting(value)
    assert chosen_codec() == name


def test_without_picows_there_is_the_other(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, or in a series that was not tried, the fallback is taken; not silently."""
    monkeypatch.setattr(websocket_codec, "_has_picows", lambda: False)
    monkeypatch.setattr(websocket_codec, "_choose", websocket_codec._choose.__wrapped__)  # without its memory
    setting(None)
    assert chosen_codec() == "websockets"
    setting("picows")
    with pytest.raises(SettingRefused, match="there is no SALLYPORT_CARRIER=picows"):
        chosen_codec()
