"""
One checked TLS connection to a gateway of a tunnel, through the relay.

What happens, in this order, and each step names its own failure (``connector.errors``):

1. our own certificate passes the strict verifier, so that an expired one is named here and not guessed at
   from an alert (``OwnCertificateRefused``): when the dialler is made, when its file has changed
   (``own_bundle``), and again when a gateway refuses it;
2. TCP to the relay (``RelayUnreachable``);
3. the inner TLS: the server name is the tunnel's bare name, whichever server is meant, so that is all the
   relay learns; trust is the tunnel's root and nothing else (``RelayRefused``, ``HandshakeFailed``);
4. the strict verifier judges the gateway's verified chain (``GatewayRefused``): before it has, not one byte
   of a request leaves, because the protocol above does not have the transport yet.

A caller with an API key and no bundle does not know the root, so his first dial asks for it (``own_key``).

The reference is the beginning of our ClientHello's random: the relay reads it in passing and the gateway gets
it with the stream, so one id finds the connection in all three logs.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Final

import anyio
from cryptography import x509

from sallyport.certs.bundle import Bundle
from sallyport.certs.contexts import root_asking_context
from sallyport.certs.errors import CertificateRefused
from sallyport.certs.names import Role, tunnel_host
from sallyport.certs.verify import find_root, unverified_chain, verified_chain, verify_identity
from sallyport.config.fields import Address
from sallyport.connector.errors import (
    CallerRefused,
    GatewayRefused,
    HandshakeFailed,
    HopFailed,
    KeysNotTaken,
    OwnCertificateRefused,
    RelayUnreachable,
)
from sallyport.connector.own_bundle import OwnBundle
from sallyport.connector.own_key import CallerByKey, OwnKey
from sallyport.connector.refusals import Attempt, explain_handshake, explain_loss
from sallyport.tunnel.errors import TlsFailed
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.greeter import Greeter
from sallyport.tunnel.net.tcp import connect_tcp, reason_of
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.sni import read_client_hello
from sallyport.tunnel.tls_engine import TlsEngine

CONNECT_TIMEOUT: Final = limit(
    10.0, "seconds",
    "for the relay to accept the connection: one that does not is down or filtered",
)  # fmt: skip
HANDSHAKE_TIMEOUT: Final = limit(
    12.0, "seconds",
    "a little longer than the gateway's own limit, so that a gateway that is late gets to say so",
)  # fmt: skip


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
        who: Who calls: a bundle, which has the root to trust, or an API key.
        relay: Where to dial; the relay of ``who`` when ``None``.
        clock: The time now, with its zone.

    Raises:
        OwnCertificateRefused: The gateway would refuse the bundle's certificate.
        CertificateError: The bundle's key cannot be used.
    """

    def __init__(
        self, who: Bundle | CallerByKey, *, relay: Address | None, clock: Callable[[], datetime]
    ) -> None:
        self.tunnel = str(who.tunnel)
        self.host = tunnel_host(who.tunnel.label, who.domain)
        self._tunnel = who.tunnel
        self._clock = clock
        self._own: OwnBundle | OwnKey
        self.credential: tuple[tuple[bytes, bytes], ...] = ()
        """What goes into the head of every request: the key, in the header that is ours alone."""
        if isinstance(who, CallerByKey):
            self.relay = relay or who.relay
            self.credential = ((b"Sallyport-Key", who.key.text),)
            self._own = OwnKey()
        else:
            self.relay = relay or Address.parse(who.relay)
            with self._as_own():
                self._own = OwnBundle(who, clock=clock)
        self._asking = anyio.Lock()
        self.caller = self._own.name

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
        await self._own.refresh()
        own = self._own
        context = own.context if isinstance(own, OwnBundle) else await self._context_by_id(own)
        try:
            return await self._connect(context, protocol, self._verify)
        except GatewayRefused:
            if isinstance(own, OwnKey):
                own.forget_root()
            raise

    async def _context_by_id(self, own: OwnKey) -> ssl.SSLContext:
        """Ask for the root, check it against the ID and trust it; dials that come together ask once."""
        async with self._asking:
            if own.context is None:
                own.trust(await self._ask_for_root())
            if own.context is None:
                raise AssertionError("a root that is trusted has a context")
            return own.context

    async def _ask_for_root(self) -> x509.Certificate:
        roots: list[x509.Certificate] = []

        def judge(tls: ssl.SSLObject) -> None:
            roots.append(find_root(unverified_chain(tls), self._tunnel, now=self._clock()))

        try:
            transport = await self._connect(root_asking_context(), asyncio.Protocol, judge)
        except HandshakeFailed as error:
            if isinstance(error.__cause__, TlsFailed) and error.__cause__.alert == "no_application_protocol":
                raise KeysNotTaken(self.tunnel, reference=error.reference) from error
            raise
        transport.abort()
        return roots[0]

    async def _connect(
        self,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        verify: Callable[[ssl.SSLObject], None],
    ) -> GatewayTransport:
        """Make one connection, judge its peer, and introduce the protocol; errors are those of ``dial``."""
        loop = asyncio.get_running_loop()
        greeter = Greeter(protocol, loop)
        engine = TlsEngine(context, server_side=False, server_hostname=self.host)
        transport = GatewayTransport(
            engine, greeter, loop=loop, verify=verify, handshake_timeout=HANDSHAKE_TIMEOUT
        )
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
                with self._as_own():
                    self._own.judge()
            except OwnCertificateRefused as own:
                own.reference = failure.reference
                return own
        return failure

    @contextmanager
    def _as_own(self) -> Iterator[None]:
        """Say of a refusal that it is our own certificate's."""
        try:
            yield
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

    def _verify(self, tls: ssl.SSLObject) -> None:
        label = self._tunnel.label
        verify_identity(verified_chain(tls), role=Role.GATEWAY, label=label, now=self._clock())
