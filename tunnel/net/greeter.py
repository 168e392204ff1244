"""
Stands above a TLS connection that is being dialled, until its peer has been accepted.

Whoever dials waits for ``introduced``; the protocol that will use the connection is made only then, so it
never exists for a connection that came to nothing.
"""

import asyncio
import errno
from typing import cast

from sallyport.tunnel.net.tcp import ProtocolFactory


class Greeter(asyncio.Protocol):
    """
    Steps aside for the real protocol once the handshake is complete and the peer was judged.

    Args:
        factory: Makes the real protocol.
        loop: The running loop.

    Attributes:
        introduced: Done when the real protocol stands on the connection; fails with the handshake. Cancel it
            to give the connection up.
    """

    def __init__(self, factory: ProtocolFactory, loop: asyncio.AbstractEventLoop) -> None:
        self.introduced: asyncio.Future[None] = loop.create_future()
        self._factory = factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.Transport, transport)
        if self.introduced.done():
            # Whoever dialled was cancelled while the last packet of the handshake was on its way.
            connection.abort()
            return
        protocol = self._factory()
        connection.set_protocol(protocol)
        protocol.connection_made(connection)
        self.introduced.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.introduced.done():
            closed = ConnectionAbortedError(errno.ECONNABORTED, "closed during the handshake")
            self.introduced.set_exception(exc or closed)
