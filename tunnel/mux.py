"""
The mux: many streams over one carrier of messages (SPEC.md).

Pure: no I/O, no clock, no randomness. Feed it what the carrier brings, handle the events, send what it has,
and let it know of time:

    events = mux.receive(message, now)           # handle all of them, in order
    while (message := mux.message_to_send()): …  # as late as the carrier allows
    events = mux.drained()                       # after sending: streams whose writers may go on
    events = mux.handle_timer(now)               # when next_timeout() says so
    mux.drop()                                   # when the carrier is gone

It is a composition. Phases, liveness, floods, windows, memory and the order of sending each have a file; this
one knows what each frame means for a stream, and whether an error ends the stream or the link (SPEC.md §8).

``receive`` reads as well when nothing can be sent: what it may have to hold is bounded by the windows granted,
and what it may have to answer by the control lane.
"""

from collections.abc import Callable
from typing import Final

from sallyport.tunnel import limits
from sallyport.tunnel.buckets import FloodGuard, TokenBucket
from sallyport.tunnel.control import encode_control, read_control
from sallyport.tunnel.errors import LimitReached, LinkLost, LinkTimedOut, ProtocolViolation
from sallyport.tunnel.events import (
    ControlReceived,
    DataReceived,
    Event,
    GoAwayReceived,
    HelloReceived,
    LinkAccepted,
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
    encode_credit,
    encode_go_away,
    encode_reset,
    read_credit,
    read_go_away,
    read_reset,
    split_message,
    violation,
)
from sallyport.tunnel.handshake import Phase, Side, check_awaited, waiting_for
from sallyport.tunnel.hello import (
    PROTOCOL_VERSION,
    Hello,
    HelloAck,
    Refusal,
    encode_hello,
    encode_refusal,
    read_hello,
    read_hello_ack,
    read_refusal,
    read_version,
)
from sallyport.tunnel.idle_credit import IdleCredit
from sallyport.tunnel.json_object import JsonObject
from sallyport.tunnel.keepalive import Keepalive
from sallyport.tunnel.opening import Opening, encode_opening, read_opening
from sallyport.tunnel.scheduler import Scheduler, SendLane
from sallyport.tunnel.stream_state import Input, State, next_state
from sallyport.tunnel.windows import MemoryBudget, ReceiveWindow

__all__ = ["Mux", "Side"]


class _Stream:
    """What the mux knows of one stream: its state, what it may receive, and what it has to send."""

    __slots__ = ("lane", "state", "window")

    def __init__(self, stream: StreamId, window: ReceiveWindow) -> None:
        self.state = State.OPEN
        self.window: Final = window
        self.lane: Final = SendLane(stream)


