"""The pool: which connection carries a request, and that none carries it twice."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import anyio
import pytest

from sallyport.tunnel.errors import BodyTruncated, TlsFailed
from sallyport.tunnel.http1 import END_OF_MESSAGE, EndOfMessage, ResponseEvent, ResponseHead
from sallyport.tunnel.net.http_client import ClientPool, UpstreamConnection
from sallyport.tunnel.net.http_forward import ForwardFailure
from tests.harness.http_hop import (
    PATIENCE,
    Caller,
    Hop,
    Peer,
    answers,
    hop_to,
    request,
    serve,
    until,
)

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def call(hop: Hop) -> int:
    """Make one call on a connection of its own and return its status."""
    async with await Caller.connect(hop.address) as caller:
        await caller.send(request(b"x"))
        return (await caller.reply()).status


async def test_callers_share_idle_connections() -> None:
    """One after the other they need one."""
    with anyio.fail_after(PATIENCE):
        async with serve(answers()) as upstream, hop_to(upstream.address) as hop:
            for _ in range(5):
                assert await call(hop) == 200
            assert upstream.accepted == 1
    assert [record.upstream_number for record in hop.records] == [1, 2, 3, 4, 5]


async def test_idle_connections_are_bounded_and_the_last_used_goes_first() -> None:
    """A burst dials; then the most recent ones are kept and the rest is closed."""
    closed = 0
    together = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal closed
        await peer.request()
        await together.wait()
        await peer.send(OK)
        await peer.gone()
        closed += 1

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address, max_idle=2) as hop:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(call, hop)
                await until(lambda: upstream.accepted == 5)
                together.set()
            await until(lambda: closed == 3)


async def test_an_idle_connection_is_closed_in_time() -> None:
    """By us, before the server does it."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.gone()
        gone.set()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address, pool_idle=0.1) as hop:
            assert await call(hop) == 200
            await gone.wait()


