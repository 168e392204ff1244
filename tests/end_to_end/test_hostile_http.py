"""
Hostile HTTP inside the inner TLS, at a real gateway: each request gets its status, and the connection ends.
"""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
import pytest

from tests.harness.product import LOOPBACK, Product, Tunnel
from tests.harness.raw_http import Reply
from tests.harness.rough_upstream import RoughUpstream
from tests.hostile.http_requests import hostile_requests, odd_requests

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Door:
    """Where to talk, and the server that must not hear it."""

    tunnel: Tunnel
    upstream: RoughUpstream
    context: ssl.SSLContext

    @property
    def host(self) -> str:
        """The name of the server."""
        return self.tunnel.host("tickets")

    async def talk(self, data: bytes) -> Reply:
        """Send bytes and return the first answer, read whole."""
        reader, writer = await asyncio.open_connection(
            LOOPBACK, self.tunnel.product.relay_port, ssl=self.context, server_hostname=self.host
        )
        writer.write(data)
        async with Reply(reader, writer) as reply:
            await reply.read_head()
            await reply.body()
        return reply


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Run the product before a server that counts what reaches it."""
    with RoughUpstream() as upstream, Product(tmp_path_factory.mktemp("door") / "p") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": upstream.url})
        tunnel.start_gateway()
        yield Door(tunnel, upstream, tunnel.only_root_context())


@pytest.mark.parametrize("name", [case.name for case in hostile_requests()])
async def test_a_hostile_request_gets_its_status(door: Door, name: str) -> None:
    """The status is the documented one, the connection ends with it, and a bad head reaches no server."""
    case = next(each for each in hostile_requests(door.host.encode()) if each.name == name)
    before = len(door.upstream.requests)
    with anyio.fail_after(20):
        answer = await door.talk(case.data)
    assert answer.status == case.status
    assert answer.header("Connection") == "close"
    if case.fault == "head":
        assert len(door.upstream.requests) == before


@pytest.mark.parametrize("name", [case.name for case in odd_requests()])
async def test_an_odd_request_is_served(door: Door, name: str) -> None:
    """What only looks hostile reaches the server."""
    case = next(each for each in odd_requests(door.host.encode()) if each.name == name)
    with anyio.fail_after(20):
        answer = await door.talk(case.data)
    assert answer.status == 200
    if case.target:
        assert door.upstream.requests[-1].encode("latin-1") == case.target
