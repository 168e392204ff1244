"""
The commands ``sallyport gateway keys …``: make, list and revoke API keys.

A key is printed once, alone on standard output, so that it can be piped into a file or a secret store; what a
person should know goes to standard error. A running gateway sees each change at the next request.
"""

import json
import sys
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sallyport.certs.cli_options import AsJson
from sallyport.certs.names import server_names
from sallyport.config.gateway import GatewayConfig
from sallyport.config.loader import load_gateway
from sallyport.gateway.errors import KeysMissing, KeysOff, ServerUnknown
from sallyport.gateway.keyring import add_key, load_keys, revoke_key
from sallyport.gateway.keys import ALL_SERVERS, PUBLIC_CA_WARNING, StoredKey

app = typer.Typer(no_args_is_help=True, add_completion=False)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="gateway.yaml; default ./gateway.yaml, then /etc/sallyport/gateway.yaml."),
]
Name = Annotated[str, typer.Argument(help="Whose key it is: a-z, 0-9, '.', '_' and '-'.")]

_PIPE_WIDTH: Final = 1000


@app.command()
def add(
    name: Name,
    server: Annotated[
        list[str] | None,
        typer.Option(help="A server that the key opens; may be repeated. Without it, all of them."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    settings = load_gateway(config)
    path = _keys_file(settings)
    servers = _servers(settings, server or [])
    key = add_key(path, name, servers=servers, now=datetime.now(UTC))
    typer.echo(key.text.decode("ascii"))
    opens = f"server {', '.join(sorted(servers))}" if servers else "every server of this gateway"
    typer.echo(f"this is key {name}, for {opens}; it is not shown again", err=True)
    typer.echo(f"know that {PUBLIC_CA_WARNING}", err=True)


@app.command("list")
def list_keys(
    config: ConfigOption = None,
    as_json: AsJson = False,
) -> None:
    """List the keys by name: what they open, and since when."""
    path = _keys_file(load_gateway(config))
    try:
        keys = load_keys(path).keys
    except KeysMissing as none:
        keys = ()
        typer.echo(f"no key yet: {path} {none.reason}; {none.hint}", err=True)
    if as_json:
        typer.echo(json.dumps([_as_json(key) for key in keys], indent=2))
        return
    table = Table("NAME", "SERVERS", "CREATED", box=None, pad_edge=False)
    for key in keys:
        created = f"{key.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        table.add_row(Text(key.name), Text(_opens(key)), Text(created))
    Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


@app.command()
def revoke(name: Name, config: ConfigOption = None) -> None:
    """Forget a key: from the next request on it is refused, on connections that are open as well."""
    revoke_key(_keys_file(load_gateway(config)), name)
    typer.echo(f"key {name} is revoked")


def _keys_file(settings: GatewayConfig) -> Path:
    if settings.keys is None:
        raise KeysOff(settings.path)
    return settings.keys.file


def _servers(settings: GatewayConfig, wanted: list[str]) -> frozenset[str] | None:
    """Translate what was typed, a config key or a server's name, into servers' names; None for all."""
    names = server_names(settings.servers)
    chosen = set()
    for text in wanted:
        name = names.get(text, text.lower())
        if name not in names.values():
            close = get_close_matches(name, list(names.values()), n=1)
            raise ServerUnknown(text, close[0] if close else "", list(names.values()))
        chosen.add(name)
    return frozenset(chosen) or None


def _opens(key: StoredKey) -> str:
    return ALL_SERVERS if key.servers is None else ", ".join(sorted(key.servers))


def _as_json(key: StoredKey) -> dict[str, object]:
    return {
        "name": key.name,
        "servers": ALL_SERVERS if key.servers is None else sorted(key.servers),
        "created": key.created.astimezone(UTC).isoformat(timespec="seconds"),
    }
