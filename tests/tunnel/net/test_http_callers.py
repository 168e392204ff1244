"""The caller's side of a hop: who leaves is noticed, who is slow is waited for and no longer, limits hold."""

import asyncio
import json
import ssl
from collections.abc import Callable

import anyio
import pytest
import trustme

from sallyport.tunnel.http1 import RequestHead
from sallyport.tunnel.net import http_server
from sallyport.tunnel.net.http_forward import Answer, ForwardTimeouts
from tests.harness.http_hop import PATIENCE, Caller, Peer, answers, hop_to, request, serve, until
from tests.hostile.http_requests import HostileRequest, OddRequest, hostile_requests, odd_requests

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context for ``server.test``."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("server.test").configure_cert(server)
    authority.configure_trust(client)
    return server, client


# The caller leaves


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("carrier", ["plain", "tls"])
@pytest.mark.parametrize("moment", ["uploading", "waiting", "streaming"])
async def test_the_upstream_hears_at_once_that_the_caller_has_left(
    moment: str, carrier: str, how: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """FIN, close_notify and RST all mean that nobody waits for the answer."""
    reached, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.event()
        if moment == "streaming":
            await peer.send(CHUNKED + b"1\r\na\r\n")
        reached.set()
        await peer.gone()
        left.set()

    server_tls, client_tls = tls if carrier == "tls" else (None, None)
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address, caller_tls=server_tls) as hop:
            caller = await Caller.connect(hop.address, client_tls)
            fields = ["Content-Length: 10"] if moment == "uploading" else []
            await caller.send(request(fields=fields) + b"x" * (5 if fields else 0))
            await reached.wait()
            if moment == "streaming":
                await caller.reader.readuntil(b"a")
            caller.leave(how)
            await left.wait()
            record = await hop.record()
            assert (record.outcome, record.failure) == ("caller-left", None)
            assert record.status == (200 if moment == "streaming" else None)


async def test_a_dial_is_cancelled_when_the_caller_leaves() -> None:
    """Nobody is waiting for that connection any more."""
    dialling, cancelled = asyncio.Event(), asyncio.Event()

    async def dial(_factory: Callable[[], asyncio.Protocol]) -> None:
        dialling.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                await dialling.wait()
            await cancelled.wait()
            assert (await hop.record()).outcome == "caller-left"


async def test_a_connection_made_for_a_caller_who_left_is_dropped() -> None:
    """A handshake that completes too late carries no request."""
    protocols = []

    async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
        protocols.append(factory())

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                await until(lambda: bool(protocols))
            assert (await hop.record()).outcome == "caller-left"

            class Late(asyncio.Transport):
                aborted = False

                def abort(self) -> None:
                    self.aborted = True

            late = Late()
            protocols[0].connection_made(late)
            assert late.aborted


