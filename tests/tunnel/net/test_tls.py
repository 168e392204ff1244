"""TLS over a TCP connection: who hears what, and when, on every event loop."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from sallyport.certs.contexts import caller_context, door_context
from sallyport.certs.names import tunnel_host
from sallyport.tunnel.errors import TlsFailed, TlsTruncated
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine
from tests.harness.identity import DOMAIN, TestIdentity
from tests.harness.link_pair import Recorder

pytestmark = pytest.mark.anyio

Judge = Callable[[ssl.SSLObject], None]


def nobody_refused(tls: ssl.SSLObject) -> None:
    """Let everybody in."""


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make one tunnel for all tests of this file."""
    return TestIdentity(tmp_path_factory.mktemp("tunnel") / "identity")


@asynccontextmanager
async def tls_pair(
    identity: TestIdentity, *, verify: Judge = nobody_refused, timeout: float = 5
) -> AsyncIterator[tuple[Recorder, Recorder]]:
    """Connect a caller to a gateway over loopback TCP; ``verify`` is the caller's judge."""
    loop = asyncio.get_running_loop()
    caller, gateway = Recorder(), Recorder()
    began: list[TlsTransport] = []

    def accepted() -> asyncio.Protocol:
        engine = TlsEngine(
            door_context(identity.directory.gateway("gw"), identity.root), server_side=True
        )
        began.append(
            TlsTransport(engine, gateway, loop=loop, verify=nobody_refused, handshake_timeout=timeout)
        )
        return began[-1]

    server = await loop.create_server(accepted, "127.0.0.1", 0)
    engine = TlsEngine(
        caller_context(identity.bundle),
        server_side=False,
        server_hostname=tunnel_host(identity.label, DOMAIN),
    )
    dialled = TlsTransport(engine, caller, loop=loop, verify=verify, handshake_timeout=timeout)
    async with server:
        transport, _ = await loop.create_connection(
            lambda: dialled, "127.0.0.1", server.sockets[0].getsockname()[1]
        )
        try:
            yield caller, gateway
        finally:
            transport.abort()
            if gateway.transport is not None:
                gateway.transport.abort()
            with anyio.fail_after(5):
                await caller.until(lambda p: bool(p.lost))
                if began:  # also when the gateway was never introduced: its connection must not be left open
                    await gateway.until(lambda p: bool(p.lost))


async def test_both_are_introduced_and_talk(identity: TestIdentity) -> None:
    """After the handshake each side has a transport, data flows and a close is heard as one."""
    async with tls_pair(identity) as (caller, gateway):
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
            assert caller.transport is not None
            caller.transport.write(b"question")
            await gateway.until(lambda p: p.received == b"question")
            assert gateway.transport is not None
            gateway.transport.write(b"answer")
            gateway.transport.close()
            await caller.until(lambda p: p.eof)
            assert caller.received == b"answer"
            caller.transport.close()
            await gateway.until(lambda p: bool(p.lost))
        assert gateway.lost == [None]


async def test_a_refused_peer_is_never_introduced(identity: TestIdentity) -> None:
    """When the judge refuses, the protocol above gets the reason and never a transport to write to."""

    def refuse(tls: ssl.SSLObject) -> None:
        raise PermissionError("not him")

    async with tls_pair(identity, verify=refuse) as (caller, gateway):
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))
        assert caller.transport is None
        assert isinstance(caller.lost[0], PermissionError)
        assert gateway.received == b""


async def test_half_a_close_still_reads(identity: TestIdentity) -> None:
    """After write_eof the peer hears the end at once, and what it still sends is received."""
    async with tls_pair(identity) as (caller, gateway):
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
            await gateway.until(lambda p: p.transport is not None)
            assert caller.transport is not None
            assert gateway.transport is not None
            gateway.transport.write(b"413")
            gateway.transport.write_eof()
            gateway.transport.write(b"nothing more")
            await caller.until(lambda p: p.eof)
            assert caller.received == b"413"
            caller.transport.write(b"the rest")
            await gateway.until(lambda p: p.received == b"the rest")
            caller.transport.close()
            await gateway.until(lambda p: p.eof)
            gateway.transport.close()
            await gateway.until(lambda p: bool(p.lost))
        assert gateway.lost == [None]


async def test_an_abort_is_truncation_for_the_peer(identity: TestIdentity) -> None:
    """A connection that is cut is not mistaken for one that ended."""
    async with tls_pair(identity) as (caller, gateway):
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
            await gateway.until(lambda p: p.transport is not None)
            assert gateway.transport is not None
            gateway.transport.write(b"half an ans")
            gateway.transport.abort()
            await caller.until(lambda p: bool(p.lost))
        assert not caller.eof
        assert isinstance(caller.lost[0], TlsTruncated | ConnectionError)


