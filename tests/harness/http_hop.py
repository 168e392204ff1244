"""
One HTTP hop on loopback: a caller that h11 speaks for, our server and pool, and an upstream that is a script.

The upstream gets real bytes on a real socket and answers with whatever its script writes, right or wrong. A
``Hop`` counts what was decided and settled; leaving it checks that every request was settled exactly once.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import anyio
import h11

from sallyport.tunnel.http1 import OutgoingHead, RequestHead, without_hop_by_hop
from sallyport.tunnel.net.http_client import ClientPool
from sallyport.tunnel.net.http_forward import (
    Answer,
    CallRecord,
    Decision,
    Forward,
    ForwardFailure,
    ForwardTimeouts,
    json_rpc_error,
)
from sallyport.tunnel.net.http_server import HttpServer
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine

PATIENCE = 20.0
Address = tuple[str, int]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds; the caller sets the deadline."""
    while not condition():
        await anyio.lowlevel.checkpoint()


# The upstream


class Peer:
    """One connection that an upstream accepted, as its script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._parser = h11.Connection(h11.SERVER)

    async def request(self) -> tuple[h11.Request, bytes]:
        """Read one request whole."""
        if self._parser.their_state is h11.DONE:
            # The script's answers go past the parser, which only has to believe in one.
            self._parser = h11.Connection(h11.SERVER)
        head = await self.event()
        assert isinstance(head, h11.Request), head
        body = b""
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            body += event.data
        return head, body

    async def event(self) -> object:
        """
        Read the next piece of a request.

        Raises:
            ConnectionError: There is none, or not all of it.
            h11.RemoteProtocolError: It is not one, which is our fault.
        """
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            data = await self.reader.read(1 << 16)
            if not data:
                raise ConnectionAbortedError("the hop has closed the connection")
            self._parser.receive_data(data)
        return event

    async def send(self, data: bytes) -> None:
        """Write bytes, whatever they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the other end has closed, aborted or half-closed."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """End the connection with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Upstream:
    """
    A listening script.

    Attributes:
        address: Where it listens.
        accepted: How many connections it has accepted.
        errors: What its scripts raised; checked by whoever made it.
    """

    address: Address
    accepted: int = 0
    errors: list[Exception] = field(default_factory=list)


@asynccontextmanager
async def serve(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Run a script for each connection; when it returns, its connection is closed."""
    upstream = Upstream(("127.0.0.1", 0))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.accepted += 1
        try:
            await script(Peer(reader, writer))
        except (ConnectionError, ssl.SSLError):
            pass
        except Exception as error:
            upstream.errors.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    upstream.address = server.sockets[0].getsockname()[:2]
    try:
        yield upstream
    finally:
        server.close()
    assert not upstream.errors, upstream.errors


def answers(body: bytes = b"ok", status: bytes = b"200 OK") -> Script:
    """Return a script that answers every request with a length."""

    async def script(peer: Peer) -> None:
        while not peer.reader.at_eof():
            await peer.request()
            await peer.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    return script


def sends(data: bytes, *, then: str = "close") -> Script:
    """Return a script that reads one request, sends these bytes, and closes, resets or waits."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if then == "reset":
            peer.reset()
        elif then == "wait":
            await peer.gone()

    return script


# The hop


@dataclass
class Hop:
    """
    Our server, with our pool behind it.

    Attributes:
        address: Where the server listens.
        pool: Its way to the upstream.
        decided: The heads that were decided upon.
        records: What was settled, in order.
        servers: The connections of callers, in order.
        decide: Decides; tests replace it.
    """

    pool: ClientPool
    timeouts: ForwardTimeouts
    address: Address = ("127.0.0.1", 0)
    decided: list[RequestHead] = field(default_factory=list)
    records: list[CallRecord] = field(default_factory=list)
    servers: list[HttpServer] = field(default_factory=list)
    decide: Callable[[RequestHead], Decision] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def decision(self, head: RequestHead) -> Decision:
        """Forward, unless the test wants otherwise."""
        self.decided.append(head)
        if self.decide is not None:
            return self.decide(head)
        return self.forward(head)

    def forward(self, head: RequestHead) -> Forward:
        """Send the head on with another Host, as a gateway does."""
        headers = [field for field in without_hop_by_hop(head.headers) if field[0].lower() != b"host"]
        rebuilt = replace(head, headers=[(b"Host", b"upstream.test"), *headers])
        return Forward(OutgoingHead.of(rebuilt), self.pool, self.timeouts, explain)

    def settled(self, record: CallRecord) -> None:
        """Take a record."""
        self.records.append(record)
        self._changed.set()

    async def record(self, count: int = 1) -> CallRecord:
        """Wait for the record of the n-th request that was settled."""
        while len(self.records) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.records[count - 1]


def explain(failure: ForwardFailure) -> Answer:
    """Answer 504 for silence and 502 for the rest, with the facts in the body."""
    status = 504 if isinstance(failure.error, TimeoutError) else 502
    data = {"stage": failure.stage, "executed": failure.executed}
    return json_rpc_error(status, f"{type(failure.error).__name__}: {failure.error}", data=data)


@asynccontextmanager
async def hop_to(
    upstream: Address,
    *,
    timeouts: ForwardTimeouts | None = None,
    idle_timeout: float = 60.0,
    head_timeout: float = 60.0,
    pool_idle: float = 60.0,
    max_idle: int = 8,
    caller_tls: ssl.SSLContext | None = None,
    upstream_tls: ssl.SSLContext | None = None,
    dial: Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]] | None = None,
) -> AsyncIterator[Hop]:
    """Run a hop from a loopback port to that address, TLS by our own transport on either side."""
    loop = asyncio.get_running_loop()

    async def connect(factory: Callable[[], asyncio.Protocol]) -> None:
        await loop.create_connection(lambda: _wrapped(factory(), upstream_tls, server_side=False), *upstream)

    def accept() -> asyncio.Protocol:
        server = HttpServer(
            hop.decision,
            finished=hop.settled,
            loop=loop,
            idle_timeout=idle_timeout,
            head_timeout=head_timeout,
        )
        hop.servers.append(server)
        return _wrapped(server, caller_tls, server_side=True)

    async with asyncio.TaskGroup() as tasks:
        pool = ClientPool(
            dial or connect, idle_timeout=pool_idle, loop=loop, spawn=tasks.create_task, max_idle=max_idle
        )
        hop = Hop(pool, timeouts or ForwardTimeouts(first_byte=30.0, idle=30.0))
        listener = await loop.create_server(accept, "127.0.0.1", 0)
        hop.address = listener.sockets[0].getsockname()[:2]
        try:
            yield hop
        finally:
            listener.close()
            for server in hop.servers:
                server.abort()
            pool.close()
        # What was aborted is told so in the next turns of the loop.
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
    assert len(hop.records) >= len(hop.decided), "a request was not settled"
    assert len({id(record) for record in hop.records}) == len(hop.records), "a request was settled twice"


