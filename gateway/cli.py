"""
The commands of the gateway's operator.

Each parses, calls one function, and prints. What goes wrong is raised and told by ``sallyport.cli``. Tables
are for people; ``--json`` is for programs and keeps its keys.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

import anyio
import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sallyport.certs.cli_options import AsJson
from sallyport.certs.errors import CertificateError
from sallyport.config.fields import Address
from sallyport.config.gateway import GatewayConfig
from sallyport.config.loader import load_gateway
from sallyport.config.logs import configure_logging, share_log
from sallyport.gateway.app import run as run_gateway
from sallyport.gateway.check import Finding, examine
from sallyport.gateway.errors import ChecksFailed, GatewayError, StatusUnavailable
from sallyport.gateway.keys_cli import ConfigOption, app as keys
from sallyport.gateway.status import GatewayStatus, parse_status
from sallyport.gateway.workers import become_worker, worker_count
from sallyport.tunnel.errors import TunnelError, causes_of
from sallyport.tunnel.net.allocator import settle_allocator
from sallyport.tunnel.net.collector import settle_collector
from sallyport.tunnel.net.event_loop import wants_uvloop
from sallyport.tunnel.net.health_client import HealthSilent, ask_status

app = typer.Typer(
    help="The gateway inside the private network: it dials out, and serves callers.",
    no_args_is_help=True,
    add_completion=False,
)

app.add_typer(keys, name="keys", help="Make, list and revoke API keys.")

_PIPE_WIDTH: Final = 1000
# What a worker may end of by the operator's doing; anything else is a mistake of ours and has a traceback.
_REFUSALS: Final = (CertificateError, GatewayError, TunnelError)

log = structlog.get_logger("sallyport.gateway")


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the gateway until SIGTERM or Ctrl-C, which drains it; a second one stops it at once."""
    settings = load_gateway(config)
    configure_logging(settings.log)
    settle_collector()
    settle_allocator()
    worker = become_worker(worker_count(settings.workers))
    if worker.count > 1:
        share_log(worker=worker.index)
    try:
        anyio.run(run_gateway, settings, worker, backend_options={"use_uvloop": wants_uvloop()})
    except Exception as error:
        refusals = list(causes_of(error))
        if not worker.joins or not all(isinstance(each, _REFUSALS) for each in refusals):
            raise
        # Nobody reads the standard error of a worker that was started while its gateway runs.
        for each in refusals:
            log.error("worker cannot start", reason=str(each), hint=getattr(each, "hint", ""))
        raise typer.Exit(1) from error


@app.command()
def check(config: ConfigOption = None, as_json: AsJson = False) -> None:
    """Check the config, the identity's files, the relay's name, and that each server can be reached."""
    settings = load_gateway(config)
    findings = anyio.run(_all_findings, settings, backend_options={"use_uvloop": False})
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_findings(findings)
    failed = sum(not finding.is_good for finding in findings)
    if failed:
        raise ChecksFailed(failed)


@app.command()
def status(config: ConfigOption = None, as_json: AsJson = False) -> None:
    """Ask the gateway that runs on this machine how it stands."""
    settings = load_gateway(config)
    if settings.health is None:
        raise StatusUnavailable(
            "this machine",
            f"{settings.path} has no `health:`",
            hint="add `health: 127.0.0.1:7421` and restart the gateway",
        )
    answer = _ask(settings.health)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    _print_status(parse_status(answer, str(settings.health)))


async def _all_findings(config: GatewayConfig) -> list[Finding]:
    return [finding async for finding in examine(config, now=datetime.now(UTC))]


def _ask(health: Address) -> object:
    """
    Fetch /status from a running gateway.

    Raises:
        StatusUnavailable: Nobody answers there, or not with JSON.
    """
    try:
        return ask_status(health.host, health.port)
    except HealthSilent as silent:
        hint = "start it: sallyport gateway run, or name the config that it runs with: --config FILE"
        if silent.is_somebody_else:
            hint = "change `health:` to a free port"
        raise StatusUnavailable(str(health), silent.detail, hint=hint) from silent


# What is printed


def _print_findings(findings: Iterable[Finding]) -> None:
    table = Table("", "CHECK", "FOUND", box=None, pad_edge=False)
    for finding in findings:
        # What was found may hold a server's or a certificate's own text: never markup.
        mark = Text("ok", "green") if finding.is_good else Text("failed", "bold red")
        found = Text(finding.detail)
        if finding.hint:
            found.append(f"\nhint: {finding.hint}", "bold")
        table.add_row(mark, Text(finding.what), found)
    _console().print(table)


def _print_status(status: GatewayStatus) -> None:
    facts = Table.grid(padding=(0, 2))
    for name, value in status.facts:
        facts.add_row(name, Text(value))
    servers = Table("SERVER", "ADDRESS", "CALLS", "FAILED", "LAST FAILURE", box=None, pad_edge=False)
    for row in status.servers:
        servers.add_row(*(Text(cell) for cell in row))
    console = _console()
    console.print(facts)
    console.print()
    console.print(servers)


def _console() -> Console:
    # A pipe has no width: without one, rich would break lines at 80 characters for a program to put together.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
