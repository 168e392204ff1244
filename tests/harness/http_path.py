"""
The gateway's HTTP hop in memory: one caller's connection and one server, without a socket or a thread.

What is measured with it lies between the plaintext that inner TLS gives the gateway and the bytes that go to
the server, and back: reading the head, saying who calls, routing, policy, writing the new head, the answer,
the call's line in the log. The parts are the product's; only the two transports are made up.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sallyport.certs.names import Identity, Role
from sallyport.config.gateway import ServerConfig
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import open_servers
from sallyport.gateway.service import Gateway
from sallyport.tunnel.events import Opening
from sallyport.tunnel.net.http_client import ClientPool

LABEL = "a" * 32
DOMAIN = "tunnel.test"
HOST = f"tickets.{LABEL}.{DOMAIN}"


class MemoryTransport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Stay open: nobody here looks."""

    def abort(self) -> None:
        """Stay open: nobody here looks."""

    def resume_reading(self) -> None:
        """Deliver nothing: it never paused."""

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class HttpPath:
    """
    A caller with a certificate, and the server ``tickets``.

    Args:
        loop: The running loop.
        spawn: Starts a task.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        config = {"tickets": ServerConfig(url="http://127.0.0.1:9000/mcp")}
        servers = open_servers(config, loop=loop, spawn=spawn)
        servers["tickets"].pool = ClientPool(self._dial, idle_timeout=4.0, loop=loop, spawn=spawn)
        routes = Routes.of(config, label=LABEL, domains=[DOMAIN])
        self._gateway = Gateway("gw1", routes, servers, loop=loop)
        self.server: asyncio.Protocol | None = None
        self.dialled = asyncio.Event()
        self.to_server = MemoryTransport()
        self.to_caller = MemoryTransport()
        identity = Identity(LABEL, Role.CALLER, "agent")
        self.caller = self._gateway.calls_for(identity, Opening("0" * 16, HOST, "192.0.2.1:9", b""), HOST)
        self.caller.connection_made(self.to_caller)

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self.server = factory()
        self.server.connection_made(self.to_server)
        self.dialled.set()

    def close(self) -> None:
        """End both connections."""
        self.caller.connection_lost(None)
        if self.server is not None:
            self.server.connection_lost(None)
