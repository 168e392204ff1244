"""
The mux: many streams over one carrier of messages (SPEC.md).

Pure: no I/O, no clock, no randomness. Feed it what the carrier brings, handle the events, send what it has,
and let it know of time:

    events = mux.receive(message, now)           # handle all of them, in order
    while (message := mux.message_to_send()): …  # as late as the carrier allows
    events = mux.drained()                       # after sending: streams whose writers may go on
    events = mux.handle_timer(now)               # when next_timeout() says so
    mux.drop()                                   # when the carrier is gone

It is a composition: handshake, liveness, floods, streams, memory and the order of sending each have a file.
This one is the link as a whole: it hands each frame to whoever knows what it means, and keeps the frames
that belong to no stream and need no memory: PING, GO_AWAY, CONTROL.

``receive`` works as well when nothing can be sent: what it may have to hold is bounded by the windows
granted, and what it may have to answer by the control lane.
"""

from typing import Final

from sallyport.tunnel import limits
from sallyport.tunnel.buckets import FloodGuard, TokenBucket
from sallyport.tunnel.control import encode_control, read_control
from sallyport.tunnel.errors import LimitReached, LinkLost, LinkTimedOut, ProtocolViolation
from sallyport.tunnel.events import (
    ControlReceived,
    Event,
    GoAwayReceived,
    HelloReceived,
    LinkAccepted,
    RefusalReceived,
    SeldomEvent,
    StreamWritable,
)
from sallyport.tunnel.frames import (
    HEADER_SIZE,
    FrameType,
    GoAwayReason,
    RefusalCode,
    StreamId,
    encode,
    encode_go_away,
    frame_at,
    read_go_away,
    violation,
)
from sallyport.tunnel.handshake import Handshake, Phase, Side, encode_refused
from sallyport.tunnel.hello import Hello, HelloAck, Refusal
from sallyport.tunnel.json_object import JsonObject
from sallyport.tunnel.keepalive import Keepalive
from sallyport.tunnel.opening import Opening
from sallyport.tunnel.streams import STREAM_RECEIVERS, Streams
from sallyport.tunnel.windows import MemoryBudget

__all__ = ["Mux", "Side"]

_LIVE_LINK_FRAMES: Final[frozenset[int]] = frozenset({FrameType.PING, FrameType.PONG, FrameType.CONTROL})


