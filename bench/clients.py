"""
``make clients``: agents' own programs, set up as ``connect --print`` says, call through the tunnel.

Every client that works without an account gets exactly what the command prints, and has to show a tool of the
server behind two doors. Two servers stand there: the fixture of the tests, which speaks both eras of the
protocol, and npm's ``server-everything``, which nobody here wrote. Beside the snippets: the ``mcp`` 2.x
client in its three modes, and an ``mcp`` 1.x client, each of which lists and calls.

Not run, for want of a program that works without a window or an account: Cursor, VS Code, Claude Desktop
itself (its bridge, ``mcp-remote``, is). Codex lists its servers and does not connect.

    python -m bench.clients [NAME …]
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.node_tools import ClientTools, ToolMissing, client_tools
from bench.python_tools import environment, version
from bench.report import finish, say
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess, run_sallyport
from tests.harness.product import LOOPBACK, Connector, Product, Tunnel
from tests.harness.stage import start_fixture

_LIMIT = 120  # seconds for one client
_FIXTURE, _EVERYTHING = "tickets", "everything"
_TOOLS = {_FIXTURE: "probe_echo", _EVERYTHING: "echo"}
_ARGUMENTS = {_FIXTURE: {"text": "through two doors"}, _EVERYTHING: {"message": "through two doors"}}

# Lists, and calls a tool that says again what it is told, which the snippets do not.
_SDK_2 = """
import asyncio, json, sys
from mcp import Client

async def main(url, mode, tool, arguments):
    async with Client(url, mode=mode) as client:
        print(*(tool.name for tool in (await client.list_tools()).tools))
        print((await client.call_tool(tool, json.loads(arguments))).content[0].text)

asyncio.run(main(*sys.argv[1:]))
"""
_SDK_1 = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

async def main(url, tool, arguments):
    async with streamablehttp_client(url) as (receive, send, _), ClientSession(receive, send) as session:
        await session.initialize()
        print(*(tool.name for tool in (await session.list_tools()).tools))
        print((await session.call_tool(tool, json.loads(arguments))).content[0].text)

asyncio.run(main(*sys.argv[1:]))
"""
_BRIDGE = """
import asyncio, json, sys
from mcp import Client, StdioServerParameters

async def main(command, *arguments):
    async with Client(StdioServerParameters(command=command, args=list(arguments)), mode="legacy") as client:
        print(*(tool.name for tool in (await client.list_tools()).tools))

asyncio.run(main(*sys.argv[1:]))
"""


class ClientFailed(Exception):
    """A client did not show what it should have; the text is what it said."""


