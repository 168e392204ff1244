"""
Runs the commands that a document shows, in their order, so that none of them can be wrong.

What is run is marked by a comment on the line before the block::

    <!-- tested -->                          a ``console`` block of lines ``HOST$ command``
    <!-- tested: HOST FILE -->               a block that is the content of a file on that host

Each host is a folder; ``scp`` between hosts copies between folders. A command that runs until it is told to
stop goes on while the rest is run. What a single machine cannot have as documented is substituted, by one
table for commands and files alike: names that do not resolve, ports that may be taken, and ``tnl_…``.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sallyport.certs.files import IdentityDirectory
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess, sallyport_command
from tests.harness.product import LOOPBACK

_BLOCK = re.compile(
    r"^<!-- tested(?:: (?P<host>\w+) (?P<file>\S+))? -->\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(r"^(?P<host>\w*)\$ (?P<line>.+)$")

# Commands that run until they are told to stop, and the event that says they are there.
_LONG_RUNNING = {("relay", "run"): "listening", ("gateway", "run"): "link up", ("connect",): "listening"}

_SCP = """\
#!/bin/sh -e
# host.domain:path is path in the folder of that host
resolve() {
  case "$1" in
    *:*) host=${1%%:*}; place=$HOSTS/${host%%.*}; mkdir -p "$place"; echo "$place/${1#*:}" ;;
    *) echo "$1" ;;
  esac
}
exec cp -p "$(resolve "$1")" "$(resolve "$2")"
"""


@dataclass(frozen=True)
class Command:
    """A line to type on a host; the host is empty for the checkout."""

    host: str
    line: str


@dataclass(frozen=True)
class File:
    """A file to have on a host."""

    host: str
    name: str
    text: str


def steps(document: str) -> Iterator[Command | File]:
    """Yield what a document tells its reader to do, as far as it is marked."""
    for block in _BLOCK.finditer(document):
        if block["file"]:
            yield File(block["host"], block["file"], block["text"])
            continue
        for line in block["text"].splitlines():
            if command := _COMMAND.match(line):
                yield Command(command["host"], command["line"])


@dataclass
class Hosts:
    """
    The machines of a document: ``with Hosts(folder, server) as hosts``.

    Attributes:
        folder: holds a folder for each host.
        server: URL of an MCP server, in the place of the documented ``http://127.0.0.1:9000/mcp``.
    """

    folder: Path
    server: str
    connector_port: int = field(default_factory=free_port)
    _running: list[ChildProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        relay = f"{LOOPBACK}:{free_port()}"
        self._substitutions = {
            "relay.example.com:443": relay,
            "0.0.0.0:443": relay,
            "relay.example.com": LOOPBACK,
            "http://127.0.0.1:9000/mcp": self.server,
            "127.0.0.1:7421": f"{LOOPBACK}:{free_port()}",
            "127.0.0.1:7431": f"{LOOPBACK}:{free_port()}",
            "sallyport connect ": f"sallyport connect --port {self.connector_port} ",
        }
        self._tools = self.folder / "bin"
        self._tools.mkdir()
        _write_tool(self._tools / "scp", _SCP)
        _write_tool(
            self._tools / "sallyport", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sallyport "$@"\n'
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._running:
            self._running.pop().end()

    def take(self, step: Command | File) -> None:
        """
        Do what a step says.

        Raises:
            AssertionError: a command failed.
        """
        folder = self.folder / step.host
        folder.mkdir(exist_ok=True)
        if isinstance(step, File):
            (folder / step.name).write_text(self._here(step.text))
            return
        words = shlex.split(step.line if step.line.startswith("scp ") else self._here(step.line))
        event = _event_of(words)
        if event is None:
            self._run(words, folder)
        else:
            process = ChildProcess(f"{step.host}-{words[1]}", sallyport_command(*words[1:]), folder=folder)
            self._running.append(process)
            process.wait_for(event)

    def _run(self, words: list[str], folder: Path) -> None:
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "HOSTS": str(self.folder), "PATH": f"{self._tools}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        for written in folder.glob("*.yaml"):
            written.write_text(self._here(written.read_text()))

    def _here(self, text: str) -> str:
        """Return a documented text as it is on this one machine."""
        for documented, here in self._substitutions.items():
            text = text.replace(documented, here)
        if "tnl_…" in text:
            text = text.replace(
                "tnl_…", str(IdentityDirectory(self.folder / "private" / "identity").tunnel_id())
            )
        return text


def _event_of(words: list[str]) -> str | None:
    if words[0] != "sallyport" or "--print" in words:
        return None
    return next(
        (event for start, event in _LONG_RUNNING.items() if words[1 : 1 + len(start)] == [*start]), None
    )


def _write_tool(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
