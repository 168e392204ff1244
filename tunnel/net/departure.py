"""
How a caller's connection ends, so that he learns what he should.

* ``close``: everything was said. What is written still goes out, for a bounded time.
* ``linger``: everything was said, and the caller may still be sending. Closing on unread bytes makes the
  kernel send a reset, which can overtake the answer; so what comes is read and dropped for a while first.
* ``cut``: the answer is not whole, and must not be taken for one. Over TLS and over a mux stream an abort
  says so: no close_notify, a RESET frame. Over plain TCP an abort is an ordinary FIN, which is enough where
  the answer's framing shows that something is missing; for an answer that ends with the connection only a
  reset tells.
* ``abort``: the caller is gone.
"""

import asyncio
import socket
import struct
from typing import Final

from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.deadline import Deadline
from sallyport.tunnel.net.sockets import finish_writing

_LINGER_SECONDS: Final = limit(
    5.0, "seconds",
    "to go on reading behind an early answer: a client that writes a whole upload before it looks for an "
    "answer needs them. nginx lingers for 5 s between two pieces and 30 s in all",
)  # fmt: skip
_LINGER_BYTES: Final = limit(64 * 1024 * 1024, "bytes", "to read and drop meanwhile")

_CLOSING_SECONDS: Final = limit(
    30.0, "seconds",
    "for the caller to take what is still to be sent when the connection closes in order",
)  # fmt: skip
_CUTTING_SECONDS: Final = limit(
    1.0, "seconds",
    "the same when it is cut: the last events of a stream that broke are good, and still go out if they "
    "can",
)  # fmt: skip
_CUTTING_INTERVAL = 0.01


class Departure:
    """
    The end of one caller's connection. After one of its verbs only ``abort`` may follow.

    The connection may come with its reading paused; who lingers resumes it, the others have no use for it.

    Args:
        transport: Over TCP, TLS or a mux stream.
        loop: The running loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._deadline = Deadline(loop, self._expired)
        self._is_lingering = False
        self._left = _LINGER_BYTES
        self._cut_until = 0.0
        self._resets = False

    def close(self) -> None:
        """Close behind what was written."""
        self._is_lingering = False
        self._deadline.set(_CLOSING_SECONDS)
        self._transport.close()

    def linger(self) -> None:
        """Say that nothing more is to come, drop what is received, and close when the caller does."""
        if self._transport.is_closing():
            return
        self._is_lingering = True
        self._deadline.set(_LINGER_SECONDS)
        if self._transport.can_write_eof():
            finish_writing(self._transport)
        # Last: what the transport holds, the caller's own end included, may come before this returns.
        self._transport.resume_reading()

    def cut(self, *, is_close_delimited: bool) -> None:
        """
        End the connection visibly.

        Args:
            is_close_delimited: The answer ends with the connection, so only a reset can say that it did not.
        """
        self._resets = is_close_delimited
        self._cut_until = self._loop.time() + _CUTTING_SECONDS
        self._cut_when_flushed()

    def abort(self) -> None:
        """End the connection at once."""
        self._is_lingering = False
        self._deadline.cancel()
        self._transport.abort()

    # The transport's callbacks, passed on

    def data_received(self, data: bytes) -> None:
        """Drop what the caller still sends."""
        self._left -= len(data)
        if self._is_lingering and self._left < 0:
            self.abort()

    def eof_received(self) -> None:
        """Take note that the caller has closed, or left."""
        if self._is_lingering:
            self.close()

    def connection_lost(self) -> None:
        """Have no more timers."""
        self._deadline.cancel()

    # Inside

    def _expired(self) -> None:
        if self._is_lingering:
            self.close()
        elif self._cut_until:
            self._cut_when_flushed()
        else:
            self.abort()

    def _cut_when_flushed(self) -> None:
        transport = self._transport
        if transport.get_write_buffer_size() and self._loop.time() < self._cut_until:
            self._deadline.set(_CUTTING_INTERVAL)
            return
        sock = None if transport.get_extra_info("ssl_object") else transport.get_extra_info("socket")
        if self._resets and sock is not None and not transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()