@dataclass(frozen=True)
class Place:
    """
    One server as an agent finds it: through a connector, with what ``--print`` says of it.

    Attributes:
        server: Its name.
        tunnel: Its tunnel.
        connector: What serves it on this machine.
        folder: An empty folder for the client's files.
        tools: Programs from npm.
    """

    server: str
    tunnel: Tunnel
    connector: Connector
    folder: Path
    tools: ClientTools

    def printed(self, kind: str) -> tuple[str, str]:
        """Return what ``connect --print`` writes: the text for the client, and where it goes."""
        done = run_sallyport(
            *("connect", f"{self.tunnel.id}/{self.server}", "--port", str(self.connector.port)),
            *("--print", kind),
            folder=self.folder,
        )
        if done.returncode != 0:
            raise ClientFailed(done.stderr)
        return done.stdout, done.stderr

    def write(self, name: str, text: str) -> Path:
        """Write one of the client's files."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """
        Run a client, with a home of its own, and return what it said.

        Raises:
            ClientFailed: It failed or took too long.
        """
        own = {"HOME": str(self.folder), "PATH": self.tools.path, "NO_PROXY": LOOPBACK, "NO_COLOR": "1"}
        try:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=self.folder,
                env={**os.environ, **own, **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClientFailed(f"did not end within {_LIMIT} s") from error
        if done.returncode != 0:
            raise ClientFailed(f"exit {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
        return done.stdout + done.stderr


@dataclass(frozen=True)
class Case:
    """
    One client before one server.

    Attributes:
        name: Of the client.
        server: Which server.
        run: Runs it and returns what it said.
        wanted: A pattern that what it said must match.
    """

    name: str
    server: str
    run: Callable[[Place], str]
    wanted: str


# -- the clients --------------------------------------------------------------------------------------


def _cases() -> list[Case]:
    cases = [_sdk_2(server, mode) for server, mode in _SDK_2_MODES]
    cases += [_sdk_1(server) for server in _TOOLS]
    cases += [_program(*row) for row in _PROGRAMS]
    listed = r"\bprobe_echo\b"
    connected = r"^.?.?(tickets|everything): .*✔ Connected"
    cases += [
        Case("mcp-sdk snippet", _FIXTURE, _mcp_sdk, listed),
        Case("typescript snippet", _FIXTURE, _typescript, listed),
        Case("claude-desktop snippet, mcp-remote", _FIXTURE, _claude_desktop, listed),
        Case("claude-code file, claude mcp list", _FIXTURE, _claude_code_file, connected),
        Case("claude-code command, claude mcp list", _EVERYTHING, _claude_code_command, connected),
        Case("gemini file, gemini mcp list", _FIXTURE, _gemini, r"tickets: .*\bConnected"),
        Case("codex file, codex mcp list", _FIXTURE, _codex, r"^tickets http://127\.0\.0\.1:\d+/mcp$"),
    ]
    return cases


_SDK_2_MODES = [
    *((_FIXTURE, mode) for mode in ("legacy", "auto", "2026-07-28")),
    # This server speaks the older era only, so that is what a client in mode auto has to find out.
    *((_EVERYTHING, mode) for mode in ("legacy", "auto")),
]
_PROGRAMS = [
    ("openai-agents", "openai-agents"),
    ("langchain", "langchain-mcp-adapters"),
    ("pydantic-ai", "pydantic-ai-slim[mcp]"),
]


def _sdk_2(server: str, mode: str) -> Case:
    def run(place: Place) -> str:
        program = place.write("program.py", _SDK_2)
        call = (_TOOLS[server], json.dumps(_ARGUMENTS[server]))
        return place.run(sys.executable, program, place.connector.url, mode, *call)

    return Case(f"mcp 2.x, {mode}", server, run, rf"(?s)\b{_TOOLS[server]}\b.*through two doors")


def _sdk_1(server: str) -> Case:
    def run(place: Place) -> str:
        python = environment("mcp-1", "mcp==1.30.0")
        program = place.write("program.py", _SDK_1)
        call = (_TOOLS[server], json.dumps(_ARGUMENTS[server]))
        return place.run(python, program, place.connector.url, *call)

    return Case("mcp 1.30", server, run, rf"(?s)\b{_TOOLS[server]}\b.*through two doors")


def _program(kind: str, requirement: str) -> Case:
    def run(place: Place) -> str:
        return _run_program(place, kind, environment(kind, requirement))

    return Case(f"{kind} snippet", _FIXTURE, run, r"\bprobe_echo - ")


def _mcp_sdk(place: Place) -> str:
    return _run_program(place, "mcp-sdk", Path(sys.executable))


def _run_program(place: Place, kind: str, python: Path) -> str:
    return place.run(python, place.write("program.py", place.printed(kind)[0]))


def _typescript(place: Place) -> str:
    # A module finds packages from its own place upwards.
    link = place.folder / "node_modules"
    link.symlink_to(place.tools.folder / "node_modules")
    return place.run(place.tools.node, place.write("program.mjs", place.printed("typescript")[0]))


def _claude_desktop(place: Place) -> str:
    entry = json.loads(place.printed("claude-desktop")[0])["mcpServers"][place.server]
    launcher, _yes, bridge, *arguments = [entry["command"], *entry["args"]]
    if (launcher, bridge) != ("npx", "mcp-remote"):
        raise ClientFailed(f"not a call of mcp-remote: {entry}")
    # What npx would fetch is installed; the rest of the line is the snippet's.
    program = place.write("program.py", _BRIDGE)
    return place.run(sys.executable, program, place.tools.program(bridge), *arguments)


def _claude_code_file(place: Place) -> str:
    place.write(".mcp.json", place.printed("claude-code")[0])
    # What its dialogue would ask: whether the folder is trusted, and this server of it.
    approved = {"hasTrustDialogAccepted": True, "enabledMcpjsonServers": [place.server]}
    place.write(".claude.json", json.dumps({"projects": {os.path.realpath(place.folder): approved}}))
    return place.run(place.tools.program("claude"), "mcp", "list")


def _claude_code_command(place: Place) -> str:
    command, *words = shlex.split(place.printed("claude-code")[1].partition("or run:")[2])
    place.run(place.tools.program(command), *words)
    return place.run(place.tools.program(command), "mcp", "list")


def _gemini(place: Place) -> str:
    place.write(".gemini/settings.json", place.printed("gemini")[0])
    trust = {"GEMINI_CLI_TRUST_WORKSPACE": "true"}
    return place.run(place.tools.program("gemini"), "mcp", "list", environment=trust)


def _codex(place: Place) -> str:
    text = place.printed("codex")[0]
    tomllib.loads(text)
    place.write(".codex/config.toml", text)
    said = place.run(place.tools.program("codex"), "mcp", "list", "--json")
    listed, _end = json.JSONDecoder().raw_decode(said)  # what it logs comes behind
    return "\n".join(f"{entry['name']} {entry['transport']['url']}" for entry in listed)


# -- the run ------------------------------------------------------------------------------------------


@dataclass
class _Stage:
    """What all clients share, running."""

    tunnel: Tunnel
    connectors: dict[str, Connector]
    folder: Path
    tools: ClientTools
    failures: dict[str, str] = field(default_factory=dict)

    def passes(self, number: int, case: Case) -> bool:
        """Run one case, and say how it went."""
        folder = self.folder / f"client-{number}"
        folder.mkdir()
        place = Place(case.server, self.tunnel, self.connectors[case.server], folder, self.tools)
        name = f"{case.name}, {case.server}"
        try:
            said = case.run(place)
            if re.search(case.wanted, said, re.MULTILINE) is None:
                raise ClientFailed(f"did not say {case.wanted!r}: {said[-1500:]}")
        except (ClientFailed, ToolMissing, ValueError, KeyError) as error:
            self.failures[name] = str(error)
            say(f"FAIL {name}: {error}")
            return False
        say(f"  ok {name}")
        return True


def _start_everything(tools: ClientTools, folder: Path) -> tuple[ChildProcess, str]:
    """Start npm's server-everything; its port is known before it listens, and the first call waits for it."""
    port = free_port()
    process = ChildProcess(
        "everything",
        [tools.node, os.path.realpath(tools.program("mcp-server-everything")), "streamableHttp"],
        folder=folder,
        environment={"PORT": str(port)},
    )
    process.wait_for_text("listening on port")
    return process, f"http://{LOOPBACK}:{port}/mcp"


