"""One hop, as it should go: requests up, answers down, head first, every piece as it comes, byte for byte."""

import hashlib
import ssl

import anyio
import h11
import pytest
import trustme

from sallyport.tunnel.net.http_forward import Answer
from tests.harness.http_hop import PATIENCE, Caller, Peer, answers, hop_to, request, sends, serve, until

pytestmark = pytest.mark.anyio

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context for ``server.test``."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("server.test").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_a_request_is_rebuilt_and_its_answer_returned() -> None:
    """Host is the upstream's, hop-by-hop fields stay here, all else arrives as it was sent."""
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        fields = b"X-Two: 1\r\nx-two: 2\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n"
        await peer.send(b"HTTP/1.1 201 Made\r\n" + fields + b"\r\nok")
        await peer.gone()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                fields = ["Mcp-Method: a", "mcp-method: b", "Connection: X-Gone", "X-Gone: 1", "Cookie: c"]
                await caller.send(request(b"hello", target="/mcp?secret=1", fields=fields))
                reply = await caller.reply()
                record = await hop.record()
    head, body = seen[0]
    assert (head.target, body) == (b"/mcp?secret=1", b"hello")
    assert list(head.headers.raw_items()) == [
        (b"Host", b"upstream.test"),
        (b"Mcp-Method", b"a"),
        (b"mcp-method", b"b"),
        (b"Cookie", b"c"),
        (b"Content-Length", b"5"),
    ]
    assert (reply.status, reply.body) == (201, b"ok")
    assert reply.headers == [(b"x-two", b"1"), (b"x-two", b"2"), (b"content-length", b"2")]
    assert (record.number, record.method, record.path, record.status) == (1, "POST", "/mcp", 201)
    assert (record.request_bytes, record.response_bytes, record.outcome) == (5, 2, "answered")
    assert (record.failure, record.upstream_number) == (None, 1)


async def test_connections_are_kept_alive_on_both_sides() -> None:
    """Many requests, one connection here and one there, numbered alike."""
    with anyio.fail_after(PATIENCE):
        async with serve(answers()) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                for method in ("POST", "GET", "DELETE", "PUT", "PATCH", "OPTIONS"):
                    await caller.send(request(None if method == "GET" else b"x", method=method))
                    assert (await caller.reply(method)).status == 200
            record = await hop.record(6)
        assert upstream.accepted == 1
    assert (record.number, record.upstream_number) == (6, 6)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_an_answer_arrives_piece_by_piece(framing: str) -> None:
    """The head comes before any of the body, and each piece before the next is sent."""
    went_on = [anyio.Event() for _ in range(4)]
    head = {
        "length": b"Content-Length: 9\r\n",
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "close": b"",
    }[framing]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for number, event in enumerate(went_on[:3]):
            await event.wait()
            piece = b"o %d" % number
            await peer.send(b"3\r\n%b\r\n" % piece if framing == "chunked" else piece)
        await went_on[3].wait()
        if framing == "chunked":
            await peer.send(b"0\r\n\r\n")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b""))
                caller.expect()
                response = await caller.event()
                assert isinstance(response, h11.Response)
                for number, event in enumerate(went_on[:3]):
                    event.set()
                    data = await caller.event()
                    assert isinstance(data, h11.Data)
                    assert bytes(data.data) == b"o %d" % number
                went_on[3].set()
                assert isinstance(await caller.event(), h11.EndOfMessage)
                assert (await hop.record()).response_bytes == 9
    expected = b"content-length" if framing == "length" else b"transfer-encoding"
    assert expected in dict(response.headers)


async def test_a_request_arrives_piece_by_piece() -> None:
    """An upload reaches the upstream while the caller still sends it."""
    arrived = [anyio.Event() for _ in range(3)]

    async def script(peer: Peer) -> None:
        assert isinstance(await peer.event(), h11.Request)
        for event in arrived:
            assert isinstance(await peer.event(), h11.Data)
            event.set()
        assert isinstance(await peer.event(), h11.EndOfMessage)
        await peer.send(b"HTTP/1.1 204 Done\r\n\r\n")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Transfer-Encoding: chunked"]))
                for event in arrived:
                    await caller.send(b"2\r\nab\r\n")
                    await event.wait()
                await caller.send(b"0\r\n\r\n")
                assert (await caller.reply()).status == 204


async def test_an_answer_may_begin_and_go_on_while_the_request_does() -> None:
    """Both directions stream at once."""

    async def script(peer: Peer) -> None:
        await peer.event()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while isinstance(event := await peer.event(), h11.Data):
            await peer.send(b"%x\r\n%b\r\n" % (len(event.data), event.data))
        await peer.send(b"0\r\n\r\n")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Transfer-Encoding: chunked"]))
                caller.expect()
                assert isinstance(await caller.event(), h11.Response)
                for piece in (b"1", b"2", b"3"):
                    await caller.send(b"1\r\n%b\r\n" % piece)
                    data = await caller.event()
                    assert isinstance(data, h11.Data)
                    assert bytes(data.data) == piece
                await caller.send(b"0\r\n\r\n")
                assert isinstance(await caller.event(), h11.EndOfMessage)


