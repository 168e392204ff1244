"""
The commands of the relay's operator.

Each reads like the sentence that it is in the documentation: it parses, calls one function, and prints. What
goes wrong is raised and told by ``sallyport.cli``. Tables are for people; ``--json`` is for programs and
keeps its keys.
"""

import http.client
import importlib.util
import json
import os
import sys
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer
from cryptography import x509
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sallyport.certs.files import load_certificate
from sallyport.certs.names import TunnelId, domain as checked_domain
from sallyport.certs.pem import encode_certificates
from sallyport.config.fields import Address, FieldRefused
from sallyport.config.loader import load_relay
from sallyport.config.logs import configure_logging
from sallyport.config.relay import RelayConfig
from sallyport.relay.app import run as run_relay
from sallyport.relay.initialise import Initialised, initialise
from sallyport.relay.registration import judge_root
from sallyport.relay.registry import Tunnel
from sallyport.relay.store import Registered, TunnelStore

app = typer.Typer(help="The public relay: what gateways dial and callers reach.", no_args_is_help=True)
tunnel_app = typer.Typer(help="Register tunnels and look at them.", no_args_is_help=True)
app.add_typer(tunnel_app, name="tunnel")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="relay.yaml; default ./relay.yaml, then /etc/sallyport/relay.yaml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Seconds for the running relay's health listener, which is on this machine, to answer.
_HEALTH_TIMEOUT: Final = 2.0


@app.command()
def init(
    domain: Annotated[str, typer.Option(help="The tunnel domain: every tunnel's names lie under it.")],
    listen: Annotated[str, typer.Option(help="The public address.")] = "0.0.0.0:443",
    directory: Annotated[Path, typer.Option("--dir", help="Where to make the files.")] = Path(),
    hosts: Annotated[
        list[str] | None,
        typer.Option("--host", "--name", help="A name or address of the relay itself; repeatable."),
    ] = None,
) -> None:
    """Make a relay's configuration, certificate and key."""
    checked, address = checked_domain(domain), _address(listen)
    made = initialise(
        directory,
        domain=checked,
        listen=address,
        names=[_host(host) for host in hosts or ()],
        now=datetime.now(UTC),
    )
    _print_initialised(made, checked, Address(hosts[0] if hosts else "RELAY", address.port))


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the relay until SIGTERM or Ctrl-C; a second one stops it at once."""
    settings = load_relay(config)
    configure_logging(settings.log)
    anyio.run(run_relay, settings, backend_options={"use_uvloop": _wants_uvloop()})


@tunnel_app.command()
def add(
    root: Annotated[Path, typer.Argument(help="The tunnel's root certificate, root.pem of `certs init`.")],
    name: Annotated[str | None, typer.Option(help="What you call the tunnel; for people only.")] = None,
    config: ConfigOption = None,
) -> None:
    """Register a tunnel; a running relay serves it within two seconds."""
    settings = load_relay(config)
    certificate = load_certificate(root)
    now = datetime.now(UTC)
    tunnel = judge_root(certificate, domain=settings.domain, now=now)
    pem = encode_certificates([certificate]).decode("ascii")
    with closing(TunnelStore(settings.database)) as store:
        registered = store.register(tunnel.label, pem, name=_checked_name(name), now=now)
    typer.echo(f"{tunnel} {_REGISTERED[registered]}")


@tunnel_app.command("list")
def list_tunnels(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the registered tunnels."""
    with closing(TunnelStore(load_relay(config).database)) as store:
        tunnels = store.tunnels()
    if as_json:
        typer.echo(json.dumps([_described(tunnel) for tunnel in tunnels], indent=2))
        return
    table = Table("TUNNEL", "NAME", "STATE", "REGISTERED", box=None, pad_edge=False)
    for tunnel in tunnels:
        table.add_row(tunnel.id, Text(tunnel.name or "–"), tunnel.state.value, _shown(tunnel.created))
    _console().print(table if tunnels else "no tunnel is registered: sallyport relay tunnel add ROOT.pem")