def main() -> int:
    """Run every client and return the exit code."""
    parser = argparse.ArgumentParser(description="agents' own programs, through the tunnel")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only clients with this in their name")
    names = parser.parse_args().names
    cases = [case for case in _cases() if not names or any(name in case.name for name in names)]
    try:
        tools = client_tools()
    except ToolMissing as error:
        say(f"error: {error}")
        return 1
    with tempfile.TemporaryDirectory(prefix="sallyport-clients-") as name:
        folder = Path(name)
        fixture = start_fixture(folder)
        everything, url = _start_everything(tools, folder)
        with fixture.process, everything, Product(folder / "product") as product:
            product.start_relay()
            tunnel = product.make_tunnel("acme", {_FIXTURE: fixture.url, _EVERYTHING: url})
            tunnel.start_gateway()
            connectors = {server: tunnel.start_connector(server) for server in _TOOLS}
            stage = _Stage(tunnel, connectors, folder, tools)
            passed = [case for number, case in enumerate(cases) if stage.passes(number, case)]
    return _judge(cases, passed, stage.failures)


def _judge(cases: Sequence[Case], passed: Sequence[Case], failures: Mapping[str, str]) -> int:
    outside = [case for case in cases if case.server == _EVERYTHING]
    figures = (
        f"{len(passed)}/{len(cases)} clients, "
        f"{sum(case in passed for case in outside)}/{len(outside)} of them at server-everything"
    )
    facts = {
        "clients": {f"{case.name}, {case.server}": case in passed for case in cases},
        "failures": dict(failures),
        "mcp": version(Path(sys.executable), "mcp"),
    }
    ok = bool(cases) and len(passed) == len(cases)
    if len(cases) < len(_cases()):
        say(f"clients: {figures}; a part of them, so no result is written")
        return 0 if ok else 1
    return finish("clients", figures, facts, ok=ok)


if __name__ == "__main__":
    sys.exit(main())
