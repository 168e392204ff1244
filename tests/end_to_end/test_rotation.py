"""Every certificate is replaced under open streams: none of them notices, and the next handshake is new."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.harness.product import Product
from tests.harness.rotation import rotate_under_streams
from tests.harness.stage import Stage, start_fixture

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stage]:
    """Run a product of the test's own, MCP server included."""
    fixture = start_fixture(tmp_path)
    with fixture.process, Product(tmp_path / "product") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        yield Stage(fixture, product, tunnel, tunnel.start_gateway(), tunnel.start_connector())


async def test_rotation_loses_no_stream(own: Stage) -> None:
    """Gateway, link, relay and caller, twice each; ``make rotation`` does it at length."""
    with anyio.fail_after(150):
        figures = await rotate_under_streams(own, streams=24, rounds=2)

    assert figures.lost == []
    assert figures.fresh == figures.rotations == {"gateway": 2, "link": 2, "relay": 2, "caller": 2}
    assert figures.steps > 24
