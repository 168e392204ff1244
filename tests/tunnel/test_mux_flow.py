"""Many streams at once: no deadlock, no starving, nobody hurt by another's stall."""

import pytest

from sallyport.tunnel import limits
from sallyport.tunnel.events import StreamFinished, StreamWasReset
from sallyport.tunnel.frames import FrameType, StreamId
from tests.harness.mux_pair import End, MuxPair, frames_of

KIB = 1024
WINDOW = limits.INITIAL_WINDOW


def pattern(stream: int, size: int) -> bytes:
    """Return bytes that tell their stream."""
    mark = b"[%d]" % stream
    return (mark * (size // len(mark) + 1))[:size]


def echo(pair: MuxPair, end: End, echoed: dict[StreamId, int]) -> None:
    """Send back what has newly come on each stream."""
    for stream, received in end.received.items():
        new = bytes(received[echoed.get(stream, 0) :])
        echoed[stream] = len(received)
        end.mux.send_data(stream, new)
    pair.pump()


@pytest.mark.parametrize("capacity", [1, 2 * KIB, 10 * KIB, 1024 * KIB])
@pytest.mark.parametrize("streams", [1, 13, 64])
def test_both_directions_full(capacity: int, streams: int) -> None:
    """Streams that echo 1 KiB to 1 MiB through a wire of tiny capacity all come to their end."""
    pair = MuxPair.up(capacity=capacity)
    sizes = {pair.open(): KIB << (number % 11) for number in range(streams)}
    for stream, size in sizes.items():
        pair.relay.mux.send_data(stream, pattern(stream, size))
    echoed: dict[StreamId, int] = {}
    for _ in range(10_000):
        echo(pair, pair.gateway, echoed)
        if all(len(pair.relay.received[stream]) == size for stream, size in sizes.items()):
            break
    for stream, size in sizes.items():
        assert pair.relay.received[stream] == pattern(stream, size)


def test_stalled_readers_leave_the_others_alone() -> None:
    """Beside 64 stalled streams, in both directions, another one moves as if it were alone."""

    def rounds_for_ten_megabytes(stalled: int) -> int:
        pair = MuxPair.up(latency=0.01)
        for _ in range(stalled):
            stream = pair.open()
            pair.relay.stalled.add(stream)
            pair.gateway.stalled.add(stream)
        moving = pair.open()
        pair.advance(1)
        for stream in pair.gateway.stalled:
            pair.relay.mux.send_data(stream, bytes(WINDOW * 4))
            pair.gateway.mux.send_data(stream, bytes(WINDOW * 4))
        pair.advance(1)
        pair.gateway.mux.send_data(moving, bytes(10 * KIB * KIB))
        pair.gateway.mux.finish(moving)
        rounds = 0
        while StreamFinished(moving) not in pair.relay.events:
            pair.round_trips(1)
            rounds += 1
        return rounds

    assert rounds_for_ten_megabytes(64) <= rounds_for_ten_megabytes(0) + 2


def test_stalled_readers_hold_no_more_than_their_windows() -> None:
    """Stalled streams cost their initial windows at most, and end one by one when that is too much."""
    pair = MuxPair.up(budget=16 * WINDOW)
    streams = []
    for _ in range(15):
        streams.append(pair.open())
        pair.gateway.stalled.add(streams[-1])
        pair.relay.mux.send_data(streams[-1], bytes(WINDOW * 10))
        pair.pump()
    for _ in range(100):
        stream = pair.open()
        pair.gateway.stalled.add(stream)
        pair.relay.mux.send_data(stream, bytes(WINDOW * 10))
        pair.advance(2)
        assert pair.budgets[1].used <= 17 * WINDOW
    assert pair.gateway.mux.is_ready
    assert len(pair.gateway.of(StreamWasReset)) > 50


def test_a_small_reply_beside_bulk() -> None:
    """While eight streams send megabytes, a small reply leaves within a turn of each of them."""
    pair = MuxPair.up()
    bulk = [pair.open() for _ in range(8)]
    small = pair.open()
    for stream in bulk:
        pair.relay.stalled.add(stream)
        pair.gateway.mux.send_data(stream, bytes(1024 * KIB))
    pair.gateway.mux.message_to_send()
    pair.gateway.mux.send_data(small, b"reply")
    sent_before = 0
    while True:
        frames = frames_of(pair.gateway.mux.message_to_send())
        assert frames
        before = [len(data) for kind, stream, data in frames if kind == FrameType.DATA and stream != small]
        if any(stream == small for _, stream, _ in frames):
            break
        sent_before += sum(before)
    assert sent_before <= 8 * limits.TURN


def test_bulk_streams_share_the_link_evenly() -> None:
    """Of streams that all have much to send, none gets more than a turn ahead of another."""
    pair = MuxPair.up(capacity=limits.JOINED_MESSAGE)
    streams = [pair.open() for _ in range(5)]
    for stream in streams:
        pair.gateway.mux.send_data(stream, bytes(1024 * KIB))
    pair.gateway.is_held = True
    for _ in range(20):
        pair.pump()
        pair.gateway.is_held = False
        pair.capacity = 0
        pair.pump()
        pair.gateway.is_held, pair.capacity = True, limits.JOINED_MESSAGE
        received = [len(pair.relay.received[stream]) for stream in streams]
        assert max(received) - min(received) <= 2 * limits.TURN


def test_reading_goes_on_when_nothing_can_be_sent() -> None:
    """An end whose output nobody reads still takes what comes, and owes a bounded answer."""
    pair = MuxPair.up()
    streams = [pair.open() for _ in range(100)]
    pair.gateway.is_held = True
    pair.capacity = 0
    message = b"".join(
        FrameType.DATA.to_bytes(1, "big")
        + bytes(3)
        + stream.to_bytes(4, "big")
        + (600).to_bytes(4, "big")
        + bytes(600)
        for stream in streams
    )
    for _ in range(100):
        pair.gateway.handle(pair.gateway.mux.receive(message, pair.now), pair.now)
    assert sum(map(len, pair.gateway.received.values())) == 100 * 100 * 600
    owed = []
    while (answer := pair.gateway.mux.message_to_send()) is not None:
        owed += frames_of(answer)
    assert len(owed) <= len(streams)
