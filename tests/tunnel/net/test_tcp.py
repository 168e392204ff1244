"""Connecting to a name with several addresses."""

import socket

import anyio
import pytest

from sallyport.processes import free_port
from sallyport.tunnel.net.tcp import connect_tcp, taking_turns
from tests.harness.link_pair import Recorder

pytestmark = pytest.mark.anyio

SIX, FOUR = socket.AF_INET6, socket.AF_INET


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([(SIX, "::1"), (SIX, "::2"), (FOUR, "1"), (FOUR, "2")], ["::1", "1", "::2", "2"]),
        ([(FOUR, "1"), (SIX, "::1"), (SIX, "::2")], ["1", "::1", "::2"]),
        ([(SIX, "::1"), (SIX, "::2")], ["::1", "::2"]),
        ([(FOUR, "1")], ["1"]),
    ],
)
def test_families_take_turns(found: list[tuple[int, str]], order: list[str]) -> None:
    """One family after the other, so that a dead one costs a head start and no more."""
    assert taking_turns(found) == order


async def test_the_address_that_answers_wins() -> None:
    """A name whose first address refuses is reached at its second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = Recorder()
        with anyio.fail_after(10):
            await connect_tcp("localhost", listener.getsockname()[1], lambda: caller)
        assert caller.transport is not None
        assert caller.transport.get_extra_info("peername")[0] == "127.0.0.1"
        caller.transport.abort()
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))


async def test_nobody_there_is_the_systems_error() -> None:
    """When every address refuses, the refusal is raised."""
    with anyio.fail_after(10), pytest.raises(ConnectionRefusedError):
        await connect_tcp("localhost", free_port(), Recorder)
