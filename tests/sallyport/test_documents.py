"""What the documents tell their readers to type is right."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from typer.core import TyperGroup

from sallyport import cli
from tests.harness.child_process import CHECKOUT, ChildProcess
from tests.sallyport.transcript import Command, Hosts, steps

_README = CHECKOUT / "README.md"
_DOCUMENTS = [_README, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
_SHOWN = re.compile(
    r"^(?:\w*\$ )?(?:sudo -u sallyport )?(?:\S*/)?(sallyport (?:[a-z].*|--\w.*))$", re.MULTILINE
)
_FENCE = re.compile(r"^```(?:console|sh|bash)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Run the MCP server that the documents take for granted."""
    process = ChildProcess("server", [sys.executable, "-m", "sallyport.demo_server"], folder=tmp_path)
    yield f"http://{process.wait_for('listening')['address']}/mcp"
    process.end()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_readme_makes_a_tunnel(server: str, tmp_path: Path) -> None:
    """Every command of the five minutes, in order; then an MCP client calls through what they made."""
    with Hosts(tmp_path, server) as hosts:
        for step in steps(_README.read_text()):
            if step.host:
                hosts.take(step)
        async with Client(f"http://127.0.0.1:{hosts.connector_port}/mcp") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["read_ticket"]


def test_first_commands_are_targets() -> None:
    """The two commands of the first screen are run by make; dry here, since this is one of them."""
    first = [step.line for step in steps(_README.read_text()) if not step.host and isinstance(step, Command)]
    assert first == ["make demo", "make test"]
    for line in first:
        subprocess.run(
            [*line.split(), "--dry-run"], cwd=CHECKOUT, check=True, capture_output=True, timeout=30
        )


def _shown_commands() -> list[tuple[str, str]]:
    return [
        (document.name, command)
        for document in _DOCUMENTS
        for block in _FENCE.findall(document.read_text().replace("\\\n", ""))
        for command in _SHOWN.findall(block)
    ]


@pytest.mark.parametrize(("document", "command"), _shown_commands())
def test_shown_commands_are_understood(document: str, command: str) -> None:
    """A command in any document names a command that there is, with options that it has."""
    name, *words = re.sub(r"\s+(#|[&|>]).*", "", command).split()[1:]
    target = cli._import_command(name)
    while isinstance(target, TyperGroup):
        name, *words = words
        target = target.commands[name]
    target.make_context(name, words)


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """A relative link names a file that is there."""
    missing = [link for link in _LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert missing == []
