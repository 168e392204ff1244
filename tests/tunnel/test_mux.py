"""The mux as a whole, two of them in virtual time: handshake, data, leaving, limits, liveness."""

from collections.abc import Callable

import pytest

from sallyport.tunnel import limits
from sallyport.tunnel.errors import LimitReached, LinkLost, LinkTimedOut, ProtocolViolation
from sallyport.tunnel.events import (
    ControlReceived,
    GoAwayReceived,
    HelloReceived,
    LinkAccepted,
    Refusal,
    RefusalReceived,
    StreamFinished,
    StreamOpened,
    StreamWasReset,
    StreamWritable,
)
from sallyport.tunnel.frames import (
    FrameType,
    GoAwayReason,
    RefusalCode,
    ResetCode,
    StreamId,
    encode,
    encode_go_away,
    read_go_away,
)
from sallyport.tunnel.hello import read_refusal
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.opening import encode_opening
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.mux_pair import MuxPair, ack, data_frame, frames_of, hello, opening

KIB = 1024
WINDOW = limits.INITIAL_WINDOW


def fresh(side: Side, now: float = 0.0) -> Mux:
    """Return a mux whose link is not up."""
    return Mux(side, now=now, budget=MemoryBudget())


# Handshake


def test_the_handshake() -> None:
    """HELLO, judgement, HELLO_ACK: neither end is ready before the ACK is sent, and received."""
    pair = MuxPair(latency=0.1)
    relay, gateway = pair.relay, pair.gateway
    gateway.mux.send_hello(hello(50))
    pair.advance(0.1)
    assert relay.events == [HelloReceived(hello(50))]
    assert not relay.mux.is_ready
    relay.mux.accept(ack())
    assert relay.mux.is_ready
    assert not gateway.mux.is_ready
    pair.advance(0.1)
    assert gateway.events == [LinkAccepted(ack())]
    gateway.mux.send_control("x", {})


def test_a_refusal() -> None:
    """REFUSED carries code, text and time, and is the last thing that both ends say."""
    refusal = Refusal(RefusalCode.REVOKED, "the certificate of gw1 was revoked", 30.0)
    pair = MuxPair()
    pair.gateway.mux.send_hello(hello())
    pair.pump()
    pair.relay.mux.refuse(refusal)
    pair.pump()
    assert pair.gateway.events == [RefusalReceived(refusal)]
    for end in (pair.relay, pair.gateway):
        assert not end.mux.is_ready
        assert not end.mux.output.has_output
        assert end.mux.next_timeout() is None


def test_a_gateway_of_another_version() -> None:
    """A HELLO of another version is answered by REFUSED, which every version reads."""
    relay = fresh(Side.RELAY)
    payload = b'{"version":2,"new":"things"}'
    with pytest.raises(ProtocolViolation) as caught:
        relay.receive(encode(FrameType.HELLO, 0, payload), 0.0)
    assert caught.value.code == GoAwayReason.VERSION
    [(kind, _, answer)] = frames_of(relay.message_to_send())
    assert kind == FrameType.REFUSED
    assert read_refusal(memoryview(answer)).code is RefusalCode.VERSION


@pytest.mark.parametrize("side", Side)
def test_a_handshake_that_is_withheld(side: Side) -> None:
    """An end that waits too long for HELLO, or for its answer, gives up."""
    mux = fresh(side, now=50.0)
    if side is Side.GATEWAY:
        mux.send_hello(hello())
    assert mux.next_timeout() == 50.0 + limits.HELLO_TIMEOUT
    assert mux.handle_timer(49.9 + limits.HELLO_TIMEOUT) == []
    with pytest.raises(LinkTimedOut, match="HELLO"):
        mux.handle_timer(50.0 + limits.HELLO_TIMEOUT)
    assert mux.next_timeout() is None


@pytest.mark.parametrize(
    ("side", "call"),
    [
        (Side.RELAY, lambda mux: mux.send_hello(hello())),
        (Side.RELAY, lambda mux: mux.accept(ack())),
        (Side.RELAY, lambda mux: mux.refuse(Refusal(RefusalCode.INTERNAL, ""))),
        (Side.GATEWAY, lambda mux: mux.accept(ack())),
        (Side.GATEWAY, lambda mux: mux.refuse(Refusal(RefusalCode.INTERNAL, ""))),
        (Side.GATEWAY, lambda mux: (mux.send_hello(hello()), mux.send_hello(hello()))),
        (Side.GATEWAY, lambda mux: mux.open_stream(opening(), 0.0)),
    ],
)
def test_calls_out_of_turn(side: Side, call: Callable[[Mux], object]) -> None:
    """What an end may not say now is a mistake in the program, and nothing is sent."""
    with pytest.raises(RuntimeError):
        call(fresh(side))


