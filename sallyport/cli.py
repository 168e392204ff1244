"""
The ``sallyport`` command: mounts the groups of the packages, and says every error.

What users read when something fails is written here, and keeps these rules:

* two lines on standard error, ``error: …`` and, where there is a remedy, ``hint: …``;
* no capital after the prefix and no full stop; the thing is named, then why, then what to do;
* exit status 1 for what failed, 2 for a command that was not understood, 130 for Ctrl-C, 141 for a reader
  that went away;
* a traceback only for what we did not foresee, and then it says that it is a bug.

Start-up time is part of the product: importing this file imports neither pydantic nor SQLAlchemy, mcp or
uvicorn; each group is imported when it is called for.
"""

import os
import select
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import Abort, Exit, TyperException
from typer.main import get_command

from sallyport import __version__

if TYPE_CHECKING:
    from typer._click.core import Command, Context  # typer carries click inside and exports no types of it

_FAILED, _NOT_UNDERSTOOD, _INTERRUPTED, _READER_LEFT = 1, 2, 130, 141


@dataclass(frozen=True, slots=True)
class _Mount:
    """A command or group that is imported when it is used: where it lives, and its line in the overview."""

    module: str
    attribute: str
    help: str


_MOUNTS = MappingProxyType(
    {
        "demo": _Mount("sallyport.demo", "demo", "Show a call through all of it, on this machine."),
        "certs": _Mount("sallyport.certs.cli", "app", "Make and check a tunnel's keys and certificates."),
        "relay": _Mount(
            "sallyport.relay.cli", "app", "Run the public relay, and say which tunnels it serves."
        ),
        "gateway": _Mount("sallyport.gateway.cli", "app", "Run the gateway inside the private network."),
        "connect": _Mount(
            "sallyport.connector.cli", "connect", "Open a local endpoint to a tunnel, for an agent."
        ),
        "bench": _Mount("sallyport.bench", "bench", "Measure a tunnel with harmless calls."),
        "doctor": _Mount("sallyport.doctor", "doctor", "Test every hop and name the one that fails."),
    }
)


class _LazyGroup(TyperGroup):
    """A group whose overview is made of stand-ins; the command that is called is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=mount.help) for name, mount in _MOUNTS.items()}

    def list_commands(self, _ctx: "Context") -> list[str]:
        """Return the names in the order of a first day, not of the alphabet."""
        return list(_MOUNTS)

    def resolve_command(
        self, ctx: "Context", args: list[str]
    ) -> "tuple[str | None, Command | None, list[str]]":
        """Find the command that ``args`` begins with, and import it."""
        name, _stand_in, rest = super().resolve_command(ctx, args)
        return name, _import_command(name or ""), rest


def _import_command(name: str) -> "Command":
    mount = _MOUNTS[name]
    target = getattr(import_module(mount.module), mount.attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(name)(function)
    return get_command(target)


app = typer.Typer(
    cls=_LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sallyport {__version__}")
        raise Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Reach MCP servers in private networks through a relay that cannot read the traffic."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command line and say what goes wrong.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        the exit status.
    """
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except TyperException as error:
        return _say_usage(error)
    except (KeyboardInterrupt, Abort):
        return _INTERRUPTED
    except Exception as error:
        return _say_failure(error)


def _run(arguments: list[str]) -> int:
    # Not the command's own main(): it ends the process on the first broken pipe, whoever's it is.
    command = get_command(app)
    try:
        with command.make_context("sallyport", arguments) as context:
            command.invoke(context)
    except Exit as leaving:
        return leaving.exit_code
    return 0


def _say_usage(error: TyperException) -> int:
    message = error.format_message()
    if not message or "\n" in message:  # a group without a command: its help, shown already or here
        typer.echo(message, err=True, nl=bool(message))
        return _NOT_UNDERSTOOD
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "sallyport"
    _say("error", message[:1].lower() + message[1:].rstrip("."))
    _say("hint", f"`{path} --help` lists what it takes")
    return _NOT_UNDERSTOOD


def _say_failure(error: Exception) -> int:
    from sallyport.tunnel.errors import causes_of

    causes = list(dict.fromkeys(causes_of(error)))
    if any(isinstance(cause, BrokenPipeError) for cause in causes) and _has_reader_left():
        return _READER_LEFT
    roots = _our_roots()
    if not all(isinstance(cause, roots) for cause in causes):
        return _say_bug(error)
    for cause in causes:
        _say("error", str(cause))
        _say("hint", getattr(cause, "hint", ""))
    return _FAILED


def _our_roots() -> tuple[type[Exception], ...]:
    """Return the root class of every package's errors; these modules import nothing, so this is cheap."""
    from sallyport.certs.errors import CertificateError
    from sallyport.config.errors import ConfigError
    from sallyport.connector.errors import ConnectorError
    from sallyport.errors import CommandError
    from sallyport.gateway.errors import GatewayError
    from sallyport.relay.errors import RelayError
    from sallyport.tunnel.errors import TunnelError

    return CertificateError, ConfigError, ConnectorError, CommandError, GatewayError, RelayError, TunnelError


def _say_bug(error: BaseException) -> int:
    traceback.print_exception(error)
    _say("error", f"{type(error).__name__}: {error}")
    _say("hint", f"this is a bug in sallyport {__version__}: please report it with the lines above")
    return _FAILED


def _say(prefix: str, text: str) -> None:
    if text:
        typer.secho(
            f"{prefix}: ", err=True, nl=False, bold=True, fg=typer.colors.RED if prefix == "error" else None
        )
        typer.echo(text, err=True)


def _has_reader_left() -> bool:
    """Whether the broken pipe is standard output's; if so, what is still to be written is thrown away."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        has_left = True
    else:
        has_left = hasattr(select, "poll") and _is_broken(sys.stdout.fileno())
    if has_left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return has_left


def _is_broken(descriptor: int) -> bool:
    """Ask the system: a flush says nothing where Python was told not to buffer."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _descriptor, event in poll.poll(0))
