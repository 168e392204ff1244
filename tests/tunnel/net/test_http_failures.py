"""One hop, as it should not go: failures are named, nothing is sent twice, no part passes for the whole."""

import asyncio
import errno
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio
import h11
import pytest
import trustme

from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.net.http_forward import Answer, Forward, ForwardTimeouts
from tests.harness.http_hop import (
    PATIENCE,
    Caller,
    Peer,
    Reply,
    Script,
    hop_to,
    request,
    sends,
    serve,
    until,
)

pytestmark = pytest.mark.anyio

_ROUNDS = 20
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context for ``server.test``."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("server.test").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def data_of(reply: Reply) -> dict[str, str]:
    """Return the facts in the JSON-RPC error that an answer of ours carries."""
    message = json.loads(reply.body)
    assert message["jsonrpc"] == "2.0"
    assert message["id"] is None
    assert reply.header(b"content-type") == b"application/json"
    facts: dict[str, str] = message["error"]["data"]
    return facts


# The upstream fails before its answer begins


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def closes(peer: Peer) -> None:
    await peer.request()


async def resets(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def floods(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await peer.send(b"X: " + b"a" * 1000 + b"\r\n")


async def flaky(peer: Peer) -> None:
    """Speak TLS's first byte in place of an answer."""
    await peer.request()
    await peer.send(b"\x15\x03\x03\x00\x02\x02\x28")


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        (silent, 504, TimeoutError),
        (closes, 502, ConnectionAbortedError),
        (resets, 502, ConnectionResetError),
        (floods, 502, HttpRefused),
        (flaky, 502, HttpRefused),
        (sends(b"HTTP/1.1 200 OK\r\nX: 1"), 502, ConnectionAbortedError),
        (sends(b"hello world\r\n\r\n", then="wait"), 502, HttpRefused),
        (sends(b"HTTP/1.1 200 OK\n\n", then="wait"), 502, HttpRefused),
        (sends(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", then="wait"), 502, HttpRefused),
        (sends(b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20), then="wait"), 502, HttpRefused),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", then="wait"), 502, HttpRefused),
    ],
)
async def test_an_upstream_without_an_answer(script: Script, status: int, error: type[Exception]) -> None:
    """The caller gets an error that says so and that the call may have run; his connection goes on."""
    timeouts = ForwardTimeouts(first_byte=0.3 if script is silent else 30.0, idle=30.0)
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address, timeouts=timeouts) as hop:
            async with await Caller.connect(hop.address) as caller:
                for count in (1, 2):
                    await caller.send(request(b"x"))
                    reply = await caller.reply()
                    assert reply.status == status
                    assert data_of(reply) == {"stage": "head", "executed": "unknown"}
                    record = await hop.record(count)
                    assert (record.outcome, record.status) == ("failed", status)
                    assert record.failure is not None
                    assert isinstance(record.failure.error, error)
                    assert record.failure.connection is record.upstream is not None


async def test_a_reset_is_told_though_there_are_no_descriptors_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server said before cannot be looked for, and nobody waits for the timeout because of that."""

    def none_left(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with anyio.fail_after(PATIENCE):
        async with serve(resets) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                monkeypatch.setattr("sallyport.tunnel.net.unread.os.dup", none_left)
                await caller.send(request(b"x"))
                assert (await caller.reply()).status == 502


async def test_a_dial_that_fails() -> None:
    """Nothing was sent, and the answer says so; the error is the dial's own."""

    class Unreachable(Exception):
        pass

    async def dial(_factory: Callable[[], asyncio.Protocol]) -> None:
        raise Unreachable("nobody is there")

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                reply = await caller.reply()
                assert (reply.status, data_of(reply)) == (502, {"stage": "dial", "executed": "no"})
            record = await hop.record()
    assert record.failure is not None
    assert isinstance(record.failure.error, Unreachable)
    assert (record.upstream, record.upstream_number) == (None, 0)


async def test_a_connection_lost_before_it_is_made() -> None:
    """TLS tells of a failed handshake by ``connection_lost``, after the dial has returned."""
    failure = ssl.SSLError("handshake failed")

    async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
        asyncio.get_running_loop().call_soon(factory().connection_lost, failure)

    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1), dial=dial) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                assert data_of(await caller.reply()) == {"stage": "dial", "executed": "no"}
            record = await hop.record()
    assert record.failure is not None
    assert record.failure.error is failure