def test_calls_that_need_a_link() -> None:
    """Streams and CONTROL need a link that is up; what ends it does no harm."""
    mux = fresh(Side.RELAY)
    with pytest.raises(LinkLost):
        mux.open_stream(opening(), 0.0)
    with pytest.raises(LinkLost):
        mux.send_control("x", {})
    mux.drop()
    mux.drop()
    mux.go_away(GoAwayReason.SHUTDOWN)
    assert not mux.output.has_output


# Data


def test_a_call_and_its_answer() -> None:
    """Bytes go both ways, and both directions end in order."""
    pair = MuxPair.up()
    stream = pair.open(b"hello")
    assert pair.gateway.events == [StreamOpened(stream, opening(b"hello"))]
    pair.relay.mux.send_data(stream, b" gateway")
    pair.relay.mux.finish(stream)
    pair.gateway.mux.send_data(stream, b"hello relay")
    pair.gateway.mux.finish(stream)
    pair.pump()
    assert pair.gateway.received[stream] == b"hello gateway"
    assert pair.relay.received[stream] == b"hello relay"
    assert pair.gateway.events[-1] == pair.relay.events[-1] == StreamFinished(stream)
    assert pair.relay.mux.stream_count == pair.gateway.mux.stream_count == 0


def test_the_first_bytes_use_credit() -> None:
    """OPEN's first bytes count against the window like any other data."""
    pair = MuxPair.up()
    stream = pair.relay.mux.open_stream(opening(bytes(30_000)), pair.now)
    pair.gateway.stalled.add(stream)
    pair.relay.mux.send_data(stream, bytes(WINDOW))
    pair.pump()
    assert len(pair.gateway.received[stream]) == WINDOW
    assert pair.relay.mux.unsent(stream) == 30_000


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_borrowed_bytes(kind: type[bytearray | memoryview]) -> None:
    """What is not owned by the mux, in either direction, is copied before its owner takes it back."""
    pair = MuxPair.up()
    stream = pair.open()
    buffer = bytearray(b"borrowed")
    pair.relay.mux.send_data(stream, kind(buffer))
    buffer[:] = b"________"
    message = bytearray(pair.relay.mux.message_to_send() or b"")
    [event] = pair.gateway.mux.receive(kind(message), pair.now)
    message[:] = bytes(len(message))
    pair.gateway.handle([event], pair.now)
    assert pair.gateway.received[stream] == b"borrowed"


def test_a_writer_hears_when_to_go_on() -> None:
    """A stream with much unsent data tells once when little is left."""
    pair = MuxPair.up()
    stream = pair.open()
    pair.gateway.stalled.add(stream)
    pair.relay.mux.send_data(stream, bytes(4 * WINDOW))
    pair.pump()
    assert pair.relay.of(StreamWritable) == []
    pair.gateway.wake(stream, pair.now)
    pair.pump()
    assert pair.relay.of(StreamWritable) == [StreamWritable(stream)]
    assert pair.relay.mux.unsent(stream) == 0


@pytest.mark.parametrize("code", ResetCode)
def test_a_reset(code: ResetCode) -> None:
    """RESET ends both directions at once, drops what waits, and carries its code."""
    pair = MuxPair.up()
    stream = pair.open()
    pair.gateway.stalled.add(stream)
    pair.relay.mux.send_data(stream, bytes(4 * WINDOW))
    pair.pump()
    pair.relay.mux.reset(stream, code)
    assert pair.relay.mux.unsent(stream) == 0
    pair.pump()
    assert pair.gateway.of(StreamWasReset) == [StreamWasReset(stream, code, by_peer=True)]
    assert pair.relay.of(StreamWasReset) == []
    assert [budget.used for budget in pair.budgets] == [0, 0]


