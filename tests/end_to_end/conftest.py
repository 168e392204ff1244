"""
What the end-to-end tests share: one running product with one tunnel, and the MCP server behind it.

Most tests only call through it, so it is started once. A test that kills or reconfigures something starts a
product of its own (``fresh_product``). The test's own client runs on plain asyncio: what is under test runs
in other processes, and which loop those use is each test's business.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.child_process import ChildProcess
from tests.harness.product import Connector, Fixture, Product, Tunnel, start_fixture


@dataclass(frozen=True)
class Stage:
    """Everything that runs: MCP server, relay, gateway, connector."""

    fixture: Fixture
    product: Product
    relay: ChildProcess
    tunnel: Tunnel
    gateway: ChildProcess
    connector: Connector


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run the test's own client on plain asyncio only."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="session")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    """Run the MCP server behind the tunnels."""
    started = start_fixture(tmp_path_factory.mktemp("fixture"))
    yield started
    started.process.end()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory, fixture: Fixture) -> Iterator[Stage]:
    """Run a product with one tunnel to the fixture, for tests that leave it as they found it."""
    with Product(tmp_path_factory.mktemp("product")) as product:
        relay = product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        gateway = tunnel.start_gateway()
        connector = tunnel.start_connector()
        yield Stage(fixture, product, relay, tunnel, gateway, connector)


@pytest.fixture
def fresh_product(tmp_path: Path) -> Iterator[Product]:
    """Make a product of the test's own, with nothing started yet."""
    with Product(tmp_path / "product") as product:
        yield product


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of all processes below a failure."""
    report = yield
    stage = getattr(item, "funcargs", {}).get("stage")
    if report.failed and isinstance(stage, Stage):
        for process in (stage.relay, stage.gateway, stage.connector.process):
            report.sections.append((f"log of {process.name}", process.log[-4000:]))
    return report