async def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    """The second request reaches the upstream only when the answer to the first is complete."""
    first_answered = anyio.Event()
    got = []

    async def script(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            got.append((head.target, body, first_answered.is_set()))
            if head.target == b"/1":
                await first_answered.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + head.target)

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(b"".join(request(b"body", target=f"/{n}") for n in (1, 2, 3)))
                await until(lambda: bool(got))
                first_answered.set()
                assert [(await caller.reply()).body for _ in range(3)] == [b"/1", b"/2", b"/3"]
    assert got == [(b"/1", b"body", False), (b"/2", b"body", True), (b"/3", b"body", True)]


async def test_thousands_of_pipelined_requests_answered_by_us_use_no_stack() -> None:
    """Requests that are answered at once are worked off in a loop."""
    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1)) as hop:
            hop.decide = lambda head: Answer(200, [], head.target)
            async with await Caller.connect(hop.address) as caller, anyio.create_task_group() as tasks:
                tasks.start_soon(caller.send, request(method="GET", target="/x") * 3000)
                for _ in range(3000):
                    assert (await caller.reply("GET")).body == b"/x"
            assert len(hop.records) == 3000


async def test_bodiless_answers() -> None:
    """HEAD, 204 and 304 have no body, whatever their fields say, and the connection goes on."""
    raw = {
        b"/head": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"/204": b"HTTP/1.1 204 No Content\r\n\r\n",
        b"/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    }

    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            await peer.send(raw[head.target])

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                for method, target in (("HEAD", "/head"), ("GET", "/204"), ("GET", "/304")):
                    await caller.send(request(method=method, target=target))
                    reply = await caller.reply(method)
                    assert reply.body == b""
                    assert reply.header(b"content-length") == (None if target == "/204" else b"10")
        assert upstream.accepted == 1


async def test_interim_answers() -> None:
    """100 is for this hop and goes no further; others pass, though not to an HTTP/1.0 caller."""
    script = sends(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b""))
                reply = await caller.reply()
                assert (reply.interim, reply.body) == ([103], b"ok")
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"").replace(b"/1.1", b"/1.0"))
                assert (await caller.reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_expect_continue_is_answered_here() -> None:
    """The caller is told to go on, and the upstream is not asked."""
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Expect: 100-continue", "Content-Length: 2"]))
                assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                await caller.send(b"ab")
                assert (await caller.reply()).status == 200
    assert seen[0][1] == b"ab"
    assert b"expect" not in dict(seen[0][0].headers)


async def test_http_1_0_callers_get_answers_that_end_with_the_connection() -> None:
    """No chunks and no keep-alive for them."""
    script = sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert await caller.reader.read() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"


async def test_a_caller_who_wants_to_close_is_closed() -> None:
    """Connection: close is answered so, and done."""
    with anyio.fail_after(PATIENCE):
        async with serve(answers()) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"", fields=["Connection: close"]))
                assert (await caller.reply()).header(b"connection") == b"close"
                await caller.closed()


@pytest.mark.parametrize("carrier", ["plain", "tls"])
async def test_sixteen_mebibytes_each_way_with_a_slow_reader(
    carrier: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Byte for byte, while the hop holds little: whoever does not read stops the other end."""
    size = 16 * MiB
    blob = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(size // 32))
    sent = 0
    peers = []

    async def script(peer: Peer) -> None:
        nonlocal sent
        peers.append(peer)
        _, body = await peer.request()
        assert body == blob
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, size, 50_000):
            piece = blob[start : start + 50_000]
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            sent += len(piece)
        await peer.send(b"0\r\n\r\n")

    server_tls, client_tls = tls if carrier == "tls" else (None, None)
    with anyio.fail_after(PATIENCE * 2):
        async with (
            serve(script, tls=server_tls) as upstream,
            hop_to(upstream.address, caller_tls=server_tls, upstream_tls=client_tls) as hop,
            await Caller.connect(hop.address, client_tls) as caller,
        ):
            await caller.send(request(blob))
            caller.expect()
            assert isinstance(await caller.event(), h11.Response)
            # Nothing is read for a while: the answer must come to a stand, and not into our memory.
            await until(lambda: peers[0].writer.transport.get_write_buffer_size() > 0)
            assert sent < size
            received = bytearray()
            while isinstance(event := await caller.event(), h11.Data):
                received += event.data
            assert received == blob
            record = await hop.record()
            assert (record.request_bytes, record.response_bytes) == (size, size)
