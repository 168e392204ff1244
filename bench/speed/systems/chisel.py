"""
chisel: one WebSocket over TLS, SSH inside it, and in that the streams: ``server --reverse``, client ``R:…``.
"""

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
from tests.harness.product import LOOPBACK


class Chisel:
    """chisel."""

    name = "chisel"

    def missing(self) -> str:
        """Say what is not installed."""
        return install.missing("chisel")

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Start both ends."""
        authority = Authority.make(folder / "certificates", "bench chisel")
        leaf = authority.issue_server("link", names=[LINK_NAME])
        chisel, link = install.require("chisel"), free_port()
        tls, mutual = free_port(), free_port()
        serve: list[str | Path] = [chisel, "server", "--reverse", "--host", LOOPBACK, "--port", str(link)]
        serve += ["--tls-cert", leaf.certificate, "--tls-key", leaf.key]
        dial: list[str | Path] = [chisel, "client", "--tls-ca", authority.root]
        dial += [f"https://{LOOPBACK}:{dialled(link, link_through)}"]
        dial += [f"R:{LOOPBACK}:{tls}:{LOOPBACK}:{upstream.tls}"]
        dial += [f"R:{LOOPBACK}:{mutual}:{LOOPBACK}:{upstream.mutual}"]
        with Program("chisel-server", serve, folder=folder) as server:
            server.wait_for_port(link)
            with Program("chisel-client", dial, folder=folder) as client:
                yield ready(entrance(upstream, tls, mutual), [server, client])
