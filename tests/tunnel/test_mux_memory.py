"""Memory and time on a link: slow consumers, windows that grow, credit that comes back."""

import pytest

from sallyport.tunnel import limits
from sallyport.tunnel.errors import LimitReached
from sallyport.tunnel.events import StreamFinished, StreamWasReset
from sallyport.tunnel.frames import FrameType, ResetCode, StreamId, encode
from sallyport.tunnel.hello import encode_hello
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.opening import encode_opening
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.mux_pair import MuxPair, ack, hello, opening

KIB = 1024
WINDOW = limits.INITIAL_WINDOW


def test_while_memory_is_exhausted_no_stream_is_opened() -> None:
    """Both ends refuse new streams while all of their budget is used: one by an error, one by a code."""
    pair = MuxPair.up(budget=2 * WINDOW)
    streams = [pair.open() for _ in range(2)]
    for stream in streams:
        pair.gateway.stalled.add(stream)
        pair.relay.mux.send_data(stream, bytes(WINDOW))
    pair.pump()
    refused = pair.open()
    assert pair.relay.events == [StreamWasReset(refused, ResetCode.OVERLOADED, by_peer=True)]
    for stream in streams:
        pair.relay.stalled.add(stream)
        pair.gateway.mux.send_data(stream, bytes(WINDOW))
    pair.pump()
    with pytest.raises(LimitReached, match="memory"):
        pair.relay.mux.open_stream(opening(), pair.now)


def test_slow_consumers_are_reset_when_memory_is_short() -> None:
    """With more than half of the budget held for a minute, the longest-stalled streams end, on both ends."""
    pair = MuxPair.up(budget=8 * WINDOW)
    streams = [pair.open() for _ in range(6)]
    for stream in streams:
        pair.gateway.stalled.add(stream)
        pair.relay.mux.send_data(stream, bytes(2 * WINDOW))
        pair.advance(1)
    pair.advance(limits.SLOW_CONSUMER_AFTER - 7)
    assert pair.gateway.of(StreamWasReset) == []
    pair.advance(10)
    slow = [StreamWasReset(stream, ResetCode.SLOW_CONSUMER, by_peer=False) for stream in streams[:2]]
    assert pair.gateway.of(StreamWasReset) == slow
    assert [event.stream for event in pair.relay.of(StreamWasReset)] == streams[:2]
    pair.advance(600)
    assert len(pair.gateway.of(StreamWasReset)) == 2
    assert pair.budgets[1].used == 4 * WINDOW


def test_below_half_stalled_streams_are_left_alone() -> None:
    """While there is memory, a consumer may pause for an hour and then go on."""
    pair = MuxPair.up(budget=8 * WINDOW)
    stream = pair.open()
    pair.gateway.stalled.add(stream)
    data = bytes(range(256)) * 2 * KIB
    pair.relay.mux.send_data(stream, data)
    pair.advance(3600)
    pair.gateway.wake(stream, pair.now)
    pair.pump()
    assert pair.gateway.received[stream] == data


def test_links_share_the_memory_of_their_process() -> None:
    """When two links hold all memory, the longest-stalled of both ends, and the other link's go on."""
    budget = MemoryBudget(3 * WINDOW)
    muxes = []
    for _ in range(2):
        mux = Mux(Side.GATEWAY, now=0.0, budget=budget)
        mux.send_hello(hello())
        mux.message_to_send()
        mux.receive(encode(FrameType.HELLO_ACK, 0, encode_hello(ack())), 0.0)
        muxes.append(mux)
    open_payload = encode_opening(opening())
    for now, mux, stream in ((0.0, muxes[0], 1), (1.0, muxes[1], 1), (1.0, muxes[1], 2)):
        mux.receive(encode(FrameType.OPEN, stream, open_payload), now)
        mux.receive(encode(FrameType.DATA, stream, bytes(WINDOW)), now)
    assert muxes[1].handle_timer(2.5) == []
    assert muxes[0].handle_timer(2.5) == [StreamWasReset(StreamId(1), ResetCode.SLOW_CONSUMER, by_peer=False)]
    assert muxes[1].handle_timer(3.0) == []


def test_a_window_grows_to_the_path() -> None:
    """On a long path one stream ends up with the bandwidth-delay product, within the largest window."""
    pair = MuxPair.up(latency=0.1)
    stream = pair.open()
    pair.advance(1)
    rates = []
    for _ in range(12):
        before = len(pair.relay.received[stream])
        pair.gateway.mux.send_data(stream, bytes(8 * 1024 * KIB))
        pair.round_trips(1)
        rates.append(len(pair.relay.received[stream]) - before)
    assert rates[0] == WINDOW
    assert rates[-1] >= 2 * 1024 * KIB
    assert pair.budgets[0].used <= limits.MAX_WINDOW
    assert pair.budgets[0].used >= limits.MAX_WINDOW - WINDOW


def test_an_idle_stream_gives_its_credit_back() -> None:
    """What a stream was lent for a large answer goes back when it is idle, and the stream still works."""
    pair = MuxPair.up(latency=0.1)
    stream = pair.open()
    pair.advance(1)
    pair.gateway.mux.send_data(stream, bytes(32 * 1024 * KIB))
    pair.advance(30)
    assert len(pair.relay.received[stream]) == 32 * 1024 * KIB
    pair.advance(30)
    assert pair.budgets[0].used == 0
    assert pair.gateway.sent[FrameType.RETURN] == 1
    pair.gateway.mux.send_data(stream, bytes(10 * WINDOW))
    pair.gateway.mux.finish(stream)
    pair.advance(30)
    assert len(pair.relay.received[stream]) == 32 * 1024 * KIB + 10 * WINDOW
    assert pair.relay.events[-1] == StreamFinished(stream)


def test_a_lost_link_gives_its_memory_back() -> None:
    """When the carrier is gone, what its streams held and were lent is free for the other links."""
    pair = MuxPair.up()
    for _ in range(5):
        stream = pair.open()
        pair.gateway.stalled.add(stream)
        pair.relay.mux.send_data(stream, bytes(WINDOW))
    pair.relay.mux.finish(stream)
    pair.gateway.mux.finish(stream)
    pair.pump()
    assert pair.budgets[1].used == 5 * WINDOW
    pair.gateway.mux.drop()
    assert pair.budgets[1].used == 0
    assert pair.budgets[1].stalled == {}
    assert pair.gateway.mux.stream_count == 0