def test_resets_that_cross() -> None:
    """Two RESETs, and data that was under way, pass each other without harm."""
    pair = MuxPair.up(latency=0.1)
    stream = pair.open()
    pair.advance(0.2)
    pair.relay.mux.send_data(stream, b"late")
    pair.relay.mux.reset(stream, ResetCode.CANCELLED)
    pair.gateway.mux.send_data(stream, b"late")
    pair.gateway.mux.finish(stream)
    pair.gateway.mux.message_to_send()
    pair.gateway.mux.reset(stream, ResetCode.INTERNAL)
    pair.advance(1)
    assert pair.relay.mux.is_ready
    assert pair.gateway.mux.is_ready
    assert pair.relay.mux.stream_count == pair.gateway.mux.stream_count == 0


def test_calls_for_a_stream_that_has_ended() -> None:
    """Whoever has not heard of a stream's end yet may still use it, without effect."""
    pair = MuxPair.up()
    stream = pair.open()
    pair.gateway.mux.reset(stream, ResetCode.CANCELLED)
    pair.pump()
    mux = pair.relay.mux
    mux.send_data(stream, b"x")
    mux.finish(stream)
    mux.consumed(stream, 10, pair.now)
    mux.reset(stream, ResetCode.CANCELLED)
    assert mux.unsent(stream) == 0
    assert not mux.output.has_output


# Control, leaving


def test_control_both_ways() -> None:
    """A named message arrives as it was sent, in both directions."""
    pair = MuxPair.up()
    pair.relay.mux.send_control("statement", {"number": 1})
    pair.gateway.mux.send_control("status", {})
    pair.pump()
    assert pair.gateway.events == [ControlReceived("statement", {"number": 1})]
    assert pair.relay.events == [ControlReceived("status", {})]


@pytest.mark.parametrize("who", ["relay", "gateway"])
def test_leaving(who: str) -> None:
    """After GO_AWAY, from either end, nothing is opened and what is open goes on to its end."""
    pair = MuxPair.up()
    stream = pair.open()
    leaving, other = (pair.relay, pair.gateway) if who == "relay" else (pair.gateway, pair.relay)
    leaving.mux.go_away(GoAwayReason.SHUTDOWN, "maintenance")
    leaving.mux.go_away(GoAwayReason.SHUTDOWN)
    pair.pump()
    assert other.of(GoAwayReceived) == [GoAwayReceived(GoAwayReason.SHUTDOWN, stream, "maintenance")]
    assert pair.relay.mux.is_leaving
    assert pair.gateway.mux.is_leaving
    with pytest.raises(LimitReached, match="going away"):
        pair.relay.mux.open_stream(opening(), pair.now)
    for end in (pair.relay, pair.gateway):
        end.mux.send_data(stream, b"to the end")
        end.mux.finish(stream)
    pair.pump()
    assert pair.relay.received[stream] == pair.gateway.received[stream] == b"to the end"


def test_a_stream_that_crosses_go_away() -> None:
    """A stream opened while the gateway's GO_AWAY was under way was never begun, and ends once as REFUSED."""
    pair = MuxPair.up(latency=0.1)
    pair.gateway.mux.go_away(GoAwayReason.REPLACED)
    pair.pump()
    stream = pair.relay.mux.open_stream(opening(b"first"), pair.now)
    pair.relay.mux.send_data(stream, b"more")
    pair.advance(1)
    assert pair.relay.of(StreamWasReset) == [StreamWasReset(stream, ResetCode.REFUSED, by_peer=True)]
    assert pair.gateway.of(StreamOpened) == []
    assert pair.relay.mux.is_ready
    assert pair.gateway.mux.is_ready


def test_streams_that_the_gateway_never_began() -> None:
    """The relay takes streams above GO_AWAY's last one for refused, and keeps those up to it."""
    pair = MuxPair.up()
    streams = [pair.open() for _ in range(4)]
    frame = encode_go_away(streams[1], GoAwayReason.SHUTDOWN, "")
    events = pair.relay.mux.receive(frame, pair.now)
    assert events[1:] == [StreamWasReset(stream, ResetCode.REFUSED, by_peer=True) for stream in streams[2:]]
    assert pair.relay.mux.stream_count == 2


