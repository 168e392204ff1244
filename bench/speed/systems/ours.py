"""
Sallyport, set up through its command as a user would: the product, and its tunnel alone.

*Product* is everything on: the callers' TLS ends in the gateway, which learns who calls (by a certificate, or
by an API key, since ``wrk`` has no certificates), parses and judges the request, and forwards it over plain
HTTP. *Tunnel* is the same relay and link with ``bare_gateway`` behind, which passes the callers' TLS on to
the upstream, as the peers do.

Nothing is switched off. Logs are at ``info``, as JSON, to files. The gateway has as many workers as it makes
by itself; the bare one is a single process. One setting is raised that an operator may raise:
``limits.streams_per_caller``, from 1,000 to the 10,000 that a link carries, because one caller is here
everybody and holds all the idle streams.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.speed.program import Program
from bench.speed.system import Entrance, Running
from bench.speed.systems.passing import LinkThrough, dialled, ready
from bench.speed.upstream import Upstream
from sallyport.tunnel.limits import MAX_STREAMS
from tests.harness.child_process import CHECKOUT, sallyport_command
from tests.harness.product import LOOPBACK, Product, Tunnel, wait_for_links

_SERVER: Final = "tickets"


class _Sallyport:
    """
    What both columns have: processes of ours, all with one environment.

    Args:
        name: Of the column.
        environment: For relay and gateway.
    """

    def __init__(self, name: str, *, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._environment = environment or {}

    def missing(self) -> str:
        """Return nothing: it is what the benchmark comes with."""
        return ""

    def _program(self, name: str, command: Sequence[str | Path], folder: Path, **variables: str) -> Program:
        return Program(name, command, folder=folder, environment={**variables, **self._environment})

    @contextmanager
    def _relay(self, product: Product) -> Iterator[Program]:
        command = sallyport_command("relay", "run", "--config", "relay.yaml")
        with self._program("relay", command, product.relay_folder) as relay:
            relay.wait_for("listening")
            yield relay


class Ours(_Sallyport):
    """The product."""

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Start a relay and a gateway, with keys turned on and one key made."""
        with ExitStack() as stack:
            product = stack.enter_context(Product(folder / "product"))
            tunnel = product.make_tunnel("acme", {_SERVER: f"http://{LOOPBACK}:{upstream.plain}/mcp"})
            settings = {
                "relay": _relay_section(product, dialled(product.relay_port, link_through)),
                "keys": "on",
                "limits": {"streams_per_caller": MAX_STREAMS},
            }
            config = tunnel.write_gateway_config(settings=settings)
            added = product.run("gateway", "keys", "add", "bench", "--config", config, folder=tunnel.folder)
            relay = stack.enter_context(self._relay(product))
            command = sallyport_command("gateway", "run", "--config", config)
            gateway = stack.enter_context(self._program("gateway", command, tunnel.folder))
            wait_for_links(gateway)
            yield ready(_entrance(product, tunnel, key=added.strip()), [relay, gateway])


class BareTunnel(_Sallyport):
    """Relay and link alone."""

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Start a relay, and one bare gateway with a link for each of the upstream's ports."""
        with ExitStack() as stack:
            product = stack.enter_context(Product(folder / "product"))
            plain = _bare(product, "tls", upstream)
            mutual = _bare(product, "mutual", upstream)
            relay = stack.enter_context(self._relay(product))
            command: list[str | Path] = [sys.executable, "-m", "bench.speed.bare_gateway"]
            settings = {"relay": _relay_section(product, dialled(product.relay_port, link_through))}
            command += [f"{plain.write_gateway_config(settings=settings)}={upstream.tls}"]
            command += [f"{mutual.write_gateway_config(settings=settings)}={upstream.mutual}"]
            program = self._program("bare-gateway", command, folder, PYTHONPATH=str(CHECKOUT))
            gateway = stack.enter_context(program)
            for tunnel in (plain, mutual):
                gateway.wait_for_text(tunnel.id)
            way = Entrance(
                port=product.relay_port,
                server_name=plain.host(),
                authority=upstream.authority,
                certificate=upstream.certificate,
                key=upstream.key,
                mutual_port=product.relay_port,
                mutual_server_name=mutual.host(),
            )
            yield ready(way, [relay, gateway])


def _bare(product: Product, name: str, upstream: Upstream) -> Tunnel:
    # The server is never called, but a gateway's configuration must have one.
    return product.make_tunnel(name, {_SERVER: f"http://{LOOPBACK}:{upstream.plain}/mcp"})


def _relay_section(product: Product, port: int) -> dict[str, str]:
    return {"address": f"{LOOPBACK}:{port}", "ca": str(product.relay_folder / "relay-ca.pem")}


def _entrance(product: Product, tunnel: Tunnel, *, key: str) -> Entrance:
    bundle = tunnel.bundle("agent")
    return Entrance(
        port=product.relay_port,
        server_name=tunnel.host(_SERVER),
        authority=tunnel.identity.root_path,
        certificate=bundle,
        key=bundle,
        mutual_port=product.relay_port,
        authorization=f"Bearer {key}",
    )
