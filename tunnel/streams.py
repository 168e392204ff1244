"""
The streams of one link: what each frame means for a stream, and who may hold how much.

An error of the peer that concerns one stream ends that stream; one that says the peer has lost count of
what is open ends the link (SPEC.md §8 lists which is which). Calls for a stream that has ended do nothing:
its end may lie in an event that the caller has not handled yet.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from sallyport.tunnel import limits
from sallyport.tunnel.buckets import FloodGuard
from sallyport.tunnel.events import (
    DataReceived,
    Event,
    SeldomEvent,
    StreamFinished,
    StreamOpened,
    StreamWasReset,
)
from sallyport.tunnel.frames import (
    DATA_WORD,
    HEADER_SIZE,
    HEADER_WORDS,
    FrameType,
    GoAwayReason,
    ResetCode,
    StreamId,
    encode,
    encode_credit,
    encode_reset,
    read_credit,
    read_reset,
    violation,
)
from sallyport.tunnel.handshake import Side
from sallyport.tunnel.idle_credit import IdleCredit
from sallyport.tunnel.limits import DATA_MAX
from sallyport.tunnel.opening import Opening, encode_opening, read_opening
from sallyport.tunnel.scheduler import Scheduler, SendLane
from sallyport.tunnel.stream_state import Input, State, next_state, states_unmoved_by
from sallyport.tunnel.windows import MemoryBudget, ReceiveWindow

# By state, from the table. Data never moves a stream on, so that for each frame of it one look is enough.
_TAKES_DATA: Final = states_unmoved_by(Input.DATA_RECEIVED)
_HEADER_AT: Final = HEADER_WORDS.unpack_from
# Makes the event of every frame of data; a named tuple's own way costs three times as much.
_DATA_RECEIVED: Final[Callable[[tuple[StreamId, bytes]], DataReceived]] = partial(tuple.__new__, DataReceived)


class _Stream(SendLane):
    """One stream: what it has to send, and with it its state and what it may receive."""

    __slots__ = ("state", "window")

    def __init__(self, stream: StreamId, window: ReceiveWindow) -> None:
        super().__init__(stream)
        self.state = State.OPEN
        self.window: Final = window


class Streams:
    """
    All streams of one end of a link.

    Args:
        side: Which end.
        guard: What counts the peer's frames.
        budget: The memory that all links of this process share.
        most: The most streams at once.
        now: The time, in seconds.

    Attributes:
        last: The highest number used so far, 0 for none.
        most: The most streams at once.
        output: What waits to be sent.
        has_left: Whether this end has sent GO_AWAY.
        peer_has_left: Whether the peer has.
        rtt: The link's round trip in seconds, None while it is not known; whoever measures it sets it.
    """

    def __init__(
        self,
        side: Side,
        guard: FloodGuard,
        *,
        budget: MemoryBudget,
        most: int,
        now: float,
    ) -> None:
        self.last = StreamId(0)
        self.most = most
        self.has_left = False
        self.peer_has_left = False
        self.rtt: float | None = None
        self._side: Final = side
        self._guard: Final = guard
        self._budget: Final = budget
        self._open: Final[dict[StreamId, _Stream]] = {}
        self.output: Final = Scheduler(self._open, self._finish_left)
        # Those that ended in order while bytes still wait for their consumer.
        self._draining: Final[dict[StreamId, ReceiveWindow]] = {}
        self._idle_credit: Final = IdleCredit(now)
        self._swept = now

    def __len__(self) -> int:
        """Return how many streams are open, or have bytes that their consumer did not take yet."""
        return len(self._open) + len(self._draining)

    @property
    def obstacle(self) -> str | None:
        """Name the limit that forbids another stream, or None."""
        if len(self) >= self.most:
            return "streams"
        return "memory" if self._budget.is_exhausted else None

    # Receiving: each takes a frame of the right shape, adds events, and may raise ProtocolViolation.

    def open_received(self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]) -> None:
        """Take OPEN: begin the stream, or refuse it with a code that says it was never begun."""
        self._guard.open_received(now)
        if self._side is Side.RELAY or self.peer_has_left:
            raise violation("OPEN from a gateway, or after GO_AWAY")
        if stream <= self.last:
            raise violation(f"OPEN of stream {stream} after stream {self.last}")
        opening = read_opening(payload)
        self.last = stream
        if self.has_left:
            self._answer_reset(stream, ResetCode.REFUSED)
        elif self.obstacle is not None:
            self._answer_reset(stream, ResetCode.OVERLOADED)
        else:
            self._add(stream).window.received(len(opening.first), now)
            happened.append(StreamOpened(stream, opening))

    def data_received(self, message: memoryview, start: int, now: float, happened: list[Event]) -> int:
        """
        Take the DATA that stands in a message from some place on, frame by frame, while nothing is unusual.

        Most frames are DATA for an open stream within its credit. They get one look, here, at all that must
        hold; whatever else there is goes the long way, which says what is wrong with it. What is given on is
        a copy.

        Returns:
            Where the first frame begins that was not taken; the message's length when there is none.
        """
        size, streams = message.nbytes, self._open
        while (begin := start + HEADER_SIZE) < size:
            word, stream, length = _HEADER_AT(message, start)
            end = begin + length
            if word != DATA_WORD or not 0 < length <= DATA_MAX or end > size:
                break
            record = streams.get(stream)
            if record is None or not _TAKES_DATA[record.state] or not record.window.received(length, now):
                break
            happened.append(_DATA_RECEIVED((stream, message[begin:end].tobytes())))
            start = end
        return start

    def unusual_data_received(
        self, stream: StreamId, _: memoryview, now: float, happened: list[Event]
    ) -> None:
        """Judge DATA of the right shape that was not taken: its stream does not take it, or has no credit."""
        if self._receiving(stream, Input.DATA_RECEIVED, now, happened) is not None:
            self._fault(stream, ResetCode.FLOW_CONTROL, now, happened)

    def window_received(
        self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]
    ) -> None:
        """Take WINDOW: the stream may send more."""
        record = self._receiving(stream, Input.WINDOW_RECEIVED, now, happened)
        if record is None:
            return
        credit = read_credit(payload)
        if not 0 < credit <= limits.CREDIT_MAX - record.credit:
            self._fault(stream, ResetCode.FLOW_CONTROL, now, happened)
            return
        self.output.add_credit(record, credit)
        if record.credit > limits.INITIAL_WINDOW and record.state is not State.HALF_CLOSED_LOCAL:
            self._idle_credit.watch(record, now)

    def return_received(
        self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]
    ) -> None:
        """Take RETURN: the peer will not use credit that it was granted."""
        record = self._receiving(stream, Input.RETURN_RECEIVED, now, happened)
        if record is not None and not record.window.credit_returned(read_credit(payload)):
            self._fault(stream, ResetCode.FLOW_CONTROL, now, happened)

    def finish_received(self, stream: StreamId, _: memoryview, now: float, happened: list[Event]) -> None:
        """Take FINISH: the peer sends no more, and needs no more credit."""
        record = self._receiving(stream, Input.FINISH_RECEIVED, now, happened)
        if record is None:
            return
        record.window.finished()
        self.output.drop_credit(stream)
        happened.append(StreamFinished(stream))
        if record.state is State.CLOSED:
            self._retire(stream, record)

    def reset_received(
        self, stream: StreamId, payload: memoryview, now: float, happened: list[Event]
    ) -> None:
        """Take RESET: the stream has ended in both directions."""
        self._guard.reset_received(now)
        if self._receiving(stream, Input.RESET_RECEIVED, now, happened) is not None:
            self._forget(stream)
            happened.append(StreamWasReset(stream, read_reset(payload), by_peer=True))

    def refused_above(self, last: StreamId, happened: list[Event]) -> None:
        """End the streams that the peer's GO_AWAY says it never began."""
        for stream in [stream for stream in self._open if stream > last]:
            self._forget(stream)
            happened.append(StreamWasReset(stream, ResetCode.REFUSED, by_peer=True))

    def _receiving(
        self, stream: StreamId, happening: Input, now: float, happened: list[Event]
    ) -> _Stream | None:
        """Find the stream that a frame is for and move its state on; None when the frame ends here."""
        record = self._open.get(stream)
        if record is None:
            if stream > self.last:
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
        if self.output.control_bytes > limits.CONTROL_LANE:
            raise violation("a flood of frames whose answers are not read", GoAwayReason.FLOOD)
        self.output.send_control(encode_reset(stream, code))

    # Sending

    def open(self, opening: Opening) -> StreamId:
        """Open a stream; the caller has asked for an ``obstacle``. Raises ValueError for a bad opening."""
        payload = encode_opening(opening)
        self.last = stream = StreamId(self.last + 1)
        self._add(stream).credit -= len(opening.first)
        self.output.send_control(encode(FrameType.OPEN, stream, payload))
        return stream

    def finish(self, stream: StreamId) -> None:
        """End this direction behind the data that is queued; raises RuntimeError when it was ended before."""
        record = self._open.get(stream)
        if record is not None:
            if record.is_finishing:
                raise RuntimeError(f"FINISH on stream {stream} after its end")
            self.output.finish(record)

    def reset(self, stream: StreamId, code: ResetCode) -> None:
        """End a stream at once in both directions; what is queued for it, or waits, is dropped."""
        if stream in self._open:
            self._forget(stream)
            self.output.send_control(encode_reset(stream, code))
        elif (window := self._draining.pop(stream, None)) is not None:
            window.release()

    def consumed(self, stream: StreamId, count: int, now: float) -> None:
        """
        Take note that the consumer took bytes that came: credit returns to the peer.

        Raises:
            ValueError: So many did not come.
        """
        record = self._open.get(stream)
        if record is not None:
            credit = record.window.consumed(count, now, self.rtt)
            if credit and next_state(record.state, Input.WINDOW_SENT) is not None:
                self.output.send_window(stream, credit)
        elif (window := self._draining.get(stream)) is not None:
            window.consumed(count, now, None)
            if not window.waiting:
                self._draining.pop(stream).release()

    def unsent(self, stream: StreamId) -> int:
        """Return how many bytes are queued and not yet pulled; 0 once the stream has ended."""
        record = self._open.get(stream)
        return 0 if record is None else record.unsent

    def _finish_left(self, stream: StreamId) -> None:
        """Move on a stream whose FINISH has just left."""
        record = self._open[stream]
        record.state = _after(record, Input.FINISH_SENT)
        self._idle_credit.forget(stream)
        if record.state is State.CLOSED:
            self._retire(stream, record)

    # Time

    def deadline(self) -> float | None:
        """Return when ``tick`` wants to be called; None for never."""
        idle = self._idle_credit.deadline()
        if not self._budget.stalled:
            return idle
        sweep = self._swept + limits.SWEEP_EVERY
        return sweep if idle is None else min(idle, sweep)

    def tick(self, now: float, happened: list[SeldomEvent]) -> None:
        """Return credit that is not used, and end slow consumers while memory is short (SPEC.md §7)."""
        for lane, credit in self._idle_credit.sweep(now):
            self.output.send_control(encode_credit(FrameType.RETURN, lane.stream, credit))
        self._swept = now
        for window in self._budget.slow_consumers(now):
            if window.owner is self:
                stream = StreamId(window.stream)
                self.reset(stream, ResetCode.SLOW_CONSUMER)
                happened.append(StreamWasReset(stream, ResetCode.SLOW_CONSUMER, by_peer=False))

    # Beginning and end

    def _add(self, stream: StreamId) -> _Stream:
        record = _Stream(stream, ReceiveWindow(stream, self, self._budget))
        self._open[stream] = record
        return record

    def _forget(self, stream: StreamId) -> None:
        """Drop a stream that was reset, with all that it holds."""
        self._open.pop(stream).window.release()
        self.output.drop(stream)
        self._idle_credit.forget(stream)

    def _retire(self, stream: StreamId, record: _Stream) -> None:
        """Let go of a stream that ended in order; what its consumer did not take yet stays counted."""
        del self._open[stream]
        if record.window.waiting:
            self._draining[stream] = record.window
        else:
            record.window.release()

    def drop_all(self) -> None:
        """Forget all streams; what they held or were lent goes back to the budget."""
        for record in self._open.values():
            record.window.release()
        for window in self._draining.values():
            window.release()
        self._open.clear()
        self._draining.clear()


def _after(record: _Stream, happening: Input) -> State:
    """Return the state after something that this end does."""
    state = next_state(record.state, happening)
    if state is None:
        raise RuntimeError(f"{happening.name} on stream {record.stream} in state {record.state.name}")
    return state


_Receiver = Callable[[Streams, StreamId, memoryview, float, list[Event]], None]

# Who takes a frame that belongs to a stream; the link's own frames are the mux's.
STREAM_RECEIVERS: Final[dict[int, _Receiver]] = {
    FrameType.OPEN: Streams.open_received,
    FrameType.DATA: Streams.unusual_data_received,
    FrameType.WINDOW: Streams.window_received,
    FrameType.FINISH: Streams.finish_received,
    FrameType.RESET: Streams.reset_received,
    FrameType.RETURN: Streams.return_received,
}
