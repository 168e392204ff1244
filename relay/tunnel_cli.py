"""
The commands about tunnels: who is served, and who no longer.

They write the relay's database and need no running relay; one that runs sees a change within two seconds.
``disable`` can be undone and ``archive`` cannot, so only that one asks. Tables are for people; ``--json`` is
for programs and keeps its keys.
"""

import json
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sallyport.certs.cli_options import AsJson
from sallyport.certs.files import load_certificate
from sallyport.certs.names import TunnelId
from sallyport.certs.pem import encode_certificates
from sallyport.config.loader import load_relay
from sallyport.config.relay import RelayConfig
from sallyport.relay.errors import NotConfirmed
from sallyport.relay.registration import judge_root
from sallyport.relay.registry import Tunnel, TunnelState
from sallyport.relay.store import Registered, TunnelStore
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.health_client import HealthSilent, ask_status

app = typer.Typer(help="Register tunnels, look at them, and stop serving them.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="relay.yaml; default ./relay.yaml, then /etc/sallyport/relay.yaml."),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The tunnel's ID, tnl_….")]


@app.command()
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


@app.command("list")
def list_tunnels(config: ConfigOption = None, as_json: AsJson = False) -> None:
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


@app.command()
def show(tunnel_id: IdArgument, config: ConfigOption = None, as_json: AsJson = False) -> None:
    """Show one tunnel and, when the relay runs, its links."""
    settings = load_relay(config)
    with closing(TunnelStore(settings.database)) as store:
        tunnel = store.tunnel(TunnelId.parse(tunnel_id).label)
    links = _live_links(settings, tunnel)
    if as_json:
        typer.echo(json.dumps({**_described(tunnel), "links": links}, indent=2))
        return
    _print_tunnel(tunnel, links, settings)


@app.command()
def disable(tunnel_id: IdArgument, config: ConfigOption = None) -> None:
    """Stop serving a tunnel until it is enabled again: its links and streams are cut."""
    _set_state(tunnel_id, TunnelState.DISABLED, config)


@app.command()
def enable(tunnel_id: IdArgument, config: ConfigOption = None) -> None:
    """Serve a disabled tunnel again: its gateways are back within a minute and a half."""
    _set_state(tunnel_id, TunnelState.ACTIVE, config)


@app.command()
def archive(
    tunnel_id: IdArgument,
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Stop serving a tunnel for good: its links and streams are cut, and its ID is never used again."""
    if not is_confirmed:
        _confirm_archiving(tunnel_id, load_relay(config))
    _set_state(tunnel_id, TunnelState.ARCHIVED, config)


def _set_state(tunnel_id: str, state: TunnelState, config: Path | None) -> None:
    label = TunnelId.parse(tunnel_id).label
    with closing(TunnelStore(load_relay(config).database)) as store:
        is_changed = store.set_state(label, state, now=datetime.now(UTC))
    typer.echo(f"{tunnel_id} {_CHANGED[state]}" if is_changed else f"{tunnel_id} is {state.value} already")


def _confirm_archiving(tunnel_id: str, settings: RelayConfig) -> None:
    """
    Ask on a terminal; where there is none, nobody can have meant it without ``--yes``.

    Raises:
        NotConfirmed: the answer is no, or there is nobody to ask.
        TunnelUnknown: there is no such tunnel, so there is nothing to ask.
    """
    with closing(TunnelStore(settings.database)) as store:
        tunnel = store.tunnel(TunnelId.parse(tunnel_id).label)
    if tunnel.state is TunnelState.ARCHIVED:
        return
    action = f"archiving {tunnel.id}{f' ({tunnel.name})' if tunnel.name else ''}"
    if not sys.stdin.isatty():
        raise NotConfirmed(action, "add --yes, or run it on a terminal")
    question = f"{action} cuts its links and streams and cannot be undone; go on?"
    if not typer.confirm(question, err=True):
        raise NotConfirmed(action, "`relay tunnel disable` can be undone")


# What was typed


def _checked_name(name: str | None) -> str | None:
    if name is not None and not (name.isprintable() and len(name) <= _LONGEST_NAME):
        raise typer.BadParameter(f"at most {_LONGEST_NAME} printable characters", param_hint="--name")
    return name


# What the running relay says


def _live_links(settings: RelayConfig, tunnel: Tunnel) -> list[dict[str, object]] | None:
    """
    Ask the running relay for a tunnel's links; None when nobody answers.
    """
    if settings.health is None:
        return None
    try:
        status = ask_status(settings.health.host, settings.health.port)
    except HealthSilent:
        return None  # It is not running, or something else listens there.
    links = status.get("links") if isinstance(status, dict) else None
    if not isinstance(links, list):
        return None  # The listener of something else, a gateway's for instance.
    return [link for link in links if link.get("tunnel") == tunnel.id]


# What is printed


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


_LONGEST_NAME: Final = limit(
    100, "characters",
    "of the name that the operator gives a tunnel: it stands in tables",
)  # fmt: skip
_REGISTERED: Final = {
    Registered.ADDED: "is registered",
    Registered.UPDATED: "was registered before and is changed",
    Registered.UNCHANGED: "is registered already, nothing is changed",
}
_CHANGED: Final = {
    TunnelState.ACTIVE: "is enabled; its gateways come back by themselves",
    TunnelState.DISABLED: "is disabled; a running relay cuts its links and streams within 5 seconds",
    TunnelState.ARCHIVED: "is archived for good; a running relay cuts its links and streams within 5 seconds",
}
