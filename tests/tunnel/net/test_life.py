"""The end of a process that another one looks after."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import structlog

from sallyport.tunnel.net.life import serve_until_signal

pytestmark = [pytest.mark.anyio, pytest.mark.platform("linux", "darwin")]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Idle:
    """A service with nothing to end."""

    async def drain(self) -> None:
        """Be done."""


@asynccontextmanager
async def asked_at_once() -> AsyncIterator[Idle]:
    """Start it, and have it told to end."""
    os.kill(os.getpid(), signal.SIGTERM)
    yield Idle()


@pytest.mark.parametrize("is_looked_after", [True, False])
async def test_a_signal_behind_the_end_breaks_nothing(is_looked_after: bool) -> None:
    """A terminal sends the second Ctrl-C to every process; one that stands alone stays interruptible."""
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    lifeline, end = os.pipe()
    try:
        with anyio.fail_after(5):
            log = structlog.get_logger()
            await serve_until_signal(asked_at_once(), log=log, lifeline=lifeline if is_looked_after else None)
        ignored = [signal.getsignal(signum) is signal.SIG_IGN for signum in _SIGNALS]
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(lifeline)
        os.close(end)
    assert ignored == [is_looked_after] * len(_SIGNALS)
