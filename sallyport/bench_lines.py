"""
How ``sallyport bench`` reaches what it measures: through the tunnel, or straight to the server.

A *line* makes connections, each with a ``Probe`` on it, and says what it means when one breaks. The tunnel's
is the connector's own dial, with every check of it; the direct one is the gateway's own dial of a server.
A ``Talker`` makes calls on a line, on a connection that is made anew when the other end has ended the last.
"""

import math
import time
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from sallyport.bench_probe import Probe, Reply, Request
from sallyport.certs.contexts import upstream_context
from sallyport.connector.dial import Dialler, GatewayTransport
from sallyport.errors import MeasurementFailed
from sallyport.gateway.upstream import Upstream
from sallyport.gateway.upstream_url import UpstreamUrl
from sallyport.tunnel.errors import TunnelError
from sallyport.tunnel.net.tcp import reason_of

ANSWER_WITHIN: Final = 10.0  # seconds; what takes longer cannot be measured in half a minute
_CONNECT_WITHIN: Final = 10.0  # seconds


class Line(Protocol):
    """A way to something that answers."""

    @property
    def what(self) -> str:
        """What answers there, for errors."""

    async def connect(self, probe: Probe) -> None:
        """
        Put a probe on a new connection.

        Raises:
            ConnectorError, GatewayError: There is none, and why.
        """

    def explain(self, probe: Probe, error: Exception) -> Exception:
        """Say what it means that the probe's connection ended under a call."""


class TunnelLine:
    """
    Through the relay to a gateway.

    Args:
        dialler: Dials it.
        what: What answers, for errors.
    """

    def __init__(self, dialler: Dialler, what: str) -> None:
        self.what = what
        self._dialler = dialler

    async def connect(self, probe: Probe) -> None:
        await self._dialler.dial(lambda: probe)

    def explain(self, probe: Probe, error: Exception) -> Exception:
        if not isinstance(probe.transport, GatewayTransport):
            return error
        return self._dialler.explain_loss(probe.transport, error) or error


class DirectLine:
    """
    To the server itself, from here.

    Args:
        server: Its name, for errors.
        url: Where it is.
    """

    def __init__(self, server: str, url: UpstreamUrl) -> None:
        self.what = f"server {server} at {url.address}"
        context = upstream_context(None) if url.is_tls else None
        self._upstream = Upstream(server, url, context=context, connect_timeout=_CONNECT_WITHIN)

    async def connect(self, probe: Probe) -> None:
        await self._upstream.dial(lambda: probe)

    def explain(self, probe: Probe, error: Exception) -> Exception:
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        return MeasurementFailed(f"{self.what} ended the connection under a call: {why}")


class Talker:
    """
    Makes calls on a line.

    Args:
        line: Where to.
        seconds: Where to put what each call took that was answered 200.
        clock: Seconds, finer than a call.
    """

    def __init__(
        self, line: Line, seconds: list[float], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._line = line
        self._clock = clock
        self._probe: Probe | None = None
        self.seconds = seconds

    async def connect(self) -> float:
        """Make a connection, and return the seconds that it took with its handshakes."""
        self.close()
        probe = Probe(self.seconds, clock=self._clock)
        started = self._clock()
        await self._line.connect(probe)
        self._probe = probe
        return self._clock() - started

    async def ask(self, request: Request, *, calls: int = 1, until: float = math.inf) -> Reply:
        """
        Make calls, one after the other; see ``Probe.repeat``.

        Raises:
            MeasurementFailed: No answer came in time.
            ConnectorError, GatewayError: There is no connection, or it ended.
        """
        if self._probe is None or self._probe.lost:
            await self.connect()
        probe = self._probe
        if probe is None:
            raise AssertionError("a connection that was made is there")
        probe.seconds = self.seconds
        patience = ANSWER_WITHIN + (0.0 if math.isinf(until) else max(0.0, until - self._clock()))
        try:
            with anyio.fail_after(patience):
                return await probe.repeat(request, calls=calls, until=until)
        except TimeoutError as error:
            probe.close()
            why = f"did not answer a harmless request within {ANSWER_WITHIN:g} seconds"
            raise MeasurementFailed(f"{self._line.what} {why}") from error
        except (TunnelError, OSError) as error:
            raise self._line.explain(probe, error) from error

    def close(self) -> None:
        """Have done with the connection."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None
