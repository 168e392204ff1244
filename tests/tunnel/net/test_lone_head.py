"""A head that comes without its body: from a caller, to the server of this package."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from sallyport.tunnel.net.http_forward import Answer
from tests.harness.http_hop import PATIENCE, Caller, Hop, hop_to, request, until

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SENT = b"POST /mcp HTTP/1.1\r\nHost: upstream.test\r\nContent-Length: %d\r\n\r\n"


class Answering(asyncio.Transport):
    """A server that answers every write, and keeps what was written."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if not data.endswith(b"\r\n\r\n"):  # a head alone gets no answer
            asyncio.get_running_loop().call_soon(self._protocol.data_received, OK)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Answer all the same."""

    def resume_reading(self) -> None:
        """Have held nothing."""

    def abort(self) -> None:
        """Be there for the next one."""

    close = abort


@asynccontextmanager
async def hop() -> AsyncIterator[tuple[Hop, Caller, list[bytes]]]:
    """Connect a caller to a hop, and yield with them what the upstream is sent, write by write."""
    written: list[bytes] = []

    async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
        protocol = factory()
        transport = Answering(protocol)
        transport.written = written
        protocol.connection_made(transport)

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as found:
            async with await Caller.connect(found.address) as caller:
                await until(lambda: bool(found.servers))
                yield found, caller, written


def head_and_body(body: bytes) -> tuple[bytes, bytes]:
    """Return a request in the two pieces that httpx writes."""
    whole = request(body)
    return whole.removesuffix(body), body


async def test_a_body_right_behind_its_head_goes_on_with_it() -> None:
    """The loop brought the head; the body is in the socket by the time somebody looks."""
    head, body = head_and_body(b"12345")
    async with hop() as (found, caller, written):
        found.servers[0].data_received(head)
        assert found.decided == []
        await caller.send(body)
        assert (await caller.reply()).status == 200
    assert written == [SENT % 5 + body]


async def test_a_head_with_nothing_behind_it_goes_on() -> None:
    """Its body may take its time, and the upstream hears of it meanwhile."""
    head, body = head_and_body(b"12345")
    async with hop() as (found, caller, written):
        found.servers[0].data_received(head)
        await until(lambda: written == [SENT % 5])
        await caller.send(body)
        assert (await caller.reply()).status == 200
    assert written == [SENT % 5, body]


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_body_that_looks_like_a_request_is_a_body(is_paused: bool) -> None:
    """Word for word like one that is known on this connection: it belongs to the head that was held."""
    known = request(b"x")
    head, body = head_and_body(known)
    async with hop() as (found, caller, written):
        await caller.send(known)
        await caller.reply()
        server = found.servers[0]
        server.data_received(head)
        if is_paused:
            server.pause_writing()
        server.data_received(body)
        if is_paused:
            server.resume_writing()
        assert (await caller.reply()).status == 200
    assert len(found.decided) == 2
    assert written == [SENT % 1 + b"x", SENT % len(body) + body]


async def test_heads_do_not_gather() -> None:
    """One that comes while another is held is not held as well, however many come in one turn of the loop."""
    async with hop() as (found, _, _):
        server = found.servers[0]
        found.decide = lambda head: Answer(200, [], head.target)
        server.data_received(request(method="GET", target="/1"))
        server.data_received(request(method="GET", target="/2"))
        assert [head.target for head in found.decided] == [b"/1", b"/2"]


async def test_a_caller_who_leaves_behind_his_head_has_called() -> None:
    """The end is not taken before the head: the call is settled, as one whose caller has left."""
    head, _ = head_and_body(b"12345")
    async with hop() as (found, _, _):
        found.servers[0].data_received(head)
        found.servers[0].eof_received()
        assert [record.outcome for record in found.records] == ["caller-left"]


async def test_a_head_that_has_come_is_answered_before_a_restart() -> None:
    """Whoever drains the connection while it is held waits for the call."""
    head, body = head_and_body(b"12345")
    async with hop() as (found, caller, _):
        found.servers[0].data_received(head)
        found.servers[0].drain()
        await caller.send(body)
        assert (await caller.reply()).status == 200
        assert await caller.reader.read() == b""


async def test_a_head_is_dropped_with_its_connection() -> None:
    """Nobody is left to answer, and nothing was done."""
    head, _ = head_and_body(b"12345")
    async with hop() as (found, _, written):
        found.servers[0].data_received(head)
        found.servers[0].abort()
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
    assert (found.decided, found.records, written) == ([], [], [])
