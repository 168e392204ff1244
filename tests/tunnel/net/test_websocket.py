"""
What either end of a carrier does with peers that do not keep to RFC 6455 or to SPEC.md, on each codec.
"""

import asyncio
import re
import struct
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from websockets.utils import accept_key

from sallyport.tunnel import handshake
from sallyport.tunnel.errors import LinkLost, LinkTimedOut
from sallyport.tunnel.events import Hello
from sallyport.tunnel.limits import MESSAGE_MAX
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.net.websocket_codec import CodecName
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.link_pair import CODECS, Owner

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


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> CodecName:
    """Run a test on each codec."""
    name: CodecName = request.param
    return name


@asynccontextmanager
async def relay_end(
    codec: CodecName, request: str
) -> AsyncIterator[tuple[Owner, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve one link's carrier on loopback and send it an upgrade request."""
    loop = asyncio.get_running_loop()
    owner = Owner()
    link = Link(Side.RELAY, owner, budget=MemoryBudget(1 << 20), loop=loop)
    server = await loop.create_server(lambda: WebSocketCarrier.server(link, codec=codec), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request.encode())
        try:
            yield owner, reader, writer
        finally:
            writer.close()
            with anyio.fail_after(5):
                await link.closed


async def test_the_upgrade_names_the_subprotocol(codec: CodecName) -> None:
    """A proper upgrade is answered by 101 with our subprotocol and no extension."""
    async with relay_end(codec, UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (_, reader, _w):
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
async def test_an_upgrade_that_is_no_links_is_refused(
    codec: CodecName, request_text: str, status: int
) -> None:
    """A wrong path, no subprotocol of ours, or no upgrade at all gets its status and an end."""
    async with relay_end(codec, request_text) as (owner, reader, _):
        with anyio.fail_after(5):
            answer = await reader.read()
            await owner.lost.wait()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"GET\r\n\r\n", b"x" * 20_000, b"\x16\x03\x01" * 50])
async def test_garbage_instead_of_an_upgrade_ends(codec: CodecName, garbage: bytes) -> None:
    """What is no HTTP ends the connection, and the link with it."""
    async with relay_end(codec, "") as (owner, reader, writer):
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
        pytest.param(frame(9, b"x", rsv=1), id="ping with a reserved bit"),
        pytest.param(frame(8, b"\x03"), id="close of one byte"),
        pytest.param(frame(2, b"", rsv=2) + frame(8, b""), id="a reserved bit, then a close in order"),
        pytest.param(struct.pack("!BBQ", 0x82, 0xFF, 2**63) + bytes(4), id="2^63 bytes declared"),
        pytest.param(struct.pack("!BBQ", 0x82, 0xFF, 2**40) + bytes(4), id="2^40 bytes declared"),
        pytest.param(
            struct.pack("!BBQ", 0x82, 0xFF, MESSAGE_MAX + 1) + bytes(4), id="one byte above the limit"
        ),
        pytest.param(struct.pack("!BBQ", 0x82, 0xFF, 5) + bytes(9), id="a length longer than needed"),
        pytest.param(frame(2, b"no frame of ours"), id="a message that is no frame"),
        pytest.param(frame(2, b""), id="an empty message"),
        pytest.param(frame(9, b"x") * 1000, id="a flood of pings"),
    ],
)
async def test_hostile_frames_end_the_link(codec: CodecName, hostile: bytes) -> None:
    """Each ends the connection by itself, before memory is taken for what it declares."""
    async with relay_end(codec, UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        writer.write(hostile)
        with anyio.fail_after(5):
            await reader.read()
            await owner.lost.wait()
    assert owner.error is not None
    assert not owner.ready.is_set()


async def test_a_peer_that_never_upgrades_is_dropped(
    codec: CodecName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects and says nothing is cut when the wait for HELLO is over."""
    monkeypatch.setattr(handshake, "HELLO_TIMEOUT", 0.05)
    async with relay_end(codec, "") as (owner, reader, _):
        with anyio.fail_after(5):
            assert await reader.read() == b""
            await owner.lost.wait()
    assert isinstance(owner.error, LinkTimedOut)


async def test_close_is_answered_by_close(codec: CodecName) -> None:
    """A peer that closes in order gets its close frame back."""
    async with relay_end(codec, UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        with anyio.fail_after(5):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(8, struct.pack("!H", 1000)))
            answer = await reader.read()
            await owner.lost.wait()
    assert answer == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
async def test_a_close_that_nobody_may_send_is_no_close_in_order(codec: CodecName, code: int) -> None:
    """Its code is one that RFC 6455 keeps for other uses, so the connection is broken and not closed."""
    async with relay_end(codec, UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        with anyio.fail_after(5):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(8, struct.pack("!H", code)))
            answer = await reader.read()
            await owner.lost.wait()
    assert answer[0] == 0x88
    assert answer[2:4] == struct.pack("!H", 1002)
    assert isinstance(owner.error, LinkLost)
    assert "WebSocket broke" in str(owner.error)


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 3000) + b"bye", struct.pack("!H", 4999)])
async def test_a_close_is_answered_with_its_own_words(codec: CodecName, payload: bytes) -> None:
    """What a peer gives as its reason comes back to it, and what it sends behind that is not looked at."""
    async with relay_end(codec, UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        with anyio.fail_after(5):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(8, payload))
            answer = await reader.read()
            await owner.lost.wait()
    assert answer == bytes((0x88, len(payload))) + payload
    assert str(owner.error) == "the peer closed the connection"


async def test_pings_are_answered_at_a_rate_at_which_nobody_means_harm(codec: CodecName) -> None:
    """Twenty at once get their pongs, each with its own payload, in order."""
    pings = [frame(9, bytes((number,)) * number) for number in range(20)]
    pongs = b"".join(bytes((0x8A, number)) + bytes((number,)) * number for number in range(20))
    async with relay_end(codec, UPGRADE.format(path="/link", more=SUBPROTOCOL)) as (owner, reader, writer):
        with anyio.fail_after(5):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(pings) + frame(10, b"a pong that nobody asked for"))
            assert await reader.readexactly(len(pongs)) == pongs
        assert not owner.lost.is_set()


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "X: " + "x" * 9_000 + "\r\n"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "X: 1\r\n" * 200),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + ("X: " + "x" * 4_000 + "\r\n") * 5),
        UPGRADE.format(path="/link" + "x" * 9_000, more=SUBPROTOCOL),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "Content-Length: 5\r\n"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "Transfer-Encoding: chunked\r\n"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL).replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL).replace("Version: 13", "Version: 8"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL).replace("Connection: Upgrade", "Connection: close"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL).replace("Upgrade: websocket", "Upgrade: h2c"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL).replace("GET", "POST"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL).replace("HTTP/1.1", "HTTP/1.0"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "X: 1\r\n folded\r\n"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "X : 1\r\n"),
        UPGRADE.format(path="/link", more=SUBPROTOCOL + "X: \x00\r\n"),
        UPGRADE.format(path="/link?x=1", more=SUBPROTOCOL),
    ],
    ids=lambda head: head[-60:].strip(),
)
async def test_an_upgrade_that_is_not_right_opens_nothing(codec: CodecName, head: str) -> None:
    """The relay ends it by itself, with an answer that is no 101 or with none, and says why in its log."""
    async with relay_end(codec, head) as (owner, reader, _):
        with anyio.fail_after(5):
            answer = await reader.read()
            await owner.lost.wait()
    assert not answer.startswith(b"HTTP/1.1 101 ")
    assert isinstance(owner.error, LinkLost)
    assert "WebSocket" in str(owner.error)


async def test_an_upgrade_byte_by_byte_with_frames_behind_it(codec: CodecName) -> None:
    """However the bytes are cut, the upgrade is one, and a frame right behind it is not lost."""
    request = UPGRADE.format(path="/link", more=SUBPROTOCOL).encode() + frame(9, b"early")
    link = Link(Side.RELAY, Owner(), budget=MemoryBudget(1 << 20), loop=asyncio.get_running_loop())
    carrier = WebSocketCarrier.server(link, codec=codec)
    transport = Written()
    carrier.connection_made(transport)
    for byte in request:
        carrier.data_received(bytes((byte,)))
    head, _, frames = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert frames == b"\x8a\x05early"
    link.abort()


async def test_a_declared_length_takes_no_memory(codec: CodecName) -> None:
    """One byte more than the limit is refused by the head of its frame; below it, what came is held."""
    link = Link(Side.RELAY, Owner(), budget=MemoryBudget(1 << 20), loop=asyncio.get_running_loop())
    carrier = WebSocketCarrier.server(link, codec=codec)
    transport = Written()
    carrier.connection_made(transport)
    carrier.data_received(UPGRADE.format(path="/link", more=SUBPROTOCOL).encode())
    carrier.data_received(struct.pack("!BBQ", 0x82, 0xFF, MESSAGE_MAX))
    assert not transport.is_closing()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(MESSAGE_MAX // 1024):
            carrier.data_received(bytes(1024))
        assert tracemalloc.get_traced_memory()[0] - before < 8 * MESSAGE_MAX
    finally:
        tracemalloc.stop()
    link.abort()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", "the WebSocket upgrade with 403"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "the WebSocket upgrade with 502"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "the WebSocket upgrade with 200"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "upgrade with 101"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the WebSocket broke: did not receive a valid HTTP response"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 10_000, "the WebSocket broke: "),
        (
            b"HTTP/1.1 403 No\r\nContent-Length: 90\r\nX: " + bytes(17_000),
            "the WebSocket broke: more than",
        ),
        ("right, but no subprotocol", "the relay does not speak sallyport.v1"),
        ("right, but another subprotocol", "upgrade with 101"),
        ("right, but an extension", "upgrade with 101"),
    ],
)
async def test_a_gateway_says_what_it_was_answered(
    codec: CodecName, answer: bytes | str, reason: str
) -> None:
    """Each is one error with the relay's own status in it where there is one."""
    owner = Owner()
    transport = Written()
    hello = Hello(max_streams=1, boot_id="0" * 16, software="test")
    loop = asyncio.get_running_loop()
    link = Link(Side.GATEWAY, owner, budget=MemoryBudget(1 << 20), loop=loop, hello=hello)
    carrier = WebSocketCarrier.client(link, "relay.test", codec=codec)
    carrier.connection_made(transport)
    if isinstance(answer, str):
        answer = right_answer(transport.written, answer)
    carrier.data_received(answer)
    if not transport.is_closing():
        carrier.eof_received()
    assert transport.is_closing()
    carrier.connection_lost(None)
    assert reason in str(owner.error)


async def test_a_masked_frame_of_a_relay_ends_the_link(codec: CodecName) -> None:
    """Masks are the client's (RFC 6455 §5.1), and frames right behind the 101 are looked at."""
    owner = Owner()
    transport = Written()
    hello = Hello(max_streams=1, boot_id="0" * 16, software="test")
    loop = asyncio.get_running_loop()
    link = Link(Side.GATEWAY, owner, budget=MemoryBudget(1 << 20), loop=loop, hello=hello)
    carrier = WebSocketCarrier.client(link, "relay.test", codec=codec)
    carrier.connection_made(transport)
    carrier.data_received(right_answer(transport.written, "right") + frame(2, b"x", masked=True))
    assert transport.is_closing()
    carrier.connection_lost(None)
    assert "WebSocket broke" in str(owner.error)


async def test_what_a_callback_raises_is_not_swallowed(
    codec: CodecName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours reaches the event loop, which reports it, whichever codec called us."""
    link = Link(Side.RELAY, Owner(), budget=MemoryBudget(1 << 20), loop=asyncio.get_running_loop())
    heard = []

    def fail(message: bytes) -> None:
        heard.append(bytes(message))
        raise ZeroDivisionError

    monkeypatch.setattr(link, "message_received", fail)
    carrier = WebSocketCarrier.server(link, codec=codec)
    carrier.connection_made(Written())
    carrier.data_received(UPGRADE.format(path="/link", more=SUBPROTOCOL).encode())
    with pytest.raises(ZeroDivisionError):
        carrier.data_received(frame(2, b"one") + frame(2, b"two"))
    assert heard == [b"one"]
    link.abort()


def right_answer(request: bytes, kind: str) -> bytes:
    """Answer a client's upgrade as a relay does, with what the kind says."""
    key = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", request)
    assert key is not None
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}\r\n"
    if kind != "right, but no subprotocol":
        name = "mqtt" if kind == "right, but another subprotocol" else "sallyport.v1"
        head += f"Sec-WebSocket-Protocol: {name}\r\n"
    if kind == "right, but an extension":
        head += "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    return f"{head}\r\n".encode()


class Written(asyncio.Transport):
    """A transport that goes nowhere and remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass
