"""
How the sockets of a tunnel are tuned, in one place because both ends of a link need the same.

Every option is one that a kernel may refuse or not know (macOS, Windows, an old Linux): the tunnel works
without any of them, so a refusal is passed over, option by option.
"""

import asyncio
import contextlib
import socket
from typing import Final

from sallyport.tunnel.limits import limit

_DESCRIPTORS_WANTED: Final = limit(1_048_576, "descriptors", "asked for where the hard limit is “unlimited”")

_NOTSENT_LOWAT: Final = limit(
    128 * 1024, "bytes",
    "unsent in the kernel's send buffer. With our own 64 KiB above it, what is written and not yet sent "
    "stays below 256 KiB, while the buffer itself may grow to whatever a long path needs. Without it a "
    "caller that stops reading fills 4 MiB of the kernel's, and a few hundred of them its memory for TCP: "
    "then every connection of the machine crawls",
)  # fmt: skip

_USER_TIMEOUT: Final = limit(
    8_000, "milliseconds",
    "that sent bytes may stay unacknowledged. The link's own PING finds a silent peer in 9 s; this finds "
    "one under traffic, where the kernel alone would go on for a quarter of an hour",
)  # fmt: skip


def tune_link(sock: socket.socket) -> None:
    """Prepare a connected socket to carry a link: prompt, late to decide, quick to notice a dead peer."""
    tune_stream(sock)
    _try(sock, "IPPROTO_TCP", "TCP_USER_TIMEOUT", _USER_TIMEOUT)
    # At 200 ms and 5 % loss a 1 MiB call took 29.7 s with the default algorithm and 2.7 s with BBR.
    _try(sock, "IPPROTO_TCP", "TCP_CONGESTION", b"bbr")


def tune_stream(sock: socket.socket) -> None:
    """Prepare a connected socket to carry calls: prompt, late to fill, aware of a peer that vanished."""
    _try(sock, "IPPROTO_TCP", "TCP_NODELAY", 1)
    _try(sock, "IPPROTO_TCP", "TCP_NOTSENT_LOWAT", _NOTSENT_LOWAT)
    # Nobody but the kernel asks whether the peer of an idle answer stream is still there. By default it asks
    # after two hours; these find a caller that has lost its power in two minutes.
    _try(sock, "SOL_SOCKET", "SO_KEEPALIVE", 1)
    _try(sock, "IPPROTO_TCP", "TCP_KEEPIDLE", 60)
    _try(sock, "IPPROTO_TCP", "TCP_KEEPINTVL", 15)
    _try(sock, "IPPROTO_TCP", "TCP_KEEPCNT", 4)


def _try(sock: socket.socket, level: str, option: str, value: int | bytes) -> None:
    if hasattr(socket, option):
        # ValueError: uvloop gives out descriptor -1 for a connection that was lost meanwhile.
        with contextlib.suppress(OSError, ValueError):
            sock.setsockopt(getattr(socket, level), getattr(socket, option), value)


def finish_writing(transport: asyncio.WriteTransport) -> None:
    """
    Say that nothing more will be written, to a peer who may have gone.

    asyncio raises from ``write_eof`` when the peer has reset the connection meanwhile: then there is nobody
    to say it to, and the transport is closed.
    """
    try:
        transport.write_eof()
    except OSError:
        transport.abort()


def raise_descriptor_limit() -> None:
    """Raise RLIMIT_NOFILE to what the system allows: each stream is a descriptor, and the default is low."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        # A container may forbid it; then the limit that there is holds.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
