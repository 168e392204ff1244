"""Calls through the gateway's service to real servers, over real sockets; the door stands aside."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import cast

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.certs.api_key import ApiKey
from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.names import Identity, Role
from sallyport.config.gateway import GatewayLimits, ServerConfig, Timeouts
from sallyport.gateway.credentials import Keys
from sallyport.gateway.keys import KeyTable, StoredKey
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import open_servers
from sallyport.gateway.service import Gateway
from sallyport.processes import free_port
from sallyport.tunnel.events import Opening

pytestmark = pytest.mark.anyio

LABEL = "abcdefghijklmnopqrstuvwxyz234567"
DOMAIN = "tunnel.example.com"
HOST = f"tickets.{LABEL}.{DOMAIN}"
ALICE = Identity(LABEL, Role.CALLER, "alice")
OPENING = Opening("0123456789abcdef", HOST, "192.0.2.1", b"")

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def upstream(answering: Answering) -> AsyncGenerator[int, None]:
    """Run an internal server; yield its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await answering(reader, writer)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def gateway_to(
    port: int,
    timeouts: Timeouts | None = None,
    *,
    keys: Keys | None = None,
    limits: GatewayLimits | None = None,
) -> AsyncGenerator[Gateway, None]:
    """Make a gateway with the server tickets at a port."""
    config = ServerConfig(url=f"http://127.0.0.1:{port}/mcp", timeouts=timeouts or Timeouts())
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as tasks:
        servers = open_servers({"tickets": config}, loop=loop, spawn=tasks.create_task)
        routes = Routes.of({"tickets": config}, label=LABEL, domains=[DOMAIN])
        gateway = Gateway("gw1", routes, servers, loop=loop, keys=keys, limits=limits or GatewayLimits())
        try:
            yield gateway
        finally:
            gateway.close()
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def caller_of(
    serve: Callable[[], asyncio.Protocol],
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """Connect as a caller, as if the door had let us in."""
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        with anyio.fail_after(10):
            yield reader, writer
    finally:
        writer.close()
        server.close()


async def head_of(reader: asyncio.StreamReader) -> str:
    """Read a head."""
    return (await reader.readuntil(b"\r\n\r\n")).decode()


async def error_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    """Read an answer of the gateway's own: its status and JSON-RPC error."""
    head = await head_of(reader)
    length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
    body = json.loads(await reader.readexactly(length))
    return int(head.split()[1]), body["error"]


def request(lines: str = "POST /mcp?x=1 HTTP/1.1") -> bytes:
    """Write a request without a body."""
    return f"{lines}\r\nHost: {HOST}\r\n\r\n".encode()


async def test_a_call_and_another_on_the_same_connections() -> None:
    """Both connections are kept; the server sees its own name; each call has one line in the log."""
    seen: list[str] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await head_of(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Kept: 1\r\n\r\nhello")

    with capture_logs() as lines:
        async with upstream(answering) as port, gateway_to(port) as gateway:
            async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, HOST)) as (reader, writer):
                for _ in range(2):
                    writer.write(request())
                    head = await head_of(reader)
                    assert head.startswith("HTTP/1.1 200 OK\r\n")
                    assert "X-Kept: 1\r\n" in head
                    assert await reader.readexactly(5) == b"hello"

    assert len(seen) == 2
    assert seen[0].startswith(f"POST /mcp?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n")
    calls = [line for line in lines if line["event"] == "call"]
    assert [(line["call"], line["caller"], line["status"]) for line in calls] == [
        ("0123456789abcdef.1", "cert:alice", 200),
        ("0123456789abcdef.2", "cert:alice", 200),
    ]
    server = gateway.servers["tickets"]
    assert (server.counts.calls, server.counts.failed, server.upstream.health.dials) == (2, 0, 1)


async def test_a_server_that_refuses() -> None:
    """503, and nothing was executed; the state is there for ``gateway status``."""
    port = free_port()
    async with gateway_to(port) as gateway:
        async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, HOST)) as (reader, writer):
            writer.write(request())
            status, error = await error_of(reader)

            assert status == 503
            assert error["message"] == "gateway gw1: server tickets refused the connection"
            assert error["data"]["executed"] == "no"  # type: ignore[index]

            state = gateway.servers["tickets"].status()
            assert (state["calls"], state["failed"], state["failed_dials"]) == (1, 1, 1)
            assert f"127.0.0.1:{port}" in str(state["last_dial_error"])


