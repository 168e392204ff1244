"""
Two muxes and a wire that a test can hold, in virtual time.

Nothing here waits: time moves when a test says so, and a message arrives when it is due unless its wire is
held. Each end consumes what it receives at once, but for the streams that a test has stalled.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sallyport.tunnel import limits
from sallyport.tunnel.events import (
    DataReceived,
    Event,
    Hello,
    HelloAck,
    HelloReceived,
    Opening,
    StreamOpened,
    StreamWasReset,
)
from sallyport.tunnel.frames import HEADER, HEADER_SIZE, FrameType, StreamId, encode
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.windows import MemoryBudget

_SomeEvent = TypeVar("_SomeEvent")
REFERENCE = "00112233aabbccdd"


def opening(first: bytes = b"") -> Opening:
    """Return what a relay says of some caller."""
    return Opening(REFERENCE, "tickets.example.test", "192.0.2.7:50123", first)


def hello(max_streams: int = limits.MAX_STREAMS) -> Hello:
    """Return what some gateway says of itself."""
    return Hello(max_streams=max_streams, boot_id="boot", software="test/1")


def ack(max_streams: int = limits.MAX_STREAMS) -> HelloAck:
    """Return some relay's answer."""
    return HelloAck(max_streams=max_streams, boot_id="boot", software="test/1", time=1_700_000_000)


def frames_of(message: bytes | None) -> list[tuple[int, int, bytes]]:
    """Take a message apart without the code under test: type, stream, payload of each frame."""
    frames: list[tuple[int, int, bytes]] = []
    rest = message or b""
    while rest:
        kind, _, _, stream, length = HEADER.unpack_from(rest)
        frames.append((kind, stream, rest[HEADER_SIZE : HEADER_SIZE + length]))
        rest = rest[HEADER_SIZE + length :]
    return frames


def data_frame(stream: int, data: bytes) -> bytes:
    """Return a DATA frame, of whatever size."""
    return encode(FrameType.DATA, stream, data)


