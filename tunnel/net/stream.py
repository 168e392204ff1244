"""
One mux stream as an asyncio transport.

Whatever speaks to a TCP connection can speak to a stream: the relay splices the two, the gateway puts inner
TLS on it. The stream keeps what ``asyncio.Transport`` promises, also that nothing is delivered from inside
``resume_reading`` and that a protocol which raises ends its own connection and no other. It adds one thing,
``reset`` with a code.

Credit follows the reader (SPEC.md, flow control): bytes count as taken when the protocol's ``data_received``
has returned, and a protocol that pauses reading stops the credit, so the peer can be ahead of it by one
window and no more. What arrived meanwhile is held here and is counted by the mux against the memory budget.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sallyport.tunnel.errors import StreamReset, TunnelError
from sallyport.tunnel.events import Opening
from sallyport.tunnel.frames import ResetCode, StreamId
from sallyport.tunnel.limits import HIGH_WATER, limit

if TYPE_CHECKING:
    from sallyport.tunnel.net.link import Link

_LINGER: Final = limit(
    2.0, "seconds",
    "a stream that this end has closed is looked at so often: when all that was written has left, the peer "
    "has one interval to say FINISH as well, long for a slow path and short for a peer that never will",
)  # fmt: skip
_STALLED_LOOKS: Final = limit(
    15, "number",
    "looks in a row at which nothing more of a closed stream had left: its reader has stopped for good",
)  # fmt: skip

_Told = TypeVar("_Told")

# The protocol of a stream that has none, yet or any more.
_NOBODY: Final = asyncio.Protocol()


class Stream(asyncio.Transport):
    """
    One stream of a link. Made by ``Link`` only.

    Args:
        link: The link that carries it.
        stream_id: Its number on that link.
        opening: What its OPEN said.
    """

    __slots__ = (
        "_closing",
        "_eof_delivered",
        "_eof_received",
        "_eof_sent",
        "_held",
        "_linger",
        "_link",
        "_looks",
        "_lost",
        "_protocol",
        "_pump_due",
        "_reading",
        "_unsent_then",
        "_writing",
        "opening",
        "stream_id",
    )

    def __init__(self, link: "Link", stream_id: StreamId, opening: Opening) -> None:
        # Not asyncio's own, which would give each of ten thousand streams a dictionary for nothing.
        self._link = link
        self.stream_id = stream_id
        self.opening = opening
        self._protocol: asyncio.Protocol = _NOBODY
        self._held: deque[bytes] | None = None  # what came while the protocol was not reading
        self._pump_due = False
        self._reading = True
        self._writing = True  # False while the protocol is asked to pause
        self._eof_received = False  # the peer's FINISH has come, though perhaps not been delivered
        self._eof_delivered = False
        self._eof_sent = False
        self._closing = False
        self._lost = False
        self._linger: asyncio.TimerHandle | None = None
        self._looks = 0  # at the stream since something has last left
        self._unsent_then = 0

    # Receiving: called by the link

    def deliver(self, data: bytes) -> int:
        """
        Hand data to the protocol, or hold it while the protocol does not read.

        Returns:
            How many bytes were taken, so that the link returns credit for them.
        """
        if self._held or not self._reading:
            self._held = self._held or deque()
            self._held.append(data)
            return 0
        if not self._closing:
            try:
                self._protocol.data_received(data)
            except Exception as error:
                self._protocol_failed(error)
        return len(data)

    def deliver_eof(self) -> None:
        """Take note of the peer's FINISH; the protocol hears of it behind the data."""
        self._eof_received = True
        if self._reading and not self._held:
            self._pump()

    def reset_by_peer(self, error: StreamReset) -> None:
        """
        Take note of the peer's RESET, or of the mux's own.

        CANCELLED behind a FINISH is no failure: the peer has said all that it had to say, and wants to hear
        no more. What it said is still delivered, to its end.
        """
        if error.code != ResetCode.CANCELLED or not self._eof_received or self._closing:
            self.lose(error)
            return
        self._eof_sent = True
        self._settle()

    def lose(self, error: TunnelError | None) -> None:
        """End the stream: nothing is delivered or sent any more."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._held = None
        if self._linger is not None:
            self._linger.cancel()
        self._link.stream_ended(self.stream_id)
        self._tell(self._protocol.connection_lost, error)
        # The protocol holds its transport. Were it held in turn, each stream, and the TLS that it carried,
        # would stay until the garbage collector comes by.
        self._protocol = _NOBODY

    def drained(self) -> None:
        """Take note that the mux has sent enough of what was written."""
        if not self._writing and not self._lost:
            self._writing = True
            self._tell(self._protocol.resume_writing)

    # Reading: the transport's side

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if self._reading or self._lost:
            return
        self._reading = True
        if not self._pump_due:
            self._pump_due = True
            self._link.loop.call_soon(self._pump)

    def is_reading(self) -> bool:
        return self._reading

    # Writing: the transport's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._eof_sent or not data:
            return
        link = self._link
        unsent = link.send_data(self.stream_id, data)
        if not link.is_flush_due:
            link.schedule_flush()
        if unsent > HIGH_WATER and self._writing:
            self._writing = False
            self._tell(self._protocol.pause_writing)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._eof_sent:
            return
        self._send_eof()
        self._settle()

    def close(self) -> None:
        """Send what was written, then FINISH; what still comes is discarded for a few seconds."""
        if self._closing:
            return
        self._closing = True
        self._discard_held()
        self._send_eof()
        self._settle()

    def abort(self) -> None:
        self.reset(ResetCode.CANCELLED)

    def reset(self, code: ResetCode) -> None:
        """End the stream at once in both directions, and tell the peer why (SPEC.md, reset codes)."""
        if self._lost:
            return
        self._closing = True
        self._link.reset_stream(self.stream_id, code)
        # Like asyncio, tell the protocol in a turn of its own: abort() is called from inside its methods.
        self._link.loop.call_soon(self.lose, None)

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Keep the stream's own limits: what it buffers is part of the mux's accounting."""

    def get_write_buffer_size(self) -> int:
        return 0 if self._lost else self._unsent()

    # What it is

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def connect(self, protocol: asyncio.Protocol) -> None:
        """Give the stream its protocol and introduce the two."""
        self._protocol = protocol
        self._tell(protocol.connection_made, self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "opening":
            return self.opening
        if name == "peername":
            return self.opening.address
        return default

    # Inside

    def _tell(self, callback: Callable[..., _Told], *facts: object) -> _Told | None:
        """
        Call the protocol. One that raises has a bug, which must cost its own connection and no other.
        """
        try:
            return callback(*facts)
        except Exception as error:
            self._protocol_failed(error)
            return None

    def _protocol_failed(self, error: Exception) -> None:
        self._link.loop.call_exception_handler(
            {"message": "the protocol of a stream failed", "exception": error, "transport": self}
        )
        self.reset(ResetCode.INTERNAL)

    def _pump(self) -> None:
        """Deliver what was held, as far as the protocol reads; then the end, if it has come."""
        self._pump_due = False
        while self._held and (self._reading or self._closing):
            data = self._held.popleft()
            if not self._closing:
                self._tell(self._protocol.data_received, data)
            self._link.consumed(self.stream_id, len(data))
        if self._held:
            return
        self._held = None
        if not self._eof_received or self._eof_delivered or self._lost:
            return
        if not (self._reading or self._closing):
            return
        self._eof_delivered = True
        if self._closing or not self._tell(self._protocol.eof_received):
            self.close()
        self._settle()

    def _discard_held(self) -> None:
        if self._held:
            count = sum(map(len, self._held))
            self._held = None
            self._link.consumed(self.stream_id, count)

    def _send_eof(self) -> None:
        if not self._eof_sent and not self._lost:
            self._eof_sent = True
            self._link.finish_stream(self.stream_id)

    # The end

    def _settle(self) -> None:
        """End the stream when both directions have ended; see to it that they do when this end has closed."""
        if self._lost:
            return
        if self._has_ended():
            self._link.loop.call_soon(self.lose, None)
        elif self._linger is None and (self._closing or (self._eof_sent and self._eof_delivered)):
            self._unsent_then = self._unsent()
            self._linger = self._link.loop.call_later(_LINGER, self._look_again)

    def _has_ended(self) -> bool:
        heard_all = self._eof_received and (self._eof_delivered or self._closing)
        return heard_all and self._eof_sent and not self._unsent()

    def _look_again(self) -> None:
        """
        Judge a stream that waits for its end: it may take as long as what was written is leaving.
        """
        self._linger = None
        unsent = self._unsent()
        has_moved = unsent < self._unsent_then
        self._looks = 0 if has_moved else self._looks + 1
        if self._has_ended():
            self.lose(None)
        elif unsent == 0 and not has_moved:
            self.abort()  # All has left, and the peer has had its time to finish too.
        elif self._looks >= _STALLED_LOOKS:
            self.reset(ResetCode.TIMED_OUT)
        else:
            self._unsent_then = unsent
            self._linger = self._link.loop.call_later(_LINGER, self._look_again)

    def _unsent(self) -> int:
        return self._link.unsent(self.stream_id)
