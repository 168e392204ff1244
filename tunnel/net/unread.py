"""
Bytes that stand in a socket's receive buffer while its transport is not reading.

Three things that asyncio's transports do not offer, and that an HTTP hop needs:

* ``read_unread``: a server may answer early, close, and be sent more of the request; then its reset arrives
  right behind its answer. The first write after that fails, the loop (asyncio and uvloop alike) closes
  the transport, and the answer, whole and acknowledged, is thrown away unread. But the transport closes
  its socket only after ``connection_lost`` has returned, and Linux keeps what was received before a reset.
  So the protocol at the bottom (for TLS, ``TlsTransport``) can still read it there.
* ``unread_probe``: whether a connection has bytes or an end of file waiting, which the loop has not got round
  to telling.
* ``unread_among``: which of several connections have. It makes the window in which a pooled connection is
  taken for alive, though its server has closed it, narrower than the loop does.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

from sallyport.tunnel.limits import limit

_PIECE = 256 * 1024
_HAS_POLL: Final = hasattr(select, "poll")

_UNREAD_MOST: Final = limit(
    16 * 1024 * 1024, "bytes",
    "read after a peer's reset, to learn what it said before: more than a kernel's receive buffer holds "
    "(6 MiB by default), and a bound for a peer that goes on sending",
)  # fmt: skip


def read_unread(transport: asyncio.BaseTransport | None) -> bytes:
    """
    Return what the socket of a lost connection still holds; never waits.

    To be called from ``connection_lost``, where the socket is still open.

    Args:
        transport: The transport that owns the socket. Nothing is read for one that does not, such as a mux
            stream, or TLS, where what the socket holds is not what its user would have received.
    """
    if transport is None or transport.get_extra_info("ssl_object") is not None:
        return b""
    descriptor = descriptor_of(transport)
    if descriptor is None:
        return b""
    pieces, total = [], 0
    # A socket object of our own, on a duplicate, because the transport's is not to be read from.
    try:
        own = os.dup(descriptor)
    except OSError:  # There are no descriptors left, and whoever is to hear of the end must hear of it.
        return b""
    with socket.socket(fileno=own) as duplicate:
        duplicate.setblocking(False)
        while total < _UNREAD_MOST:
            try:
                piece = duplicate.recv(_PIECE)
            except OSError:
                # Nothing more, or the error that ended the connection, which its transport has reported.
                break
            if not piece:
                break
            pieces.append(piece)
            total += len(piece)
    return b"".join(pieces)


def unread_probe(transport: asyncio.BaseTransport) -> Callable[[], object]:
    """
    Return what tells whether bytes, an end of file or an error wait in a transport's socket.

    To be asked while the transport is open; the answer is to be taken for true or false. Where there is no
    socket, or no ``poll``, it is always false.
    """
    descriptor = descriptor_of(transport)
    if descriptor is None or not _HAS_POLL:
        return bool  # which is False when it is called with nothing
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return partial(poll.poll, 0)


def unread_among(descriptors: Iterable[int]) -> Collection[int]:
    """
    Return in which of several open sockets bytes, an end of file or an error wait; one system call for all.

    Where there is no ``poll`` it is none of them.
    """
    if not _HAS_POLL:
        return ()
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    ready = poll.poll(0)
    return [descriptor for descriptor, _ in ready] if ready else ()


def descriptor_of(transport: asyncio.BaseTransport) -> int | None:
    """Return the descriptor of a transport's open socket; None where there is none."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return None
    descriptor = sock.fileno()
    return descriptor if isinstance(descriptor, int) and descriptor >= 0 else None