def _wrapped(
    protocol: asyncio.Protocol, context: ssl.SSLContext | None, *, server_side: bool
) -> asyncio.Protocol:
    if context is None:
        return protocol
    name = None if server_side else "server.test"
    engine = TlsEngine(context, server_side=server_side, server_hostname=name)
    loop = asyncio.get_running_loop()
    return TlsTransport(engine, protocol, loop=loop, verify=lambda _tls: None, handshake_timeout=PATIENCE)


# The caller


@dataclass
class Reply:
    """An answer as h11 understands it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    interim: list[int] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a field, by its lower-case name."""
        return dict(self.headers).get(name)


class Caller:
    """One caller's connection. Requests are raw bytes; answers are read by h11, which believes nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._parser = h11.Connection(h11.CLIENT)
        self._behind = b""  # what came behind the former answer

    @classmethod
    async def connect(cls, address: Address, tls: ssl.SSLContext | None = None) -> Self:
        """Connect, over TLS as ``server.test`` if a context is given."""
        name = "server.test" if tls else None
        return cls(*await asyncio.open_connection(*address, ssl=tls, server_hostname=name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass

    async def send(self, data: bytes) -> None:
        """Write bytes, whatever they are."""
        self.writer.write(data)
        await self.writer.drain()

    def expect(self, method: str = "POST") -> None:
        """Prepare to read the answer to a request with that method."""
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        self._parser.send(h11.EndOfMessage())
        if self._behind:
            self._parser.receive_data(self._behind)
            self._behind = b""

    async def event(self) -> object:
        """Read the next piece of the answer."""
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            self._parser.receive_data(await self.reader.read(1 << 16))
        return event

    async def reply(self, method: str = "POST") -> Reply:
        """
        Read a whole answer.

        Raises:
            h11.RemoteProtocolError: It is not one, or it was cut off.
        """
        self.expect(method)
        interim = []
        while isinstance(head := await self.event(), h11.InformationalResponse):
            interim.append(head.status_code)
        assert isinstance(head, h11.Response), head
        reply = Reply(head.status_code, list(head.headers), b"", interim)
        pieces: list[bytes] = []
        while isinstance(event := await self.event(), h11.Data):
            pieces.append(bytes(event.data))
        assert isinstance(event, h11.EndOfMessage), event
        self._behind = bytes(self._parser.trailing_data[0])
        return replace(reply, body=b"".join(pieces))

    async def closed(self) -> None:
        """Wait for the end of the connection, before which nothing more may come."""
        assert self._behind == b""
        try:
            assert await self.reader.read() == b""
        except ConnectionError:
            pass

    def leave(self, how: str) -> None:
        """Leave with a FIN (over TLS behind a close_notify) or a RST."""
        if how == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()


def request(
    body: bytes | None = None, *, method: str = "POST", target: str = "/mcp", fields: Sequence[str] = ()
) -> bytes:
    """Write a request with a length, or without a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: server.test", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