@pytest.mark.parametrize("what", [b"", b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_an_idle_connection_that_is_told_something_is_dropped(what: bytes) -> None:
    """Bytes that nobody asked for, or an end: the next request has a connection of its own."""
    tell, told = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await tell.wait()
        if what:
            await peer.send(what)
            await peer.gone()
        told.set()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            assert await call(hop) == 200
            tell.set()
            await told.wait()
            assert await call(hop) == 200
            assert upstream.accepted == 2


async def test_a_connection_found_closed_before_it_is_used_is_passed_over() -> None:
    """The loop has not told of the end yet, and nothing was written: a new one is dialled."""
    with anyio.fail_after(PATIENCE):
        peers: list[Peer] = []

        async def script(peer: Peer) -> None:
            peers.append(peer)
            while True:
                await peer.request()
                await peer.send(OK)

        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                await caller.reply()
                # In one turn of the loop: the server closes, and the next request comes.
                peers[0].reset()
                await asyncio.sleep(0)
                hop.servers[0].data_received(request(b"x"))
                assert (await caller.reply()).status == 200
            assert upstream.accepted == 2


class StandingLoop:
    """The running loop, with a clock that somebody else moves: as it stands still within a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()
        self._loop = loop

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


async def test_connections_are_looked_at_together_and_once_a_turn(looks: list[int]) -> None:
    """Four are idle and two have ended unheard: one look, the two others are lent, then it is dialled."""
    running = asyncio.get_running_loop()
    loop = StandingLoop(running)
    dialled = 0
    with anyio.fail_after(PATIENCE), socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
            nonlocal dialled
            dialled += 1
            await running.create_connection(factory, *listener.getsockname())

        async with asyncio.TaskGroup() as tasks:
            pool = ClientPool(
                dial,
                idle_timeout=60.0,
                loop=cast(asyncio.AbstractEventLoop, loop),
                spawn=tasks.create_task,
            )
            first = [Told() for _ in range(4)]
            for each in first:
                pool.lend(each)
            servers = {}
            for _ in first:
                server, caller = await running.sock_accept(listener)
                servers[caller] = server
                server.sendall(OK)
            await until(lambda: all(each.told for each in first))
            idle = [each.connection for each in first if each.connection is not None]
            for connection in idle:
                connection.give_back(clean=True)

            for connection in (idle[1], idle[3]):
                servers[connection.transport.get_extra_info("sockname")].close()
            again = [Told() for _ in range(3)]
            for each in again:  # in one turn, so that the loop has told nobody of the two ends
                pool.lend(each)
            assert looks == [4]
            assert [each.connection for each in again] == [idle[2], idle[0], None]
            await until(lambda: again[2].connection is not None)
            assert dialled == 5
            assert again[2].connection is not None
            for connection in (*idle, again[2].connection):
                connection.abort()
            for server in servers.values():
                server.close()


@pytest.mark.parametrize("fields", [b"Connection: close\r\nContent-Length: 0\r\n", b""])
async def test_an_answer_that_ends_its_connection(fields: bytes) -> None:
    """It says so, or it has no other end: either way there is no next request on it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
        if fields:
            await peer.gone()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            assert [await call(hop), await call(hop)] == [200, 200]
            assert upstream.accepted == 2


async def test_a_request_is_never_sent_twice() -> None:
    """A kept connection that ends under a request fails it: it may have been executed."""
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(OK)
        seen.append(await peer.request())

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            assert [await call(hop), await call(hop)] == [200, 502]
            assert upstream.accepted == 1
    assert len(seen) == 2
    failure = hop.records[1].failure
    assert failure is not None
    assert (failure.stage, failure.executed) == ("head", "unknown")


async def test_closing_the_pool() -> None:
    """Idle connections close now, and one that is lent when its answer is complete."""
    go_on, gone = asyncio.Event(), []

    async def script(peer: Peer) -> None:
        head, _ = await peer.request()
        if head.method == b"POST":
            await go_on.wait()
        await peer.send(OK)
        await peer.gone()
        gone.append(head.method)

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as one, await Caller.connect(hop.address) as two:
                await one.send(request(b"x"))
                await until(lambda: upstream.accepted == 1)
                await two.send(request(method="GET"))
                await two.reply("GET")
                hop.pool.close()
                await until(lambda: gone == [b"GET"])
                go_on.set()
                assert (await one.reply()).status == 200
                await until(lambda: len(gone) == 2)


@pytest.mark.parametrize(
    ("kept", "alert", "executed"),
    [(False, "certificate_required", "no"), (False, None, "unknown"), (True, "internal_error", "unknown")],
)
async def test_a_tls_alert_in_place_of_the_first_answer(kept: bool, alert: str | None, executed: str) -> None:
    """A server that refuses a certificate after the handshake has not looked at the request."""
    waiting = asyncio.Event()

    async def script(peer: Peer) -> None:
        if kept:
            await peer.request()
            await peer.send(OK)
        await peer.request()
        waiting.set()
        await peer.gone()

    protocols: list[asyncio.Protocol] = []
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream:

            async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
                protocols.append(factory())
                await asyncio.get_running_loop().create_connection(lambda: protocols[-1], *upstream.address)

            async with hop_to(upstream.address, dial=dial) as hop:
                if kept:
                    assert await call(hop) == 200
                async with await Caller.connect(hop.address) as caller:
                    await caller.send(request(b"x"))
                    await waiting.wait()
                    protocols[0].connection_lost(TlsFailed(alert, "as TlsTransport tells it"))
                    assert (await caller.reply()).status == 502
    failure = hop.records[-1].failure
    assert isinstance(failure, ForwardFailure)
    assert failure.executed == executed


class HoldingTransport(asyncio.Transport):
    """
    A transport that, like TLS, delivers what it has held back as soon as reading goes on.

    Its answer comes while the caller takes none.
    """

    def __init__(self, protocol: UpstreamConnection, held: bytes) -> None:
        super().__init__()
        self._protocol = protocol
        self._held = held
        self._closing = False
        self.written: list[object] = []

    def write(self, data: object) -> None:
        self.written.append(data)
        self._protocol.pause_answer()
        self._protocol.data_received(OK)

    def pause_reading(self) -> None:
        """Hold back what was held back already."""

    def resume_reading(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._protocol.data_received(held)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._closing = True

    def close(self) -> None:
        self._closing = True


def made_by(factory: Callable[[], asyncio.Protocol]) -> UpstreamConnection:
    """Return what a pool wants to be connected."""
    connection = factory()
    assert isinstance(connection, UpstreamConnection)
    return connection


async def test_bytes_held_back_behind_an_answer_spoil_its_connection() -> None:
    """They come while the connection is given back, and it is not kept."""
    made: list[UpstreamConnection] = []

    async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
        made.append(made_by(factory))
        made[-1].connection_made(HoldingTransport(made[-1], b"HTTP/1.1 200 OK\r\n"))

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as hop:
            assert [await call(hop), await call(hop)] == [200, 200]
    assert len(made) == 2


async def test_head_and_body_leave_as_one_write() -> None:
    """On a new connection and on a kept one: what came together leaves together."""
    transports: list[HoldingTransport] = []

    async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
        connection = made_by(factory)
        transports.append(HoldingTransport(connection, b""))
        connection.connection_made(transports[-1])

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as hop:
            assert [await call(hop), await call(hop)] == [200, 200]
    assert len(transports) == 1
    head = b"POST /mcp HTTP/1.1\r\nHost: upstream.test\r\nContent-Length: 1\r\n\r\n"
    assert transports[0].written == [head + b"x"] * 2


LONE_HEAD, BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"


class Told:
    """A requester that writes down what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.connection: UpstreamConnection | None = None

    def connected(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        connection.send_request(b"GET", b"GET / HTTP/1.1\r\n\r\n")

    def dial_failed(self, error: Exception) -> None:
        raise AssertionError("it is connected")

    def answer_received(self, events: Sequence[ResponseEvent]) -> None:
        self.told.append(list(events))

    def whole_answer(self, head: ResponseHead, body: bytes) -> None:
        self.told.append((head.status, body))

    def connection_failed(self, error: Exception) -> None:
        self.told.append(type(error))

    def timed_out(self) -> None:
        """Wait on."""

    def pause_request(self) -> None:
        """Have nothing to pause."""

    def resume_request(self) -> None:
        """Have nothing to resume."""


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[UpstreamConnection, Told, socket.socket]]:
    """Connect to a server that the test plays itself, and begin a request."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
            await loop.create_connection(factory, *listener.getsockname())

        async with asyncio.TaskGroup() as tasks:
            told = Told()
            ClientPool(dial, idle_timeout=60.0, loop=loop, spawn=tasks.create_task).lend(told)
            server, _ = await loop.sock_accept(listener)
            await until(lambda: told.connection is not None)
            assert told.connection is not None
            with server:
                yield told.connection, told, server
            told.connection.abort()


async def test_a_head_waits_for_the_body_that_is_there() -> None:
    """A server wrote both, one after the other, and one piece goes on."""
    with anyio.fail_after(PATIENCE):
        async with connected() as (connection, told, server):
            connection.data_received(LONE_HEAD)
            server.sendall(BODY)
            await until(lambda: bool(told.told))
    (events,) = told.told
    assert isinstance(events, list)
    assert [type(event) for event in events] == [ResponseHead, bytes, EndOfMessage]


async def test_a_head_waits_for_nothing_that_is_not_there() -> None:
    """An event stream may be silent for minutes behind its head: that goes on in the loop's next turn."""
    with anyio.fail_after(PATIENCE):
        async with connected() as (connection, told, server):
            connection.data_received(LONE_HEAD)
            assert told.told == []
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            (events,) = told.told
            assert isinstance(events, list)
            assert [type(event) for event in events] == [ResponseHead]
            server.sendall(BODY)
            await until(lambda: len(told.told) == 2)
    assert told.told[1] == [BODY, END_OF_MESSAGE]


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_head_that_is_held_goes_on_before_the_end(error: Exception | None) -> None:
    """Whoever asked hears that the answer has begun, so that he cuts it off and makes no other."""
    with anyio.fail_after(PATIENCE):
        async with connected() as (connection, told, _):
            connection.data_received(LONE_HEAD)
            if error is None:
                connection.eof_received()
            else:
                connection.connection_lost(error)
    events, failure = told.told
    assert isinstance(events, list)
    assert [type(event) for event in events] == [ResponseHead]
    assert failure is (BodyTruncated if error is None else ConnectionResetError)


async def test_a_head_that_nobody_waits_for_is_dropped() -> None:
    """The caller has left while it was held."""
    with anyio.fail_after(PATIENCE):
        async with connected() as (connection, told, _):
            connection.data_received(LONE_HEAD)
            connection.abort()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
    assert told.told == []
