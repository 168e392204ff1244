"""A connector's endpoint running in the test's own loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import anyio

from sallyport.config.fields import Address
from sallyport.connector.client import serve
from sallyport.connector.dial import Dialler
from tests.harness.identity import TestIdentity
from tests.harness.raw_http import Endpoint


def dialler(tunnel: TestIdentity, relay: Address) -> Dialler:
    """Return a dialler of the caller alice."""
    return Dialler(tunnel.bundle, relay=relay, clock=lambda: datetime.now(UTC))


@asynccontextmanager
async def serving(
    tunnel: TestIdentity, relay: Address, *, server: str | None = "tickets", port: int = 0
) -> AsyncIterator[Endpoint]:
    """Serve a tunnel's local endpoint for as long as the context lasts."""
    ports: list[int] = []
    is_listening = anyio.Event()

    def listening(actual: int) -> None:
        ports.append(actual)
        is_listening.set()

    run = partial(serve, dialler(tunnel, relay), server=server, port=port, listening=listening)
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(10):
            await is_listening.wait()
        yield Endpoint("127.0.0.1", ports[0], "/mcp", f"127.0.0.1:{ports[0]}")
        group.cancel_scope.cancel()
