"""
The loopback sockets of the local endpoint: 127.0.0.1, and ::1 where the machine has it.

Both, because ``localhost`` may mean either, and a client that is sent to the other address must not reach
another program there: a port that is taken on one of the two is taken. The port is never changed for a free
one, since the agent's configuration names it.
"""

import errno
import socket
import sys
from typing import Final

from sallyport.config.fields import Address
from sallyport.connector.errors import PortUnavailable
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.tcp import reason_of

_BACKLOG: Final = limit(
    128, "connections",
    "that the kernel keeps for us: what an agent opens at once, many times over",
)  # fmt: skip
_NO_IPV6: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def open_listeners(port: int) -> list[socket.socket]:
    """
    Listen on loopback.

    Args:
        port: The TCP port; 0 lets the system choose one, the same for both addresses.

    Returns:
        One or two listening, non-blocking sockets, IPv4 first.

    Raises:
        PortUnavailable: Somebody else listens there, or the port needs privileges.
    """
    listeners = [_listen(socket.AF_INET, Address("127.0.0.1", port))]
    port = listeners[0].getsockname()[1]
    try:
        if socket.has_ipv6:
            listeners.append(_listen(socket.AF_INET6, Address("::1", port)))
    except PortUnavailable as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_IPV6:
            return listeners
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(family: socket.AddressFamily, address: Address) -> socket.socket:
    listener: socket.socket | None = None
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform == "win32":
            # There, SO_REUSEADDR would let another program take the port over.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise PortUnavailable(str(address), reason_of(error), hint=_hint(error, address.port)) from error
    return listener


def _hint(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"is another `sallyport connect` running? Stop it, or choose another port: --port {port + 1}"
    if error.errno == errno.EACCES:
        return "ports below 1024 need privileges: choose another with --port N"
    return "choose another port with --port N"
