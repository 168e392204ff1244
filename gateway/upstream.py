"""
One internal server: how to reach it, and how that went lately.

This is the boundary to the network inside: the errors of sockets, name resolution and TLS end here and
become ``UpstreamFailed``, with a reason that a caller may read and a remedy for the operator. What is above
(the connection pool) sees a dial that worked or one of our own errors.

Certificates of ``https://`` servers are checked for the host of the ``url`` against the ``ca`` of the
config, or against the system's store without one. There is no way to switch the check off.
"""

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass

import anyio

from sallyport.gateway.errors import UpstreamFailed, UpstreamTimedOut, UpstreamUnreachable, UpstreamUntrusted
from sallyport.gateway.upstream_url import UpstreamUrl
from sallyport.tunnel.errors import TlsFailed, TunnelError
from sallyport.tunnel.net.greeter import Greeter
from sallyport.tunnel.net.tcp import ProtocolFactory, connect_tcp
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine

_REFUSALS = {
    errno.ECONNREFUSED: ("refused the connection", "is it running, and listening on this address"),
    errno.ENETUNREACH: ("cannot be reached: no route to its network", ""),
    errno.EHOSTUNREACH: ("cannot be reached: no route to its host", ""),
    errno.ECONNRESET: ("closed the connection while it was being made", ""),
    errno.EMFILE: (
        "was not dialled: this gateway is out of file descriptors",
        "raise LimitNOFILE of the service",
    ),
}

# What OpenSSL found wrong with a chain, by number (X509_V_ERR_…, openssl/x509_vfy.h): in words of ours,
# because OpenSSL's name internal hosts and callers read these, and what to do about it.
_CERTIFICATE_FAULTS = {
    9: ("is not valid yet", "check this machine's clock"),
    10: ("has expired", "renew the server's certificate"),
    18: ("is signed by itself and not trusted", "put the certificate itself into `ca:` of this server"),
    19: (
        "was issued under a CA that is not trusted",
        "name the file of the signing CA in `ca:` of this server",
    ),
    20: (
        "was issued by a CA that is not known",
        "name the file of the signing CA in `ca:` of this server, or let the server send its intermediate",
    ),
    21: ("comes without the CA that issued it", "let the server send its intermediate certificates"),
    62: ("is for another name", "use a name in `url:` that the certificate holds"),
    64: ("is for another address", "use an address in `url:` that the certificate holds, or a name"),
}


@dataclass(slots=True)
class UpstreamHealth:
    """How dials of a server went, for ``gateway status``."""

    dials: int = 0
    """Connections tried since the start."""
    failures: int = 0
    """Connections that could not be made since the start."""
    last_error: str | None = None
    """The last failure's text, until a dial works again."""


class Upstream:
    """One server of the config, as something that can be connected to."""

    def __init__(
        self, server: str, url: UpstreamUrl, *, context: ssl.SSLContext | None, connect_timeout: float
    ) -> None:
        """
        Describe a server; nothing is dialled yet.

        Args:
            server: The server's name.
            url: Where it is.
            context: For https, from ``certs.contexts.upstream_context``; None for http.
            connect_timeout: Seconds for name, connection and TLS handshake together.
        """
        self.server = server
        self.url = url
        self.health = UpstreamHealth()
        self._context = context
        self._connect_timeout = connect_timeout

    async def dial(self, factory: ProtocolFactory) -> None:
        """
        Connect a protocol to the server.

        Args:
            factory: Makes the protocol; its ``connection_made`` is called before this returns, and for
                https after the handshake.

        Raises:
            UpstreamFailed: No connection was made, so nothing was sent.
        """
        self.health.dials += 1
        try:
            await self._dial(factory)
        except UpstreamFailed as error:
            self.health.failures += 1
            self.health.last_error = str(error)
            raise
        self.health.last_error = None

    async def _dial(self, factory: ProtocolFactory) -> None:
        try:
            with anyio.fail_after(self._connect_timeout):
                await self._connect(factory)
        except TimeoutError as error:
            raise UpstreamTimedOut(
                self.server, self.url.address, f"did not connect within {self._connect_timeout:g} s"
            ) from error
        except socket.gaierror as error:
            raise UpstreamUnreachable(
                self.server,
                self.url.address,
                f"has a host name that does not resolve ({error.strerror})",
                hint="check the url and this machine's DNS",
            ) from error
        except OSError as error:
            raise self._unreachable(error) from error
        except TunnelError as error:
            raise self._untrusted(error) from error

    async def _connect(self, factory: ProtocolFactory) -> None:
        if self._context is None:
            await connect_tcp(self.url.host, self.url.port, factory)
            return
        loop = asyncio.get_running_loop()
        greeter = Greeter(factory, loop)
        tls = TlsTransport(
            TlsEngine(self._context, server_side=False, server_hostname=self.url.host),
            greeter,
            loop=loop,
            verify=_trust_the_context,
            # The limit of the dial as a whole ends it first, and says that it was one of time.
            handshake_timeout=2 * self._connect_timeout,
        )
        try:
            await connect_tcp(self.url.host, self.url.port, lambda: tls)
            await greeter.introduced
        except BaseException:
            greeter.introduced.cancel()
            tls.abort()
            raise

    def _unreachable(self, error: OSError) -> UpstreamUnreachable:
        # asyncio writes the address that it tried into the error's own text: that is for the log.
        reason = f"cannot be reached: {os.strerror(error.errno)}" if error.errno else "cannot be reached"
        why, hint = _REFUSALS.get(error.errno or 0, (reason, ""))
        detail = "" if error.errno in _REFUSALS else str(error)
        return UpstreamUnreachable(self.server, self.url.address, why, detail=detail, hint=hint)

    def _untrusted(self, error: TunnelError) -> UpstreamUntrusted:
        detail, hint = "", "does it speak TLS 1.2 or later on this port"
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            found = error.__cause__
            unknown = (f"cannot be verified (error {found.verify_code})", "see `ca:` of this server")
            fault, hint = _CERTIFICATE_FAULTS.get(found.verify_code, unknown)
            why, detail = f"has a certificate that {fault}", found.verify_message
        elif isinstance(error, TlsFailed) and error.alert:
            why = f"ended the TLS handshake with the alert {error.alert}"
        else:
            why, detail = "failed in the TLS handshake", str(error)
        return UpstreamUntrusted(self.server, self.url.address, why, detail=detail, hint=hint)


def _trust_the_context(tls: ssl.SSLObject) -> None:
    """Add nothing: the context has checked chain and name, and internal servers have no identity of ours."""
