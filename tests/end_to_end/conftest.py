"""
What the end-to-end tests share: one running product with one tunnel, and the MCP server behind it.

Most tests only call through it, so it is started once. A test that kills or reconfigures something starts a
product of its own (``fresh_product``). The test's own client runs on plain asyncio: what is under test runs
in other processes, and which loop those use is each test's business.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.harness.product import Product, Tunnel
from tests.harness.stage import Fixture, Stage, start_fixture


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
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Run a relay that tests may register tunnels with."""
    with Product(tmp_path_factory.mktemp("product")) as product:
        product.start_relay()
        yield product


@pytest.fixture(scope="session")
def tunnel(product: Product, fixture: Fixture) -> Tunnel:
    """Register a tunnel to the MCP server; who needs its gateway takes ``stage``."""
    return product.make_tunnel("acme", {"tickets": fixture.url})


@pytest.fixture(scope="session")
def stage(product: Product, fixture: Fixture, tunnel: Tunnel) -> Stage:
    """Run gateway and connector too, for tests that leave everything as they found it."""
    return Stage(fixture, product, tunnel, tunnel.start_gateway(), tunnel.start_connector())


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
        for process in (stage.product.relay, stage.gateway, stage.connector.process):
            if process is not None:
                report.sections.append((f"log of {process.name}", process.log[-4000:]))
    return report
