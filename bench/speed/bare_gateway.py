"""
A gateway that is only the tunnel: each stream is spliced, as it comes, to a port of this machine.

For the row that shows what the tunnel costs by itself: the product's own uplink, link, mux, carrier and
splice, and neither inner TLS nor HTTP, names or limits per caller. The TLS of the callers is ended by the
port behind, as with the peers. It is part of the benchmark and of nothing else: it admits everybody.

One tunnel leads to one port, because the names below one tunnel have a label that only its key decides, while
the server behind has one certificate: ``*.<domain>`` covers ``<label>.<domain>`` of every tunnel.

    python -m bench.speed.bare_gateway GATEWAY.YAML=PORT [GATEWAY.YAML=PORT …]
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import anyio
import structlog
from anyio.abc import TaskGroup

from sallyport.config.loader import load_gateway
from sallyport.config.logs import configure_logging
from sallyport.gateway.door import Door
from sallyport.gateway.identity import load_identity, uplink_settings
from sallyport.gateway.uplink import Uplink
from sallyport.tunnel.events import Opening
from sallyport.tunnel.net.event_loop import wants_uvloop
from sallyport.tunnel.net.sockets import raise_descriptor_limit, tune_stream
from sallyport.tunnel.net.splice import Splice
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.product import LOOPBACK

log = structlog.get_logger("sallyport.bench")


class OpenDoor:
    """
    Lets every stream through to one port; it stands where the product has its door.

    Args:
        port: On 127.0.0.1.
        tasks: Where connections are made.
    """

    def __init__(self, port: int, tasks: TaskGroup) -> None:
        self._port = port
        self._tasks = tasks

    def knock(self, stream: Stream, opening: Opening) -> asyncio.Protocol:
        """Return the protocol for a stream that the relay has just opened."""
        return _Arrival(self, stream)

    def connect(self, arrival: "_Arrival") -> None:
        """Begin to connect a stream that has spoken."""
        self._tasks.start_soon(self._connect, arrival)

    async def _connect(self, arrival: "_Arrival") -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(lambda: arrival.splice.far, LOOPBACK, self._port)
        except OSError as error:
            log.warning("nobody behind", port=self._port, reason=str(error))
            arrival.stream.abort()
            return
        tune_stream(transport.get_extra_info("socket"))
        arrival.connected(transport)


class _Arrival(asyncio.Protocol):
    """A stream until the port behind has accepted; then the splice takes it over."""

    def __init__(self, door: OpenDoor, stream: Stream) -> None:
        self.stream = stream
        self.splice = Splice(_is_open_already, ended=_note_nothing, refused=asyncio.Transport.abort)
        self._door = door
        self._first = b""
        self._is_lost = False

    def data_received(self, data: bytes) -> None:
        self._first = data
        self.stream.pause_reading()
        self._door.connect(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True

    def connected(self, behind: asyncio.Transport) -> None:
        """Join the two."""
        if self._is_lost:
            self.splice.near.is_lost = True
            behind.abort()
            return
        if self.splice.far.is_lost:
            self.stream.abort()
            return
        self.splice.near.connection_made(self.stream)
        self.stream.set_protocol(self.splice.near)
        self.splice.near.data_received(self._first)
        self.stream.resume_reading()


def _is_open_already(far: asyncio.Protocol, first: bytes) -> asyncio.Transport:
    raise AssertionError("a stream is given to its splice when the port behind has accepted")


def _note_nothing(splice: Splice, reason: Exception | None) -> None:
    """The relay logs each stream; the tunnel by itself says no more than that."""


async def _run(ways: Sequence[tuple[Path, int]]) -> None:
    raise_descriptor_limit()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            for path, port in ways:
                config = load_gateway(path)
                settings = uplink_settings(config, load_identity(config, now=datetime.now(UTC)))
                # The uplink asks of a door no more than to be knocked at.
                door = cast(Door, OpenDoor(port, tasks))
                tasks.start_soon(Uplink(settings, door, budget=MemoryBudget(config.limits.memory)).run)
            await anext(signals)
            tasks.cancel_scope.cancel()


def main(arguments: Sequence[str]) -> None:
    """Run until SIGTERM, given ``GATEWAY.YAML=PORT`` for each tunnel."""
    ways = []
    for argument in arguments:
        path, _, port = argument.rpartition("=")
        ways.append((Path(path), int(port)))
    configure_logging(load_gateway(ways[0][0]).log)
    anyio.run(_run, ways, backend_options={"use_uvloop": wants_uvloop()})


if __name__ == "__main__":
    main(sys.argv[1:])
