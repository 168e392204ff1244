"""
The commands of the relay's operator.

Each reads like the sentence that it is in the documentation: it parses, calls one function, and prints. What
goes wrong is raised and told by ``sallyport.cli``. Those about tunnels are in ``tunnel_cli``.
"""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import anyio
import typer

from sallyport.certs.names import domain as checked_domain
from sallyport.config.fields import Address, FieldRefused
from sallyport.config.loader import load_relay
from sallyport.config.logs import configure_logging
from sallyport.relay.app import run as run_relay
from sallyport.relay.initialise import Initialised, initialise
from sallyport.relay.tunnel_cli import ConfigOption, app as tunnel_app
from sallyport.tunnel.net.allocator import settle_allocator
from sallyport.tunnel.net.collector import settle_collector
from sallyport.tunnel.net.event_loop import wants_uvloop

app = typer.Typer(help="The public relay: what gateways dial and callers reach.", no_args_is_help=True)
app.add_typer(tunnel_app, name="tunnel")


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
    settle_collector()
    settle_allocator()
    anyio.run(run_relay, settings, backend_options={"use_uvloop": wants_uvloop()})


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
