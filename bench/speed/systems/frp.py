"""
frp: ``frps`` and ``frpc``, proxies of type tcp, TLS between the two.

As its documentation recommends: a pool of five connections, and all streams in one connection (tcpMux, its
default). Without it each stream has a connection of its own, which is another trade: see ``multiplexed``.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed import install
from bench.speed.certificates import Authority
from bench.speed.program import Program
from bench.speed.system import Running
from bench.speed.systems.passing import LINK_NAME, LinkThrough, dialled, entrance, ready
from bench.speed.upstream import Upstream
from sallyport.processes import free_port

_SERVER = """\
bindAddr = "127.0.0.1"
bindPort = {link}
proxyBindAddr = "127.0.0.1"
auth.token = "{token}"
transport.tcpMux = {multiplexed}
transport.tls.certFile = "{certificate}"
transport.tls.keyFile = "{key}"
"""

_CLIENT = """\
serverAddr = "127.0.0.1"
serverPort = {dialled}
auth.token = "{token}"
transport.poolCount = 5
transport.tcpMux = {multiplexed}
transport.tls.enable = true
transport.tls.trustedCaFile = "{root}"
transport.tls.serverName = "{name}"

[[proxies]]
name = "tls"
type = "tcp"
localIP = "127.0.0.1"
localPort = {upstream_tls}
remotePort = {tls}

[[proxies]]
name = "mutual"
type = "tcp"
localIP = "127.0.0.1"
localPort = {upstream_mutual}
remotePort = {mutual}
"""


class Frp:
    """
    frp.

    Args:
        name: Of the column.
        multiplexed: Whether all streams share one connection.
    """

    def __init__(self, name: str, *, multiplexed: bool = True) -> None:
        self.name = name
        self._multiplexed = multiplexed

    def missing(self) -> str:
        """Say what is not installed."""
        return install.missing("frps", "frpc")

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Start both ends."""
        authority = Authority.make(folder / "certificates", "bench frp")
        leaf = authority.issue_server("link", names=[LINK_NAME])
        link, tls, mutual = free_port(), free_port(), free_port()
        facts = {
            "link": link,
            "dialled": dialled(link, link_through),
            "token": secrets.token_hex(16),
            "multiplexed": str(self._multiplexed).lower(),
            "certificate": leaf.certificate,
            "key": leaf.key,
            "root": authority.root,
            "name": LINK_NAME,
            "upstream_tls": upstream.tls,
            "upstream_mutual": upstream.mutual,
            "tls": tls,
            "mutual": mutual,
        }
        (folder / "frps.toml").write_text(_SERVER.format(**facts))
        (folder / "frpc.toml").write_text(_CLIENT.format(**facts))
        with Program("frps", [install.require("frps"), "-c", "frps.toml"], folder=folder) as server:
            server.wait_for_port(link)
            with Program("frpc", [install.require("frpc"), "-c", "frpc.toml"], folder=folder) as client:
                yield ready(entrance(upstream, tls, mutual), [server, client])
