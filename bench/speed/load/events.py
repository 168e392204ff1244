"""
The server of the event streams: every stream gets ten stamped events a second for as long as it is open.

Plain HTTP on loopback, behind the upstream's ``GET /mcp/events``. Each event carries the monotonic clock of
this machine when it was written, so that a reader on the same machine knows the delay. Streams are spread
over the ticks of a tenth of a second: a thousand of them make a steady flow and no bursts.

It reports its port and serves until its standard input ends.
"""

import asyncio
import sys
import time
from typing import cast

import uvloop

from bench.speed.load.programs import report

_PERIOD = 0.1  # seconds between two events of a stream
_TICKS = 50  # writes are spread over so many moments of a period
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Connection: close\r\n\r\n"
)


class EventStream(asyncio.Protocol):
    """
    One connection: any request opens the stream, and closing ends it.

    Args:
        ticks: The streams of each tick; this one goes where the fewest are.
    """

    def __init__(self, ticks: list[set["EventStream"]]) -> None:
        self._ticks = ticks
        self._tick: set[EventStream] | None = None
        self._request = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not its classes.
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._request += data
        if self._tick is not None or b"\r\n\r\n" not in self._request:
            return
        assert self.transport is not None
        self.transport.write(_HEAD)
        self._tick = min(self._ticks, key=len)
        self._tick.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tick is not None:
            self._tick.discard(self)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ticks: list[set[EventStream]] = [set() for _ in range(_TICKS)]
    server = await loop.create_server(lambda: EventStream(ticks), "127.0.0.1", 0, backlog=4096)
    report(port=server.sockets[0].getsockname()[1])
    started = time.monotonic()

    def tick(number: int) -> None:
        event = b"data: %020d\n\n" % time.monotonic_ns()
        for stream in ticks[number % _TICKS]:
            assert stream.transport is not None
            stream.transport.write(event)
        # Reckoned from the start, so that lateness does not add up to a lower rate.
        due = started + (number + 1) * _PERIOD / _TICKS
        loop.call_later(max(0.0, due - time.monotonic()), tick, number + 1)

    tick(0)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve())
