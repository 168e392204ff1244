"""What the connector's tests share: one tunnel's identity, and the far side that it is dialled through."""

from collections.abc import AsyncIterator

import pytest

from tests.connector.far_side import FarSide
from tests.harness.identity import TestIdentity


@pytest.fixture(scope="session")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make a tunnel with a gateway and the caller alice."""
    return TestIdentity(tmp_path_factory.mktemp("tunnel") / "identity")


@pytest.fixture(scope="session")
def other_tunnel(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make a tunnel of somebody else's, with callers and gateways of the same names."""
    return TestIdentity(tmp_path_factory.mktemp("other") / "identity")


@pytest.fixture
async def far(tunnel: TestIdentity) -> AsyncIterator[FarSide]:
    """Run a relay and a gateway of the tunnel, in one."""
    async with FarSide.of(tunnel) as running:
        yield running
