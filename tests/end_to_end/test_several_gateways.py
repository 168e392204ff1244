"""
Two gateways on one tunnel, each a process before an MCP server of its own: a session that moved would be
unknown there. Callers come from addresses of their own, all of which lead to this machine.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from tests.harness.child_process import ChildProcess, LogLine
from tests.harness.mcp_wire import LegacySession, ModernClient, open_stream, result_text
from tests.harness.product import Product, Tunnel
from tests.harness.raw_http import Endpoint, Reply, ServerSentEvent
from tests.harness.stage import start_fixture

pytestmark = [pytest.mark.anyio, pytest.mark.platform("linux")]

_ADDRESSES = [f"127.0.1.{number}" for number in range(1, 101)]
_AT_ONCE = 8


@dataclass(frozen=True)
class Pair:
    """A relay, and two gateways of one tunnel."""

    product: Product
    tunnel: Tunnel
    gateways: Mapping[str, ChildProcess]
    urls: Mapping[str, str]

    def settings(self, name: str) -> dict[str, object]:
        """A gateway's configuration: the server that it has for itself."""
        return {"servers": {"tickets": {"url": self.urls[name]}}}

    def endpoint(self, address: str) -> Endpoint:
        """The tunnel's server, called from an address."""
        return replace(self.tunnel.tls_endpoint(), source=address)

    def served(self) -> dict[str, str]:
        """Return which gateway has served each address so far, by the relay's log."""
        return {str(line["address"]): str(line["link"]) for line in self._streams()}

    def stream_count(self) -> int:
        """Return how many streams have ended so far."""
        return len(self._streams())

    def _streams(self) -> list[LogLine]:
        relay = self.product.relay
        assert relay is not None
        return relay.events("stream")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Run the product, each gateway before its own server."""
    with Product(tmp_path / "product") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {})
        gateways: dict[str, ChildProcess] = {}
        urls: dict[str, str] = {}
        made = Pair(product, tunnel, gateways, urls)
        with ExitStack() as servers:
            for name in ("gw1", "gw2"):
                (tmp_path / name).mkdir()
                server = start_fixture(tmp_path / name)
                servers.enter_context(server.process)
                urls[name] = server.url
                gateways[name] = tunnel.start_gateway(name, settings=made.settings(name))
            yield made


async def test_both_serve_and_sessions_stay(pair: Pair) -> None:
    """Of a hundred callers each gateway gets its share, and a session never leaves its own."""
    with anyio.fail_after(40):
        before = await _call_from(pair, _ADDRESSES)
        shares = Counter(before.values())
        assert set(shares) == {"gw1", "gw2"}
        assert min(shares.values()) >= 20, shares
        for address in _ADDRESSES[:10]:
            session = await LegacySession.open(pair.endpoint(address))
            for text in ("one", "two", "three"):
                assert result_text(await session.call("probe_echo", text=text)) == text
            assert await session.delete() in (200, 204)
        assert pair.served() == before


async def test_a_killed_gateway_is_gone_within_a_second(pair: Pair) -> None:
    """Its streams end, the other's go on, and a new caller of it is served by the other at once."""
    with anyio.fail_after(40):
        callers = _inverted(await _call_from(pair, _ADDRESSES[:12]))
        lost, kept = [await open_stream(pair.endpoint(callers[name])) for name in ("gw1", "gw2")]
        await to_thread.run_sync(pair.gateways["gw1"].kill)
        killed = time.monotonic()
        await _call_until_served(pair.endpoint(callers["gw1"]))
        assert time.monotonic() - killed < 1
        async with lost:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await lost.body()
        async with kept:
            later = [event async for event in _first(kept, 3, after=killed)]
        assert len(later) == 3
        await _until(lambda: pair.served()[callers["gw1"]] == "gw2")


async def test_a_gateway_at_its_limit_is_skipped(pair: Pair) -> None:
    """Callers that belong to it are served by the other, and are its own again when it has room."""
    with anyio.fail_after(40):
        address = _inverted(await _call_from(pair, _ADDRESSES[:12]))["gw1"]
        await to_thread.run_sync(pair.gateways["gw1"].stop)
        full = {"limits": {"streams_per_link": 1}, "workers": 1, **pair.settings("gw1")}
        await to_thread.run_sync(lambda: pair.tunnel.start_gateway("gw1", settings=full))
        reply = await open_stream(pair.endpoint(address))
        await _call_from(pair, [address])
        assert pair.served()[address] == "gw2"
        await reply.close()
        await _until(lambda: pair.served()[address] == "gw1")
        await _call_from(pair, [address])
        assert pair.served()[address] == "gw1"


async def _call_from(pair: Pair, addresses: Sequence[str]) -> dict[str, str]:
    """Call once from each address, and return which gateways have served which addresses so far."""
    room = anyio.CapacityLimiter(_AT_ONCE)
    before = pair.stream_count()

    async def call(address: str) -> None:
        async with room:
            answer = await ModernClient(pair.endpoint(address)).call("probe_echo", text=address)
            assert result_text(answer) == address

    async with anyio.create_task_group() as tasks:
        for address in addresses:
            tasks.start_soon(call, address)
    # The relay writes its line when a stream has ended, a moment after its caller has.
    await _until(lambda: pair.stream_count() >= before + len(addresses))
    return pair.served()


def _inverted(served: Mapping[str, str]) -> dict[str, str]:
    """Return an address for each gateway."""
    found = {gateway: address for address, gateway in served.items()}
    assert set(found) == {"gw1", "gw2"}
    return found


async def _first(reply: Reply, count: int, *, after: float) -> AsyncIterator[ServerSentEvent]:
    """Yield so many events that came after a moment."""
    async for event in reply.events():
        if event.at > after:
            yield event
            count -= 1
        if not count:
            return


async def _call_until_served(endpoint: Endpoint) -> None:
    """Call again and again, as a client does that meets an error, until there is an answer."""
    while True:
        try:
            assert result_text(await ModernClient(endpoint).call("probe_echo", text="again")) == "again"
        except (OSError, asyncio.IncompleteReadError):
            continue
        return


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for a line of another process's log; the caller sets the deadline."""
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.01)
