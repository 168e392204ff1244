"""
The ``url`` of a server, taken apart once: an address to dial, a ``Host`` to send, a path to expose (pure).

``config`` has checked that it is an http or https URL with a host and without user, query or fragment. What
is added here is the gateway's own rule: a path that no request could ask for is refused at start, by name,
and not at the first call.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from sallyport.gateway.errors import RequestRefused, ServerUnusable
from sallyport.gateway.raw_path import split_target

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """Where an internal server is and what it is called there."""

    is_tls: bool
    """Whether to speak TLS to it, and so to check its certificate for ``host``."""
    host: str
    """A DNS name or an IP address, without brackets."""
    port: int
    authority: bytes
    """What goes into ``Host``: the name, with the port unless it is the scheme's own."""
    path: bytes
    """The endpoint's raw path, at least ``/``."""

    @property
    def address(self) -> str:
        """``host:port`` for logs, an IPv6 address in brackets."""
        return f"{_bracketed(self.host)}:{self.port}"

    @classmethod
    def parse(cls, server: str, text: str) -> "UpstreamUrl":
        """
        Take a server's ``url`` apart.

        Args:
            server: The server's name, for the error.
            text: The URL, as ``config`` lets it pass.

        Raises:
            ServerUnusable: Its path is ambiguous.
        """
        parts = urlsplit(text)
        host, default = parts.hostname or "", _PORTS[parts.scheme]
        port = parts.port or default
        # A zone (fe80::1%eth0) means something on this host only and has no place in Host (RFC 6874 §4).
        name = _bracketed(host.partition("%")[0])
        return cls(
            is_tls=parts.scheme == "https",
            host=host,
            port=port,
            authority=(name if port == default else f"{name}:{port}").encode("ascii"),
            path=checked_path(server, parts.path or "/"),
        )


def checked_path(server: str, text: str) -> bytes:
    """
    Hold a path that a server's config exposes to the rules that requests are held to.

    Args:
        server: The server's name, for the error.
        text: The path of ``url``, or an entry of ``paths``.

    Raises:
        ServerUnusable: No request for this path could ever pass.
    """
    try:
        path, _ = split_target(text.encode("ascii"))
    except RequestRefused as error:
        raise ServerUnusable(
            server,
            f"its path {text!r} is ambiguous, {error.detail}",
            hint="begin with one slash, and leave out dot segments and empty ones",
        ) from error
    return path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
