"""
The servers of the config, each with what it takes to forward a call to it.

Everything about one server is made here once, at start: its address and TLS context, its connection pool,
its policy and timeouts. A server that does not run is no obstacle: it is dialled when it is called.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sallyport.certs.contexts import upstream_context
from sallyport.certs.names import server_names
from sallyport.config.gateway import ServerConfig
from sallyport.gateway.policy import Policy
from sallyport.gateway.upstream import Upstream
from sallyport.gateway.upstream_url import UpstreamUrl
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.http_client import ClientPool, Spawn
from sallyport.tunnel.net.http_forward import ForwardTimeouts

_IDLE_UPSTREAM: Final = limit(
    4.0, "seconds",
    "an idle connection to a server is kept for. uvicorn and Node close one after five, and a request "
    "written to a connection that is being closed is lost with “may have run”: so ours are given up first",
)  # fmt: skip


@dataclass(slots=True)
class CallCounts:
    """How the calls to one server ended since the start, for ``gateway status``."""

    calls: int = 0
    """All that were decided for this server."""
    failed: int = 0
    """Those that it did not answer, or not to the end."""
    last_failure: str = ""
    """Why the last of them failed; empty when none did."""


@dataclass(slots=True)
class Server:
    """One server that callers may call."""

    name: str
    """Its name for callers."""
    upstream: Upstream
    """Where it is, and how dialling it went."""
    pool: ClientPool
    """Connections to it."""
    policy: Policy
    """What requests for it may carry."""
    timeouts: ForwardTimeouts
    """How long it may take to answer."""
    counts: CallCounts = field(default_factory=CallCounts)

    def status(self) -> dict[str, object]:
        """Describe the server for ``gateway status``: addresses and counts, never what was called."""
        health = self.upstream.health
        return {
            "server": self.name,
            "address": self.upstream.url.address,
            "tls": self.upstream.url.is_tls,
            "calls": self.counts.calls,
            "failed": self.counts.failed,
            "last_failure": self.counts.last_failure,
            "dials": health.dials,
            "failed_dials": health.failures,
            "last_dial_error": health.last_error or "",
        }


def upstreams_of(servers: Mapping[str, ServerConfig]) -> dict[str, Upstream]:
    """
    Describe how to reach the servers of a config, by their names for callers.

    Raises:
        NameRefused: A config key that gives no name, or one that another key gives.
        ServerUnusable: A URL whose path is ambiguous.
        FileRefused: A CA file that cannot be used.
    """
    upstreams = {}
    for key, name in server_names(servers).items():
        config = servers[key]
        url = UpstreamUrl.parse(name, config.url)
        context = upstream_context(config.ca) if url.is_tls else None
        upstreams[name] = Upstream(name, url, context=context, connect_timeout=config.timeouts.connect)
    return upstreams


def open_servers(
    servers: Mapping[str, ServerConfig], *, loop: asyncio.AbstractEventLoop, spawn: Spawn
) -> dict[str, Server]:
    """
    Make the servers of a config ready to be called; nothing is dialled yet.

    Args:
        servers: By config key.
        loop: The running loop.
        spawn: Starts a task in the owner's task group, for dials.

    Raises:
        NameRefused, ServerUnusable, FileRefused: As :func:`upstreams_of`.
    """
    upstreams = upstreams_of(servers)
    opened = {}
    for (name, upstream), config in zip(upstreams.items(), servers.values(), strict=True):
        opened[name] = Server(
            name,
            upstream,
            ClientPool(upstream.dial, idle_timeout=_IDLE_UPSTREAM, loop=loop, spawn=spawn),
            Policy.of(config.origins, passthrough=config.passthrough),
            ForwardTimeouts(first_byte=config.timeouts.first_byte, idle=config.timeouts.idle),
        )
    return opened