def test_the_last_stream_number() -> None:
    """At the last number the relay leaves; the stream that has it still works."""
    pair = MuxPair.up()
    pair.relay.mux._streams.last = StreamId(limits.STREAM_ID_MAX - 1)
    stream = pair.open(b"last")
    assert stream == limits.STREAM_ID_MAX
    assert pair.gateway.of(GoAwayReceived)[0].reason is GoAwayReason.STREAM_IDS
    assert pair.gateway.received[stream] == b"last"
    with pytest.raises(LimitReached, match="stream ids"):
        pair.relay.mux.open_stream(opening(), pair.now)


def test_what_a_violation_leaves() -> None:
    """After the peer broke the protocol one message is left, GO_AWAY with the reason; memory is free."""
    pair = MuxPair.up()
    stream = pair.open()
    pair.gateway.stalled.add(stream)
    pair.relay.mux.send_data(stream, bytes(WINDOW))
    pair.pump()
    pair.gateway.mux.send_data(stream, b"never leaves")
    with pytest.raises(ProtocolViolation):
        pair.gateway.mux.receive(b"rubbish", pair.now)
    [(kind, _, payload)] = frames_of(pair.gateway.mux.message_to_send())
    assert kind == FrameType.GO_AWAY
    last_stream, reason, text = read_go_away(memoryview(payload))
    assert (last_stream, reason) == (stream, GoAwayReason.PROTOCOL)
    assert text == "7 stray bytes after the last frame of a message"
    assert pair.gateway.mux.message_to_send() is None
    assert pair.budgets[1].used == 0
    with pytest.raises(ProtocolViolation):
        pair.gateway.mux.receive(encode(FrameType.FINISH, stream), pair.now)
    assert not pair.gateway.mux.output.has_output


# Time


def test_which_messages_bring_the_timeout_nearer() -> None:
    """Data puts the next timeout off, unless it is the first sign of life after a PING."""
    pair = MuxPair.up()
    stream, mux = pair.open(), pair.relay.mux
    pair.advance(limits.PING_AFTER / 2)
    due = mux.next_timeout()
    mux.receive(data_frame(stream, b"x"), pair.now)
    assert not mux.is_timeout_sooner
    assert mux.next_timeout() == pair.now + limits.PING_AFTER > due
    now = pair.now + limits.PING_AFTER
    mux.handle_timer(now)
    assert mux.next_timeout() == pair.now + limits.DEAD_AFTER
    mux.receive(data_frame(stream, b"x"), now + 1)
    assert mux.is_timeout_sooner
    assert mux.next_timeout() == now + 1 + limits.PING_AFTER
    mux.receive(data_frame(stream, b"x"), now + 1)
    assert not mux.is_timeout_sooner


