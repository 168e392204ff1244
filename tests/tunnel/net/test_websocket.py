"""What the relay's end of a carrier does with peers that do not keep to RFC 6455 or to SPEC.md."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sallyport.tunnel import handshake
from sallyport.tunnel.errors import LinkLost, LinkTimedOut
from sallyport.tunnel.limits import MESSAGE_MAX
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.link_pair import Owner

pytestmark = pytest.mark.anyio

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)
SUBPROTOCOL = "Sec-WebSocket-Protocol: sallyport.v1\r\n"


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """Make a raw frame, with the mask 0 where there is one."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask_bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, mask_bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    return head + (bytes(4) if masked else b"") + payload


@asynccontextmanager
async def relay_end(
    request: str,
) -> AsyncIterator[tuple[Owner, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve one link's carrier on loopback and send it an upgrade request."""
    loop = asyncio.get_running_loop()
    owner = Owner()
    link = Link(Side.RELAY, owner, budget=MemoryBudget(1 << 20), loop=loop)
    server = await loop.create_server(lambda: WebSocketCarrier.server(link), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request.encode())
        try:
            yield owner, reader, writer
        finally:
            writer.close()
            with anyio.fail_after(5):
                await link.closed


async def test_the_upgrade_names_the_subprotocol() -> None:
    """A proper upgrade is answered by 101 with our subprotocol and no extension."""
    async with relay_end(UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (_, reader, _w):
        with anyio.fail_after(5):
            head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Protocol: sallyport.v1" in head
    assert b"extensions" not in head.lower()


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (UPGRADE.format(path="/other", more=SUBPROTOCOL), 404),
        (UPGRADE.format(path="/link", more=""), 400),
        (UPGRADE.format(path="/link", more="Sec-WebSocket-Protocol: mqtt\r\n"), 400),
        ("GET /link HTTP/1.1\r\nHost: relay.test\r\n\r\n", 426),
    ],
)
async def test_an_upgrade_that_is_no_links_is_refused(request_text: str, status: int) -> None:
    """A wrong path, no subprotocol of ours, or no upgrade at all gets its status and an end."""
    async with relay_end(request_text) as (owner, reader, _):
        with anyio.fail_after(5):
            answer = await reader.read()
            await owner.lost.wait()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"GET\r\n\r\n", b"x" * 20_000, b"\x16\x03\x01" * 50])
async def test_garbage_instead_of_an_upgrade_ends(garbage: bytes) -> None:
    """What is no HTTP ends the connection, and the link with it."""
    async with relay_end("") as (owner, reader, writer):
        writer.write(garbage)
        writer.write_eof()
        with anyio.fail_after(5):
            await reader.read()
            await owner.lost.wait()
    assert isinstance(owner.error, LinkLost)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(frame(1, b"text"), id="text"),
        pytest.param(frame(2, b"part", fin=False), id="fragment"),
        pytest.param(frame(0, b"rest"), id="continuation of nothing"),
        pytest.param(frame(2, b"x", masked=False), id="unmasked"),
        pytest.param(frame(2, b"x", rsv=4), id="compressed without an extension"),
        pytest.param(frame(3, b"x"), id="reserved opcode"),
        pytest.param(frame(9, b"x" * 126), id="long ping"),
        pytest.param(frame(9, b"x", fin=False), id="fragmented ping"),
        pytest.param(frame(8, b"\x03"), id="close of one byte"),
        pytest.param(struct.pack("!BBQ", 0x82, 0xFF, 2**63) + bytes(4), id="2^63 bytes declared"),
        pytest.param(struct.pack("!BBQ", 0x82, 0xFF, 2**40) + bytes(4), id="2^40 bytes declared"),
        pytest.param(
            struct.pack("!BBQ", 0x82, 0xFF, MESSAGE_MAX + 1) + bytes(4), id="one byte above the limit"
        ),
        pytest.param(frame(2, b"no frame of ours"), id="a message that is no frame"),
        pytest.param(frame(2, b""), id="an empty message"),
        pytest.param(frame(9, b"x") * 1000, id="a flood of pings"),
    ],
)
async def test_hostile_frames_end_the_link(hostile: bytes) -> None:
    """Each ends the connection by itself, before memory is taken for what it declares."""
    async with relay_end(UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        writer.write(hostile)
        with anyio.fail_after(5):
            await reader.read()
            await owner.lost.wait()
    assert owner.error is not None
    assert not owner.ready.is_set()


async def test_a_peer_that_never_upgrades_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing is cut when the wait for HELLO is over."""
    monkeypatch.setattr(handshake, "HELLO_TIMEOUT", 0.05)
    async with relay_end("") as (owner, reader, _):
        with anyio.fail_after(5):
            assert await reader.read() == b""
            await owner.lost.wait()
    assert isinstance(owner.error, LinkTimedOut)


async def test_close_is_answered_by_close() -> None:
    """A peer that closes in order gets its close frame back."""
    async with relay_end(UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        with anyio.fail_after(5):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(8, struct.pack("!H", 1000)))
            answer = await reader.read()
            await owner.lost.wait()
    assert answer == b"\x88\x02\x03\xe8"
