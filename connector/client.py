"""
The connector as functions: serve a local endpoint, and make one canary call.

``sallyport connect`` runs the first; ``sallyport doctor`` and ``sallyport demo`` use the second to find out
whether a call gets through at all, and where it stops when it does not.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import anyio
import structlog

from sallyport.certs.bundle import Bundle
from sallyport.config.fields import Address
from sallyport.connector.dial import Dialler, GatewayTransport
from sallyport.connector.errors import GatewayLost, HopFailed
from sallyport.connector.http_endpoint import HttpEndpoint
from sallyport.connector.listeners import open_listeners
from sallyport.connector.local_request import LocalSide
from sallyport.connector.own_key import CallerByKey
from sallyport.tunnel.errors import HttpRefused, TunnelError
from sallyport.tunnel.http1 import (
    NO_BODY,
    EndOfMessage,
    RequestHead,
    ResponseEvent,
    ResponseHead,
    ResponseReader,
    encode_request,
)
from sallyport.tunnel.limits import limit

log = structlog.get_logger("sallyport.connector")

# The reserved server that every gateway answers for itself (design §7).
CANARY_PATH: Final = b"/_canary"
_MOST_OF_A_CANARY: Final = limit(
    64 * 1024, "bytes",
    "read of the answer to a canary call; the gateway's own is a few hundred",
)  # fmt: skip


async def serve(
    dialler: Dialler, *, server: str | None, port: int, listening: Callable[[int], None] | None = None
) -> None:
    """
    Serve the local endpoint until the task is cancelled.

    Args:
        dialler: Dials the gateway.
        server: The server to put at the root, or ``None`` for the whole tunnel.
        port: The local TCP port; 0 lets the system choose one.
        listening: Called with the port once connections are accepted.

    Raises:
        PortUnavailable: Nobody can listen there.
    """
    loop = asyncio.get_running_loop()
    listeners = open_listeners(port)
    port = listeners[0].getsockname()[1]
    async with anyio.create_task_group() as group:
        endpoint = HttpEndpoint(dialler, LocalSide(port, server), loop=loop, spawn=group.create_task)
        servers = [await loop.create_server(endpoint.accept, sock=listener) for listener in listeners]
        addresses = [str(Address(*listener.getsockname()[:2])) for listener in listeners]
        log.info(
            "listening",
            address=addresses[0],
            also=addresses[1:],
            tunnel=dialler.tunnel,
            server=server,
            relay=str(dialler.relay),
            caller=dialler.caller,
        )
        if listening is not None:
            listening(port)
        try:
            await anyio.sleep_forever()
        finally:
            for local in servers:
                local.close()
            endpoint.close()
            group.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class Canary:
    """
    A gateway's own answer to a call that went all the way.

    Attributes:
        reference: The id of the connection in the relay's and the gateway's logs.
        status: The HTTP status.
        body: What the gateway says of itself.
        date: The gateway's clock, to a second; ``None`` when it did not say.
        seconds: From the dial to the whole answer.
    """

    reference: str
    status: int
    body: bytes
    date: datetime | None
    seconds: float


async def call_canary(
    who: Bundle | CallerByKey,
    *,
    relay: Address | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    timeout: float = 30.0,
) -> Canary:
    """
    Ask a gateway of the tunnel whether it is there: through the relay, and with every check of a real call.

    Args:
        who: Who calls.
        relay: Where to dial; the relay of ``who`` when ``None``.
        clock: The time now, with its zone.
        timeout: Seconds for all of it.

    Raises:
        HopFailed: The call did not get through; the subclass says where it stopped.
        CertificateError: The bundle's key cannot be used.
    """
    dialler = Dialler(who, relay=relay, clock=clock)
    loop = asyncio.get_running_loop()
    started = loop.time()
    call = _CanaryCall(loop, dialler.host.encode("ascii"), dialler.credential)
    transport: GatewayTransport | None = None
    try:
        with anyio.fail_after(timeout):
            transport = await dialler.dial(lambda: call)
            await call.answered
    except TimeoutError as error:
        reference = transport.reference if transport is not None else ""
        why = f"no answer to a canary call within {timeout:g} seconds"
        raise GatewayLost(dialler.tunnel, why=why, reference=reference) from error
    except (TunnelError, OSError) as error:
        raise _translated(dialler, transport, error) from error
    finally:
        if transport is not None:
            transport.close()
    return Canary(transport.reference, call.status, call.body, call.date, loop.time() - started)


def _translated(dialler: Dialler, transport: GatewayTransport | None, error: Exception) -> HopFailed:
    failure = dialler.explain_loss(transport, error) if transport is not None else None
    if failure is None:
        raise AssertionError("a dial raises errors of ours, and what ends a connection has a translation")
    return failure


class _CanaryCall(asyncio.Protocol):
    """One GET on a connection of its own."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: bytes, credential: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        self.answered: asyncio.Future[None] = loop.create_future()
        self.status = 0
        self.date: datetime | None = None
        self._host = host
        self._credential = credential
        self._pieces: list[bytes] = []
        self._size = 0
        self._reader = ResponseReader()

    @property
    def body(self) -> bytes:
        """The answer's body, once ``answered`` is done."""
        return b"".join(self._pieces)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise AssertionError("a dialler gives a stream transport")
        self._reader.expect(b"GET")
        transport.write(
            encode_request(
                RequestHead(
                    method=b"GET",
                    target=CANARY_PATH,
                    version=b"1.1",
                    headers=[(b"Host", self._host), (b"Accept", b"application/json"), *self._credential],
                    body=NO_BODY,
                    keep_alive=False,
                    expect_continue=False,
                    host=self._host,
                )
            )
        )

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._reader.receive(data))
        except TunnelError as error:
            self._end(error)

    def eof_received(self) -> bool:
        try:
            self._take(self._reader.receive_eof())
        except TunnelError as error:
            self._end(error)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionAbortedError("the connection was closed"))

    def _take(self, events: list[ResponseEvent]) -> None:
        for event in events:
            match event:
                case ResponseHead() if event.status >= 200:
                    self.status = event.status
                    self.date = _date(event)
                case bytes():
                    self._pieces.append(event)
                    self._size += len(event)
                case EndOfMessage():
                    self._end(None)
                case _:
                    continue  # interim heads say nothing that a canary wants to know
        if self._size > _MOST_OF_A_CANARY:
            self._end(HttpRefused(502, "a canary's answer that is too large"))

    def _end(self, error: Exception | None) -> None:
        if self.answered.done():
            return
        if error is None:
            self.answered.set_result(None)
        else:
            self.answered.set_exception(error)


def _date(head: ResponseHead) -> datetime | None:
    """Read the Date header (RFC 9110, section 6.6.1)."""
    values = [value for name, value in head.headers if name.lower() == b"date"]
    try:
        return parsedate_to_datetime(values[0].decode("latin-1")) if values else None
    except ValueError:
        return None