async def test_a_request_that_was_sent_in_part() -> None:
    """An upstream that breaks off an upload may have acted on what it had."""

    async def script(peer: Peer) -> None:
        await peer.event()
        peer.reset()

    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Content-Length: 1000000"]) + b"x" * 1000)
                reply = await caller.reply()
                assert data_of(reply) == {"stage": "send", "executed": "unknown"}
                assert reply.header(b"connection") == b"close"


# The upstream fails in the middle of its answer


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "start",
    [
        CHUNKED,
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhello\r\nzzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    ],
)
async def test_an_answer_that_breaks_off(start: bytes, then: str) -> None:
    """What had come is delivered, and then the connection is cut, not ended."""
    script = sends(start, then=then)
    if start.endswith(b"zzz\r\n"):
        script = _in_two(start[:-5], start[-5:])
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
                    await caller.reply()
            record = await hop.record()
    assert (record.outcome, record.status) == ("failed", 200)
    assert record.failure is not None
    assert (record.failure.stage, record.failure.executed) == ("body", "unknown")
    assert isinstance(record.failure.error, BodyTruncated | ConnectionError | HttpRefused)


def _in_two(first: bytes, second: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(first)
        # In a segment of its own: behind the head that is on its way to the caller.
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        await peer.send(second)
        await peer.gone()

    return script


@pytest.mark.parametrize(("carrier", "error"), [("plain", ConnectionResetError), ("tls", ssl.SSLError)])
async def test_a_close_delimited_answer_that_breaks_off(
    carrier: str, error: type[OSError], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """An HTTP/1.0 caller has no framing to see it by: plain TCP is reset, TLS has no close_notify."""
    server_tls, client_tls = tls if carrier == "tls" else (None, None)

    def call(address: tuple[str, int]) -> None:
        sock = socket.create_connection(address, PATIENCE)
        if client_tls is not None:
            # Python before 3.11.4 sets this, and hides what is to be seen here.
            client_tls.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
            sock = client_tls.wrap_socket(sock, server_hostname="server.test", suppress_ragged_eofs=False)
        with sock:
            sock.sendall(b"GET / HTTP/1.0\r\nHost: server.test\r\n\r\n")
            while sock.recv(1000):
                pass

    with anyio.fail_after(PATIENCE):
        async with (
            serve(sends(CHUNKED + b"5\r\nhello\r\n")) as upstream,
            hop_to(upstream.address, caller_tls=server_tls) as hop,
        ):
            with pytest.raises(error):
                await anyio.to_thread.run_sync(call, hop.address)
            assert (await hop.record()).outcome == "failed"


async def test_an_answer_that_falls_silent() -> None:
    """After the idle timeout it is cut, and the failure is a TimeoutError."""
    timeouts = ForwardTimeouts(first_byte=30.0, idle=0.2)
    with anyio.fail_after(PATIENCE):
        async with (
            serve(sends(CHUNKED + b"5\r\nhello\r\n", then="wait")) as upstream,
            hop_to(upstream.address, timeouts=timeouts) as hop,
            await Caller.connect(hop.address) as caller,
        ):
            await caller.send(request(b"x"))
            with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
                await caller.reply()
            record = await hop.record()
    assert record.failure is not None
    assert isinstance(record.failure.error, TimeoutError)


@pytest.mark.parametrize(
    "extra", [b"more", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"\r\n", b"\0" * 100_000]
)
async def test_more_than_was_declared(extra: bytes) -> None:
    """The answer is what was declared; what is behind it is nobody's, and its connection is dropped."""
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + extra, then="wait")
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                for _ in range(3):
                    await caller.send(request(b"x"))
                    assert (await caller.reply()).body == b"ok"
            assert upstream.accepted == 3


# The upstream answers before it has the whole request


@pytest.mark.parametrize("carrier", ["plain", "tls"])
@pytest.mark.parametrize("round_", range(5))
async def test_an_early_error_is_delivered_whole(
    carrier: str, round_: int, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A server that answers 413 and resets, because it was sent more, is heard all the same."""
    answer = b"x" * 3000

    async def script(peer: Peer) -> None:
        await peer.event()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        # Closed with unread bytes in its buffer, the kernel answers what still comes with a reset.
        peer.writer.transport.pause_reading()
        for _ in range(round_):
            await anyio.lowlevel.checkpoint()

    server_tls, client_tls = tls if carrier == "tls" else (None, None)
    with anyio.fail_after(PATIENCE):
        async with (
            serve(script, tls=server_tls) as upstream,
            hop_to(upstream.address, upstream_tls=client_tls) as hop,
            await Caller.connect(hop.address) as caller,
        ):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_push, caller, request(b"y" * 6_000_000))
                reply = await caller.reply()
            assert (reply.status, reply.body) == (413, answer)
            record = await hop.record()
            assert (record.outcome, record.status) == ("answered", 413)


async def _push(caller: Caller, data: bytes) -> None:
    """Write all of it, as a client does that looks for an answer only afterwards."""
    try:
        await caller.send(data)
    except ConnectionError:
        pass  # the hop has closed, behind its answer


@pytest.mark.parametrize("carrier", ["plain", "tls"])
async def test_a_reset_behind_the_answer_does_not_lose_it(
    carrier: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Bytes in the receive buffer are read, though the write that found the reset has ended the transport."""
    server_tls, client_tls = tls if carrier == "tls" else (None, None)
    has_request, may_answer, has_reset = (threading.Event() for _ in range(3))

    def upstream() -> None:
        for _ in range(_ROUNDS):
            sock, _address = listener.accept()
            sock.settimeout(PATIENCE)
            # Else the answer may wait here for an acknowledgement, and the reset discard it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server_tls is not None:
                sock = server_tls.wrap_socket(sock, server_side=True)
            sock.recv(1000)
            has_request.set()
            assert may_answer.wait(PATIENCE)
            may_answer.clear()
            sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            has_reset.set()

    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(PATIENCE):
        listener.settimeout(PATIENCE)
        async with (
            hop_to(listener.getsockname(), upstream_tls=client_tls) as hop,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(partial(anyio.to_thread.run_sync, upstream, abandon_on_cancel=True))
            for _ in range(_ROUNDS):
                async with await Caller.connect(hop.address) as caller:
                    await caller.send(request(fields=["Content-Length: 1000000"]) + b"x")
                    await until(has_request.is_set)
                    has_request.clear()
                    # Here the loop stands still until answer and reset have come, so it must write first.
                    may_answer.set()
                    assert has_reset.wait(PATIENCE)
                    has_reset.clear()
                    for _ in range(5):
                        hop.servers[-1].data_received(b"y" * 100_000)
                    reply = await caller.reply()
                    assert (reply.status, reply.body) == (413, b"large")
                    assert reply.header(b"connection") == b"close"


async def test_the_rest_of_a_request_is_dropped_after_an_early_answer() -> None:
    """Tens of megabytes may follow: they are read and dropped, and then the connection closes."""
    script = sends_early(b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno")
    with anyio.fail_after(PATIENCE):
        async with serve(script) as upstream, hop_to(upstream.address) as hop:
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(fields=["Content-Length: 20000000"]))
                assert (await caller.reply()).status == 400
                await caller.send(b"z" * 20_000_000)
                await caller.closed()
            assert len(hop.records) == 1


def sends_early(data: bytes) -> Script:
    """Answer when the head is there."""

    async def script(peer: Peer) -> None:
        await peer.event()
        await peer.send(data)

    return script


# Our own mistakes


@pytest.mark.parametrize("where", ["decide", "explain", "head"])
async def test_a_mistake_of_the_owner_is_an_answer(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a decision or an explanation raises, or a head that may not be sent, is logged and answered."""

    def broken(_: object) -> Answer:
        raise ZeroDivisionError("a secret detail")

    with anyio.fail_after(PATIENCE):
        async with serve(closes) as upstream, hop_to(upstream.address) as hop:
            if where == "decide":
                hop.decide = broken
            else:
                hop.decide = lambda head: _spoilt(hop.forward(head), where, broken)
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x"))
                reply = await caller.reply()
                assert reply.status == (502 if where == "explain" else 500)
                assert b"secret" not in reply.body
                assert (await hop.record()).outcome == "failed"
    assert "failed" in capsys.readouterr().out


def _spoilt(forward: Forward, where: str, broken: Callable[[object], Answer]) -> Forward:
    if where == "explain":
        return replace(forward, explain=broken)
    return replace(forward, head=replace(forward.head, target=b"/a b"))