class Mux:
    """
    One end of a link.

    Args:
        side: Which end; the relay opens streams, the gateway accepts them.
        now: The time in seconds, by any clock that never goes back; all times are by the same one.
        budget: The memory that all links of this process share.
        max_streams: The most streams at once, whatever the peer allows.
    """

    def __init__(
        self, side: Side, *, now: float, budget: MemoryBudget, max_streams: int = limits.MAX_STREAMS
    ) -> None:
        self.side: Final = side
        self._budget: Final = budget
        self._max_streams = max_streams  # lowered to what the peer takes, once it says so
        self._phase = Phase.NEW
        self._began: Final = now
        self._streams: Final[dict[StreamId, _Stream]] = {}
        # Streams that ended in order while bytes still wait for their consumer.
        self._draining: Final[dict[StreamId, ReceiveWindow]] = {}
        self._last_stream = StreamId(0)  # the highest number used
        self._has_left = False  # this end has sent GO_AWAY
        self._peer_has_left = False
        self._scheduler: Final = Scheduler()
        self._guard: Final = FloodGuard(now)
        self._opens: Final = TokenBucket(limits.OPEN_BURST_SENT, limits.OPEN_RATE_SENT, now)
        self._idle_credit: Final = IdleCredit(now)
        self._keepalive: Final = Keepalive(now)
        self._swept = now

    # What it is

    @property
    def is_ready(self) -> bool:
        """Whether the link is up: HELLO_ACK was sent or received, and nothing has ended it."""
        return self._phase is Phase.READY

    @property
    def is_leaving(self) -> bool:
        """Whether either end has sent GO_AWAY, so that no stream can be opened."""
        return self._has_left or self._peer_has_left

    @property
    def stream_count(self) -> int:
        """Return how many streams are open, or have bytes that their consumer did not take yet."""
        return len(self._streams) + len(self._draining)

    @property
    def rtt(self) -> float | None:
        """Return the round trip in seconds, None before the first measurement."""
        return self._keepalive.rtt

    # Receiving

    def receive(self, message: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """
        Take one whole message of the carrier. It may be borrowed: nothing keeps a reference to it.

        Returns:
            What has happened, in order.

        Raises:
            ProtocolViolation: The peer broke the protocol. A last message with the reason was queued: pull it,
                send it, and drop the carrier. Nothing more is to be received.
        """
        happened: list[Event] = []
        try:
            if self._phase is Phase.ENDED:
                raise violation("a message after the end of the link")
            for kind, stream, payload in split_message(memoryview(message)):
                if self._phase is not Phase.READY:
                    check_awaited(self.side, self._phase, kind)
                _RECEIVERS[kind](self, stream, payload, now, happened)
        except ProtocolViolation as error:
            self._break(error)
            raise
        self._keepalive.message_received(now)
        return happened

    def _hello_received(self, _: StreamId, payload: memoryview, _now: float, happened: list[Event]) -> None:
        if self._phase is not Phase.NEW:
            raise violation("HELLO twice")
        version = read_version(payload, "HELLO")
        if version != PROTOCOL_VERSION:
            # The rest of another version's HELLO means nothing here, and a GO_AWAY would mean nothing there.
            detail = f"the gateway speaks version {version} of the link protocol, the relay {PROTOCOL_VERSION}"
            self.refuse(Refusal(RefusalCode.VERSION, detail))
            raise violation(detail, GoAwayReason.VERSION)
        hello = read_hello(payload)
        self._phase = Phase.ASKED
        self._max_streams = min(self._max_streams, hello.max_streams)
        happened.append(HelloReceived(hello))

    def _ack_received(self, _: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        if self._phase is not Phase.ASKED:
            raise violation("HELLO_ACK that was not asked for")
        if (version := read_version(payload, "HELLO_ACK")) != PROTOCOL_VERSION:
            raise violation(f"HELLO_ACK in version {version} to a HELLO in version {PROTOCOL_VERSION}")
        ack = read_hello_ack(payload)
        self._become_ready(now)
        happened.append(LinkAccepted(ack))

    def _refused_received(self, _: StreamId, payload: memoryview, _now: float, happened: list[Event]) -> None:
        if self._phase is not Phase.ASKED:
            raise violation("REFUSED that was not asked for")
        refusal = read_refusal(payload)
        self._end()
        happened.append(RefusalReceived(refusal))

    def _open_received(self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        if self.side is Side.RELAY:
            raise violation("OPEN from a gateway")
        self._guard.open_received(now)
        if stream <= self._last_stream:
            raise violation(f"OPEN of stream {stream} after stream {self._last_stream}")
        if self._peer_has_left:
            raise violation("OPEN after GO_AWAY")
        opening = read_opening(payload)
        self._last_stream = stream
        if self._has_left:
            self._answer_reset(stream, ResetCode.REFUSED)
        elif self.stream_count >= self._max_streams or self._budget.is_exhausted:
            self._answer_reset(stream, ResetCode.OVERLOADED)
        else:
            self._add_stream(stream).window.received(len(opening.first), now)
            happened.append(StreamOpened(stream, opening))

    def _data_received(self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        record = self._receiving(stream, Input.DATA_RECEIVED, now, happened)
        if record is None:
            return
        if record.window.received(len(payload), now):
            happened.append(DataReceived(stream, bytes(payload)))
        else:
            self._fault(stream, ResetCode.FLOW_CONTROL, now, happened)

    def _window_received(
        self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]
    ) -> None:
        record = self._receiving(stream, Input.WINDOW_RECEIVED, now, happened)
        if record is None:
            return
        credit, lane = read_credit(payload), record.lane
        if not 0 < credit <= limits.CREDIT_MAX - lane.credit:
            self._fault(stream, ResetCode.FLOW_CONTROL, now, happened)
            return
        self._scheduler.add_credit(lane, credit)
        if lane.credit > limits.INITIAL_WINDOW:
            self._idle_credit.watch(lane, now)

    def _return_received(
        self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]
    ) -> None:
        record = self._receiving(stream, Input.RETURN_RECEIVED, now, happened)
        if record is not None and not record.window.credit_returned(read_credit(payload)):
            self._fault(stream, ResetCode.FLOW_CONTROL, now, happened)

    def _finish_received(self, stream: StreamId, _: memoryview, now: float, happened: list[Event]) -> None:
        record = self._receiving(stream, Input.FINISH_RECEIVED, now, happened)
        if record is None:
            return
        record.window.finished()
        self._scheduler.drop_credit(stream)
        happened.append(StreamFinished(stream))
        if record.state is State.CLOSED:
            self._retire(stream, record)

    def _reset_received(self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        self._guard.reset_received(now)
        if self._receiving(stream, Input.RESET_RECEIVED, now, happened) is not None:
            self._forget(stream)
            happened.append(StreamWasReset(stream, read_reset(payload), by_peer=True))

    def _ping_received(self, _: StreamId, payload: memoryview, now: float, _happened: list[Event]) -> None:
        self._guard.ping_received(now)
        self._scheduler.send_pong(bytes(payload))

    def _pong_received(self, _: StreamId, payload: memoryview, now: float, _happened: list[Event]) -> None:
        if not self._keepalive.pong_received(bytes(payload), now):
            self._guard.ping_received(now)

    def _go_away_received(self, _: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        self._guard.control_received(now)
        last_stream, reason, text = read_go_away(payload)
        if last_stream > self._last_stream:
            raise violation(f"GO_AWAY with last stream {last_stream}, which was never opened")
        self._peer_has_left = True
        happened.append(GoAwayReceived(reason, last_stream, text))
        if self.side is Side.RELAY:
            for stream in [stream for stream in self._streams if stream > last_stream]:
                self._forget(stream)
                happened.append(StreamWasReset(stream, ResetCode.REFUSED, by_peer=True))

    def _control_received(self, _: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        self._guard.control_received(now)
        happened.append(ControlReceived(*read_control(payload)))

    def _receiving(
        self, stream: StreamId, happening: Input, now: float, happened: list[Event]
    ) -> _Stream | None:
        """Find the stream that a frame is for and move its state on; None when the frame ends here."""
        record = self._streams.get(stream)
        if record is None:
            if stream > self._last_stream:
                raise violation(f"{happening.name} on stream {stream}, which was never opened")
            return None  # It crossed the stream's end on the way.
        state = next_state(record.state, happening)
        if state is None:
            self._fault(stream, ResetCode.PROTOCOL, now, happened)
            return None
        record.state = state
        return record

    def _fault(self, stream: StreamId, code: ResetCode, now: float, happened: list[Event]) -> None:
        """End a stream on which the peer broke a rule that concerns only that stream."""
        self._guard.fault_received(now)
        self._forget(stream)
        self._answer_reset(stream, code)
        happened.append(StreamWasReset(stream, code, by_peer=False))

    def _answer_reset(self, stream: StreamId, code: ResetCode) -> None:
        """Queue a RESET that the peer has provoked; one that provokes and never reads is a flooder."""
        if self._scheduler.control_bytes > limits.CONTROL_LANE:
            raise violation("provokes answers and does not read them", GoAwayReason.FLOOD)
        self._scheduler.send_control(encode_reset(stream, code))

    # Sending

    def has_output(self) -> bool:
        """Say whether ``message_to_send`` has something."""
        return self._scheduler.has_output

    def message_to_send(self) -> bytes | None:
        """Return the next message for the carrier, or None when nothing may go now."""
        message = self._scheduler.next_message()
        for stream in self._scheduler.take_finished():
            record = self._streams[stream]
            record.state = self._moved(record, Input.FINISH_SENT)
            self._idle_credit.forget(stream)
            if record.state is State.CLOSED:
                self._retire(stream, record)
        return message

    def drained(self) -> list[StreamWritable]:
        """Return the streams whose writers may go on; call it after messages were pulled."""
        return [StreamWritable(stream) for stream in self._scheduler.take_drained()]

    def unsent(self, stream: StreamId) -> int:
        """Return how many bytes of a stream were queued and not yet pulled; 0 once it has ended."""
        record = self._streams.get(stream)
        return 0 if record is None else record.lane.unsent

    def send_hello(self, hello: Hello) -> None:
        """Ask for the link (gateway's side, once, before anything else)."""
        if self.side is Side.RELAY or self._phase is not Phase.NEW:
            raise RuntimeError("only a gateway says HELLO, and once")
        self._scheduler.send_control(encode(FrameType.HELLO, 0, encode_hello(hello)))
        self._phase = Phase.ASKED

    def accept(self, ack: HelloAck) -> None:
        """Answer HELLO: from now on the link is up."""
        self._check_judging()
        self._scheduler.send_control(encode(FrameType.HELLO_ACK, 0, encode_hello(ack)))
        self._become_ready(None)

    def refuse(self, refusal: Refusal) -> None:
        """Answer HELLO: there will be no link. Pull the answer, send it, and close the carrier."""
        if self._phase is not Phase.NEW:
            self._check_judging()
        self._end()
        self._scheduler.send_control(encode(FrameType.REFUSED, 0, encode_refusal(refusal)))

    def go_away(self, reason: GoAwayReason, text: str = "") -> None:
        """Announce that this end leaves: no stream is opened any more, those that are open go on."""
        if self._phase is Phase.ENDED or self._has_left:
            return
        self._has_left = True
        self._scheduler.send_control(encode_go_away(self._last_stream, reason, text))

    def send_control(self, name: str, body: JsonObject) -> None:
        """
        Send a named message.

        Raises:
            LinkLost: The link is not up.
            ValueError: It is too long, or no JSON.
        """
        self._check_ready()
        self._scheduler.send_control(encode(FrameType.CONTROL, 0, encode_control(name, body)))

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
        payload = encode_opening(opening)
        self._check_opening(now)
        stream = StreamId(self._last_stream + 1)
        self._last_stream = stream
        self._add_stream(stream).lane.credit -= len(opening.first)
        self._scheduler.send_control(encode(FrameType.OPEN, stream, payload))
        if stream == limits.STREAM_ID_MAX:
            self.go_away(GoAwayReason.STREAM_IDS)
        return stream

    # On a stream that has ended, perhaps by an event not yet handled, these four do nothing.

    def send_data(self, stream: StreamId, data: bytes | bytearray | memoryview) -> None:
        """Queue data; it leaves as credit and the other streams allow. What is not ``bytes`` is copied."""
        record = self._streams.get(stream)
        if record is None or not data:
            return
        self._check_sendable(record, Input.DATA_SENT)
        self._scheduler.send_data(record.lane, data if type(data) is bytes else bytes(data))

    def finish(self, stream: StreamId) -> None:
        """End this direction behind the data that is queued."""
        record = self._streams.get(stream)
        if record is None:
            return
        self._check_sendable(record, Input.FINISH_SENT)
        self._scheduler.finish(record.lane)

    def reset(self, stream: StreamId, code: ResetCode) -> None:
        """End a stream at once in both directions; what is queued for it, or waits, is dropped."""
        if (window := self._draining.pop(stream, None)) is not None:
            window.release()
        if stream in self._streams:
            self._forget(stream)
            self._scheduler.send_control(encode_reset(stream, code))

    def consumed(self, stream: StreamId, count: int, now: float) -> None:
        """
        Take note that the consumer took bytes that came: credit returns to the peer.

        Raises:
            ValueError: So many did not come.
        """
        record = self._streams.get(stream)
        if record is not None:
            credit = record.window.consumed(count, now, self._keepalive.rtt)
            if credit and next_state(record.state, Input.WINDOW_SENT) is not None:
                self._scheduler.send_window(stream, credit)
        elif (window := self._draining.get(stream)) is not None:
            window.consumed(count, now, None)
            if not window.waiting:
                self._draining.pop(stream).release()

    def _check_ready(self) -> None:
        if self._phase is not Phase.READY:
            raise LinkLost("the link is not up")

    def _check_judging(self) -> None:
        if self.side is Side.GATEWAY or self._phase is not Phase.ASKED:
            raise RuntimeError("only a relay answers HELLO, and once")

    def _check_sendable(self, record: _Stream, happening: Input) -> None:
        if record.lane.is_finishing:
            raise RuntimeError(f"{happening.name} on stream {record.lane.stream} after finish")
        self._moved(record, happening)

    def _check_opening(self, now: float) -> None:
        limit = None
        if self._last_stream == limits.STREAM_ID_MAX:
            limit = "stream ids"
        elif self.is_leaving:
            limit = "going away"
        elif self.stream_count >= self._max_streams:
            limit = "streams"
        elif self._budget.is_exhausted:
            limit = "memory"
        elif self._scheduler.control_bytes > limits.CONTROL_LANE:
            limit = "output"
        elif not self._opens.take(now):
            limit = "opens per second"
        if limit is not None:
            raise LimitReached(limit)

    # Time

    def next_timeout(self) -> float | None:
        """Return when ``handle_timer`` wants to be called, by the same clock; None for never."""
        if self._phase is Phase.ENDED:
            return None
        if self._phase is not Phase.READY:
            return self._began + limits.HELLO_TIMEOUT
        due = self._keepalive.deadline()
        if (idle := self._idle_credit.deadline()) is not None:
            due = min(due, idle)
        if self._budget.stalled:
            due = min(due, self._swept + limits.SWEEP_EVERY)
        return due

    def handle_timer(self, now: float) -> list[Event]:
        """
        Let time pass; early calls do no harm. Then pull the output, as after ``receive``.

        Returns:
            The streams that were reset because their consumers are slow and memory is short.

        Raises:
            LinkTimedOut: The peer is gone: drop the carrier.
        """
        happened: list[Event] = []
        if self._phase is Phase.ENDED:
            return happened
        if self._phase is not Phase.READY:
            if (waited := now - self._began) >= limits.HELLO_TIMEOUT:
                self._end()
                raise LinkTimedOut(waited, waiting_for(self.side))
            return happened
        try:
            ping = self._keepalive.tick(now)
        except LinkTimedOut:
            self._end()
            raise
        if ping is not None:
            self._scheduler.send_control(encode(FrameType.PING, 0, ping))
        for lane, credit in self._idle_credit.sweep(now):
            self._scheduler.send_control(encode_credit(FrameType.RETURN, lane.stream, credit))
        self._reset_slow_consumers(now, happened)
        return happened

    def _reset_slow_consumers(self, now: float, happened: list[Event]) -> None:
        self._swept = now
        for window in self._budget.slow_consumers(now):
            if window.owner is self:
                stream = StreamId(window.stream)
                self.reset(stream, ResetCode.SLOW_CONSUMER)
                happened.append(StreamWasReset(stream, ResetCode.SLOW_CONSUMER, by_peer=False))

    # Streams

    def _add_stream(self, stream: StreamId) -> _Stream:
        record = _Stream(stream, ReceiveWindow(stream, self, self._budget))
        self._streams[stream] = record
        return record

    def _moved(self, record: _Stream, happening: Input) -> State:
        """Return the state after something that this end does."""
        state = next_state(record.state, happening)
        if state is None:
            raise RuntimeError(f"{happening.name} on stream {record.lane.stream} in state {record.state.name}")
        return state

    def _forget(self, stream: StreamId) -> None:
        """Drop a stream that was reset, with all that it holds."""
        self._streams.pop(stream).window.release()
        self._scheduler.drop(stream)
        self._idle_credit.forget(stream)

    def _retire(self, stream: StreamId, record: _Stream) -> None:
        """Let go of a stream that ended in order; what its consumer did not take yet stays counted."""
        del self._streams[stream]
        if record.window.waiting:
            self._draining[stream] = record.window
        else:
            record.window.release()

    # The link's own life

    def _become_ready(self, now: float | None) -> None:
        self._phase = Phase.READY

    def drop(self) -> None:
        """Take note that the carrier is gone: all streams have ended, and what they were lent goes back."""
        self._end()

    def _end(self) -> None:
        self._phase = Phase.ENDED
        for record in self._streams.values():
            record.window.release()
        for window in self._draining.values():
            window.release()
        self._streams.clear()
        self._draining.clear()
        self._scheduler.clear()

    def _break(self, error: ProtocolViolation) -> None:
        """End the link for an error of the peer, leaving one last message that says why."""
        if self._phase is Phase.ENDED:
            return
        self._end()
        self._scheduler.send_control(
            encode_go_away(self._last_stream, GoAwayReason(error.code), error.detail)
        )


_Receiver = Callable[[Mux, StreamId, memoryview, float, list[Event]], None]
_RECEIVERS: Final[dict[int, _Receiver]] = {
    FrameType.HELLO: Mux._hello_received,
    FrameType.HELLO_ACK: Mux._ack_received,
    FrameType.REFUSED: Mux._refused_received,
    FrameType.OPEN: Mux._open_received,
    FrameType.DATA: Mux._data_received,
    FrameType.WINDOW: Mux._window_received,
    FrameType.FINISH: Mux._finish_received,
    FrameType.RESET: Mux._reset_received,
    FrameType.PING: Mux._ping_received,
    FrameType.PONG: Mux._pong_received,
    FrameType.GO_AWAY: Mux._go_away_received,
    FrameType.CONTROL: Mux._control_received,
    FrameType.RETURN: Mux._return_received,
}
