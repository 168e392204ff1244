"""
Two ends of a link, joined by a carrier of your choice.

The same test body runs over a carrier in memory and over real WebSockets on loopback, each codec against
each: what a link promises must not depend on what carries it.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, cast

from sallyport.tunnel.errors import TunnelError
from sallyport.tunnel.events import Hello, HelloAck, Opening, Refusal
from sallyport.tunnel.frames import GoAwayReason
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.net.websocket_codec import CodecName
from sallyport.tunnel.windows import MemoryBudget

# In memory, or the codec of the relay's end and the gateway's.
CarrierKind = Literal["memory"] | tuple[CodecName, CodecName]
CODECS: Final[tuple[CodecName, ...]] = ("picows", "websockets")
CARRIERS: Final[tuple[CarrierKind, ...]] = ("memory", *itertools.product(CODECS, CODECS))
ACK = HelloAck(max_streams=1_000, boot_id="relay", software="test", time=1_000_000)


class Recorder(asyncio.Protocol):
    """A protocol that remembers what it was told and can be waited on."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = bytearray()
        self.eof = False
        self.lost: list[Exception | None] = []
        self.is_paused = False
        self.keeps_open = True
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.eof = True
        self._changed.set()
        return self.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self._changed.set()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._changed.set()

    async def until(self, condition: Callable[["Recorder"], bool]) -> None:
        """Wait until the condition holds; the caller sets the deadline."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()


class Owner:
    """A link's handler that records what happens and serves every stream with a ``Recorder``."""

    def __init__(self, serve: Callable[[Stream], asyncio.Protocol] | None = None) -> None:
        self.verdict: HelloAck | Refusal = ACK
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.error: TunnelError | None = None
        self.left: list[GoAwayReason] = []
        self.words: list[str] = []  # with each of them
        self.told_to_go = asyncio.Event()
        self.opened: asyncio.Queue[tuple[Stream, asyncio.Protocol]] = asyncio.Queue()
        self._serve = serve

    def hello_received(self, link: Link, hello: Hello) -> HelloAck | Refusal:
        return self.verdict

    def link_ready(self, link: Link) -> None:
        self.ready.set()

    def stream_opened(self, link: Link, stream: Stream, opening: Opening) -> asyncio.Protocol:
        protocol = Recorder() if self._serve is None else self._serve(stream)
        self.opened.put_nowait((stream, protocol))
        return protocol

    def go_away_received(self, link: Link, reason: GoAwayReason, text: str) -> None:
        self.left.append(reason)
        self.words.append(text)
        self.told_to_go.set()

    def link_lost(self, link: Link, error: TunnelError | None) -> None:
        self.error = error
        self.lost.set()


class MemoryCarrier:
    """Hands each message to the other link in a turn of its own; can be held and cut."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.other: MemoryCarrier | None = None
        self.is_writable = True
        self.is_cut = False

    def send(self, message: bytes) -> None:
        if not self.is_cut:
            self.link.loop.call_soon(self._arrive, message)

    def close(self) -> None:
        self.link.loop.call_soon(self._end, None)

    def abort(self) -> None:
        self.close()

    def cut(self, error: Exception) -> None:
        """Fail as a connection does that was reset."""
        self._end(error)

    def _arrive(self, message: bytes) -> None:
        if self.other is not None and not self.other.is_cut:
            self.other.link.message_received(message)

    def _end(self, error: Exception | None) -> None:
        if not self.is_cut:
            self.is_cut = True
            self.link.carrier_lost(error)
            if self.other is not None:
                self.other._end(error)


@asynccontextmanager
async def link_pair(
    carrier: CarrierKind,
    relay: Owner,
    gateway: Owner,
    *,
    budget: int = 64 * 1024 * 1024,
) -> AsyncIterator[tuple[Link, Link]]:
    """Join a relay's and a gateway's link; they say HELLO by themselves."""
    loop = asyncio.get_running_loop()
    hello = Hello(max_streams=1_000, boot_id="gateway", software="test")
    near = Link(Side.RELAY, relay, budget=MemoryBudget(budget), loop=loop)
    far = Link(Side.GATEWAY, gateway, budget=MemoryBudget(budget), loop=loop, hello=hello)
    try:
        if carrier == "memory":
            one, two = MemoryCarrier(near), MemoryCarrier(far)
            one.other, two.other = two, one
            for link, end in ((near, one), (far, two)):
                link.carrier_connected(end)
                link.carrier_opened()
            yield near, far
            return
        # Closed without waiting: from Python 3.12 on that would wait for the link, which is closed below.
        codec, far_codec = carrier
        server = await loop.create_server(lambda: WebSocketCarrier.server(near, codec=codec), "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            await loop.create_connection(
                lambda: WebSocketCarrier.client(far, "relay.test", codec=far_codec), "127.0.0.1", port
            )
            yield near, far
        finally:
            server.close()
    finally:
        near.close(GoAwayReason.SHUTDOWN)
        far.close(GoAwayReason.SHUTDOWN)
        await asyncio.wait([near.closed, far.closed], timeout=5)
