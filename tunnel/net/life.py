"""
The life of a process that serves: it runs until a signal, ends in order, and at once at a second signal.

Relay and gateway are such processes. What ending in order means is theirs to say, in ``drain``.
"""

import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import anyio
from structlog.typing import FilteringBoundLogger

from sallyport.tunnel.net.sockets import raise_descriptor_limit


class Service(Protocol):
    """What runs, once it was started."""

    async def drain(self) -> None:
        """Take nothing new, and give what is under way its time; may be cancelled."""


async def serve_until_signal(
    started: AbstractAsyncContextManager[Service], *, log: FilteringBoundLogger, lifeline: int | None = None
) -> None:
    """
    Run a service until SIGTERM or SIGINT; a second signal cuts the orderly end short.

    Args:
        started: Starts the service when it is entered, and ends it at once when it is left.
        log: The service's own.
        lifeline: Of a process that another one looks after: a descriptor, which ends the service at once when
            it becomes readable. A second signal means nothing then, since a service manager and that other
            process may each send the first.

    Raises:
        Exception: What entering raises, or what ends the service before a signal does.
    """
    raise_descriptor_limit()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with started as service, anyio.create_task_group() as tasks:
            if lifeline is not None:
                tasks.start_soon(
                    _cancel_after, partial(anyio.wait_readable, lifeline), tasks.cancel_scope, log
                )
            await anext(signals)
            if lifeline is None:
                tasks.start_soon(_cancel_after, partial(anext, signals), tasks.cancel_scope, log)
            await service.drain()
            tasks.cancel_scope.cancel()
    if lifeline is not None:
        # A terminal's second signal goes to this process as well, and would break into the interpreter's end.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
    log.info("stopped")


async def _cancel_after(
    wait: Callable[[], Awaitable[object]], scope: anyio.CancelScope, log: FilteringBoundLogger
) -> None:
    await wait()
    log.warning("stopping at once")
    scope.cancel()
