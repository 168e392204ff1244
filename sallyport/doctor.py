"""
``sallyport doctor``: tests every hop of a tunnel from where it is run, and names the one that fails.

With a configuration it sees the tunnel as its gateway does, with a bundle as a caller does. The tests
themselves are in ``doctor_gateway`` and ``doctor_caller``; here is what is asked and what is said.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sallyport.certs.cli_options import AsJson
from sallyport.config.logs import configure_logging
from sallyport.config.sections import LogConfig
from sallyport.hops import Verdict, in_order

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "red"),
    "skipped": ("–", "dim"),
}
_FAILED = 1


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="See the tunnel as this gateway does; default ./gateway.yaml."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="See the tunnel as the caller with this bundle does.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Test every hop and name the one that fails.

    sallyport doctor --config gateway.yaml

    sallyport doctor --bundle agent.bundle.pem
    """
    if config is not None and bundle is not None:
        raise typer.BadParameter(
            "name one of --config and --bundle: they are two different places to look from"
        )
    # What the parts log on the way would stand in the middle of the verdicts, which say it better.
    configure_logging(LogConfig(level="error"))
    verdicts = in_order(anyio.run(_collect, _examine(config, bundle)))
    if as_json:
        typer.echo(json.dumps(_as_json(verdicts), indent=2))
    else:
        _print(verdicts)
    if _has_failed(verdicts):
        raise typer.Exit(_FAILED)


def _examine(config: Path | None, bundle: Path | None) -> AsyncIterator[Verdict]:
    if bundle is not None:
        from sallyport.doctor_caller import examine_as_caller

        return examine_as_caller(bundle)
    from sallyport.config.loader import load_gateway
    from sallyport.doctor_gateway import examine_as_gateway

    return examine_as_gateway(load_gateway(config))


async def _collect(verdicts: AsyncIterator[Verdict]) -> list[Verdict]:
    return [verdict async for verdict in verdicts]


def _has_failed(verdicts: list[Verdict]) -> bool:
    return any(verdict.state == "failed" for verdict in verdicts)


def _as_json(verdicts: list[Verdict]) -> dict[str, object]:
    return {"ok": not _has_failed(verdicts), "hops": [asdict(verdict) for verdict in verdicts]}


def _print(verdicts: list[Verdict]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, verdict in enumerate(verdicts, start=1):
        mark, style = _MARKS[verdict.state]
        table.add_row(str(number), verdict.hop, Text(mark, style=style), Text(verdict.what))
        if verdict.hint:
            table.add_row("", "", "", Text(f"→ {verdict.hint}", style="bold"))
    Console(highlight=False).print(table)