async def test_a_caller_who_takes_nothing_is_dropped() -> None:
    """Silence of the caller is not the upstream's: the call is given up for the caller's sake."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")

    timeouts = ForwardTimeouts(first_byte=30.0, idle=0.3)
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address, timeouts=timeouts) as hop:
            async with await Caller.connect(hop.address) as caller:
                caller.writer.transport.pause_reading()
                await caller.send(request(b"x"))
                record = await hop.record()
    assert (record.outcome, record.failure) == ("caller-left", None)


# Requests that are refused


@pytest.mark.parametrize("case", hostile_requests(), ids=lambda case: case.name)
async def test_hostile_requests(case: HostileRequest) -> None:
    """Each gets its status and a JSON-RPC error, the connection closes, and the upstream is not asked."""
    with anyio.fail_after(PATIENCE):
        async with serve(answers()) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller, anyio.create_task_group() as tasks:
                tasks.start_soon(_send_all, caller, case.data)
                reply = await caller.reply("GET")
                await caller.closed()
            record = await hop.record()
            assert len(hop.records) == 1
            assert upstream.accepted == 0 or case.fault == "body"
    error = json.loads(reply.body)["error"]
    assert reply.status == record.status == case.status
    assert reply.header(b"connection") == b"close"
    assert error["data"]["rule"] == record.rule
    assert (record.outcome, record.number) == ("refused", 1)
    assert (reply.header(b"allow") is not None) is (case.status == 405)


async def _send_all(caller: Caller, data: bytes) -> None:
    try:
        await caller.send(data)
    except ConnectionError:
        pass  # refused before all of it was read


@pytest.mark.parametrize("case", odd_requests(), ids=lambda case: case.name)
async def test_odd_requests(case: OddRequest) -> None:
    """What only looks hostile reaches the upstream, with its body."""
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(case.data)
                assert (await caller.reply()).status == 200
    head, body = seen[0]
    assert (bytes(head.target), body) == (case.target or b"/mcp", case.body)


async def test_a_body_that_goes_wrong_while_it_is_forwarded() -> None:
    """The upstream's connection is dropped, so that it cannot take the part for the whole."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.event()
        begun.set()
        await peer.gone()
        left.set()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Transfer-Encoding: chunked"]) + b"1\r\na\r\n")
                await begun.wait()
                await caller.send(b"zz\r\n")
                reply = await caller.reply()
                await left.wait()
            record = await hop.record()
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["data"]["executed"] == "unknown"
    assert (record.outcome, record.rule) == ("refused", "malformed chunk size")


# Answers of our own


async def test_answers_of_our_own_keep_the_connection() -> None:
    """A short body that nobody wants is read and dropped, also when it comes late; HEAD gets no body."""
    refusal = Answer(403, [(b"X-Rule", b"r")], b"no")
    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1)) as hop:
            hop.decide = lambda _head: refusal
            async with await Caller.connect(hop.address) as caller:
                for _ in range(3):
                    await caller.send(request(b"x" * 1000))
                    reply = await caller.reply()
                    assert (reply.status, reply.body, reply.header(b"x-rule")) == (403, b"no", b"r")
                    await caller.send(request(fields=["Content-Length: 5"]))
                    assert (await caller.reply()).status == 403
                    await caller.send(b"later")
                await caller.send(request(method="HEAD"))
                assert (await caller.reply("HEAD")).header(b"content-length") == b"2"
            assert {record.outcome for record in hop.records} == {"refused"}


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 100000000"],
        ["Transfer-Encoding: chunked"],
        ["Expect: 100-continue", "Content-Length: 3"],
    ],
)
async def test_answers_of_our_own_to_a_request_without_end(fields: list[str]) -> None:
    """A long body, one of unknown length, and one that may never come, end the connection."""
    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1)) as hop:
            hop.decide = lambda _head: Answer(401, [], b"")
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=fields))
                reply = await caller.reply()
                assert (reply.status, reply.header(b"connection")) == (401, b"close")
                await caller.closed()


# Timers


async def test_a_head_must_come_in_time() -> None:
    """A head that was begun is waited for so long, then 408; nothing begun, and the connection just ends."""
    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), head_timeout=0.2, idle_timeout=0.2) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(b"GET / HT")
                assert (await caller.reply("GET")).status == 408
                await caller.closed()
            async with await Caller.connect(hop.address) as caller:
                await caller.closed()
            assert [record.outcome for record in hop.records] == ["refused"]


async def test_a_trickled_head_gains_no_time() -> None:
    """Byte after byte does not move the deadline of a head."""
    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), head_timeout=0.3) as hop:
            async with await Caller.connect(hop.address) as caller, anyio.create_task_group() as tasks:

                async def trickle() -> None:
                    await caller.send(b"GET / HTTP/1.1\r\nX: ")
                    while not hop.records:
                        await caller.send(b"x")
                        await anyio.sleep(0.02)

                tasks.start_soon(trickle)
                assert (await caller.reply("GET")).status == 408


