"""
Two transports joined into one: what either receives, the other writes.

The relay's whole data path. Both halves are the same class, since a TCP connection and a mux stream are both
asyncio transports: bytes, half-close, back-pressure and the end pass in either direction alike. A half that
cannot write fast enough stops the other half's reading, and with it the credit of whoever sends.

The stream is opened with the first bytes that the caller sent (the whole ClientHello, which the relay has
only peeked at), so that the gateway's answer is one round trip away.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from sallyport.tunnel.errors import StreamReset, TunnelError
from sallyport.tunnel.net.sockets import finish_writing

OpenStream = Callable[[asyncio.Protocol, bytes], asyncio.Transport]


class Splice:
    """
    A caller's connection and its stream.

    Hand ``near`` to the event loop as the protocol of the caller's connection; the rest follows.

    Args:
        open_stream: Opens the stream for the far half, given the first bytes; what it raises ends the
            caller's connection and is the splice's reason.
        ended: Told once, when both halves are gone, with the reason or None for an end in order.
        refused: Given the caller's transport when the stream is refused before it was begun, so that the
            caller can be told; it is then nobody else's.
    """

    __slots__ = ("_ended", "_open_stream", "_reason", "_refused", "far", "near")

    def __init__(
        self,
        open_stream: OpenStream,
        *,
        ended: "Callable[[Splice, Exception | None], None]",
        refused: Callable[[asyncio.Transport], None],
    ) -> None:
        self.near = SpliceHalf(self)
        self.far = SpliceHalf(self)
        self.near.other, self.far.other = self.far, self.near
        self._open_stream = open_stream
        self._ended = ended
        self._refused = refused
        self._reason: Exception | None = None

    def open_far(self, first: bytes) -> None:
        """Open the far half for a caller that has just spoken."""
        try:
            self._open_stream(self.far, first)
        except TunnelError as error:
            self._reason = error
            self.far.is_lost = True
            self.near.abort()

    def half_lost(self, half: "SpliceHalf", error: Exception | None) -> None:
        """Pass the end of one half on to the other, and report when both have ended."""
        self._reason = self._reason or error
        other = half.other
        if other.is_lost or other.transport is None:
            self._end()
        elif half is self.far and self._was_never_begun(error):
            self.near.is_lost = True
            self._refused(other.transport)
            self._end()
        elif error is None and half.has_finished:
            other.close()  # It has heard all there was: what is still on its way to it may arrive.
        else:
            other.abort()

    def _end(self) -> None:
        # The halves hold each other until the garbage collector comes by; not so their transports, nor an
        # error and the frames in its traceback.
        self.near.transport = self.far.transport = None
        reason, self._reason = self._reason, None
        self._ended(self, reason)

    def _was_never_begun(self, error: Exception | None) -> bool:
        return isinstance(error, StreamReset) and error.retryable and not self.far.received


class SpliceHalf(asyncio.Protocol):
    """
    One side of a splice.

    Attributes:
        received: Bytes that came in on this side.
        has_finished: Its peer has sent its last byte in order.
    """

    __slots__ = ("_splice", "has_finished", "is_lost", "other", "received", "transport")

    other: "SpliceHalf"

    def __init__(self, splice: Splice) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = 0
        self.has_finished = False
        self.is_lost = False
        self._splice = splice

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        other = self.other.transport
        if other is None:
            self._splice.open_far(data)
        elif not other.is_closing():
            other.write(data)

    def eof_received(self) -> bool:
        self.has_finished = True
        other = self.other.transport
        if other is None:
            return False  # Nothing was ever said, so there is nobody to tell.
        if self.other.has_finished:
            other.close()
            return False
        if not other.is_closing():
            finish_writing(other)
        return True  # The other direction goes on.

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._splice.half_lost(self, exc)

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
