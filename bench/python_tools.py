"""
Python programs that use the product in environments of their own, made once in ``.tools/`` (ignored by git).

Each has what its users would install and nothing of ours: the ``mcp`` 1.x client and the frameworks that
still need it cannot share an environment with ``mcp`` 2.x.
"""

import subprocess
import sys
from pathlib import Path

from bench.node_tools import TOOLS, ToolMissing
from bench.report import say

_INSTALL_LIMIT = 600  # seconds


def environment(name: str, *requirements: str) -> Path:
    """
    Return the Python of an environment, making it first where it is not there.

    Args:
        name: Its folder below ``.tools/``.
        requirements: What pip installs into a new one.

    Raises:
        ToolMissing: pip could not install them.
    """
    folder = TOOLS / name
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    wanted = "\n".join(requirements)
    if not (complete.is_file() and complete.read_text() == wanted):
        say(f"installing {', '.join(requirements)} into {folder}")
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements)
        complete.write_text(wanted)
    return python


def version(python: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    program = f"from importlib.metadata import version; import sys; sys.stdout.write(version({package!r}))"
    return _run(str(python), "-c", program)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT, check=False)
    if done.returncode != 0:
        raise ToolMissing(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
