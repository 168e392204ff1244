"""
Callers that stop: they ask for a large answer and read none of it, or send a large body to a server that
reads none. What that costs each process, and what it does to those who go on, is what ``make leaks`` measures
and a short end-to-end test repeats.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final, Literal

from tests.harness.process_figures import Holdings
from tests.harness.raw_http import Endpoint
from tests.harness.reservoir import ANSWER
from tests.harness.reservoir_stage import ReservoirStage

LARGE: Final = 64 << 20  # bytes of an answer, or of a body
_AT_ONCE: Final = 16  # callers on their way in
_PIECE: Final = bytes(1 << 16)
_BODY: Final = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
_QUIET: Final = 3  # looks without growth after which everything that moves has stopped
_LOOK_INTERVAL: Final = 0.5  # seconds
_CALL_WITHIN: Final = 30.0  # seconds; a call that needs longer beside stalled ones was starved

Direction = Literal["download", "upload"]


@dataclass
class Latencies:
    """
    What those who go on saw.

    Attributes:
        calls: That were answered.
        p50_ms: Of a small call.
        p99_ms: Of a small call.
        slowest_caller_ms: The median of the caller who fared worst.
        bulk_mib_per_second: Of one large download beside them.
    """

    calls: int
    p50_ms: float
    p99_ms: float
    slowest_caller_ms: float
    bulk_mib_per_second: float


@dataclass
class Cost:
    """
    What stalled callers cost.

    Attributes:
        direction: Which way they stopped.
        callers: How many.
        growth: Of each process's RSS, in bytes.
        refused: How many of them were turned away, for want of memory.
        charged: What each process's budget counted, in bytes.
        beside: How the others fared meanwhile.
    """

    direction: Direction
    callers: int
    refused: int = 0
    growth: dict[str, int] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)
    beside: Latencies | None = None


async def measure_stall(
    stage: ReservoirStage,
    direction: Direction,
    callers: int,
    *,
    before: Sequence[Holdings],
    others: int = 0,
    size: int = LARGE,
) -> Cost:
    """
    Let callers stop, and look at what every process holds when nothing moves any more.

    Args:
        stage: Everything, running.
        direction: What they stop in.
        callers: How many.
        before: What each process held at first: memory that an allocator has kept since then is growth too.
        others: How many make small calls meanwhile, and one a large download.
        size: Bytes of the answer that nobody reads, or of the body.
    """
    cost = Cost(direction, callers)
    async with stalled(stage.endpoint, direction, callers, size=size) as stopped:
        after = await _when_quiet(stage, stopped)
        cost.refused = stopped.refused
        for subject, then, now in zip(stage.subjects, before, after, strict=True):
            cost.growth[subject.name] = now.resident - then.resident
            cost.charged[subject.name] = now.charged
        if others:
            cost.beside = await go_on(stage.endpoint, callers=others)
    return cost


@dataclass
class Stopped:
    """
    Callers that stop.

    Attributes:
        sent: Bytes of their bodies that somebody took, the kernel perhaps.
        refused: Callers that were turned away.
    """

    sent: int = 0
    refused: int = 0


@asynccontextmanager
async def stalled(
    endpoint: Endpoint, direction: Direction, callers: int, *, size: int = LARGE
) -> AsyncIterator[Stopped]:
    """Have so many callers stopped while the block runs; then they hang up."""
    stopped = Stopped()
    places = asyncio.Semaphore(_AT_ONCE)
    live: list[asyncio.StreamWriter] = []

    async def come() -> None:
        async with places:
            try:
                live.append(await _stop(endpoint, direction, size))
            except OSError:
                stopped.refused += 1

    async with asyncio.TaskGroup() as uploads:
        async with asyncio.TaskGroup() as arriving:
            for _ in range(callers):
                arriving.create_task(come())
        if direction == "upload":
            for writer in live:
                uploads.create_task(_press(writer, size, stopped))
        try:
            yield stopped
        finally:
            for writer in live:
                writer.transport.abort()


async def go_on(endpoint: Endpoint, *, callers: int, calls: int = 25, bulk: int = 16 << 20) -> Latencies:
    """
    Make small calls, each caller on a connection of its own, beside one large download.

    Raises:
        TimeoutError: Somebody was starved.
        ConnectionError, asyncio.IncompleteReadError: Somebody was cut off.
    """
    seconds: list[list[float]] = []
    rate = 0.0

    async def call() -> None:
        seconds.append(await _small_calls(endpoint, calls))

    async def load() -> None:
        nonlocal rate
        began = time.monotonic()
        await _download(endpoint, bulk)
        rate = bulk / (1 << 20) / (time.monotonic() - began)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load())
        for _ in range(callers):
            tasks.create_task(call())
    every = sorted(second for one in seconds for second in one)
    return Latencies(
        calls=len(every),
        p50_ms=round(median(every) * 1000, 1),
        p99_ms=round(quantiles(every, n=100)[98] * 1000, 1),
        slowest_caller_ms=round(max(map(median, seconds)) * 1000, 1),
        bulk_mib_per_second=round(rate, 1),
    )


async def _stop(endpoint: Endpoint, direction: Direction, size: int) -> asyncio.StreamWriter:
    # The reader's bound is what its transport reads ahead: next to nothing. Nor shall the kernel read for it:
    # while that goes on, nobody has stopped.
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (endpoint.host, endpoint.port))
    _reader, writer = await asyncio.open_connection(
        sock=plain, ssl=endpoint.tls, server_hostname=endpoint.server_name, limit=1 << 12
    )
    if direction == "download":
        writer.write(_head(endpoint, "GET", f"/mcp/pour/{size}", 0))
    else:
        writer.write(_head(endpoint, "POST", "/mcp/plug", size))
    await writer.drain()
    return writer


async def _press(writer: asyncio.StreamWriter, size: int, stopped: Stopped) -> None:
    """Send a body for as long as somebody takes it, or the connection is there."""
    with contextlib.suppress(OSError, ssl.SSLError):
        for _ in range(size // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()
            stopped.sent += len(_PIECE)


async def _when_quiet(stage: ReservoirStage, stopped: Stopped) -> list[Holdings]:
    """Look until nobody has grown, and nothing has moved, for a while: what can flow has flowed."""
    largest, moved = [0] * len(stage.subjects), -1
    quiet = 0
    while quiet < _QUIET:
        await asyncio.sleep(_LOOK_INTERVAL)
        now = [subject.resident() for subject in stage.subjects]
        # A page or two is no growth.
        is_quiet = all(a <= b + (1 << 18) for a, b in zip(now, largest, strict=True))
        quiet = quiet + 1 if is_quiet and moved == stopped.sent + stage.reservoir.poured else 0
        largest = [max(pair) for pair in zip(now, largest, strict=True)]
        moved = stopped.sent + stage.reservoir.poured
    return [await subject.holdings() for subject in stage.subjects]


async def _small_calls(endpoint: Endpoint, calls: int) -> list[float]:
    seconds = []
    reader, writer = await _connect(endpoint)
    for _ in range(calls):
        began = time.monotonic()
        async with asyncio.timeout(_CALL_WITHIN):
            writer.write(_head(endpoint, "POST", "/mcp", len(_BODY)) + _BODY)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(ANSWER)) == ANSWER
        seconds.append(time.monotonic() - began)
    writer.close()
    return seconds


async def _download(endpoint: Endpoint, size: int) -> None:
    reader, writer = await _connect(endpoint)
    writer.write(_head(endpoint, "GET", f"/mcp/pour/{size}", 0))
    await reader.readuntil(b"\r\n\r\n")
    left = size
    while left:
        async with asyncio.timeout(_CALL_WITHIN):
            data = await reader.read(1 << 16)
        if not data:
            raise ConnectionError(f"a download was cut off, {left} bytes before its end")
        left -= len(data)
    writer.close()


async def _connect(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        endpoint.host, endpoint.port, ssl=endpoint.tls, server_hostname=endpoint.server_name
    )


def _head(endpoint: Endpoint, method: str, path: str, length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {endpoint.authority}", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
