"""
``sallyport bench``: how fast a tunnel is from here, with a caller's own bundle and against his own server.

It makes the connections that the connector makes and sends requests that change nothing: the gateway's own
canary call, whose time is the share of relay, link and gateway; and, where a server is named, the one MCP
request that every server answers and that runs nothing (``bench_mcp``). With ``--direct URL``, run where the
server can be reached, such as the gateway's host, the same requests go to the server without the tunnel,
call for call by turns, and the difference is what the tunnel adds. Without it the difference between server
and canary says how much is the server's. Bytes are moved between here and the gateway only.

All of it takes less than half a minute, and Ctrl-C shows what is known by then. The server sees a few hundred
harmless calls, then as many as ``--callers`` can make in two seconds; the gateway logs a line for each.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress as ProgressBar, TextColumn
from rich.table import Table

from sallyport.bench_figures import MB, Findings, Samples, Way, as_json, percentile, reading, shown
from sallyport.bench_lines import DirectLine, TunnelLine
from sallyport.bench_mcp import Place
from sallyport.bench_run import Course, Measuring, Progress, prepare_server, prepare_tunnel
from sallyport.certs.cli_options import AsJson
from sallyport.config.fields import FieldRefused, server_url
from sallyport.config.logs import configure_logging
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
from sallyport.connector.client import CANARY_PATH
from sallyport.connector.dial import Dialler
from sallyport.gateway.upstream_url import UpstreamUrl, checked_path
from sallyport.tunnel.net.event_loop import wants_uvloop
from sallyport.tunnel.net.sockets import raise_descriptor_limit

_INTERRUPTED = 130
_REDRAWN_EVERY = 0.1  # seconds
_TITLES = {
    Way.TUNNEL: "tunnel alone",
    Way.CALL: "server, tunnelled",
    Way.DIRECT: "server, direct",
}
_DIFFERENCES = {"added": "added by the tunnel", "server": "the server's share"}


def bench(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TUNNEL_ID[/SERVER]",
            help="The tunnel; with a server's name that server is measured too.",
        ),
    ],
    bundle: BundleOption = None,
    relay: RelayOption = None,
    key_file: KeyFileOption = None,
    domain: DomainOption = None,
    direct: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the server can be reached from here, to compare.")
    ] = None,
    path: Annotated[
        str, typer.Option(metavar="PATH", help="The path of the server's MCP endpoint.")
    ] = "/mcp",
    calls: Annotated[int, typer.Option(min=1, max=100_000, help="Single calls on each way.")] = 500,
    callers: Annotated[int, typer.Option(min=1, max=256, help="How many call at once.")] = 8,
    as_json_text: AsJson = False,
) -> None:
    """
    Measure a tunnel with harmless calls: latency, calls a second, bytes a second.

    sallyport bench tnl_…/tickets --bundle agent.bundle.pem

    sallyport bench tnl_…/tickets --direct http://127.0.0.1:9000/mcp

    sallyport bench tnl_… --json
    """
    tunnel, server = parse_target(target)
    address = relay_address(relay)
    url = _direct_url(server, direct)
    configure_logging(LogConfig(level="error"))  # what the parts log would stand in the middle of the figures
    raise_descriptor_limit()
    who = who_calls(tunnel, bundle=bundle, key_file=key_file, relay=address, domain=domain)
    dialler = Dialler(who, relay=address, clock=lambda: datetime.now(UTC))
    wanted = _Wanted(dialler, server, checked_path(server or "", path), url, calls)
    findings = Findings(callers)
    failure = _measure(wanted, findings)
    if findings.has_any:
        if as_json_text:
            about = {"tunnel": str(tunnel), "server": server, "complete": failure is None}
            typer.echo(json.dumps({**about, **as_json(findings)}, indent=2))
        else:
            _print(findings)
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be measured, and how often."""

    dialler: Dialler
    server: str | None
    path: bytes
    direct: UpstreamUrl | None
    calls: int


