"""
What a path is: a front door at which the load calls, and what stands between it and the server.

A path is data, because it travels to the process that measures.
"""

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.sdk import server
from tests.harness.child_process import ChildProcess

DIRECT, CONNECTOR, TLS = "direct", "connector", "tls"
LOOPBACK = server.LOOPBACK


@dataclass(frozen=True)
class CallPath:
    """
    One way to the server.

    Attributes:
        name: Of the path, in every table and file.
        about: What it consists of, in a few words.
        port: Of its front door, on loopback; the endpoint is ``/mcp``.
        authority: What Host says there.
        root: The file with the one root to trust; empty where the door speaks plain HTTP.
        certificate: The file with the caller's certificate and key.
        server_name: For SNI.
    """

    name: str
    about: str
    port: int
    authority: str
    root: str = ""
    certificate: str = ""
    server_name: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """Return how to dial the door: a context that trusts its root alone, or None for plain HTTP."""
        if not self.root:
            return None
        context = ssl.create_default_context(cafile=self.root)
        context.load_cert_chain(self.certificate)
        return context


def plain_path(name: str, about: str, port: int) -> CallPath:
    """Return a path whose door speaks plain HTTP."""
    return CallPath(name, about, port, f"{LOOPBACK}:{port}")


def server_command(*arguments: str) -> list[str]:
    """Return the command that starts the server, from whatever folder."""
    return [sys.executable, str(Path(server.__file__).resolve()), *arguments]


@contextmanager
def running_server(folder: Path) -> Iterator[CallPath]:
    """Run the server over HTTP and yield the direct path to it."""
    with ChildProcess("server", server_command(), folder=folder) as process:
        address = str(process.wait_for("listening")["address"])
        yield plain_path(DIRECT, "no one between", int(address.rpartition(":")[2]))
