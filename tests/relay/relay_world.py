"""
A running relay, gateways that are only the outer half of one, and callers that are only a socket.

The relay is the real thing on a port of its own. A gateway here is a real link with real certificates whose
streams end in a test's protocol, because the relay cannot tell what is inside them; a caller says a hand-made
ClientHello and then whatever the test wants.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

import anyio

from sallyport.certs.contexts import CaFile, link_client_context
from sallyport.certs.files import IdentityDirectory, LeafFiles
from sallyport.certs.issuer import create_identity
from sallyport.certs.names import link_host, server_host
from sallyport.config.fields import Address
from sallyport.config.relay import RelayConfig, TlsFiles
from sallyport.relay.app import Relay, start
from sallyport.relay.initialise import initialise
from sallyport.relay.store import TunnelStore
from sallyport.tunnel.events import Hello
from sallyport.tunnel.frames import GoAwayReason
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.link_pair import Owner

DOMAIN = "tunnel.test"
NOW = datetime.now(UTC)
LOOPBACK = "127.0.0.1"
BUDGET = 64 * 1024 * 1024


@dataclass(frozen=True)
class TestTunnel:
    """A tunnel's identity on disk."""

    __test__ = False

    identity: IdentityDirectory

    @property
    def label(self) -> str:
        return self.identity.tunnel_id().label

    @property
    def id(self) -> str:
        return str(self.identity.tunnel_id())

    @property
    def root_pem(self) -> str:
        return self.identity.root_path.read_text()

    def host(self, server: str = "tickets") -> str:
        """The public name of one of its servers."""
        return server_host(server, self.label, DOMAIN)


def make_tunnel(folder: Path, *, domain: str = DOMAIN) -> TestTunnel:
    """Make a tunnel's identity, with a link leaf for gw1."""
    return TestTunnel(create_identity(folder, domains=[domain], relay="relay.test:443", name="gw1", now=NOW))


class Echo(asyncio.Protocol):
    """What a test's gateway does with a stream: it remembers what came, and sends it back."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.received += data
        self.transport.write(data)

    def eof_received(self) -> bool:
        assert self.transport is not None
        self.transport.write_eof()
        return True


@dataclass
class Gateway:
    """The gateway's end of one link."""

    link: Link
    owner: Owner

    async def next_stream(self) -> tuple[Stream, asyncio.Protocol]:
        """Wait for the next stream that the relay opens."""
        return await self.owner.opened.get()


class Dialling(TypedDict, total=False):
    """The keyword arguments of ``dial``."""

    leaf: LeafFiles | None
    boot_id: str
    index: int
    max_streams: int
    label: str | None


async def dial(
    address: tuple[str, int],
    ca: Path,
    tunnel: TestTunnel,
    *,
    leaf: LeafFiles | None = None,
    boot_id: str = "boot",
    index: int = 0,
    max_streams: int = 1000,
    label: str | None = None,
) -> Gateway:
    """
    Make a link and wait until the relay has answered, one way or the other.

    Args:
        address: where the relay listens.
        ca: what proves the relay.
        tunnel: whose gateway this is.
        leaf: the link's certificate, gw1's when None.
        boot_id: said in HELLO, as are ``index`` and ``max_streams``.
        label: said in SNI, the tunnel's own when None.
    """
    loop = asyncio.get_running_loop()
    host = link_host(label or tunnel.label, DOMAIN)
    context = link_client_context(leaf or tunnel.identity.link("gw1"), CaFile(ca))
    owner = Owner(serve=lambda _stream: Echo())
    hello = Hello(boot_id=boot_id, link_index=index, max_streams=max_streams, software="test")
    link = Link(Side.GATEWAY, owner, budget=MemoryBudget(BUDGET), loop=loop, hello=hello)
    tls = TlsTransport(
        TlsEngine(context, server_side=False, server_hostname=host),
        WebSocketCarrier.client(link, host),
        loop=loop,
        verify=lambda _tls: None,
        handshake_timeout=10,
    )
    await loop.create_connection(lambda: tls, *address)
    await until(lambda: owner.ready.is_set() or owner.lost.is_set())
    return Gateway(link, owner)


class World:
    """
    A running relay and its surroundings.

    Args:
        relay: the relay.
        config: its configuration.
        folder: where its files are.
    """

    def __init__(self, relay: Relay, config: RelayConfig, folder: Path) -> None:
        self.relay = relay
        self.config = config
        self.folder = folder
        self._links: list[Link] = []
        self._writers: list[asyncio.StreamWriter] = []

    # Gateways

    async def dial(self, tunnel: TestTunnel, **arguments: Unpack[Dialling]) -> Gateway:
        """Make a link and wait until the relay has answered; see ``dial``."""
        gateway = await dial(self.relay.address, self.folder / "relay-ca.pem", tunnel, **arguments)
        self._links.append(gateway.link)
        return gateway

    async def up(self, tunnel: TestTunnel, **arguments: Unpack[Dialling]) -> Gateway:
        """Make a link that must come up."""
        gateway = await self.dial(tunnel, **arguments)
        assert gateway.owner.ready.is_set(), gateway.owner.error
        return gateway

    async def close(self) -> None:
        """
        Drop all callers and all links, and see them closed while there is a loop to do it.

        A test that fails leaves its callers open: what is told of it then is its own failure, and no leak.
        """
        for writer in self._writers:
            writer.close()
        for link in self._links:
            link.close(GoAwayReason.SHUTDOWN)
        closed = [link.closed for link in self._links] + self.relay.links.close()
        with anyio.move_on_after(5, shield=True):
            for each in closed:
                await each
            for writer in self._writers:
                with suppress(OSError):  # It was reset, which some tests are about.
                    await writer.wait_closed()

    # Callers

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the public port and send something."""
        reader, writer = await asyncio.open_connection(*self.relay.address)
        self._writers.append(writer)
        if data:
            writer.write(data)
        return reader, writer

    async def say(self, data: bytes) -> bytes:
        """Connect, send something and return everything that is answered until the relay closes."""
        reader, writer = await self.connect(data)
        try:
            return await reader.read()
        finally:
            writer.close()


def make_config(folder: Path, *tunnels: TestTunnel, health: bool = False) -> RelayConfig:
    """Make a relay's files on a port of its own, with these tunnels registered."""
    made = initialise(folder, domain=DOMAIN, listen=Address(LOOPBACK, 443), names=[LOOPBACK], now=NOW)
    config = RelayConfig(
        listen=Address(LOOPBACK, 0),
        domain=DOMAIN,
        tls=TlsFiles(certificate=folder / "relay.pem", key=folder / "relay.key"),
        database=f"sqlite:///{folder}/relay.db",
        health=Address(LOOPBACK, 0) if health else None,
        path=made.config,
    )
    with closing(TunnelStore(config.database)) as store:
        for tunnel in tunnels:
            store.register(tunnel.label, tunnel.root_pem, name=None, now=NOW)
    return config


@asynccontextmanager
async def running_relay(folder: Path, *tunnels: TestTunnel, health: bool = False) -> AsyncIterator[World]:
    """Run a relay that serves these tunnels."""
    config = make_config(folder, *tunnels, health=health)
    async with start(config) as relay:
        world = World(relay, config, folder)
        try:
            yield world
        finally:
            await world.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so that no event tells of; the caller sets the deadline."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def reset(sock: socket.socket) -> None:
    """Close a socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
