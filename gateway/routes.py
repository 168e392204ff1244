"""
Which server a request is for, and which of its paths (pure).

Three things name the target: the inner ClientHello's SNI, the ``Host`` field and the path. They have to
agree. The SNI chose the certificate that the caller checked, so ``Host`` must repeat it (RFC 9110 §7.4:
421 otherwise, which tells a client to use another connection). Then

* ``<server>.<label>.<D>`` names the server, and the path is the server's own;
* under ``<label>.<D>`` the first path segment names it, or in ``/.well-known/X/<server>/…`` the one after
  X, and is removed.

A server that is not configured is 421, never 404: inside an MCP session a client reads 404 as "the session
is gone". A path that the server does not expose is 403. The reserved server ``_canary`` is the gateway
itself, for ``sallyport doctor``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sallyport.certs.names import server_host, tunnel_host
from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.raw_path import Exposure, split_target
from sallyport.gateway.upstream_url import UpstreamUrl, checked_path

CANARY = "_canary"
"""The reserved server name that the gateway answers itself."""

_WELL_KNOWN = b".well-known"


class ServedPaths(Protocol):
    """The part of a server's config that decides what of it is exposed."""

    @property
    def url(self) -> str: ...

    @property
    def paths(self) -> list[str]: ...


class AddressedRequest(Protocol):
    """The part of a request head that says what it is for."""

    @property
    def host(self) -> bytes: ...

    @property
    def target(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    server: str
    """The server's name: a slug of the config, or ``CANARY``."""
    target: bytes
    """Path and query for that server, byte for byte as the caller wrote them."""


class Routes:
    """The names and paths that this gateway answers for."""

    def __init__(self, exposures: Mapping[str, Exposure], *, label: str, domains: Iterable[str]) -> None:
        """
        Prepare the table of names.

        Args:
            exposures: What each server exposes, by the server's name.
            label: The tunnel's label.
            domains: The tunnel domains, from the root certificate's name constraints.
        """
        self._exposures = {**exposures, CANARY: Exposure((b"",))}
        self._server_of_segment = {name.encode("ascii"): name for name in self._exposures}
        self._server_of: dict[str, str | None] = {}
        for domain in domains:
            host = tunnel_host(label, domain)
            self._server_of[host] = None
            # Some clients refuse a host name with an underscore; the path form works with all of them.
            self._server_of[f"{CANARY}.{host}"] = CANARY
            for server in exposures:
                self._server_of[server_host(server, label, domain)] = server

    @classmethod
    def of(cls, servers: Mapping[str, ServedPaths], *, label: str, domains: Iterable[str]) -> "Routes":
        """
        Build the table from the config.

        Args:
            servers: By their names for callers (``certs.names.server_names``).
            label: The tunnel's label.
            domains: The tunnel domains.

        Raises:
            ServerUnusable: A path that no request could ask for.
            NameRefused: A host name longer than DNS allows.
        """
        exposures = {}
        for name, server in servers.items():
            endpoint = UpstreamUrl.parse(name, server.url).path
            exposures[name] = Exposure.of([endpoint, *(checked_path(name, entry) for entry in server.paths)])
        return cls(exposures, label=label, domains=domains)

    def decide(self, head: AddressedRequest, sni: str) -> Route:
        """
        Decide where a request goes.

        Args:
            head: The request head as parsed; its target and host are the caller's bytes.
            sni: The server name of the inner TLS connection that carries it.

        Raises:
            RequestRefused: 421 ``host`` or ``server``, 403 ``path`` or ``exposed``.
        """
        name = sni.lower()
        if _host_name(head.host) != name:
            raise RequestRefused(421, "host", "the Host field is not the name of this connection")
        path, query = split_target(head.target)
        if name not in self._server_of:
            raise RequestRefused(421, "server", f"no server is called {name}")
        server = self._server_of[name]
        if server is None:
            server, path = self._server_in_path(path)
        if not self._exposures[server].permits(path):
            raise RequestRefused(
                403,
                "exposed",
                f"server {server} exposes the path of its url and what `paths:` lists, not this",
            )
        return Route(server, path + query)

    def _server_in_path(self, path: bytes) -> tuple[str, bytes]:
        """Take the server's segment out of a path under the tunnel's own name."""
        segments = path[1:].split(b"/")
        position = 2 if segments[0] == _WELL_KNOWN else 0
        server = self._server_of_segment.get(segments[position]) if position < len(segments) else None
        if server is None:
            raise RequestRefused(421, "server", "the path does not begin with the name of a server")
        del segments[position]
        return server, b"/" + b"/".join(segments)


def _host_name(host: bytes) -> str | None:
    """Return the name in a Host field without its port, in lower case; None when it is not one."""
    name, _, port = host.partition(b":")
    if port.strip(b"0123456789") or not name.isascii():
        return None
    return name.decode("ascii").lower()