async def test_a_server_that_hangs() -> None:
    """504 after the first byte's time, and it may have run."""

    async def answering(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with upstream(answering) as port, gateway_to(port, Timeouts(first_byte=0.1)) as gateway:
        async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, HOST)) as (reader, writer):
            writer.write(request())
            status, error = await error_of(reader)

    assert status == 504
    assert error["data"]["executed"] == "unknown"  # type: ignore[index]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed the connection before its answer was complete"),
        (b"220 smtp.internal ESMTP\r\n\r\n", "answered with something that is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "closed the connection before its answer was complete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "not HTTP/1.1"),
    ],
)
async def test_a_server_that_talks_nonsense(answer: bytes, why: str) -> None:
    """502 with the reason, never its bytes."""

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)

    async with upstream(answering) as port, gateway_to(port) as gateway:
        async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, HOST)) as (reader, writer):
            writer.write(request())
            status, error = await error_of(reader)

    assert status == 502
    assert why in str(error["message"])


async def test_a_server_that_dies_in_its_answer() -> None:
    """What came is passed on, the caller sees that it is cut, and the log says so."""

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    with capture_logs() as lines:
        async with upstream(answering) as port, gateway_to(port) as gateway:
            async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, HOST)) as (reader, writer):
                writer.write(request())
                await head_of(reader)
                rest = b""
                with contextlib.suppress(ConnectionError):
                    while piece := await reader.read(100):
                        rest += piece

    assert b"0\r\n\r\n" not in rest
    call = next(line for line in lines if line["event"] == "call")
    assert (call["outcome"], call["stage"], call["executed"]) == ("failed", "body", "unknown")


async def test_no_request_reaches_a_server_against_the_rules() -> None:
    """Unknown server, foreign Host, unexposed path, key, origin: not even a connection."""
    reached = False

    async def answering(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached = True

    refused = [
        (request("GET /admin HTTP/1.1"), 403),
        (request("GET /mcp/%2e%2e/admin HTTP/1.1"), 403),
        (request("POST /mcp HTTP/1.1\r\nOrigin: https://evil.test"), 403),
        (request("POST /mcp HTTP/1.1\r\nAuthorization: Bearer sp_x"), 401),
        (f"POST /mcp HTTP/1.1\r\nHost: wiki.{LABEL}.{DOMAIN}\r\n\r\n".encode(), 421),
        (b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n\r\n", 421),
    ]
    async with upstream(answering) as port, gateway_to(port) as gateway:
        async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, HOST)) as (reader, writer):
            for bytes_sent, expected in refused:
                writer.write(bytes_sent)
                status, error = await error_of(reader)
                assert status == expected
                assert error["data"]["executed"] == "no"  # type: ignore[index]
        assert gateway.servers["tickets"].upstream.health.dials == 0
    assert not reached


