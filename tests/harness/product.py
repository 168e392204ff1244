"""
The whole product from outside: relay, gateways and connectors as separate processes on loopback.

Everything goes through the ``sallyport`` command as a user would type it, in one temporary folder::

    relay/          relay.yaml, the relay's certificate, its database
    <tunnel>/       identity/, one gateway-<name>.yaml a gateway, bundles where `certs` puts them

Several tunnels, several gateways of a tunnel and several connectors may run at once. Readiness is waited for
in the logs, under a deadline. ``Product.close`` ends what is still running, by process id.
"""

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import yaml

from sallyport.certs.files import IdentityDirectory
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess, run_sallyport, sallyport_command
from tests.harness.raw_http import Endpoint

DOMAIN = "tunnel.test"
LOOPBACK = "127.0.0.1"

LoopName = Literal["asyncio", "uvloop"]
CarrierName = Literal["picows", "websockets"]
LogLevel = Literal["debug", "info"]


class Product:
    """
    A relay, and the tunnels that it serves.

    Args:
        folder: an empty folder of its own.
        loop: the event loop of all processes; uvloop where it is installed when None.
        carrier: the WebSocket codec of relay and gateways; picows where it is installed when None.
        log_level: of all processes.
        relay_settings: replaces whole sections of the relay's configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        loop: LoopName | None = None,
        carrier: CarrierName | None = None,
        log_level: LogLevel = "info",
        relay_settings: Mapping[str, object] | None = None,
    ) -> None:
        self.folder = folder
        self.log_level = log_level
        self.relay_port = free_port()
        self.relay_health = free_port()
        chosen = {"SALLYPORT_LOOP": loop, "SALLYPORT_CARRIER": carrier}
        self._environment = {variable: value for variable, value in chosen.items() if value}
        self._running: list[ChildProcess] = []
        self.relay_folder = folder / "relay"
        self._make_relay(relay_settings or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def relay_address(self) -> str:
        """What gateways and callers dial."""
        return f"{LOOPBACK}:{self.relay_port}"

    @property
    def relay(self) -> ChildProcess | None:
        """The running relay, if any."""
        relays = (each for each in self._running if each.name == "relay" and each.exit_code is None)
        return next(relays, None)

    def close(self) -> None:
        """End every process, the youngest first."""
        while self._running:
            self._running.pop().end()

    def start_relay(self) -> ChildProcess:
        """Start the relay, or start it again at the same address, and wait until it listens."""
        relay = self.start("relay", "relay", "run", "--config", "relay.yaml", folder=self.relay_folder)
        relay.wait_for("listening")
        return relay

    def make_tunnel(self, name: str, servers: Mapping[str, str]) -> "Tunnel":
        """
        Make a tunnel's identity and register its root with the relay.

        Args:
            name: of the tunnel in messages, and of its folder.
            servers: URLs by server name.
        """
        folder = self.folder / name
        folder.mkdir()
        addresses = ("--domain", DOMAIN, "--relay", self.relay_address, "--name", "gw1")
        self.run("certs", "init", *addresses, folder=folder)
        tunnel = Tunnel(self, name, folder, dict(servers))
        root = tunnel.identity.root_path
        self.run("relay", "tunnel", "add", root, "--name", name, folder=self.relay_folder)
        if self.relay is not None:
            self.relay.wait_for("tunnel changed", tunnel=tunnel.id)
        return tunnel

    def start(self, name: str, *arguments: str | Path, folder: Path) -> ChildProcess:
        """Start a ``sallyport`` command that runs until it is told to stop."""
        process = ChildProcess(
            name, sallyport_command(*arguments), folder=folder, environment=self._environment
        )
        self._running.append(process)
        return process

    def run(self, *arguments: str | Path, folder: Path) -> str:
        """
        Run a ``sallyport`` command that ends by itself and return its standard output.

        Raises:
            AssertionError: it failed.
        """
        done = run_sallyport(*arguments, folder=folder)
        command = " ".join(map(str, arguments))
        printed = done.stdout + done.stderr
        assert done.returncode == 0, f"sallyport {command}: exit {done.returncode}\n{printed}"
        return done.stdout

    def _make_relay(self, replaced: Mapping[str, object]) -> None:
        self.relay_folder.mkdir(parents=True)
        self.run("relay", "init", "--domain", DOMAIN, "--host", LOOPBACK, folder=self.relay_folder)
        settings = {
            "listen": self.relay_address,
            "domain": DOMAIN,
            "tls": {"certificate": "./relay.pem", "key": "./relay.key"},
            "health": f"{LOOPBACK}:{self.relay_health}",
            "log": {"level": self.log_level, "format": "json"},
            **replaced,
        }
        (self.relay_folder / "relay.yaml").write_text(_yaml(settings))


@dataclass
class Tunnel:
    """One tunnel: its identity, and the processes on its two ends."""

    product: Product
    name: str
    folder: Path
    servers: dict[str, str]
    _connectors: int = 0

    @property
    def identity(self) -> IdentityDirectory:
        """The folder that ``certs init`` made."""
        return IdentityDirectory(self.folder / "identity")

    @property
    def id(self) -> str:
        """The tunnel's ID, ``tnl_…``."""
        return str(self.identity.tunnel_id())

    @property
    def label(self) -> str:
        """The DNS form of the ID."""
        return self.identity.tunnel_id().label

    def host(self, server: str | None = None) -> str:
        """The public name of a server, or of the tunnel itself."""
        return ".".join(filter(None, (server, self.label, DOMAIN)))

    def start_gateway(
        self, name: str = "gw1", *, settings: Mapping[str, object] | None = None
    ) -> ChildProcess:
        """
        Start a gateway and wait until its link is up.

        Args:
            name: issued its own leaves when it has none yet.
            settings: replaces whole sections of the configuration.
        """
        config = self.write_gateway_config(name, settings)
        process_name = f"gateway-{self.name}-{name}"
        gateway = self.product.start(process_name, "gateway", "run", "--config", config, folder=self.folder)
        wait_for_links(gateway)
        return gateway

    def write_gateway_config(self, name: str = "gw1", settings: Mapping[str, object] | None = None) -> Path:
        """Write the configuration of a gateway and return its path; see ``start_gateway``."""
        self._issue("gateway", name, self.identity.gateway(name).certificate)
        self._issue("link", name, self.identity.link(name).certificate)
        content: dict[str, object] = {
            "tunnel": {"id": self.id, "identity": "./identity", "name": name},
            "relay": {"address": self.product.relay_address, "ca": str(self.relay_ca)},
            "servers": {key: {"url": url} for key, url in self.servers.items()},
            "log": {"level": self.product.log_level, "format": "json"},
            **(settings or {}),
        }
        path = self.folder / f"gateway-{name}.yaml"
        path.write_text(_yaml(content))
        return path

    @property
    def relay_ca(self) -> Path:
        """The CA that proves the relay, as its operator handed it over."""
        return self.product.relay_folder / "relay-ca.pem"

    def bundle(self, caller: str = "agent") -> Path:
        """Return a caller's bundle, issued when there is none yet."""
        path = self.identity.caller_bundle(caller)
        self._issue("caller", caller, path)
        return path

    def start_connector(
        self, server: str | None = "tickets", *, bundle: Path | None = None, relay: str | None = None
    ) -> "Connector":
        """
        Start a connector and wait until it listens.

        Args:
            server: served at the root of its URL; all servers below their names when None.
            bundle: that of a caller named agent when None.
            relay: dialled instead of the address in the bundle.
        """
        target = f"{self.id}/{server}" if server else self.id
        arguments: list[str | Path] = ["connect", target, "--bundle", bundle or self.bundle(), "--port", "0"]
        arguments += ["--log-format", "json", "--log-level", self.product.log_level]
        if relay is not None:
            arguments += ["--relay", relay]
        self._connectors += 1
        name = f"connector-{self.name}-{self._connectors}"
        process = self.product.start(name, *arguments, folder=self.folder)
        address = str(process.wait_for("listening")["address"])
        return Connector(process, int(address.rpartition(":")[2]))

    def tls_endpoint(self, server: str | None = "tickets", *, caller: str | None = "agent") -> Endpoint:
        """Return a server's public endpoint, reached by TLS straight to the relay."""
        host = self.host(server)
        path = "/mcp" if server else "/tickets/mcp"
        context = self.only_root_context(caller)
        return Endpoint(LOOPBACK, self.product.relay_port, path, host, tls=context, server_name=host)

    def only_root_context(self, caller: str | None = "agent") -> ssl.SSLContext:
        """Return a client's context that trusts the tunnel's root and nothing else, as the docs show it."""
        context = ssl.create_default_context(cafile=str(self.identity.root_path))
        if caller is not None:
            context.load_cert_chain(self.bundle(caller))
        return context

    def _issue(self, kind: str, name: str, file: Path) -> None:
        if not file.exists():
            self.product.run("certs", "issue", kind, name, folder=self.folder)


@dataclass(frozen=True)
class Connector:
    """A running connector: its process and where it listens."""

    process: ChildProcess
    port: int

    def endpoint(self, path: str = "/mcp") -> Endpoint:
        """Return the endpoint that an agent is given."""
        return Endpoint(LOOPBACK, self.port, path, f"{LOOPBACK}:{self.port}")

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"http://{LOOPBACK}:{self.port}/mcp"


def wait_for_links(gateway: ChildProcess) -> None:
    """Wait until every worker of a gateway has its link."""
    workers = gateway.wait_for("starting")["workers"]
    assert isinstance(workers, int)
    gateway.wait_for("link up", count=workers)


def _yaml(content: Mapping[str, object]) -> str:
    # By way of JSON, so that nothing is shared and no anchor appears, which the product refuses.
    return yaml.safe_dump(json.loads(json.dumps(content)))


def is_root() -> bool:
    """Tell whether another process's memory may be read."""
    return os.geteuid() == 0
