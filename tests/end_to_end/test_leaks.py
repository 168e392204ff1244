"""
Streams that end leave nothing behind, and callers that stop cost what is stated; ``make leaks`` does it at
length.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from sallyport.config.loader import load_gateway, load_relay
from sallyport.gateway.app import App, start as start_gateway
from sallyport.relay.app import Relay, start as start_relay
from sallyport.tunnel.limits import INITIAL_WINDOW, KIB, MIB
from tests.harness.churn import Churn
from tests.harness.product import Product, Tunnel
from tests.harness.reservoir import Reservoir
from tests.harness.reservoir_stage import reservoir_stage
from tests.harness.stalls import Direction, go_on, measure_stall, stalled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

_VISITS = 200
_MEMORY = ("resident", "private")
_STALLED = 20
_UNSENT = (64 + 256) * KIB  # SPEC.md §7
# What an allocator takes at a time, and the one-off cost of a first large answer.
_ROOM = 8 * MIB
# There is one of a connection; those that hold OpenSSL's memory, or bytes of a call, must not wait for the
# garbage collector.
_WATCHED = ("Stream", "Splice", "TlsTransport", "TlsEngine", "HttpServer", "UpstreamConnection", "Knock")
_FREED_AT_ONCE = ("Stream", "TlsTransport", "TlsEngine", "HttpServer")


@dataclass(frozen=True)
class Inside:
    """Relay and gateway in this process."""

    relay: Relay
    gateway: App
    tunnel: Tunnel
    reservoir: Reservoir

    async def settle(self) -> None:
        """Wait until no stream is open and the server behind has no connection."""
        await _until(lambda: not (self.relay.front.stream_count or self.gateway.uplink.stream_count))
        await _until(lambda: not (self.reservoir.open_count or self.relay.status()["arrivals"]))


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    """Run relay and gateway as tasks of the test."""
    product = await asyncio.to_thread(Product, tmp_path / "product")
    async with AsyncExitStack() as stack:
        reservoir = await stack.enter_async_context(Reservoir())
        tunnel = await asyncio.to_thread(product.make_tunnel, "acme", {"tickets": reservoir.url})
        config = await asyncio.to_thread(tunnel.write_gateway_config)
        await asyncio.to_thread(tunnel.bundle)
        relay = await stack.enter_async_context(start_relay(load_relay(product.relay_folder / "relay.yaml")))
        gateway = await stack.enter_async_context(start_gateway(load_gateway(config)))
        await _until(lambda: gateway.uplink.state.connected)
        yield Inside(relay, gateway, tunnel, reservoir)


async def test_streams_leave_no_object_behind(inside: Inside) -> None:
    """Tasks, streams, links, budgets are as before; so is each object that there is one of a connection."""
    structlog.configure(processors=[_drop])
    churn = Churn(inside.tunnel)
    await churn.run(20)
    await inside.settle()
    gc.collect()
    tasks, links = len(asyncio.all_tasks()), len(list(inside.relay.links.registry.links()))
    objects = _watched()

    gc.disable()
    try:
        await churn.run(_VISITS)
        await inside.settle()
        uncollected = _watched() - objects
    finally:
        gc.enable()
    gc.collect()

    assert churn.failed == {}
    assert churn.done.total() == _VISITS + 20
    assert _watched() - objects == {}
    assert {name: count for name, count in uncollected.items() if name in _FREED_AT_ONCE} == {}
    assert len(asyncio.all_tasks()) == tasks
    assert len(list(inside.relay.links.registry.links())) == links == 1
    for process in (inside.relay, inside.gateway):
        assert process.status()["memory"] == {"total": 64 * MIB, "used": 0, "stalled_streams": 0}


async def test_streams_leave_nothing_in_the_processes(tmp_path: Path) -> None:
    """Descriptors, tasks, streams and links of relay and gateway are as before."""
    async with reservoir_stage(tmp_path / "product") as stage:
        churn = Churn(stage.tunnel)
        await churn.run(40)
        before = await stage.settle()
        await churn.run(_VISITS)
        after = await stage.settle(like=before)

    assert churn.failed == {}
    for then, now in zip(before, after, strict=True):
        counts = {name: part for name, part in now.growth_from(then).items() if name not in _MEMORY}
        assert not any(counts.values()), counts


@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_callers_that_stop_cost_what_is_stated(tmp_path: Path, direction: Direction) -> None:
    """RSS grows by less than SPEC.md §7 states; twenty others and a download finish beside them."""
    async with reservoir_stage(tmp_path / "product") as stage:
        await go_on(stage.endpoint, callers=2, calls=2)
        before = await stage.settle()
        cost = await measure_stall(stage, direction, _STALLED, before=before, others=20)
        stage.reservoir.hang_up()
        left = await stage.settle()

    bound = _STALLED * (INITIAL_WINDOW + _UNSENT)
    for name, growth in cost.growth.items():
        assert growth < cost.charged[name] + bound + _ROOM, cost
    assert cost.beside is not None
    assert cost.beside.calls == 20 * 25
    assert [now.streams for now in left] == [0, 0]


async def test_a_full_budget_ends_who_stopped_and_nobody_else(tmp_path: Path) -> None:
    """With all of the relay's budget stalled, the longest-stalled goes after a second, until some is free."""
    async with (
        reservoir_stage(tmp_path / "product", relay_limits={"memory": "512KiB"}) as stage,
        stalled(stage.endpoint, "download", _STALLED),
    ):
        relay = stage.relay.process
        await asyncio.to_thread(relay.wait_for, "stream", outcome="reset:slow_consumer")
        # Each link ends its own, so some is free when the last of them has looked.
        await stage.relay.wait_until(lambda seen: seen.charged < 512 * KIB, within=10)
        beside = await go_on(stage.endpoint, callers=5, calls=5, bulk=MIB)
        ended = len(relay.events("stream", outcome="reset:slow_consumer"))

    assert beside.calls == 25
    assert 0 < ended < _STALLED


async def _until(holds: Callable[[], bool]) -> None:
    """Look until something holds that nobody announces."""
    async with asyncio.timeout(30):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)


def _drop(_logger: object, _method: str, _event: object) -> str:
    raise structlog.DropEvent


def _watched() -> Counter[str]:
    """Count the live objects of the watched classes."""
    names = (type(each).__name__ for each in gc.get_objects())
    return Counter(name for name in names if name in _WATCHED)