def _direct_url(server: str | None, text: str | None) -> UpstreamUrl | None:
    if text is None:
        return None
    if server is None:
        raise typer.BadParameter("it is compared with a server: TUNNEL_ID/SERVER", param_hint="--direct")
    try:
        return UpstreamUrl.parse(server, server_url(text))
    except FieldRefused as error:
        raise typer.BadParameter(f"{error.message}; {error.hint}", param_hint="--direct") from error


def _measure(wanted: _Wanted, findings: Findings) -> Exception | None:
    """Measure; return what ended it early, for whoever has shown what there is by then."""
    try:
        with _progress() as progress:
            on_loop = {"use_uvloop": wants_uvloop()}
            anyio.run(_run, wanted, findings, progress, backend_options=on_loop)
    except KeyboardInterrupt:
        return typer.Exit(_INTERRUPTED)
    except Exception as error:
        return _first(error)
    return None


def _first(error: Exception) -> Exception:
    """Take one of the errors that a task group bundled: callers at once fail at once, and of one thing."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(wanted: _Wanted, findings: Findings, progress: Progress) -> None:
    progress("trying each way", 0.0)
    host, key = wanted.dialler.host.encode("ascii"), wanted.dialler.credential
    canary = Place(host, CANARY_PATH, key)
    courses = [await prepare_tunnel(TunnelLine(wanted.dialler, "the gateway"), canary)]
    courses += await _server_courses(wanted, host)
    await Measuring(courses, canary, calls=wanted.calls, findings=findings, progress=progress).run()


async def _server_courses(wanted: _Wanted, host: bytes) -> list[Course]:
    if wanted.server is None:
        return []
    line = TunnelLine(wanted.dialler, f"server {wanted.server}")
    place = Place(host, b"/" + wanted.server.encode("ascii") + wanted.path, wanted.dialler.credential)
    courses = [await prepare_server(Way.CALL, line, place)]
    if wanted.direct is not None:
        there = Place(wanted.direct.authority, wanted.direct.path)
        courses.append(await prepare_server(Way.DIRECT, DirectLine(wanted.server, wanted.direct), there))
    return courses


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar on a terminal, and nothing elsewhere; nothing remains of it."""
    console = Console(stderr=True)
    # Drawn between two calls and never by a thread of its own, which would stand in the middle of one.
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=1.0)
        drawn = -_REDRAWN_EVERY

        def show(what: str, done: float) -> None:
            nonlocal drawn
            is_due = time.monotonic() >= drawn + _REDRAWN_EVERY
            bar.update(task, description=f"{what} …", completed=done, refresh=is_due)
            drawn = time.monotonic() if is_due else drawn

        yield show


# Telling.


def _print(findings: Findings) -> None:
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    many = f"{findings.callers}×"
    for title in ("p50", "p99", f"{many} calls/s", f"{many} p99", "connecting"):
        table.add_column(title, justify="right", no_wrap=True)
    for way, samples in findings.ways.items():
        if samples.alone:
            table.add_row(_TITLES[way], *_cells(samples))
    difference = findings.difference()
    if difference is not None:
        figures = (shown(difference.p50), shown(difference.p99))
        table.add_row(_DIFFERENCES[difference.name], *figures, style="bold")
    console.print(table)
    console.print(_bulk_line(findings))
    console.print(reading(findings))


def _cells(samples: Samples) -> Iterator[str]:
    for values, rank in ((samples.alone, 50), (samples.alone, 99)):
        yield shown(percentile(values, rank))
    yield "–" if samples.rate is None else f"{samples.rate:,.0f}"
    for values, rank in ((samples.together, 99), (samples.connections, 50)):
        yield shown(percentile(values, rank)) if values else "–"


def _bulk_line(findings: Findings) -> str:
    told = [
        f"{bulk.rate / MB:.1f} MB/s {direction}"
        for direction, bulk in (("down", findings.down), ("up", findings.up))
        if bulk.rate is not None
    ]
    if findings.no_bulk:
        told.append(f"not measured further: {findings.no_bulk}")
    return f"bytes through the tunnel: {', '.join(told) or 'not measured'}"
