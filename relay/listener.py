"""
The public socket itself: where the relay listens.
"""

import socket
from typing import Final

from sallyport.relay.errors import ListenFailed
from sallyport.tunnel.limits import limit

_BACKLOG: Final = limit(
    4096, "connections",
    "that the kernel keeps for us: four seconds of a thousand callers a second, while accepting pauses",
)  # fmt: skip


def listen(host: str, port: int) -> socket.socket:
    """
    Open the public socket.

    Args:
        host: an address of this machine, or its name. ``::`` takes IPv4 as well.
        port: the port; 0 takes a free one.

    Raises:
        ListenFailed: the address cannot be used.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenFailed(shown, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenFailed(shown, error) from error
    listener.setblocking(False)
    return listener
