"""
A link: a mux, the carrier below it, the streams above it, and the clock.

The mux decides and this file acts: it feeds the mux with what the carrier brings, hands events to streams and
to the handler, and gives the carrier what the mux wants sent, once per turn of the event loop and never more
than the carrier takes (SPEC.md, scheduling). Both ends of a link are this class; the ``Side`` is a value.

Reads never wait for writes: nothing here pauses the carrier's reading. What the link can be made to hold is
the sum of the windows that the mux has granted.
"""

import asyncio
from dataclasses import replace
from typing import Protocol, assert_never

from sallyport.tunnel import events
from sallyport.tunnel.errors import (
    LinkLost,
    LinkRefused,
    LinkTimedOut,
    ProtocolViolation,
    StreamReset,
    TunnelError,
)
from sallyport.tunnel.events import (
    DataReceived,
    Hello,
    HelloAck,
    Opening,
    Refusal,
    SeldomEvent,
)
from sallyport.tunnel.frames import GoAwayReason, ResetCode, StreamId
from sallyport.tunnel.limits import MAX_STREAMS
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.windows import MemoryBudget


class Carrier(Protocol):
    """
    What a link asks of a carrier: whole messages, in order, without loss, or it fails (SPEC.md).

    Attributes:
        is_writable: Whether it would send a message now rather than keep it.
    """

    is_writable: bool

    def send(self, message: bytes) -> None:
        """Send one message."""

    def close(self) -> None:
        """Close in order, behind what was sent."""

    def abort(self) -> None:
        """Close at once."""


class LinkHandler(Protocol):
    """What a link tells its owner, and asks of him."""

    def hello_received(self, link: "Link", hello: Hello) -> HelloAck | Refusal:
        """Judge a gateway's HELLO (relay's side only)."""

    def link_ready(self, link: "Link") -> None:
        """The link is up: HELLO was answered by an ACK."""

    def stream_opened(self, link: "Link", stream: Stream, opening: Opening) -> asyncio.Protocol:
        """Give the protocol that will serve a new stream (gateway's side only)."""

    def go_away_received(self, link: "Link", reason: GoAwayReason, text: str) -> None:
        """The peer takes or opens no more streams on this link; those that are open go on."""

    def link_lost(self, link: "Link", error: TunnelError | None) -> None:
        """The link is down; None when this end closed it."""


