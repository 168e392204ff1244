"""The command says every error in two lines, ends with the right status, and starts quickly."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from sallyport import __version__, cli
from sallyport.config.errors import ConfigError


def _run(*arguments: str, folder: Path, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sallyport", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], int]:
    """Run ``main`` with a command that does what the test says."""

    def run(act: Callable[[], None]) -> int:
        app = typer.Typer()
        app.command("certs")(act)
        monkeypatch.setattr(cli, "_import_command", lambda _name: typer.main.get_command(app))
        return cli.main(["certs"])

    return run


def test_version(tmp_path: Path) -> None:
    """--version is for scripts and reports."""
    assert _run("--version", folder=tmp_path).stdout == f"sallyport {__version__}\n"


def test_help_names_every_command(tmp_path: Path) -> None:
    """Each has a line of its own, without being imported."""
    done = _run("--help", folder=tmp_path)
    assert done.returncode == 0
    for name in ("demo", "certs", "relay", "gateway", "connect", "bench", "doctor"):
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("name", ["demo", "certs", "relay", "gateway", "connect", "bench", "doctor"])
def test_every_command_can_be_imported(name: str, tmp_path: Path) -> None:
    """What the overview promises is there."""
    done = _run(name, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: sallyport" in done.stdout


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    """Importing the command must stay quick: completion and --version do it each time."""
    heavy = {"pydantic", "sqlalchemy", "mcp", "uvicorn", "cryptography", "structlog", "anyio", "rich"}
    code = f"import sys, sallyport.cli; assert not {heavy!r} & sys.modules.keys(), sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["demoo"], "error: no such command 'demoo'. Did you mean 'demo'?", "hint: `sallyport --help`"),
        (["--foo"], "error: no such option: --foo", "hint: `sallyport --help`"),
        (["doctor", "--foo"], "error: no such option: --foo", "hint: `sallyport doctor --help`"),
        (["demo", "--port", "x"], "error: invalid value for '--port'", "hint: `sallyport demo --help`"),
        (
            ["demo", "--server", "ftp://h"],
            "error: invalid value for --server: ftp scheme",
            "hint: `sallyport demo",
        ),
    ],
)
def test_a_command_that_is_not_understood(
    arguments: list[str], error: str, hint: str, tmp_path: Path
) -> None:
    """Status 2, and where to read more; no panel, no traceback."""
    done = _run(*arguments, folder=tmp_path)
    first, second = done.stderr.splitlines()
    assert done.returncode == 2
    assert first.startswith(error)
    assert second.startswith(hint)


def test_nothing_asked_shows_the_help(tmp_path: Path) -> None:
    """And is a failure: a script that forgot the command should notice."""
    done = _run(folder=tmp_path)
    assert done.returncode == 2
    assert "doctor" in done.stdout


def test_our_errors_are_two_lines(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """What, where, why and the remedy; status 1; no traceback."""

    def act() -> None:
        raise ConfigError("gateway.yaml", 3, "relay.adress", "unknown key", "did you mean 'address'?")

    assert command(act) == 1
    expected = "error: gateway.yaml:3: relay.adress: unknown key\nhint: did you mean 'address'?\n"
    assert capsys.readouterr().err == expected


def test_task_groups_hide_nothing(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Errors that a task group bundled are told one by one, each once."""
    same = ConfigError("a.yaml", 0, "", "no such file")

    def act() -> None:
        raise ExceptionGroup(
            "tasks", [same, ExceptionGroup("inner", [same, ConfigError("b.yaml", 0, "", "gone")])]
        )

    assert command(act) == 1
    assert capsys.readouterr().err == "error: a.yaml: no such file\nerror: b.yaml: gone\n"


def test_what_we_did_not_foresee_is_a_bug(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Only then there is a traceback, and it says what to do with it."""

    def act() -> None:
        raise ExceptionGroup("tasks", [ConfigError("a.yaml", 0, "", "x"), KeyError("boom")])

    assert command(act) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "this is a bug in sallyport" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_interrupt(
    error: BaseException, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is no failure of ours: status 130 and not a word."""

    def act() -> None:
        raise error

    assert command(act) == 130
    assert capsys.readouterr().err == ""


def test_exit_status_of_a_command_is_kept(command: Callable[..., int]) -> None:
    """A command that knows its status says so with typer.Exit."""

    def act() -> None:
        raise typer.Exit(3)

    assert command(act) == 3


def test_broken_pipe_elsewhere_is_not_taken_for_a_reader_that_left(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Only standard output's own pipe ends a command quietly."""

    def act() -> None:
        raise BrokenPipeError("some socket")

    assert command(act) == 1
    assert "this is a bug" in capfd.readouterr().err


@pytest.mark.platform("linux", "darwin")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_leaves_ends_the_command_quietly(unbuffered: str, tmp_path: Path) -> None:
    """``sallyport … | head -1`` is a normal thing to do."""
    code = (
        "import sys, typer; from sallyport import cli\n"
        "def act():\n for n in range(100000): typer.echo('x' * 100)\n"
        "app = typer.Typer(); app.command('certs')(act)\n"
        "cli._import_command = lambda name: typer.main.get_command(app)\n"
        "sys.exit(cli.main(['certs']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        timeout=50,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
