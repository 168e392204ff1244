"""
A stand-in for everything behind the relay's port, with a gateway's real certificates.

One listening socket ends the inner TLS as a gateway does and hands each whole request to a script: a function
of the request and the transport. The default script answers with what it was asked. A far side may also be
made of any other protocol, for what answers in a gateway's place.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

import anyio

from sallyport.certs.contexts import door_context
from sallyport.config.fields import Address
from sallyport.tunnel.alerts import Alert, alert_record
from sallyport.tunnel.http1 import RequestHead, RequestReader
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.sni import ClientHello, read_client_hello
from sallyport.tunnel.tls_engine import TlsEngine
from tests.harness.identity import TestIdentity


@dataclass
class Request:
    """One request as the gateway has read it."""

    head: RequestHead
    body: bytes

    def header(self, name: bytes) -> list[bytes]:
        """Return the values of a header, whose name is in lower case."""
        return [value for key, value in self.head.headers if key.lower() == name]


Script = Callable[[Request, asyncio.Transport], None]


def echo(request: Request, transport: asyncio.Transport) -> None:
    """Answer 200 with what was asked."""
    asked = {
        "method": request.head.method.decode(),
        "target": request.head.target.decode(),
        "headers": [[name.decode(), value.decode()] for name, value in request.head.headers],
        "body": request.body.decode(),
    }
    reply(transport, json.dumps(asked).encode())


def reply(transport: asyncio.Transport, body: bytes, *, status: int = 200, more: bytes = b"") -> None:
    """Write a whole answer."""
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    transport.write(head % (status, more, len(body)) + body)


@dataclass
class FarSide:
    """
    What answers at the relay's address.

    Attributes:
        protocol: Makes the protocol for each TCP connection.
        script: What becomes of each request.
        requests: What was asked so far.
        hellos: The ClientHello of each connection.
        alpn: What each handshake agreed upon.
        connected: Set by the first TCP connection.
        asked: Set by the first whole request.
        lost: Set when a connection has ended.
    """

    protocol: Callable[["FarSide"], asyncio.Protocol]
    script: Script = echo
    requests: list[Request] = field(default_factory=list)
    hellos: list[ClientHello] = field(default_factory=list)
    alpn: list[str | None] = field(default_factory=list)
    connected: anyio.Event = field(default_factory=anyio.Event)
    asked: anyio.Event = field(default_factory=anyio.Event)
    lost: anyio.Event = field(default_factory=anyio.Event)
    _server: asyncio.Server | None = None
    _transports: list[asyncio.BaseTransport] = field(default_factory=list)

    @classmethod
    def of(cls, tunnel: TestIdentity, *, trusting: TestIdentity | None = None, leaf: str = "gw") -> "FarSide":
        """Make a gateway of a tunnel, which trusts the callers of ``trusting`` (its own when None)."""
        context = door_context(tunnel.directory.gateway(leaf), (trusting or tunnel).root)
        return cls(lambda far: _gateway(far, context))

    @classmethod
    def changing(cls, contexts: Iterator[ssl.SSLContext]) -> "FarSide":
        """Make a gateway that takes each connection with the next context."""
        return cls(lambda far: _gateway(far, next(contexts)))

    @classmethod
    def alerting(cls, alert: Alert) -> "FarSide":
        """Make a relay that answers every ClientHello with an alert."""
        return cls.saying(alert_record(alert))

    @classmethod
    def saying(cls, data: bytes) -> "FarSide":
        """Make something that answers the first bytes with ``data`` and closes."""
        return cls(lambda far: _Answering(far, data))

    @classmethod
    def silent(cls) -> "FarSide":
        """Make something that accepts connections and never says a word."""
        return cls(_Observed)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self.protocol(self), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for transport in self._transports:
            cast(asyncio.Transport, transport).abort()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self._server is not None
        return Address(*self._server.sockets[0].getsockname()[:2])

    @property
    def references(self) -> list[str]:
        """The ids under which the relay would log each connection."""
        return [hello.reference for hello in self.hellos]

    def accepted(self, transport: asyncio.BaseTransport) -> None:
        """Take note of a TCP connection."""
        self._transports.append(transport)
        self.connected.set()


class _Observed(asyncio.Protocol):
    """Takes note of a connection's beginning and end."""

    def __init__(self, far: FarSide) -> None:
        self.far = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.far.accepted(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.far.lost.set()


class _Answering(_Observed):
    """Says its one sentence to whoever speaks first."""

    def __init__(self, far: FarSide, data: bytes) -> None:
        super().__init__(far)
        self._data = data

    def data_received(self, data: bytes) -> None:
        hello = read_client_hello(data)
        if hello is not None:
            self.far.hellos.append(hello)
        self.transport.write(self._data)
        self.transport.close()


def _gateway(far: FarSide, context: ssl.SSLContext) -> asyncio.Protocol:
    loop = asyncio.get_running_loop()
    engine = TlsEngine(context, server_side=True)
    return _GatewayTls(engine, _Calls(far), loop=loop, verify=lambda tls: None, handshake_timeout=10, far=far)


class _GatewayTls(TlsTransport):
    """A gateway's end of the inner TLS, which remembers the hello."""

    def __init__(
        self,
        engine: TlsEngine,
        upper: asyncio.Protocol,
        *,
        loop: asyncio.AbstractEventLoop,
        verify: Callable[[ssl.SSLObject], None],
        handshake_timeout: float,
        far: FarSide,
    ) -> None:
        super().__init__(engine, upper, loop=loop, verify=verify, handshake_timeout=handshake_timeout)
        self._far: FarSide | None = far
        self._observer = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._observer.accepted(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        far, self._far = self._far, None
        if far is not None:
            hello = read_client_hello(data)
            assert hello is not None, "a hello from loopback arrives whole"
            far.hellos.append(hello)
        super().data_received(data)


class _Calls(asyncio.Protocol):
    """Reads requests and hands them to the script."""

    def __init__(self, far: FarSide) -> None:
        self._far = far
        self._reader = RequestReader()
        self._head: RequestHead | None = None
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._far.alpn.append(transport.get_extra_info("ssl_object").selected_alpn_protocol())

    def data_received(self, data: bytes) -> None:
        events = self._reader.receive(data)
        while events:
            for event in events:
                if isinstance(event, RequestHead):
                    self._head = event
                elif isinstance(event, bytes):
                    self._body += event
                else:
                    self._finish()
            events = self._reader.start_next() if self._reader.has_ended else []

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._far.lost.set()

    def _finish(self) -> None:
        assert self._head is not None
        request, self._head, self._body = Request(self._head, self._body), None, b""
        self._far.requests.append(request)
        self._far.asked.set()
        self._far.script(request, self._transport)
