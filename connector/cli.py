"""
``sallyport connect``: open a local endpoint to a tunnel, until it is told to stop.

The command starts also while no gateway is connected: an agent reads its configuration once, and a call that
is answered 503 says more than an endpoint that is not there. What cannot get better by waiting, a wrong ID, a
missing bundle, an expired certificate or a taken port, ends it at once, as an error of one line.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal

import anyio
import typer

from sallyport.certs.names import TunnelId
from sallyport.config.logs import configure_logging, joined_lines
from sallyport.config.sections import LogConfig
from sallyport.connector.cli_options import (
    BundleOption,
    DomainOption,
    KeyFileOption,
    RelayOption,
    parse_target,
    relay_address,
    who_calls,
)
from sallyport.connector.client import serve
from sallyport.connector.dial import Dialler
from sallyport.connector.snippets import Kind, LocalServer, Snippet, snippet
from sallyport.tunnel.net.allocator import settle_allocator
from sallyport.tunnel.net.collector import settle_collector
from sallyport.tunnel.net.event_loop import wants_uvloop
from sallyport.tunnel.net.sockets import raise_descriptor_limit

DEFAULT_PORT = 7420


def connect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TUNNEL_ID[/SERVER]",
            help="The tunnel; with a server's name that server is served at the root of the local URL.",
        ),
    ],
    bundle: BundleOption = None,
    relay: RelayOption = None,
    key_file: KeyFileOption = None,
    domain: DomainOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The local port.")] = DEFAULT_PORT,
    print_kind: Annotated[
        Kind | None, typer.Option("--print", help="Print what to paste into an agent, and exit.")
    ] = None,
    path: Annotated[
        str, typer.Option(help="With --print: the path of the server's own URL.", metavar="PATH")
    ] = "/mcp",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="How much to log.")
    ] = "info",
    log_format: Annotated[
        Literal["auto", "text", "json"], typer.Option(help="auto: text on a terminal, JSON elsewhere.")
    ] = "auto",
) -> None:
    """
    Open a local endpoint to a tunnel, for an agent.

    sallyport connect tnl_…/tickets

    sallyport connect tnl_…/tickets --print claude-code

    sallyport connect tnl_…/tickets --relay HOST:443 --domain DOMAIN --key-file FILE

    In place of --key-file the variable SALLYPORT_KEY may hold the key.
    """
    tunnel, server = parse_target(target)
    if print_kind is not None:
        found = _snippet(print_kind, target=target, server=server, port=port, path=path)
        typer.echo(f"# {found.place}", err=True)
        typer.echo(found.text, nl=False)
        return
    address = relay_address(relay)
    log = LogConfig(level=log_level, format=log_format)
    configure_logging(log)
    raise_descriptor_limit()
    who = who_calls(tunnel, bundle=bundle, key_file=key_file, relay=address, domain=domain)
    dialler = Dialler(who, relay=address, clock=lambda: datetime.now(UTC))

    def say(actual_port: int) -> None:
        if _is_read_by_people(log):
            typer.echo(_welcome(tunnel, server, actual_port), err=True)

    settle_collector()
    settle_allocator()
    on_loop = {"use_uvloop": wants_uvloop()}
    anyio.run(_serve_until_stopped, dialler, server, port, say, backend_options=on_loop)


def _snippet(kind: Kind, *, target: str, server: str | None, port: int, path: str) -> Snippet:
    if server is None:
        raise typer.BadParameter(f"name one server: {target}/SERVER", param_hint="TUNNEL_ID[/SERVER]")
    if port == 0:
        raise typer.BadParameter("0 is no port that an agent could be given", param_hint="--port")
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise typer.BadParameter("a path begins with / and holds printable ASCII", param_hint="--path")
    return snippet(kind, LocalServer(server, port, path))


def _is_read_by_people(log: LogConfig) -> bool:
    """Tell whether standard error is a text for people, and not a log in JSON that a program reads."""
    return log.format == "text" or (log.format == "auto" and sys.stderr.isatty())


def _welcome(tunnel: TunnelId, server: str | None, port: int) -> str:
    url = LocalServer(server or "", port, "/mcp" if server else "/SERVER/mcp").url
    where = f"{tunnel}/{server or 'SERVER'}"
    port_option = "" if port == DEFAULT_PORT else f" --port {port}"
    return (
        f"{where} is at {url} (or another path, if that server has one)\n"
        f"configure an agent: sallyport connect {where}{port_option} --print {Kind.CLAUDE_CODE}"
        " (--help lists other clients)\n"
        "whoever can log in to this machine can use it; stop with Ctrl-C"
    )


async def _serve_until_stopped(
    dialler: Dialler, server: str | None, port: int, listening: Callable[[int], None]
) -> None:
    with (
        joined_lines(asyncio.get_running_loop().call_later),
        anyio.CancelScope() as running,
        _on_stop_signal(running.cancel),
    ):
        await serve(dialler, server=server, port=port, listening=listening)


@contextmanager
def _on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """
    Call ``stop`` on the loop when the process is told to end: Ctrl-C, or SIGTERM from a service manager.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, stop)
    except NotImplementedError:
        # Windows: the loop knows no signals, but wakes up for Python's own handlers.
        for number in signals:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