async def test_the_canary() -> None:
    """The gateway answers for itself, and no server is asked."""
    host = f"{LABEL}.{DOMAIN}"
    async with gateway_to(9) as gateway:
        async with caller_of(lambda: gateway.calls_for(ALICE, OPENING, host)) as (reader, writer):
            writer.write(f"GET /_canary HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head = await head_of(reader)
            body = json.loads(await reader.read())

    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "\r\nDate: " in head
    assert (body["canary"], body["gateway"], body["caller"]) == (True, "gw1", "cert:alice")


async def test_a_refused_certificate_is_refused_in_words() -> None:
    """Each request gets the verifier's rule, and the log has a line for it."""
    refused = CertificateRefused(
        Rule.ROLE, "link certificate gw1", "is not that of a caller", hint="issue one"
    )

    with capture_logs() as lines:
        async with gateway_to(9) as gateway:
            async with caller_of(lambda: gateway.refusals_for(refused, OPENING)) as (reader, writer):
                told = []
                for _ in range(2):
                    writer.write(request())
                    status, error = await error_of(reader)
                    assert status == 403
                    assert "is not that of a caller; issue one" in str(error["message"])
                    data = cast(dict[str, str], error["data"])
                    assert (data["rule"], data["executed"]) == ("role", "no")
                    told.append(data["call"])

    calls = [line for line in lines if line["event"] == "call"]
    assert [line["call"] for line in calls] == told == [f"{OPENING.reference}.1", f"{OPENING.reference}.2"]
    assert [(line["caller"], line["trust"], line["rule"]) for line in calls] == [
        ("refused", "none", "role")
    ] * 2


async def test_drain_closes_idle_connections_and_lets_calls_end() -> None:
    """A call under way is answered whole, and its connection closes behind it."""
    begun, may_end = anyio.Event(), anyio.Event()

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        begun.set()
        await may_end.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with upstream(answering) as port, gateway_to(port) as gateway:

        def serve() -> asyncio.Protocol:
            return gateway.calls_for(ALICE, OPENING, HOST)

        async with caller_of(serve) as (idle, _), caller_of(serve) as (reader, writer):
            writer.write(request())
            await begun.wait()

            gateway.drain()

            assert await idle.read() == b""
            may_end.set()
            assert (await reader.read()).endswith(b"\r\n\r\nhello")


class Ring:
    """The keys of a gateway, without a file."""

    def __init__(self, *keys: ApiKey) -> None:
        self._table = KeyTable(
            StoredKey(f"key-{number}", key.digest, None, datetime(2026, 11, 21, tzinfo=UTC))
            for number, key in enumerate(keys)
        )

    def table(self) -> KeyTable:
        """Return them; they do not change."""
        return self._table


GOOD, OTHER, BAD = (ApiKey.of_random(bytes([number]) * 32) for number in range(3))


async def answer_to(
    key: ApiKey | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, bool]:
    """Ask the gateway itself with a key; return the status, and whether the connection goes on."""
    field = f"Sallyport-Key: {key.text.decode()}\r\n" if key is not None else ""
    writer.write(f"GET /_canary HTTP/1.1\r\nHost: {LABEL}.{DOMAIN}\r\n{field}\r\n".encode())
    head = await head_of(reader)
    await reader.readexactly(int(head.lower().partition("content-length: ")[2].split("\r\n")[0]))
    goes_on = "\r\nConnection: close\r\n" not in head
    if not goes_on:
        assert await reader.read() == b""
    return int(head.split()[1]), goes_on


@pytest.mark.parametrize("key", [None, BAD])
async def test_a_stranger_has_one_request(key: ApiKey | None) -> None:
    """Nobody tries one key after the other on a connection."""
    async with gateway_to(9, keys=Ring(GOOD)) as gateway:
        async with caller_of(lambda: gateway.calls_for(None, OPENING, f"{LABEL}.{DOMAIN}")) as stranger:
            assert await answer_to(key, *stranger) == (401, False)


async def test_who_came_with_a_good_key_may_stay() -> None:
    """His connection goes on, whatever is asked on it after that; each request is still judged."""
    asked = [GOOD, GOOD, BAD, None, OTHER, GOOD]
    async with gateway_to(9, keys=Ring(GOOD, OTHER)) as gateway:
        async with caller_of(lambda: gateway.calls_for(None, OPENING, f"{LABEL}.{DOMAIN}")) as caller:
            answers = [await answer_to(key, *caller) for key in asked]
    assert answers == [(status, True) for status in (200, 200, 401, 401, 200, 200)]


async def test_who_comes_once_too_often_may_not_stay() -> None:
    """A good key whose connections are too many is refused like a stranger's; the one that it has goes on."""
    limits = GatewayLimits(streams_per_caller=1)
    async with gateway_to(9, keys=Ring(GOOD), limits=limits) as gateway:

        def serve() -> asyncio.Protocol:
            return gateway.calls_for(None, OPENING, f"{LABEL}.{DOMAIN}")

        async with caller_of(serve) as first:
            assert await answer_to(GOOD, *first) == (200, True)
            async with caller_of(serve) as second:
                assert await answer_to(GOOD, *second) == (503, False)
            assert await answer_to(GOOD, *first) == (200, True)
