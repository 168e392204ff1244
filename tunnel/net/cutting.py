"""
Ending a connection so that what was sent cannot be taken for a whole answer.

Over TLS and over a mux stream ``abort`` says it: no close_notify, a RESET frame. Over plain TCP an abort is
an ordinary FIN, which is enough where the answer's framing shows that something is missing, and is not for
an answer that ends with the connection: there only a reset tells.
"""

import asyncio
import socket
import struct

# What was written before still goes out, for it is good: an event stream's last events, for instance. So
# long, in seconds, and looking so often, may that take.
_PATIENCE = 1.0
_INTERVAL = 0.01


def cut(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *, is_close_delimited: bool) -> None:
    """
    End the connection visibly, behind what was written if the peer takes it within a second.

    Args:
        transport: Over TCP, TLS or a mux stream.
        loop: The running loop.
        is_close_delimited: The answer ends with the connection, so only a reset can say that it did not.
    """
    transport.pause_reading()
    _abort_when_flushed(transport, loop, is_close_delimited, loop.time() + _PATIENCE)


def _abort_when_flushed(
    transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, with_reset: bool, until: float
) -> None:
    if transport.is_closing():
        return
    if transport.get_write_buffer_size() and loop.time() < until:
        loop.call_later(_INTERVAL, _abort_when_flushed, transport, loop, with_reset, until)
        return
    sock = transport.get_extra_info("socket")
    if with_reset and sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
