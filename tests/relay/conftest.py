"""What the relay's tests share: two tunnels' identities, made once."""

import pytest

from tests.relay.relay_world import TestTunnel, make_tunnel


@pytest.fixture(scope="session")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> TestTunnel:
    """A tunnel with a gateway gw1."""
    return make_tunnel(tmp_path_factory.mktemp("tunnel") / "identity")


@pytest.fixture(scope="session")
def other_tunnel(tmp_path_factory: pytest.TempPathFactory) -> TestTunnel:
    """Somebody else's tunnel, with a gateway gw1 too."""
    return make_tunnel(tmp_path_factory.mktemp("other") / "identity")