async def test_a_stalled_handshake_ends(identity: TestIdentity) -> None:
    """A peer that never speaks is given up after the handshake's time, by name."""
    loop = asyncio.get_running_loop()
    gateway = Recorder()
    engine = TlsEngine(door_context(identity.directory.gateway("gw"), identity.root), server_side=True)
    tls = TlsTransport(engine, gateway, loop=loop, verify=nobody_refused, handshake_timeout=0.05)
    server = await loop.create_server(lambda: tls, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        with anyio.fail_after(5):
            await gateway.until(lambda p: bool(p.lost))
        writer.close()
    assert isinstance(gateway.lost[0], TlsFailed)
    assert "too long" in str(gateway.lost[0])


async def test_plain_text_gets_an_alert_and_an_end(identity: TestIdentity) -> None:
    """Whoever speaks plain HTTP to TLS is answered with an alert, and nothing else."""
    loop = asyncio.get_running_loop()
    gateway = Recorder()
    engine = TlsEngine(door_context(identity.directory.gateway("gw"), identity.root), server_side=True)
    tls = TlsTransport(engine, gateway, loop=loop, verify=nobody_refused, handshake_timeout=5)
    server = await loop.create_server(lambda: tls, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with anyio.fail_after(5):
            answer = await reader.read()
        writer.close()
    assert answer == b"" or answer[0] == 21  # an alert record, or nothing where OpenSSL has none for it
    assert isinstance(gateway.lost[0], TlsFailed)


async def test_bulk_past_a_reader_that_stops(identity: TestIdentity) -> None:
    """Megabytes arrive whole though their reader pauses, and the writer is asked to pause meanwhile."""
    data = os.urandom(8_000_000)
    async with tls_pair(identity) as (caller, gateway):
        with anyio.fail_after(20):
            await caller.until(lambda p: p.transport is not None)
            await gateway.until(lambda p: p.transport is not None)
            assert caller.transport is not None
            assert gateway.transport is not None
            gateway.transport.pause_reading()
            caller.transport.write(data)
            assert caller.is_paused
            gateway.transport.resume_reading()
            await gateway.until(lambda p: len(p.received) == len(data))
            await caller.until(lambda p: not p.is_paused)
        assert bytes(gateway.received) == data


class _InMemory(asyncio.Transport):
    """What is below TLS when a test brings the bytes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        """Stay open: whoever tests decides what comes."""

    def abort(self) -> None:
        """Stay open."""

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Bring what the test brings."""

    def resume_reading(self) -> None:
        """Bring what the test brings."""

    def take(self) -> bytes:
        """Take what was written."""
        taken = bytes(self.written)
        self.written.clear()
        return taken


class _Pieces(asyncio.Protocol):
    """Keeps what it is given, piece by piece, and stops reading at some of them."""

    def __init__(self, *, pause_at: int = 0) -> None:
        self.transport: asyncio.Transport | None = None
        self.pieces: list[bytes] = []
        self.ends = 0
        self.lost: list[Exception | None] = []
        self._pause_at = pause_at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        if len(self.pieces) == self._pause_at and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.ends += 1
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def in_memory(identity: TestIdentity, reader: _Pieces) -> tuple[TlsTransport, _InMemory, TlsTransport]:
    """Return the caller's end, what it writes to, and the gateway's end below the reader, both admitted."""
    loop = asyncio.get_running_loop()
    name = tunnel_host(identity.label, DOMAIN)
    engines = (
        TlsEngine(caller_context(identity.bundle), server_side=False, server_hostname=name),
        TlsEngine(door_context(identity.directory.gateway("gw"), identity.root), server_side=True),
    )
    caller, gateway = (
        TlsTransport(engine, upper, loop=loop, verify=nobody_refused, handshake_timeout=5)
        for engine, upper in zip(engines, (_Pieces(), reader), strict=True)
    )
    up, down = _InMemory(), _InMemory()
    gateway.connection_made(down)
    caller.connection_made(up)
    while up.written or down.written:
        gateway.data_received(up.take())
        caller.data_received(down.take())
    return caller, up, gateway


async def test_much_at_once_goes_up_in_pieces(identity: TestIdentity) -> None:
    """What comes in one delivery is not joined: pieces of some 80 KiB go up, in order and complete."""
    reader = _Pieces()
    caller, wire, gateway = in_memory(identity, reader)
    sent = os.urandom(1 << 20)
    caller.write(sent)
    gateway.data_received(wire.take())
    assert b"".join(reader.pieces) == sent
    assert 12 < len(reader.pieces) < 16


async def test_a_reader_that_stops_in_the_middle_gets_no_further_piece(identity: TestIdentity) -> None:
    """The rest of a delivery waits for a reader who stops at its second piece, and comes when he goes on."""
    reader = _Pieces(pause_at=2)
    caller, wire, gateway = in_memory(identity, reader)
    sent = os.urandom(1 << 20)
    caller.write(sent)
    gateway.data_received(wire.take())
    assert len(reader.pieces) == 2
    gateway.resume_reading()
    await anyio.lowlevel.checkpoint()
    assert b"".join(reader.pieces) == sent


async def test_a_broken_record_spares_what_came_before_it(identity: TestIdentity) -> None:
    """In the middle of a large delivery: what is whole goes up, then the connection fails, once."""
    reader = _Pieces()
    caller, wire, gateway = in_memory(identity, reader)
    sent = os.urandom(1 << 20)
    caller.write(sent)
    wire.written[len(wire.written) // 2] ^= 1
    gateway.data_received(wire.take())
    assert sent.startswith(received := b"".join(reader.pieces))
    assert len(sent) // 2 - (1 << 15) < len(received) <= len(sent) // 2
    assert [type(error) for error in reader.lost] == [TlsFailed]


async def test_what_comes_behind_the_end_is_ignored(identity: TestIdentity) -> None:
    """The end is heard once, whatever else the peer sends (RFC 8446 §6.1)."""
    reader = _Pieces()
    caller, wire, gateway = in_memory(identity, reader)
    caller.write(b"last words")
    caller.write_eof()
    gateway.data_received(wire.take())
    gateway.data_received(b"rubbish behind the end")
    assert (reader.pieces, reader.ends, reader.lost) == ([b"last words"], 1, [])