async def test_a_caller_who_has_sent_all_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times for a head and for a body run out while he waits, and nothing comes of it."""
    monkeypatch.setattr(http_server, "_BODY_IDLE", 0.1)

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await anyio.sleep(0.3)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address, head_timeout=0.1) as hop:
            async with await Caller.connect(hop.address) as caller:
                whole = request(b"x")
                for pieces in ([whole[:20], whole[20:-1], whole[-1:]], [whole]):
                    for piece in pieces:
                        await caller.send(piece)
                    assert (await caller.reply()).status == 200
            assert [record.outcome for record in hop.records] == ["answered"] * 2


async def test_a_body_must_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose body stops is told 408, and the upstream sees the connection dropped."""
    monkeypatch.setattr(http_server, "_BODY_IDLE", 0.2)
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.gone()
        left.set()

    with anyio.fail_after(PATIENCE):
        # The upstream's own patience is shorter, and does not count while the caller is the slow one.
        timeouts = ForwardTimeouts(first_byte=0.05, idle=30.0)
        async with serve(script) as upstream, hop_to(upstream.address, timeouts=timeouts) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Content-Length: 10"]) + b"half")
                assert (await caller.reply()).status == 408
                await left.wait()
            assert (await hop.record()).outcome == "refused"


async def test_an_upstream_that_takes_no_more_of_a_request() -> None:
    """Then it is the upstream that is slow, and its own patience that ends."""

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    with anyio.fail_after(PATIENCE):
        timeouts = ForwardTimeouts(first_byte=0.5, idle=30.0)
        async with serve(script) as upstream, hop_to(upstream.address, timeouts=timeouts) as hop:
            async with await Caller.connect(hop.address) as caller, anyio.create_task_group() as tasks:
                tasks.start_soon(_send_all, caller, request(b"x" * 40_000_000))
                assert (await caller.reply()).status == 504
                record = await hop.record()
                tasks.cancel_scope.cancel()
            assert record.failure is not None
            assert (record.failure.stage, record.failure.executed) == ("send", "unknown")
            assert record.request_bytes < 40_000_000


# Ends


async def test_draining() -> None:
    """A running request is answered and then the connection closes; one without a request closes now."""
    running, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        running.set()
        await go_on.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller, await Caller.connect(hop.address) as idle:
                await until(lambda: len(hop.servers) == 2)
                await caller.send(request(b""))
                await running.wait()
                for server in hop.servers:
                    server.drain()
                await idle.closed()
                go_on.set()
                assert (await caller.reply()).body == b"ok"
                await caller.closed()


async def test_aborting() -> None:
    """The running request is settled as one whose caller left."""
    running = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        running.set()
        await peer.gone()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b""))
                await running.wait()
                hop.servers[0].abort()
                await caller.closed()
            assert [record.outcome for record in hop.records] == ["caller-left"]


async def test_too_much_sent_ahead_is_not_read() -> None:
    """A pipelining caller fills his own buffers, not ours, and loses nothing."""
    go_on = asyncio.Event()
    held: list[int] = []

    def decide(head: RequestHead) -> Answer:
        return Answer(200, [], head.target)

    async def script(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
        await peer.gone()

    count = 20_000
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            hop.decide = lambda head: hop.forward(head) if head.target == b"/first" else decide(head)
            async with await Caller.connect(hop.address) as caller, anyio.create_task_group() as tasks:
                ahead = request(method="GET", target="/next", fields=["X: " + "x" * 1000]) * count
                tasks.start_soon(caller.send, request(b"", target="/first") + ahead)
                await until(lambda: caller.writer.transport.get_write_buffer_size() > 0 and bool(hop.decided))
                held.append(len(hop.decided))
                go_on.set()
                assert (await caller.reply()).body == b"first"
                for _ in range(count):
                    assert (await caller.reply("GET")).body == b"/next"
    assert held == [1]