class Link:
    """
    One end of a link, from its carrier's opening to its loss.

    Args:
        side: Which end this is.
        handler: Its owner.
        budget: The memory that all links of this process share.
        loop: The running loop; its clock is the link's.
        hello: What the gateway says first; the relay's side has none.

    Attributes:
        peer_hello: On the relay's side, the HELLO that was accepted.
        peer_ack: On the gateway's side, the ACK.
        closed: Done when the link is lost.
        is_flush_due: Whether what is sent now leaves at the end of this turn of the loop anyway.
        send_data: The mux's own: queues data of a stream and returns how many of its bytes have not left yet.
            Ask for ``schedule_flush`` behind it.
    """

    def __init__(
        self,
        side: Side,
        handler: LinkHandler,
        *,
        budget: MemoryBudget,
        loop: asyncio.AbstractEventLoop,
        hello: Hello | None = None,
    ) -> None:
        self.loop = loop
        self.closed: asyncio.Future[None] = loop.create_future()
        self.peer_hello: Hello | None = None
        self.peer_ack: HelloAck | None = None
        self.is_leaving = False  # a GO_AWAY was sent or received: no new streams
        self._handler = handler
        self._hello = hello
        most = hello.max_streams if hello is not None else MAX_STREAMS
        self._mux = Mux(side, now=loop.time(), budget=budget, max_streams=most)
        # For every piece that anybody writes: a method that passes it on would cost as much as the work.
        self.send_data = self._mux.send_data
        self._carrier: Carrier | None = None
        self._streams: dict[StreamId, Stream] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_flush_due = False
        self._ready = False
        self._lost = False
        self._closing = False
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether streams can be opened."""
        return self._ready and not (self.is_leaving or self._lost or self._closing)

    @property
    def stream_count(self) -> int:
        """Return how many streams are open."""
        return len(self._streams)

    @property
    def rtt(self) -> float | None:
        """Return the last measured round trip in seconds, None before the first."""
        return self._mux.rtt

    # What the owner does

    def open_stream(self, protocol: asyncio.Protocol, opening: Opening) -> Stream:
        """
        Open a stream and connect a protocol to it (relay's side).

        Raises:
            LimitReached: The link carries as many streams as it may.
            LinkLost: The link is not up, or leaving.
        """
        if not self.is_ready:
            raise LinkLost("the link is not up")
        stream_id = self._mux.open_stream(opening, self.loop.time())
        # The first bytes are on their way; the stream need not hold them as long as it lives.
        stream = Stream(self, stream_id, replace(opening, first=b""))
        self._connect_stream(stream, protocol)
        self.schedule_flush()
        return stream

    def leave(self, reason: GoAwayReason, text: str = "") -> None:
        """Announce that no new streams are wanted, and why; those that are open go on."""
        if self._lost or self.is_leaving or not self._ready:
            return
        self.is_leaving = True
        self._mux.go_away(reason, text)
        self.schedule_flush()

    async def wait_idle(self) -> None:
        """Wait until no stream is open."""
        await self._idle.wait()

    def close(self, reason: GoAwayReason, text: str = "") -> None:
        """Announce the end and close the carrier behind it; streams that are open are lost."""
        if self._lost or self._closing:
            return
        self.leave(reason, text)
        self._flush()
        self._closing = True
        if self._carrier is None:
            self._lose(None)
        else:
            self._carrier.close()

    def abort(self) -> None:
        """End the link now, whether or not the peer takes what was sent."""
        self._lose(LinkLost("this end gave the link up"))

    # What the carrier calls

    def carrier_connected(self, carrier: Carrier) -> None:
        """
        Take note of the carrier, which is connected and not open yet.

        The wait for HELLO begins, so that a peer which connects and then says nothing is dropped in time.
        """
        self._carrier = carrier
        if self._lost or self._closing:
            carrier.abort()
            return
        self._mux.begin(self.loop.time())
        self._arm_timer()

    def carrier_opened(self) -> None:
        """Begin to speak: the carrier is open."""
        if self._lost or self._closing:
            return
        if self._hello is not None:
            self._mux.send_hello(self._hello)
        self._flush()
        self._arm_timer()

    def message_received(self, message: bytes | bytearray | memoryview) -> None:
        """Take one whole message; it may be lent for the time of the call only."""
        if self._lost:
            return
        now, mux = self.loop.time(), self._mux
        try:
            happened = mux.receive(message, now)
        except ProtocolViolation as error:
            self._break(error)
            return
        streams, consumed = self._streams, mux.consumed
        for event in happened:
            if type(event) is not DataReceived:
                self._handle(event)
                continue
            stream_id, data = event
            stream = streams.get(stream_id)
            # A stream that has ended here takes what was under way: nobody else returns its credit.
            taken = len(data) if stream is None else stream.deliver(data)
            if taken:
                consumed(stream_id, taken, now)
        if mux.output.has_output and not self.is_flush_due:
            self.schedule_flush()
        if mux.is_timeout_sooner:
            self._arm_timer()

    def carrier_writable(self) -> None:
        """Go on sending: the carrier takes messages again."""
        self._flush()

    def carrier_lost(self, error: Exception | None) -> None:
        """Take note that the carrier has ended."""
        if self._closing:
            self._lose(None)
        elif isinstance(error, TunnelError):
            self._lose(error)
        else:
            lost = LinkLost(str(error) if error is not None else "the peer closed the connection")
            lost.__cause__ = error
            self._lose(lost)

    # What streams call

    def finish_stream(self, stream_id: StreamId) -> None:
        self._mux.finish(stream_id)
        self.schedule_flush()

    def reset_stream(self, stream_id: StreamId, code: ResetCode) -> None:
        self._mux.reset(stream_id, code)
        self.schedule_flush()

    def consumed(self, stream_id: StreamId, count: int) -> None:
        """Return credit for bytes that were held before they were taken."""
        self._mux.consumed(stream_id, count, self.loop.time())
        if self._mux.output.has_output:
            self.schedule_flush()

    def unsent(self, stream_id: StreamId) -> int:
        return self._mux.unsent(stream_id)

    def stream_ended(self, stream_id: StreamId) -> None:
        self._streams.pop(stream_id, None)
        if not self._streams:
            self._idle.set()

    # Events

    def _handle(self, event: SeldomEvent) -> None:
        match event:
            case events.StreamOpened(stream=stream_id, opening=opening):
                self._stream_opened(stream_id, opening)
            case events.StreamWritable(stream=stream_id):
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.drained()
            case events.StreamFinished(stream=stream_id):
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.deliver_eof()
            case events.StreamWasReset(stream=stream_id, code=code, by_peer=by_peer):
                if (stream := self._streams.pop(stream_id, None)) is not None:
                    stream.reset_by_peer(StreamReset(code, by_peer=by_peer))
            case events.HelloReceived(hello=hello):
                self._judge(hello)
            case events.LinkAccepted(ack=ack):
                self.peer_ack = ack
                self._become_ready()
            case events.RefusalReceived(refusal=refusal):
                self._lose(LinkRefused(refusal.code, refusal.text, refusal.retry_after))
            case events.GoAwayReceived(reason=reason, text=text):
                self.is_leaving = True
                self._handler.go_away_received(self, reason, text)
            case events.ControlReceived():
                pass  # No CONTROL message is defined yet, and an unknown one is ignored by rule (SPEC.md).
            case _:
                assert_never(event)

    def _stream_opened(self, stream_id: StreamId, opening: Opening) -> None:
        stream = Stream(self, stream_id, replace(opening, first=b""))
        protocol = self._handler.stream_opened(self, stream, opening)
        self._connect_stream(stream, protocol)
        if opening.first and (taken := stream.deliver(opening.first)):
            self.consumed(stream_id, taken)

    def _connect_stream(self, stream: Stream, protocol: asyncio.Protocol) -> None:
        self._streams[stream.stream_id] = stream
        self._idle.clear()
        stream.connect(protocol)

    def _judge(self, hello: Hello) -> None:
        verdict = self._handler.hello_received(self, hello)
        if isinstance(verdict, Refusal):
            self._mux.refuse(verdict)
            self._flush()
            self._closing = True
            if self._carrier is not None:
                self._carrier.close()
            return
        self._mux.accept(verdict)
        self.peer_hello = hello
        self._become_ready()

    def _become_ready(self) -> None:
        self._ready = True
        self.schedule_flush()
        self._handler.link_ready(self)

    # Sending

    def schedule_flush(self) -> None:
        """Send at the end of this turn of the loop, so that all that is written in it leaves joined."""
        if not self.is_flush_due and not self._lost:
            self.is_flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.is_flush_due = False
        carrier = self._carrier
        if carrier is None or self._lost or self._closing:
            return
        mux = self._mux
        output = mux.output
        while output.has_output and carrier.is_writable and (message := mux.message_to_send()) is not None:
            carrier.send(message)
        if output.drained:
            for event in mux.drained():
                self._handle(event)

    # Time

    def _arm_timer(self) -> None:
        """
        Be woken when the mux wants to be.

        Deadlines mostly move into the future, message by message. So a timer that is armed stays, unless it
        is too late, and what it finds on waking is judged by the mux, which also says after which messages a
        timer may be too late.
        """
        due = self._mux.next_timeout()
        if self._lost or due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        # Kept here, because uvloop's handle for a moment that has passed already does not say its own.
        self._timer_due = due
        self._timer = self.loop.call_at(due, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._lost:
            return
        now = self.loop.time()
        try:
            happened = self._mux.handle_timer(now)
        except LinkTimedOut as error:
            self._break(error)
            return
        for event in happened:
            self._handle(event)
        self.schedule_flush()
        self._arm_timer()

    # The end

    def _break(self, error: TunnelError) -> None:
        """Give the link up: send the GO_AWAY that the mux may have queued, then drop the carrier."""
        self._flush()
        self._lose(error)

    def _lose(self, error: TunnelError | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._carrier is not None and error is None:
            self._carrier.close()
        elif self._carrier is not None:
            self._carrier.abort()
        self._mux.drop()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lose(LinkLost("the link to the gateway or the relay was lost"))
        if not self.closed.done():
            self.closed.set_result(None)
        self._handler.link_lost(self, error)
