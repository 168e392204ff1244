"""
A process dies in the middle of a call: the caller gets an error soon, never a short answer, and a later call
works.

Each test kills one process with SIGKILL while two calls are under way: one that has no answer byte yet, and
one whose event stream is open.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.harness.child_process import ChildProcess
from tests.harness.mcp_wire import (
    ModernClient,
    error_code,
    expect_failure,
    open_stream,
    result_text,
    tool_call,
)
from tests.harness.product import Product
from tests.harness.raw_http import Endpoint, Reply
from tests.harness.stage import Stage, start_fixture

pytestmark = pytest.mark.anyio

_BOUND = 10  # seconds from the kill to the caller's error; far less is usual
_RECOVERY = 30  # seconds until the next call works: a gateway's first pauses are short


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stage]:
    """Run a product of the test's own, MCP server included."""
    fixture = start_fixture(tmp_path)
    with fixture.process, Product(tmp_path / "product") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        yield Stage(fixture, product, tunnel, tunnel.start_gateway(), tunnel.start_connector())


async def test_a_killed_relay_fails_its_calls_and_comes_back(own: Stage) -> None:
    """Callers see the relay go; gateway and connector find the new one by themselves."""
    relay = own.product.relay
    assert relay is not None
    await _kill_during_calls(own, relay)
    await anyio.to_thread.run_sync(own.product.start_relay)
    workers = len(own.gateway.events("starting"))
    await anyio.to_thread.run_sync(
        lambda: own.gateway.wait_for("link up", count=2 * workers, within=_RECOVERY)
    )
    await _call_on_every_path(own)


async def test_a_killed_gateway_fails_its_calls_and_another_takes_over(own: Stage) -> None:
    """Callers see the gateway go, and a gateway that is started then serves them."""
    await _kill_during_calls(own, own.gateway)
    await anyio.to_thread.run_sync(own.tunnel.start_gateway)
    await _call_on_every_path(own)


async def test_a_killed_upstream_fails_its_calls_with_the_gateways_words(own: Stage) -> None:
    """The gateway names the server that is gone, and goes on serving."""
    await _kill_during_calls(own, own.fixture.process)
    async with await ModernClient(own.connector.endpoint()).post("server/discover") as reply:
        assert reply.status == 503
        assert error_code(await reply.json()) == -32000


async def _kill_during_calls(own: Stage, victim: ChildProcess) -> None:
    """Kill a process under a waiting call and an open stream on both paths, and check how they end."""
    endpoints = [own.connector.endpoint(), own.tunnel.tls_endpoint()]
    before = await ModernClient(own.fixture.endpoint()).stats()
    waiting = [await _begin_waiting(endpoint) for endpoint in endpoints]
    open_streams = [await open_stream(endpoint) for endpoint in endpoints]
    await ModernClient(own.fixture.endpoint()).wait_for("started", before["started"] + 4)
    await anyio.to_thread.run_sync(victim.kill_all)
    with anyio.fail_after(_BOUND):
        for reply in waiting:
            await expect_failure(reply)
        for reply in open_streams:
            await _expect_cut(reply)


async def _begin_waiting(endpoint: Endpoint) -> Reply:
    call = tool_call("probe_sleep", {"seconds": 300})
    return await ModernClient(endpoint).post("tools/call", call, wait=False)


async def _expect_cut(reply: Reply) -> None:
    """An open stream ends as a cut one, never as a whole one."""
    async with reply:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reply.body()


async def _call_on_every_path(own: Stage) -> None:
    with anyio.fail_after(_RECOVERY):
        for endpoint in (own.connector.endpoint(), own.tunnel.tls_endpoint()):
            assert result_text(await ModernClient(endpoint).call("probe_echo", text="again")) == "again"
