"""
The MCP server of ``tests/fixture`` as a process, and a whole product in front of it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.child_process import CHECKOUT, ChildProcess
from tests.harness.product import LOOPBACK, Connector, Product, Tunnel
from tests.harness.raw_http import Endpoint


def start_fixture(folder: Path, *, environment: Mapping[str, str] | None = None) -> "Fixture":
    """Start the dual-era MCP server of ``tests/fixture`` and wait until it listens."""
    process = ChildProcess(
        "fixture",
        [sys.executable, "-m", "tests.fixture.fixture_server"],
        folder=folder,
        environment={"PYTHONPATH": str(CHECKOUT), **(environment or {})},
    )
    address = str(process.wait_for("listening")["address"])
    return Fixture(process, int(address.rpartition(":")[2]))


@dataclass(frozen=True)
class Fixture:
    """The running MCP server of the tests."""

    process: ChildProcess
    port: int

    @property
    def url(self) -> str:
        """What a gateway's configuration says."""
        return f"http://{LOOPBACK}:{self.port}/mcp"

    def endpoint(self) -> Endpoint:
        """Return the server's own endpoint: the direct path, to compare with."""
        return Endpoint(LOOPBACK, self.port, "/mcp", f"{LOOPBACK}:{self.port}")


@dataclass(frozen=True)
class Stage:
    """Everything that one call goes through, running."""

    fixture: Fixture
    product: Product
    tunnel: Tunnel
    gateway: ChildProcess
    connector: Connector
