"""The gateway's yardstick: what it measures, for whom, and how much at most."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.gateway.routes import Routes
from sallyport.gateway.service import Gateway
from sallyport.gateway.yardstick import MEASURE_MOST, MEASURED_AT_ONCE, Yardstick
from tests.gateway.test_service import ALICE, DOMAIN, LABEL, OPENING, caller_of, error_of, head_of

pytestmark = pytest.mark.anyio

HOST = f"{LABEL}.{DOMAIN}"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def gateway(*, measures: bool = True) -> AsyncGenerator[Gateway, None]:
    """Make a gateway without any server."""
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as tasks:
        yardstick = Yardstick(loop=loop, spawn=tasks.create_task) if measures else None
        routes = Routes.of({}, label=LABEL, domains=[DOMAIN])
        yield Gateway("gw1", routes, {}, loop=loop, yardstick=yardstick)
        tasks.cancel_scope.cancel()


def call_of(made: Gateway) -> contextlib.AbstractAsyncContextManager[Streams]:
    """Connect as alice."""
    return caller_of(lambda: made.calls_for(ALICE, OPENING, HOST))


def request(line: str, *fields: str) -> bytes:
    """Write a head."""
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {HOST}", *fields, "", ""]).encode()


@pytest.mark.parametrize("size", [1, 65_536, 65_537, MEASURE_MOST])
async def test_bytes_down(size: int) -> None:
    """As many as were asked for, to the byte, on a connection that is kept; one line in the log."""
    with capture_logs() as lines:
        async with gateway() as made, call_of(made) as (reader, writer):
            for _ in range(2):
                writer.write(request(f"GET /_canary?bytes={size}"))
                head = await head_of(reader)
                assert head.startswith("HTTP/1.1 200 OK\r\n")
                assert f"Content-Length: {size}\r\n" in head
                assert "Cache-Control: no-store\r\n" in head
                assert len(await reader.readexactly(size)) == size
    calls = [line for line in lines if line["event"] == "call"]
    assert [(line["server"], line["path"], line["response_bytes"]) for line in calls] == [
        ("_canary", "/_canary", size)
    ] * 2


@pytest.mark.parametrize("size", [1, 100_000, MEASURE_MOST])
async def test_bytes_up(size: int) -> None:
    """They are read, dropped and counted."""
    with capture_logs() as lines:
        async with gateway() as made, call_of(made) as (reader, writer):
            writer.write(request("POST /_canary", f"Content-Length: {size}") + bytes(size))
            answer = json.dumps({"received": size}).encode()
            assert f"Content-Length: {len(answer)}\r\n" in await head_of(reader)
            assert await reader.readexactly(len(answer)) == answer
    assert [line["request_bytes"] for line in lines if line["event"] == "call"] == [size]


async def test_head_is_answered_without_the_bytes() -> None:
    """With the length that GET would have, and the connection goes on."""
    async with gateway() as made, call_of(made) as (reader, writer):
        writer.write(request("HEAD /_canary?bytes=1000"))
        assert "Content-Length: 1000\r\n" in await head_of(reader)
        writer.write(request("GET /_canary?bytes=3"))
        assert "Content-Length: 3\r\n" in await head_of(reader)
        assert len(await reader.readexactly(3)) == 3


@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        ("GET /_canary?bytes=0", (), 400),
        ("GET /_canary?bytes=-1", (), 400),
        ("GET /_canary?bytes=01", (), 400),
        ("GET /_canary?bytes=1e9", (), 400),
        ("GET /_canary?bytes=", (), 400),
        ("GET /_canary?bytes=1&bytes=2", (), 400),
        ("GET /_canary?", (), 400),
        (f"GET /_canary?bytes={MEASURE_MOST + 1}", (), 400),
        (f"GET /_canary?bytes={'9' * 4000}", (), 400),
        ("PUT /_canary?bytes=1", ("Content-Length: 0",), 400),
        ("POST /_canary?bytes=1", ("Content-Length: 0",), 400),
        ("POST /_canary", (f"Content-Length: {MEASURE_MOST + 1}",), 413),
        ("POST /_canary", ("Transfer-Encoding: chunked",), 411),
        ("GET /_canary?bytes=1", ("Origin: https://evil.test",), 403),
    ],
)
async def test_what_is_no_measurement_is_refused(line: str, fields: tuple[str, ...], status: int) -> None:
    """By name, and nothing is executed."""
    async with gateway() as made, call_of(made) as (reader, writer):
        writer.write(request(line, *fields))
        found, error = await error_of(reader)
        assert found == status
        assert error["data"]["executed"] == "no"  # type: ignore[index]


@pytest.mark.parametrize("line", ["GET /_canary", "POST /_canary"])
async def test_the_canary_itself_is_what_it_was(line: str) -> None:
    """Without a query and without a body the gateway says who it is."""
    async with gateway() as made, call_of(made) as (reader, writer):
        writer.write(request(line))
        head = await head_of(reader)
        length = int(head.partition("Content-Length: ")[2].split("\r\n")[0])
        assert json.loads(await reader.readexactly(length))["canary"] is True


async def test_a_gateway_may_not_measure() -> None:
    """Then it says so."""
    async with gateway(measures=False) as made, call_of(made) as (reader, writer):
        writer.write(request("GET /_canary?bytes=1"))
        status, error = await error_of(reader)
        assert status == 503
        assert "does not measure" in str(error["message"])


async def test_few_measure_at_once_and_a_reader_that_stops_is_paused() -> None:
    """Each keeps its place until it ends; who comes too late is told, and may come again."""
    async with gateway() as made, contextlib.AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(call_of(made)) for _ in range(MEASURED_AT_ONCE)]
        for reader, writer in stalled:
            # The body is not read: it fills the socket and what the transports hold, and then it waits.
            writer.write(request(f"GET /_canary?bytes={MEASURE_MOST}"))
            await head_of(reader)
        reader, writer = await stack.enter_async_context(call_of(made))
        writer.write(request("GET /_canary?bytes=1"))
        status, error = await error_of(reader)
        assert status == 503
        assert error["message"] == (
            f"gateway gw1: server _canary measures for {MEASURED_AT_ONCE} callers already, "
            "and for no more at once"
        )
        assert len(await stalled[0][0].readexactly(MEASURE_MOST)) == MEASURE_MOST
        writer.write(request("GET /_canary?bytes=1"))
        assert (await head_of(reader)).startswith("HTTP/1.1 200 OK\r\n")


async def test_a_caller_that_leaves_gives_its_place_back() -> None:
    """In the middle of an answer, and in the middle of a body."""
    async with gateway() as made:
        for _ in range(2 * MEASURED_AT_ONCE):
            async with call_of(made) as (reader, writer):
                writer.write(request(f"GET /_canary?bytes={MEASURE_MOST}"))
                await head_of(reader)
                writer.transport.abort()
            async with call_of(made) as (_reader, writer):
                writer.write(request("POST /_canary", "Content-Length: 1000") + b"x")
                await writer.drain()
        async with call_of(made) as (reader, writer):
            with anyio.fail_after(10):
                head = ""
                while not head.startswith("HTTP/1.1 200"):
                    writer.write(request("GET /_canary?bytes=1"))
                    head = await head_of(reader)
                    length = int(head.partition("Content-Length: ")[2].split("\r\n")[0])
                    await reader.readexactly(length)
