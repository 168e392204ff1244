"""
The life of a process that serves: it runs until a signal, ends in order, and at once at a second signal.

Relay and gateway are such processes. What ending in order means is theirs to say, in ``drain``.
"""

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
from structlog.typing import FilteringBoundLogger

from sallyport.tunnel.net.sockets import raise_descriptor_limit


class Service(Protocol):
    """What runs, once it was started."""

    async def drain(self) -> None:
        """Take nothing new, and give what is under way its time; may be cancelled."""


async def serve_until_signal(
    started: AbstractAsyncContextManager[Service], *, log: FilteringBoundLogger
) -> None:
    """
    Run a service until SIGTERM or SIGINT; a second signal cuts the orderly end short.

    Args:
        started: Starts the service when it is entered, and ends it at once when it is left.
        log: The service's own.

    Raises:
        Exception: What entering raises, or what ends the service before a signal does.
    """
    raise_descriptor_limit()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with started as service:
            await anext(signals)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_at_signal, signals, tasks.cancel_scope, log)
                await service.drain()
                tasks.cancel_scope.cancel()
    log.info("stopped")


async def _cancel_at_signal(
    signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope, log: FilteringBoundLogger
) -> None:
    await anext(signals)
    log.warning("stopping at once")
    scope.cancel()
