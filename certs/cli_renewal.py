"""
The commands that keep an identity fresh: ``certs rotate``, ``certs renew`` and ``certs status``.

``cli.py`` mounts them. What a gateway, relay or connector does with the new files is its own business and
needs no command here.
"""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sallyport.certs.cli_options import IDENTITY, AsJson, Directory, current_time, print_json
from sallyport.certs.describe import days_left
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.inventory import STRAY, Entry, list_entries
from sallyport.certs.names import Role
from sallyport.certs.renewal import outlook, parse_span
from sallyport.certs.rotation import Advice, Rotated, renew as renew_leaves, rotate, rotate_all

rotate_app = typer.Typer(no_args_is_help=True, help="Replace keys and certificates that are in use.")

_PIPE_WIDTH = 1000


@rotate_app.callback()
def _rotate() -> None:
    # A group of its own: `rotate issuing` and `rotate root` come beside `rotate leaf`.
    pass


@rotate_app.command("leaf")
def rotate_leaf(
    role: Annotated[
        Role | None, typer.Argument(help="What for; all gateway and link leaves when not given.")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="The holder's name.")] = None,
    directory: Directory = IDENTITY,
    as_json: AsJson = False,
) -> None:
    """
    Replace a leaf, or all of gateways and links, by one with a new key, now; exit 1 if one was not.
    """
    identity, now = IdentityDirectory(directory), current_time()
    if role is None:
        _print_done(rotate_all(identity, now=now), as_json=as_json)
        return
    if name is None:
        raise typer.BadParameter(f"name one: sallyport certs rotate leaf {role} NAME", param_hint="NAME")
    _print_done([rotate(identity, role, name, now=now)], as_json=as_json)


def renew(
    before: Annotated[
        str, typer.Option(metavar="SPAN", help="Replace what ends within this time: 30d, 12h.")
    ] = "30d",
    directory: Directory = IDENTITY,
    as_json: AsJson = False,
) -> None:
    """
    Replace the leaves that end soon, and say what else is due; exit 1 if one could not be replaced.
    """
    done = renew_leaves(IdentityDirectory(directory), before=parse_span(before), now=current_time())
    if not _print_done(done, as_json=as_json) and not as_json:
        typer.echo(f"nothing to do: nothing ends within {before}")


def status(directory: Directory = IDENTITY, as_json: AsJson = False) -> None:
    """
    List every certificate: whose it is, its end, the days left, and what will happen next.
    """
    entries, now = list(list_entries(IdentityDirectory(directory))), current_time()
    if as_json:
        print_json([entry.as_json(now=now) for entry in entries])
        return
    table = Table("KIND", "NAME", "SERIAL", "NOT AFTER", "DAYS", "NEXT", box=None, pad_edge=False)
    for entry in entries:
        # A name or a reason may hold somebody else's text: never markup.
        table.add_row(*(Text(cell) for cell in _row(entry, now)))
    Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def _print_done(done: Iterable[Rotated | Advice], *, as_json: bool) -> int:
    """
    Print what was done, each as soon as it is, and return how much it was.

    Raises:
        typer.Exit: with status 1, after everything, if something was to be replaced and was not.
    """
    results = list[Rotated | Advice]()
    try:
        for each in done:
            results.append(each)
            if not as_json:
                typer.echo(_line(each))
    finally:
        # In JSON it is one value, and also when it ends in an error there must be no file that was replaced
        # and not told.
        if as_json and (results or sys.exception() is None):
            print_json([each.as_json() for each in results])
    if not as_json:
        _print_consequences([each for each in results if isinstance(each, Rotated)])
    if any(isinstance(each, Advice) and each.is_failure for each in results):
        raise typer.Exit(1)
    return len(results)


def _line(done: Rotated | Advice) -> str:
    if isinstance(done, Advice):
        return f"{done.what}; {done.remedy}" if done.remedy else done.what
    end = f"{done.facts.not_after.astimezone(UTC):%Y-%m-%d}"
    return f"wrote {done.path}: {done.facts.title}, serial {done.facts.serial}, valid until {end}" + (
        f" (was {done.was[:8]})" if done.was else ""
    )


def _print_consequences(rotated: list[Rotated]) -> None:
    kinds = {each.is_bundle for each in rotated}
    if False in kinds:
        typer.echo("a running gateway takes the new files within seconds, and no connection is cut")
    if True in kinds:
        typer.echo(
            "bring each bundle to its caller, where nobody else can read it: a running connector takes it for"
            " its next connection"
        )


def _row(entry: Entry, now: datetime) -> tuple[str, ...]:
    if entry.facts is None:
        why = entry.problem if entry.kind == STRAY else f"cannot be read: {entry.problem}"
        return entry.kind, entry.name, "", "", "", why
    facts = entry.facts
    return (
        entry.kind,
        entry.name,
        facts.serial,
        f"{facts.not_after.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        str(days_left(facts.not_after, now)),
        str(outlook(facts, now=now)),
    )
