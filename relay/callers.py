"""
A caller's connection, from its socket to its stream.

The caller's hello has been judged. What is left is to choose a link, at the moment when the stream opens and
not before: of hellos that come together, each sees where the one before it went. Whether a link takes the
stream only trying can say: it may be at one of its limits, and then the next best is asked. The stream opens
with the ClientHello, the first that is read of the connection; from then on the connection belongs to the
splice (``tunnel.net.splice``) and nothing here is on the path of the bytes.

When no link takes the stream, the connection has not answered yet and is turned away with an alert like any
other.
"""

import asyncio
from typing import Protocol, cast

import structlog

from sallyport.relay.farewell import Farewell
from sallyport.relay.links import GatewayLink
from sallyport.relay.registry import Registry, Tunnel
from sallyport.tunnel.alerts import SPEC_ALERTS, Situation
from sallyport.tunnel.errors import LimitReached, LinkLost, LinkTimedOut, StreamReset, TunnelError
from sallyport.tunnel.events import Opening
from sallyport.tunnel.frames import ResetCode
from sallyport.tunnel.net.splice import Splice
from sallyport.tunnel.sni import ClientHello

log = structlog.get_logger("sallyport.relay")


class Callers(Protocol):
    """
    Who counts the streams.
    """

    def stream_began(self) -> None:
        """A caller has a stream."""

    def stream_ended(self) -> None:
        """A caller's stream has ended."""


class CallerConnection(asyncio.Protocol):
    """
    The first protocol of a caller's connection; replaced as soon as the stream is open.

    Args:
        tunnel: the tunnel that is called.
        registry: what knows the links that may carry it.
        hello: what the caller said.
        address: where the caller comes from.
        callers: who counts the streams.
        loop: the running loop.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        registry: Registry[GatewayLink],
        *,
        hello: ClientHello,
        address: str,
        callers: Callers,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._tunnel = tunnel
        self._registry = registry
        self._hello = hello
        self._address = address
        self._callers = callers
        self._loop = loop
        self._started = 0.0
        self._gateway = ""
        self._transport: asyncio.Transport | None = None
        self._refusal: TunnelError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            raise AssertionError("asyncio calls connection_made first")
        self._started = self._loop.time()
        # OPEN carries the hello and no more: whatever else has come already is data, and is counted as such.
        first, rest = data[: self._hello.length], data[self._hello.length :]
        splice = Splice(self._open_stream, ended=self._stream_ended, refused=self._refused_by_gateway)
        splice.open_far(first)
        if splice.far.transport is None:
            self._turn_away(transport)
            return
        self._callers.stream_began()
        splice.near.connection_made(transport)
        splice.near.received = len(first)
        transport.set_protocol(splice.near)
        if rest:
            splice.near.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has left between his hello and its reading: there is nothing to end."""

    # Opening

    def _open_stream(self, far: asyncio.Protocol, first: bytes) -> asyncio.Transport:
        """
        Open a stream on the first link that takes it.

        Raises:
            TunnelError: none does; what the best of them said, if there still is one.
        """
        opening = Opening(self._hello.reference, self._hello.server_name, self._address, first)
        for live in self._registry.candidates(self._tunnel.label, self._address):
            try:
                stream = live.link.open_stream(far, opening)
            except (LimitReached, LinkLost) as error:
                self._refusal = self._refusal or error
                continue
            self._gateway = live.gateway
            return stream
        self._refusal = self._refusal or LinkLost("the gateway has just gone")
        raise self._refusal

    def _turn_away(self, transport: asyncio.Transport) -> None:
        is_limit = isinstance(self._refusal, LimitReached)
        situation = Situation.LIMIT if is_limit else Situation.NO_GATEWAY
        log.warning(
            "caller refused",
            call=self._hello.reference,
            tunnel=self._tunnel.id,
            address=self._address,
            situation=situation.value,
            reason=str(self._refusal),
        )
        self._say_farewell(transport, situation)

    def _refused_by_gateway(self, transport: asyncio.Transport) -> None:
        """Tell a caller whose stream its gateway has refused: nothing was begun, nobody has answered yet."""
        self._say_farewell(transport, Situation.LIMIT)

    def _say_farewell(self, transport: asyncio.Transport, situation: Situation) -> None:
        farewell = Farewell(SPEC_ALERTS[situation], loop=self._loop)
        transport.set_protocol(farewell)
        farewell.connection_made(transport)

    # The end

    def _stream_ended(self, splice: Splice, reason: Exception | None) -> None:
        self._callers.stream_ended()
        finished = splice.near.has_finished and splice.far.has_finished
        log.info(
            "stream",
            call=self._hello.reference,
            tunnel=self._tunnel.id,
            link=self._gateway,
            address=self._address,
            bytes_in=splice.near.received,
            bytes_out=splice.far.received,
            seconds=round(self._loop.time() - self._started, 3),
            outcome=_outcome(reason, finished=finished),
        )


def _outcome(reason: Exception | None, *, finished: bool) -> str:
    """
    Say in one word how a stream ended.
    """
    match reason:
        case None:
            return "finished" if finished else "left"
        case StreamReset(code=code, by_peer=True):
            return f"reset-by-gateway:{ResetCode(code).name.lower()}"
        case StreamReset(code=code):
            return f"reset:{ResetCode(code).name.lower()}"
        case LinkLost() | LinkTimedOut():
            return "link-lost"
        case OSError():
            return "caller-lost"
        case _:
            return type(reason).__name__