def test_a_stall_brings_the_timeout_nearer() -> None:
    """While a stream does not drain, data may begin the wait for the next look at slow consumers."""
    pair = MuxPair.up()
    stream, mux = pair.open(), pair.relay.mux
    mux.receive(data_frame(stream, bytes(WINDOW // 4)), pair.now)
    assert mux.is_timeout_sooner
    assert mux.next_timeout() == pair.now + limits.SWEEP_EVERY


# Limits


@pytest.mark.parametrize("size", [0, limits.MESSAGE_MAX + 1])
def test_message_sizes(size: int) -> None:
    """A message is neither empty nor longer than the limit."""
    with pytest.raises(ProtocolViolation, match=f"a message of {size} bytes"):
        MuxPair.up().gateway.mux.receive(bytes(size), 0.0)


@pytest.mark.parametrize(("relay", "gateway"), [(3, 10), (10, 3)])
def test_as_many_streams_as_both_ends_allow(relay: int, gateway: int) -> None:
    """The relay opens no more streams than either end allows, and another when one has ended."""
    pair = MuxPair(max_streams=relay)
    pair.gateway.mux.send_hello(hello(gateway))
    pair.pump()
    pair.relay.mux.accept(ack(relay))
    pair.pump()
    streams = [pair.open() for _ in range(3)]
    with pytest.raises(LimitReached, match="streams"):
        pair.relay.mux.open_stream(opening(), pair.now)
    pair.relay.mux.reset(streams[0], ResetCode.CANCELLED)
    pair.open()


def test_a_gateway_that_is_full_refuses() -> None:
    """A stream beyond the gateway's limit is refused with a reason, and the others do not notice."""
    pair = MuxPair.up()
    first = pair.open()
    pair.gateway.mux._streams.most = 1
    second = pair.open(b"data")
    assert pair.relay.events == [StreamWasReset(second, ResetCode.OVERLOADED, by_peer=True)]
    pair.relay.mux.send_data(first, b"unharmed")
    pair.pump()
    assert pair.gateway.received[first] == b"unharmed"


def test_opening_is_rate_limited() -> None:
    """A relay keeps well below the rate that the gateway would call a flood."""
    pair = MuxPair.up(max_streams=limits.OPEN_BURST_SENT + 10)
    for _ in range(limits.OPEN_BURST_SENT):
        pair.relay.mux.open_stream(opening(), pair.now)
    with pytest.raises(LimitReached, match="opens per second"):
        pair.relay.mux.open_stream(opening(), pair.now)
    pair.pump()
    assert len(pair.gateway.of(StreamOpened)) == limits.OPEN_BURST_SENT


def test_opening_stops_when_nobody_reads() -> None:
    """While a megabyte of OPENs waits for the carrier, no stream is opened."""
    pair = MuxPair.up()
    for _ in range(limits.CONTROL_LANE // (16 * KIB)):
        pair.relay.mux.open_stream(opening(bytes(16 * KIB)), pair.now)
    with pytest.raises(LimitReached, match="output"):
        pair.relay.mux.open_stream(opening(), pair.now)
    pair.pump()
    pair.open()


def test_a_peer_that_provokes_answers_and_does_not_read() -> None:
    """OPENs below the rate of a flood still end the link when their refusals pile up unread."""
    pair = MuxPair.up()
    pair.gateway.mux.go_away(GoAwayReason.SHUTDOWN)
    payload, now, stream = encode_opening(opening()), pair.now, 0

    def open_one_after_another() -> None:
        nonlocal now, stream
        for _ in range(2 * limits.CONTROL_LANE // 14):
            stream += 1
            now += 1 / limits.OPEN_RATE
            assert pair.gateway.mux.receive(encode(FrameType.OPEN, stream, payload), now) == []

    with pytest.raises(ProtocolViolation, match="not read") as caught:
        open_one_after_another()
    assert caught.value.code == GoAwayReason.FLOOD
    assert stream == pytest.approx(limits.CONTROL_LANE / 14, rel=0.01)


# Liveness


def test_an_idle_link_stays_up() -> None:
    """An hour of silence costs a few PINGs a minute, and nothing else happens."""
    pair = MuxPair.up(latency=0.05)
    pair.advance(3600)
    assert pair.relay.events == pair.gateway.events == []
    pings = pair.relay.sent[FrameType.PING] + pair.gateway.sent[FrameType.PING]
    assert 3600 / limits.PING_AFTER * 0.5 < pings <= 2 * 3600 / limits.PING_AFTER + 2
    assert pair.relay.mux.rtt == pytest.approx(0.1)
    assert pair.gateway.mux.rtt == pytest.approx(0.1)


def test_a_half_open_link_is_noticed() -> None:
    """When one direction drops everything, the end that hears nothing gives up in less than ten seconds."""
    pair = MuxPair.up(latency=0.05)
    pair.advance(60)
    broken = pair.now
    pair.gateway.is_held = True
    with pytest.raises(LinkTimedOut):
        pair.advance(60)
    assert pair.now - broken < 10
    assert not pair.relay.mux.is_ready


@pytest.mark.parametrize("offset", [0.0, 0.6, 1.3, 2.4])
def test_a_path_that_is_down_for_five_seconds(offset: float) -> None:
    """A short outage, felt for 6.2 s with TCP's backoff, ends no link, whenever it begins."""
    pair = MuxPair.up(latency=0.05)
    pair.advance(60 + offset)
    pair.relay.is_held = pair.gateway.is_held = True
    pair.advance(6.2)
    pair.relay.is_held = pair.gateway.is_held = False
    pair.advance(60)
    assert pair.relay.mux.is_ready
    assert pair.gateway.mux.is_ready


def test_pings_pass_bulk() -> None:
    """While a window is full and megabytes wait, PING and PONG still go through."""
    pair = MuxPair.up(latency=0.01)
    stream = pair.open()
    pair.gateway.stalled.add(stream)
    pair.relay.mux.send_data(stream, bytes(8 * 1024 * KIB))
    pair.advance(60)
    assert pair.relay.mux.is_ready
    assert pair.gateway.mux.is_ready
    assert pair.relay.sent[FrameType.PONG] + pair.gateway.sent[FrameType.PONG] > 20