class Mux:
    """
    One end of a link.

    Args:
        side: Which end; the relay opens streams, the gateway accepts them.
        now: The time in seconds, by any clock that never goes back; all times are by the same one.
        budget: The memory that all links of this process share.
        max_streams: The most streams at once, whatever the peer allows.

    Attributes:
        side: Which end.
        output: What waits to be sent. Its ``has_output`` says whether ``message_to_send`` has something, and
            its ``drained`` whether ``drained`` has.
        is_timeout_sooner: Whether the last message may have brought ``next_timeout`` nearer. Most only put it
            off, so that whoever waits for it need not ask each time.
    """

    def __init__(
        self, side: Side, *, now: float, budget: MemoryBudget, max_streams: int = limits.MAX_STREAMS
    ) -> None:
        self.side: Final = side
        self.is_timeout_sooner = False
        self._budget: Final = budget
        self._handshake: Final = Handshake(side, now)
        self._keepalive: Final = Keepalive(now)
        self._guard: Final = FloodGuard(now)
        self._streams: Final = Streams(side, self._guard, budget=budget, most=max_streams, now=now)
        self.output: Final = self._streams.output
        self._opens: Final = TokenBucket(limits.OPEN_BURST_SENT, limits.OPEN_RATE_SENT, now)
        # Returns the next message for the carrier, or None when nothing may go now.
        self.message_to_send: Final = self.output.next_message
        # What is done for one stream. Nothing happens on one that has ended, perhaps by an event that is not
        # handled yet. These are the methods of whoever does it, because most are called for every frame, and
        # a method that only passes the call on would cost as much as what it calls.
        self.send_data: Final = self.output.send_data
        self.finish: Final = self._streams.finish
        self.reset: Final = self._streams.reset
        self.consumed: Final = self._streams.consumed
        self.unsent: Final = self._streams.unsent

    @property
    def is_ready(self) -> bool:
        """Whether the link is up: HELLO_ACK was sent or received, and nothing has ended it."""
        return self._handshake.phase is Phase.READY

    @property
    def is_leaving(self) -> bool:
        """Whether either end has sent GO_AWAY, so that no stream can be opened."""
        return self._streams.has_left or self._streams.peer_has_left

    @property
    def stream_count(self) -> int:
        """Return how many streams are open, or have bytes that their consumer did not take yet."""
        return len(self._streams)

    @property
    def rtt(self) -> float | None:
        """Return the round trip in seconds, None before the first measurement."""
        return self._keepalive.rtt

    # Receiving

    def begin(self, now: float) -> None:
        """Count the wait for HELLO from now: the carrier has only just been connected."""
        self._handshake.begin(now)

    def receive(self, message: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """
        Take one whole message of the carrier. It may be borrowed: nothing keeps a reference to it.

        Returns:
            What has happened, in order.

        Raises:
            ProtocolViolation: The peer broke the protocol. A last message with the reason was queued: pull
            it,
                send it, and drop the carrier. Nothing more is to be received.
        """
        happened: list[Event] = []
        streams, keepalive = self._streams, self._keepalive
        view = message if type(message) is memoryview else memoryview(message)
        size = view.nbytes
        try:
            if not 0 < size <= limits.MESSAGE_MAX:
                raise violation(f"a message of {size} bytes; 1 to {limits.MESSAGE_MAX} are allowed")
            done = streams.data_received(view, 0, now, happened)
            is_sooner = done < size or keepalive.is_waiting
            while done < size:
                done = self._frame_received(view, done, now, happened)
                done = streams.data_received(view, done, now, happened)
        except ProtocolViolation as error:
            self._break(error)
            raise
        keepalive.heard = now
        keepalive.is_waiting = False
        self.is_timeout_sooner = is_sooner or bool(self._budget.stalled)
        return happened

    def _frame_received(self, message: memoryview, start: int, now: float, happened: list[Event]) -> int:
        """Take one frame, whatever it is, and return where the next one begins."""
        kind, stream, end = frame_at(message, start)
        if not kind:
            return end
        payload = message[start + HEADER_SIZE : end]
        receiver = STREAM_RECEIVERS.get(kind)
        if receiver is not None and self._handshake.phase is Phase.READY:
            receiver(self._streams, stream, payload, now, happened)
        else:
            self._link_frame_received(kind, payload, now, happened)
        return end

    def _link_frame_received(self, kind: int, payload: memoryview, now: float, happened: list[Event]) -> None:
        """Take a frame that belongs to no stream, or any that comes while the link is not up."""
        handshake = self._handshake
        if handshake.phase is Phase.READY and kind in _LIVE_LINK_FRAMES:
            self._live_frame_received(kind, payload, now, happened)
            return
        handshake.check_awaited(kind)
        match kind:
            case FrameType.GO_AWAY:
                self._go_away_received(payload, now, happened)
            case FrameType.HELLO:
                hello = handshake.hello_received(payload)
                self._streams.most = min(self._streams.most, hello.max_streams)
                happened.append(HelloReceived(hello))
            case FrameType.HELLO_ACK:
                happened.append(LinkAccepted(handshake.ack_received(payload)))
            case FrameType.REFUSED:
                happened.append(RefusalReceived(handshake.refused_received(payload)))
            case _:
                raise AssertionError("check_awaited lets nothing else pass")

    def _live_frame_received(self, kind: int, payload: memoryview, now: float, happened: list[Event]) -> None:
        match kind:
            case FrameType.PING:
                self._guard.ping_received(now)
                self.output.send_pong(bytes(payload))
            case FrameType.PONG:
                if not self._keepalive.pong_received(bytes(payload), now):
                    self._guard.ping_received(now)
                self._streams.rtt = self._keepalive.rtt
            case _:
                self._guard.control_received(now)
                happened.append(ControlReceived(*read_control(payload)))

    def _go_away_received(self, payload: memoryview, now: float, happened: list[Event]) -> None:
        self._guard.control_received(now)
        last, reason, text = read_go_away(payload)
        if self.side is Side.RELAY and last > self._streams.last:
            raise violation(f"GO_AWAY with last stream {last}, which was never opened")
        self._streams.peer_has_left = True
        happened.append(GoAwayReceived(reason, last, text))
        if self.side is Side.RELAY:
            self._streams.refused_above(last, happened)

    # Sending, for the link

    def drained(self) -> list[StreamWritable]:
        """Return the streams whose writers may go on; call it after messages were pulled."""
        return [StreamWritable(stream) for stream in self.output.take_drained()]

    def send_hello(self, hello: Hello) -> None:
        """Ask for the link (gateway's side, once, before anything else)."""
        self.output.send_control(self._handshake.hello(hello))

    def accept(self, ack: HelloAck) -> None:
        """Answer HELLO: from now on the link is up (relay's side)."""
        self.output.send_control(self._handshake.accept(ack))

    def refuse(self, refusal: Refusal) -> None:
        """Answer HELLO: there will be no link. Pull the answer, send it, close the carrier (relay's side)."""
        self.output.send_control(self._handshake.refuse(refusal))

    def go_away(self, reason: GoAwayReason, text: str = "") -> None:
        """Announce that this end leaves: no stream is opened any more, those that are open go on."""
        if self._handshake.phase is Phase.ENDED or self._streams.has_left:
            return
        self._streams.has_left = True
        self.output.send_control(encode_go_away(self._streams.last, reason, text))

    def send_control(self, name: str, body: JsonObject) -> None:
        """
        Send a named message.

        Raises:
            LinkLost: The link is not up.
            ValueError: It is too long, or no JSON.
        """
        self._check_ready()
        self.output.send_control(encode(FrameType.CONTROL, 0, encode_control(name, body)))

    def open_stream(self, opening: Opening, now: float) -> StreamId:
        """
        Open a stream (relay's side).

        Returns:
            Its number.

        Raises:
            LinkLost: The link is not up.
            LimitReached: It cannot be opened on this link now; nothing was sent.
            ValueError: The opening is not as SPEC.md §6 says.
        """
        if self.side is Side.GATEWAY:
            raise RuntimeError("only a relay opens streams")
        self._check_ready()
        limit = self._obstacle(now)
        if limit is not None:
            raise LimitReached(limit)
        stream = self._streams.open(opening)
        if stream == limits.STREAM_ID_MAX:
            self.go_away(GoAwayReason.STREAM_IDS)
        return stream

    def _check_ready(self) -> None:
        if not self.is_ready:
            raise LinkLost("the link is not up")

    def _obstacle(self, now: float) -> str | None:
        """Name what forbids to open a stream now, or None; the last check spends a token."""
        if self._streams.last == limits.STREAM_ID_MAX:
            return "stream ids"
        if self.is_leaving:
            return "going away"
        if (obstacle := self._streams.obstacle) is not None:
            return obstacle
        if self.output.control_bytes > limits.CONTROL_LANE:
            return "output"
        return None if self._opens.take(now) else "opens per second"

    # Time

    def next_timeout(self) -> float | None:
        """Return when ``handle_timer`` wants to be called, by the same clock; None for never."""
        phase = self._handshake.phase
        if phase is not Phase.READY:
            return None if phase is Phase.ENDED else self._handshake.deadline()
        silence = self._keepalive.deadline()
        due = self._streams.deadline()
        return silence if due is None or silence < due else due

    def handle_timer(self, now: float) -> list[SeldomEvent]:
        """
        Let time pass; early calls do no harm. Then pull the output, as after ``receive``.

        Returns:
            The streams that were reset because their consumers are slow and memory is short.

        Raises:
            LinkTimedOut: The peer is gone: drop the carrier.
        """
        happened: list[SeldomEvent] = []
        if self._handshake.phase is Phase.ENDED:
            return happened
        try:
            if not self.is_ready:
                self._handshake.tick(now)
                return happened
            ping = self._keepalive.tick(now)
        except LinkTimedOut:
            self.drop()
            raise
        if ping is not None:
            self.output.send_control(encode(FrameType.PING, 0, ping))
        self._streams.tick(now, happened)
        return happened

    # The end

    def drop(self) -> None:
        """Take note that the carrier is gone: all streams have ended, and what they were lent goes back."""
        self._handshake.phase = Phase.ENDED
        self._streams.drop_all()
        self.output.clear()

    def _break(self, error: ProtocolViolation) -> None:
        """End the link for an error of the peer, leaving one last message that says why."""
        if self._handshake.phase is Phase.ENDED:
            return
        self.drop()
        if error.code == GoAwayReason.VERSION and self.side is Side.RELAY:
            # A gateway of another version waits for REFUSED, which every version reads; GO_AWAY it may not
            # know.
            last_word = encode_refused(Refusal(RefusalCode.VERSION, error.detail))
        else:
            last_word = encode_go_away(self._streams.last, GoAwayReason(error.code), error.detail)
        self.output.send_control(last_word)
