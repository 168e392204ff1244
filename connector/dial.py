"""
One checked TLS connection to a gateway of a tunnel, through the relay.

What happens, in this order, and each step names its own failure (``connector.errors``):

1. our own certificate passes the strict verifier, so that an expired one is named here and not guessed at
   from an alert (``OwnCertificateRefused``): when the dialler is made, and again when a gateway refuses it;
2. TCP to the relay (``RelayUnreachable``);
3. the inner TLS: the server name is the tunnel's bare name, whichever server is meant, so that is all the
   relay learns; trust is the tunnel's root and nothing else (``RelayRefused``, ``HandshakeFailed``);
4. the strict verifier judges the gateway's verified chain (``GatewayRefused``): before it has, not one byte
   of a request leaves, because the protocol above does not have the transport yet.

The reference is the beginning of our ClientHello's random: the relay reads it in passing and the gateway gets
it with the stream, so one id finds the connection in all three logs.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime
from functools import cached_property

import anyio

from sallyport.certs.bundle import Bundle
from sallyport.certs.contexts import caller_context
from sallyport.certs.errors import CertificateRefused
from sallyport.certs.names import Role, tunnel_host
from sallyport.certs.verify import verified_chain, verify_bundle, verify_identity
from sallyport.config.fields import Address
from sallyport.connector.errors import CallerRefused, HopFailed, OwnCertificateRefused, RelayUnreachable
from sallyport.connector.refusals import Attempt, explain_handshake, explain_loss, reason_of
from sallyport.tunnel.net.tcp import connect_tcp
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.sni import read_client_hello
from sallyport.tunnel.tls_engine import TlsEngine

# Seconds. A relay that does not accept within the first is down or filtered.
CONNECT_TIMEOUT = 10.0
# Seconds. A little longer than the gateway's own limit, so that a gateway that is late gets to say so.
HANDSHAKE_TIMEOUT = 12.0


class GatewayTransport(TlsTransport):
    """The connection to a gateway; it knows by what id the logs call it."""

    @cached_property
    def reference(self) -> str:
        """Sixteen hex digits, the same in the relay's and the gateway's logs; empty before the first byte."""
        hello = read_client_hello(self.first_flight)
        return hello.reference if hello is not None else ""


class Dialler:
    """
    Dials gateways of one tunnel, as one caller.

    Args:
        bundle: Who calls, and which root to trust.
        relay: Where to dial; the bundle's relay when ``None``.
        clock: The time now, with its zone.

    Raises:
        OwnCertificateRefused: The gateway would refuse the bundle's certificate.
        CertificateError: The bundle's key cannot be used.
    """

    def __init__(self, bundle: Bundle, *, relay: Address | None, clock: Callable[[], datetime]) -> None:
        self.tunnel = str(bundle.tunnel)
        self.host = tunnel_host(bundle.tunnel.label, bundle.domain)
        self.relay = relay if relay is not None else Address.parse(bundle.relay)
        self._bundle = bundle
        self._clock = clock
        self.caller = self._own_name()
        self._context = caller_context(bundle)

    async def dial(self, protocol: Callable[[], asyncio.Protocol]) -> GatewayTransport:
        """
        Connect, and introduce the gateway to a new protocol.

        Args:
            protocol: Makes the protocol; called once the gateway has been accepted.

        Returns:
            The transport that the protocol has been given.

        Raises:
            HopFailed: No gateway of the tunnel was reached; the subclass says where it failed.
        """
        loop = asyncio.get_running_loop()
        greeter = _Greeter(loop, protocol)
        transport = self._transport(greeter, loop)
        try:
            await self._reach_relay(transport)
            await greeter.introduced
        except (asyncio.CancelledError, HopFailed):
            greeter.introduced.cancel()
            transport.abort()
            raise
        except Exception as error:
            failure = explain_handshake(error, self._attempt(transport))
            if failure is None:
                raise
            raise failure from error
        return transport

    def explain_loss(self, transport: GatewayTransport, error: Exception | None) -> HopFailed | None:
        """
        Say why a connection ended under a call.

        A gateway that refuses our certificate has only alerts to say so; our own verifier says more.

        Returns:
            The error that says it, or ``None`` when ``error`` is nothing that a network or a peer can cause.
        """
        failure = explain_loss(error, self._attempt(transport))
        if isinstance(failure, CallerRefused):
            try:
                self._own_name()
            except OwnCertificateRefused as own:
                own.reference = failure.reference
                return own
        return failure

    def _own_name(self) -> str:
        """Judge the bundle's certificate as a gateway will, and return the caller's name."""
        try:
            return verify_bundle(self._bundle, now=self._clock()).name
        except CertificateRefused as error:
            raise OwnCertificateRefused(self.tunnel, detail=str(error), hint=error.hint) from error

    def _attempt(self, transport: GatewayTransport) -> Attempt:
        return Attempt(self.tunnel, self.caller, transport.reference)

    async def _reach_relay(self, transport: GatewayTransport) -> None:
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                await connect_tcp(self.relay.host, self.relay.port, lambda: transport)
        except TimeoutError as error:
            why = reason_of(error) if error.errno else f"no answer within {CONNECT_TIMEOUT:g} seconds"
            raise RelayUnreachable(self.tunnel, address=str(self.relay), why=why) from error
        except OSError as error:
            raise RelayUnreachable(self.tunnel, address=str(self.relay), why=reason_of(error)) from error

    def _transport(self, greeter: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> GatewayTransport:
        engine = TlsEngine(self._context, server_side=False, server_hostname=self.host)
        return GatewayTransport(
            engine, greeter, loop=loop, verify=self._verify, handshake_timeout=HANDSHAKE_TIMEOUT
        )

    def _verify(self, tls: ssl.SSLObject) -> None:
        label = self._bundle.tunnel.label
        verify_identity(verified_chain(tls), role=Role.GATEWAY, label=label, now=self._clock())


class _Greeter(asyncio.Protocol):
    """Stands in for the real protocol until the gateway is accepted, then steps aside."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Callable[[], asyncio.Protocol]) -> None:
        self.introduced: asyncio.Future[None] = loop.create_future()
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, GatewayTransport):
            raise AssertionError("the dialler puts the greeter on a transport of its own")
        if self.introduced.done():
            # Whoever dialled was cancelled while the last packet of the handshake was on its way.
            transport.abort()
            return
        protocol = self._protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self.introduced.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.introduced.done():
            self.introduced.set_exception(exc or ConnectionAbortedError("it was closed"))