@tunnel_app.command()
def show(
    tunnel_id: Annotated[str, typer.Argument(metavar="ID", help="The tunnel's ID, tnl_….")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one tunnel and, when the relay runs, its links."""
    settings = load_relay(config)
    with closing(TunnelStore(settings.database)) as store:
        tunnel = store.tunnel(TunnelId.parse(tunnel_id).label)
    links = _live_links(settings, tunnel)
    if as_json:
        typer.echo(json.dumps({**_described(tunnel), "links": links}, indent=2))
        return
    _print_tunnel(tunnel, links, settings)


# What was typed


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except FieldRefused as refused:
        raise typer.BadParameter(f"{refused.message}; {refused.hint}", param_hint="--listen") from refused


def _host(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return checked_domain(text)


def _checked_name(name: str | None) -> str | None:
    if name is not None and not (name.isprintable() and len(name) <= _LONGEST_NAME):
        raise typer.BadParameter(f"at most {_LONGEST_NAME} printable characters", param_hint="--name")
    return name


def _wants_uvloop() -> bool:
    """
    Say whether to run on uvloop: where it is installed, unless SALLYPORT_LOOP=asyncio says not to.
    """
    return os.environ.get("SALLYPORT_LOOP") != "asyncio" and importlib.util.find_spec("uvloop") is not None


# What the running relay says


def _live_links(settings: RelayConfig, tunnel: Tunnel) -> list[dict[str, object]] | None:
    """
    Ask the running relay for a tunnel's links; None when nobody answers.
    """
    if settings.health is None:
        return None
    connection = http.client.HTTPConnection(
        settings.health.host, settings.health.port, timeout=_HEALTH_TIMEOUT
    )
    with closing(connection):
        try:
            connection.request("GET", "/status")
            status = json.load(connection.getresponse())
            links: list[dict[str, object]] = [link for link in status["links"] if link["tunnel"] == tunnel.id]
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return None  # It is not running, or something else listens there.
    return links


# What is printed


def _print_initialised(made: Initialised, domain: str, relay: Address) -> None:
    typer.echo(f"""\
made in {made.directory.resolve()}:
  relay.yaml     the configuration
  relay.pem      the relay's certificate, with its key in relay.key
  relay-ca.pem   for gateways: `relay: {{address: {relay}, ca: relay-ca.pem}}`

or they pin the key: `relay: {{address: {relay}, pin: {made.pin}}}`

DNS records to make, all leading to this relay:
  *.{domain}
  *.link.{domain}

next:
  sallyport relay run --config {made.config}
  sallyport relay tunnel add ROOT.pem --config {made.config}""")


def _described(tunnel: Tunnel) -> dict[str, object]:
    return {
        "id": tunnel.id,
        "name": tunnel.name,
        "state": tunnel.state.value,
        "created": tunnel.created.isoformat(),
        "updated": tunnel.updated.isoformat(),
        "root_not_after": _root_end(tunnel).isoformat(),
    }


def _print_tunnel(tunnel: Tunnel, links: list[dict[str, object]] | None, settings: RelayConfig) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("tunnel", tunnel.id)
    facts.add_row("name", Text(tunnel.name or "–"))
    facts.add_row("state", tunnel.state.value)
    facts.add_row("domain", settings.domain)
    facts.add_row("registered", _shown(tunnel.created))
    facts.add_row("changed", _shown(tunnel.updated))
    facts.add_row("root expires", _shown(_root_end(tunnel)))
    console = _console()
    console.print(facts)
    console.print()
    if links is None:
        where = settings.health or "no `health:` in the configuration"
        console.print(f"links: unknown, the relay does not answer ({where})")
    elif not links:
        console.print("links: none")
    else:
        console.print(_links_table(links))


def _links_table(links: list[dict[str, object]]) -> Table:
    columns = ("gateway", "index", "address", "streams", "rtt_ms", "since", "software")
    table = Table(*(column.upper().replace("_", " ") for column in columns), box=None, pad_edge=False)
    for link in links:
        # The software's name is a gateway's own text: never markup.
        table.add_row(*(Text(str(link.get(column))) for column in columns))
    return table


def _root_end(tunnel: Tunnel) -> datetime:
    return x509.load_pem_x509_certificate(tunnel.root_pem.encode()).not_valid_after_utc


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


_LONGEST_NAME: Final = 100
_REGISTERED: Final = {
    Registered.ADDED: "is registered",
    Registered.UPDATED: "was registered before and is changed",
    Registered.UNCHANGED: "is registered already, nothing is changed",
}