@dataclass
class End:
    """
    One end of the pair.

    Attributes:
        mux: Its mux.
        events: All that has happened there, in order.
        received: What came on each stream, first bytes included.
        unconsumed: Bytes of each stalled stream that its consumer did not take.
        stalled: Streams whose consumer takes nothing.
        sent: How many frames of each type it has sent.
        wire: Messages on their way to the other end, with the time at which they arrive.
        is_held: Whether its messages stay on the wire.
        timer: When its timer fires: a shell's, which asks for the time only when it must.
    """

    mux: Mux
    events: list[Event] = field(default_factory=list)
    received: defaultdict[StreamId, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    unconsumed: Counter[StreamId] = field(default_factory=Counter)
    stalled: set[StreamId] = field(default_factory=set)
    sent: Counter[FrameType] = field(default_factory=Counter)
    wire: deque[tuple[float, bytes]] = field(default_factory=deque)
    is_held: bool = False
    timer: float | None = None

    def __post_init__(self) -> None:
        self.timer = self.mux.next_timeout()

    def receive(self, message: bytes, now: float) -> None:
        """Do what a shell does with a message; its timer must not be late for what the message has begun."""
        self.handle(self.mux.receive(message, now), now)
        due = self.mux.next_timeout()
        if self.mux.is_timeout_sooner:
            self.timer = due
        assert due is None or (self.timer is not None and self.timer <= due)

    def tick(self, now: float) -> None:
        """Let the timer fire if it is due."""
        if self.timer is not None and self.timer <= now:
            self.handle(self.mux.handle_timer(now), now)
            self.timer = self.mux.next_timeout()

    def of(self, kind: type[_SomeEvent]) -> list[_SomeEvent]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def handle(self, events: Sequence[Event], now: float) -> None:
        """Do what a shell does with events: keep data, and consume it unless the stream is stalled."""
        for event in events:
            self.events.append(event)
            match event:
                case DataReceived(stream=stream, data=data):
                    self._take(stream, data, now)
                case StreamOpened(stream=stream, opening=opened):
                    self._take(stream, opened.first, now)
                case StreamWasReset(stream=stream):
                    self.unconsumed.pop(stream, None)

    def _take(self, stream: StreamId, data: bytes, now: float) -> None:
        self.received[stream] += data
        if stream in self.stalled:
            self.unconsumed[stream] += len(data)
        else:
            self.mux.consumed(stream, len(data), now)

    def wake(self, stream: StreamId, now: float) -> None:
        """Let a stalled consumer take all that waits, and go on."""
        self.stalled.discard(stream)
        self.mux.consumed(stream, self.unconsumed.pop(stream, 0), now)


class MuxPair:
    """
    A relay's and a gateway's mux, connected.

    Args:
        latency: How long a message is on its way, in seconds.
        capacity: Bytes on the wire in each direction at which an end stops to pull; None for any number.
        budget: What each end's process may hold, in bytes.
        max_streams: What both ends allow.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        capacity: int | None = None,
        budget: int = limits.MEMORY_BUDGET,
        max_streams: int = limits.MAX_STREAMS,
    ) -> None:
        self.now = 1000.0
        self.latency = latency
        self.capacity = capacity
        self.budgets = MemoryBudget(budget), MemoryBudget(budget)
        self.relay = End(Mux(Side.RELAY, now=self.now, budget=self.budgets[0], max_streams=max_streams))
        self.gateway = End(Mux(Side.GATEWAY, now=self.now, budget=self.budgets[1], max_streams=max_streams))
        self.max_streams = max_streams

    @classmethod
    def up(
        cls,
        *,
        latency: float = 0.0,
        capacity: int | None = None,
        budget: int = limits.MEMORY_BUDGET,
        max_streams: int = limits.MAX_STREAMS,
    ) -> "MuxPair":
        """Return a pair whose link is up; nothing of the handshake is left in its records."""
        pair = cls(latency=latency, capacity=capacity, budget=budget, max_streams=max_streams)
        pair.gateway.mux.send_hello(hello(max_streams))
        pair.advance(2 * latency)
        assert isinstance(pair.relay.events[0], HelloReceived)
        pair.relay.mux.accept(ack(max_streams))
        pair.relay.timer = pair.relay.mux.next_timeout()
        pair.advance(2 * latency)
        for end in (pair.relay, pair.gateway):
            assert end.mux.is_ready
            end.events.clear()
            end.sent.clear()
        return pair

    def open(self, first: bytes = b"") -> StreamId:
        """Open a stream and let the gateway know."""
        stream = self.relay.mux.open_stream(opening(first), self.now)
        self.pump()
        return stream

    def pump(self) -> None:
        """Move messages until nothing moves without time passing."""
        while self._move(self.relay, self.gateway) | self._move(self.gateway, self.relay):
            pass

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping wherever a message arrives or a mux wants to be called."""
        end = self.now + seconds
        self.pump()
        while (due := self._next_due()) <= end:
            self.now = max(self.now, due)
            self._tick()
            self.pump()
        self.now = end
        self._tick()
        self.pump()

    def round_trips(self, count: float) -> None:
        """Let so many round trips pass."""
        self.advance(count * 2 * self.latency)

    def _next_due(self) -> float:
        dues = [end.wire[0][0] for end in (self.relay, self.gateway) if end.wire and not end.is_held]
        dues += [end.timer for end in (self.relay, self.gateway) if end.timer is not None]
        return min(dues, default=float("inf"))

    def _tick(self) -> None:
        for end in (self.relay, self.gateway):
            end.tick(self.now)

    def _move(self, sender: End, receiver: End) -> bool:
        moved = False
        while self._has_room(sender) and (message := sender.mux.message_to_send()) is not None:
            assert len(message) <= limits.MESSAGE_MAX
            sender.sent.update(FrameType(kind) for kind, _, _ in frames_of(message))
            sender.wire.append((self.now + self.latency, message))
            moved = True
        sender.events += sender.mux.drained()
        while sender.wire and sender.wire[0][0] <= self.now and not sender.is_held:
            _, message = sender.wire.popleft()
            receiver.receive(message, self.now)
            moved = True
        return moved

    def _has_room(self, sender: End) -> bool:
        return self.capacity is None or sum(len(message) for _, message in sender.wire) < self.capacity
