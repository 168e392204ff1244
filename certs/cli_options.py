"""
What the commands of ``cli.py`` and ``cli_renewal.py`` share: options, the clock, and how JSON is printed.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

Directory = Annotated[Path, typer.Option("--dir", help="The identity directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

IDENTITY: Final = Path("identity")


def print_json(value: object) -> None:
    """
    Print one JSON value, for programs.
    """
    typer.echo(json.dumps(value, indent=2))


def current_time() -> datetime:
    """
    Read the clock: a command is where the time comes from.
    """
    return datetime.now(UTC)
