"""
A whole product with a ``Reservoir`` behind it, whose processes can be looked at.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sallyport.processes import free_port
from tests.harness.process_figures import Holdings, Subject
from tests.harness.product import LOOPBACK, LoopName, Product, Tunnel
from tests.harness.raw_http import Endpoint
from tests.harness.reservoir import Reservoir

_SETTLED_WITHIN: Final = 40.0  # seconds
_FAREWELL: Final = 1.5  # seconds; the relay takes one
_MANY: Final = 5_000  # connections of one caller


@dataclass(frozen=True)
class ReservoirStage:
    """
    Everything, running.

    Attributes:
        reservoir: The server behind the tunnel.
        product: Its processes.
        tunnel: The one tunnel.
        subjects: The processes, the relay's first.
        endpoint: Where callers go: to the connector if there is one, else by TLS straight to the relay.
    """

    reservoir: Reservoir
    product: Product
    tunnel: Tunnel
    subjects: list[Subject]
    endpoint: Endpoint

    @property
    def relay(self) -> Subject:
        """The relay's process."""
        return self.subjects[0]

    @property
    def has_connector(self) -> bool:
        """Whether callers go through a connector."""
        return self.endpoint.tls is None

    async def settle(self, *, like: list[Holdings] | None = None) -> list[Holdings]:
        """
        Wait until no stream is open and the server behind has no connection, and look at every process.

        What is still there when patience ends is in the figures.

        Args:
            like: What each process held before; descriptors and tasks are given the time to come back to it.
        """

        if like is None:
            # Whoever was turned away may still have a descriptor so long, and no stream that says so.
            await asyncio.sleep(_FAREWELL)

        def is_settled(now: Holdings, before: Holdings | None) -> bool:
            # A connector keeps idle connections for a minute, and their streams with them.
            if self.reservoir.open_count or (now.streams and not self.has_connector):
                return False
            return before is None or (now.descriptors <= before.descriptors and now.tasks <= before.tasks)

        return [
            await subject.wait_until(
                partial(is_settled, before=like[place] if like else None), within=_SETTLED_WITHIN
            )
            for place, subject in enumerate(self.subjects)
        ]


@asynccontextmanager
async def reservoir_stage(
    folder: Path,
    *,
    relay_limits: Mapping[str, object] | None = None,
    with_connector: bool = False,
    loop: LoopName | None = None,
) -> AsyncIterator[ReservoirStage]:
    """
    Start everything, and end it.

    Args:
        folder: An empty folder of its own.
        relay_limits: The section ``limits`` of the relay's configuration.
        with_connector: Whether callers go through one.
        loop: The event loop of all processes, as for ``Product``.
    """
    settings = {"limits": dict(relay_limits)} if relay_limits else {}
    async with Reservoir() as reservoir:
        # Its constructor and every start wait for a process, which must not keep the reservoir from serving.
        product = await asyncio.to_thread(Product, folder, loop=loop, relay_settings=settings)
        try:
            yield await asyncio.to_thread(_start, product, reservoir, with_connector)
        finally:
            await asyncio.to_thread(product.close)


def _start(product: Product, reservoir: Reservoir, with_connector: bool) -> ReservoirStage:
    relay = product.start_relay()
    tunnel = product.make_tunnel("acme", {"tickets": reservoir.url})
    health = free_port()
    settings = {"health": f"{LOOPBACK}:{health}", "limits": {"streams_per_caller": _MANY}}
    gateway = tunnel.start_gateway(settings=settings)
    subjects = [Subject("relay", relay, product.relay_health), Subject("gateway", gateway, health)]
    if not with_connector:
        return ReservoirStage(reservoir, product, tunnel, subjects, tunnel.tls_endpoint())
    connector = tunnel.start_connector()
    subjects.append(Subject("connector", connector.process))
    return ReservoirStage(reservoir, product, tunnel, subjects, connector.endpoint())
