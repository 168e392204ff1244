"""Connecting to a name with several addresses."""

import socket

import anyio
import pytest

from sallyport.config.fields import Address
from sallyport.connector.tcp import Candidate, open_tcp, taking_turns

pytestmark = pytest.mark.anyio


def six(port: int) -> Candidate:
    """Return a candidate of IPv6."""
    return socket.AF_INET6, ("::1", port, 0, 0)


def four(port: int) -> Candidate:
    """Return a candidate of IPv4."""
    return socket.AF_INET, ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([six(1), six(2), four(1), four(2)], [six(1), four(1), six(2), four(2)]),
        ([four(1), six(1), six(2)], [four(1), six(1), six(2)]),
        ([six(1), six(2)], [six(1), six(2)]),
        ([four(1)], [four(1)]),
    ],
)
def test_families_take_turns(found: list[Candidate], order: list[Candidate]) -> None:
    """One family after the other, so that a dead one costs a head start and no more."""
    assert taking_turns(found) == order


async def test_the_address_that_answers_wins() -> None:
    """A name whose first address refuses is reached at its second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with anyio.fail_after(10):
            connected = await open_tcp(Address("localhost", port))
        with connected:
            assert connected.getpeername()[1] == port


async def test_nobody_there_is_the_systems_error() -> None:
    """When every address refuses, the first refusal is raised."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with anyio.fail_after(10), pytest.raises(ConnectionRefusedError):
        await open_tcp(Address("localhost", port))
