"""
rathole: a TLS connection for each stream, from a few that wait; its ``tls`` transport.
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
[server]
bind_addr = "127.0.0.1:{link}"
default_token = "{token}"

[server.transport]
type = "tls"

[server.transport.tls]
pkcs12 = "{identity}"
pkcs12_password = "{password}"

[server.services.tls]
bind_addr = "127.0.0.1:{tls}"

[server.services.mutual]
bind_addr = "127.0.0.1:{mutual}"
"""

_CLIENT = """\
[client]
remote_addr = "127.0.0.1:{dialled}"
default_token = "{token}"

[client.transport]
type = "tls"

[client.transport.tls]
trusted_root = "{root}"
hostname = "{name}"

[client.services.tls]
local_addr = "127.0.0.1:{upstream_tls}"

[client.services.mutual]
local_addr = "127.0.0.1:{upstream_mutual}"
"""


class Rathole:
    """rathole."""

    name = "rathole"

    def missing(self) -> str:
        """Say what is not installed."""
        return install.missing("rathole")

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Start both ends."""
        authority = Authority.make(folder / "certificates", "bench rathole")
        leaf = authority.issue_server("link", names=[LINK_NAME])
        password = secrets.token_hex(16)
        link, tls, mutual = free_port(), free_port(), free_port()
        facts = {
            "link": link,
            "dialled": dialled(link, link_through),
            "token": secrets.token_hex(16),
            "identity": authority.write_pkcs12(leaf, password),
            "password": password,
            "root": authority.root,
            "name": LINK_NAME,
            "upstream_tls": upstream.tls,
            "upstream_mutual": upstream.mutual,
            "tls": tls,
            "mutual": mutual,
        }
        (folder / "server.toml").write_text(_SERVER.format(**facts))
        (folder / "client.toml").write_text(_CLIENT.format(**facts))
        rathole = install.require("rathole")
        with Program("rathole-server", [rathole, "--server", "server.toml"], folder=folder) as server:
            server.wait_for_port(link)
            with Program("rathole-client", [rathole, "--client", "client.toml"], folder=folder) as client:
                yield ready(entrance(upstream, tls, mutual), [server, client])
