"""Tunnels that are disabled, enabled and archived while the relay serves them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.relay import app, links
from sallyport.relay.registry import TunnelState
from sallyport.tunnel.alerts import Alert, alert_record
from sallyport.tunnel.errors import LinkRefused
from sallyport.tunnel.frames import GoAwayReason, RefusalCode
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.net.websocket import WebSocketCarrier
from tests.hostile.hellos import client_hello
from tests.relay.relay_world import Gateway, TestTunnel, World, running_relay, until
from tests.relay.test_front import change_state, read_to_the_end

pytestmark = pytest.mark.anyio

UNSERVED = [
    (TunnelState.DISABLED, "is disabled by the relay's operator", 60.0, Alert.INTERNAL_ERROR),
    (TunnelState.ARCHIVED, "is archived for good", None, Alert.UNRECOGNIZED_NAME),
]


@asynccontextmanager
async def serving(folder: Path, *tunnels: TestTunnel) -> AsyncIterator[World]:
    """Run a relay under a deadline."""
    with anyio.fail_after(20):
        async with running_relay(folder / "relay", *tunnels) as world:
            yield world


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that looks at its database without keeping the tests waiting."""
    monkeypatch.setattr(app, "_STORE_INTERVAL", 0.02)


@pytest.mark.parametrize(("state", "words", "retry_after", "alert"), UNSERVED)
async def test_links_and_streams_are_cut(
    tmp_path: Path,
    tunnel: TestTunnel,
    state: TunnelState,
    words: str,
    retry_after: float | None,
    alert: Alert,
) -> None:
    """The gateway is told why, then and when it comes back; callers get the alert of the table."""
    hello = client_hello(tunnel.host())
    with capture_logs() as logs:
        async with serving(tmp_path, tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(hello)
            await gateway.next_stream()
            await change_state(world, tunnel, state)
            await gateway.owner.lost.wait()
            assert gateway.owner.left == [GoAwayReason.REVOKED]
            assert words in gateway.owner.words[0]
            await read_to_the_end(reader)
            writer.close()
            assert await world.say(hello) == alert_record(alert)
            refused = (await world.dial(tunnel)).owner.error
            assert isinstance(refused, LinkRefused)
            assert (refused.code, refused.retry_after) == (RefusalCode.TUNNEL_DISABLED, retry_after)
            assert words in refused.text
            assert world.relay.status()["links"] == []
            assert world.relay.front.stream_count == 0
    (cut,) = [entry for entry in logs if entry["event"] == "link cut"]
    assert (cut["tunnel"], cut["gateway"], cut["streams"]) == (tunnel.id, "gw1", 1)
    assert words in cut["reason"]


async def test_other_tunnels_are_left_alone(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """A stream of another tunnel does not notice."""
    hello = client_hello(other_tunnel.host())
    async with serving(tmp_path, tunnel, other_tunnel) as world:
        gateway, other = await world.up(tunnel), await world.up(other_tunnel)
        reader, writer = await world.connect(hello)
        await other.next_stream()
        await change_state(world, tunnel, TunnelState.ARCHIVED)
        await gateway.owner.lost.wait()
        writer.write(b"still here")
        assert await reader.readexactly(len(hello) + 10) == hello + b"still here"
        assert other.owner.left == []
        writer.close()


async def test_an_enabled_tunnel_is_served_again(tmp_path: Path, tunnel: TestTunnel) -> None:
    """Nothing of the former state is left."""
    hello = client_hello(tunnel.host())
    async with serving(tmp_path, tunnel) as world:
        await change_state(world, tunnel, TunnelState.DISABLED)
        await change_state(world, tunnel, TunnelState.ACTIVE)
        gateway = await world.up(tunnel)
        reader, writer = await world.connect(hello)
        await gateway.next_stream()
        assert await reader.readexactly(len(hello)) == hello
        writer.close()


async def test_a_gateway_that_reads_nothing_is_cut_too(
    tmp_path: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the connection from closing in order, and that is not waited for."""
    monkeypatch.setattr(links, "CUT_TIMEOUT", 0.1)
    hello = client_hello(tunnel.host())
    async with serving(tmp_path, tunnel) as world:
        gateway = await world.up(tunnel)
        stop_reading(gateway)
        callers = [await world.connect(hello + bytes(65_000)) for _ in range(200)]
        await until(lambda: world.relay.front.stream_count == len(callers))
        await until(lambda: not sending(world).is_writable)
        await change_state(world, tunnel, TunnelState.DISABLED)
        with anyio.fail_after(5):  # sooner than a dead link is found out
            for reader, writer in callers:
                await read_to_the_end(reader)
                writer.close()
            await until(lambda: world.relay.status()["links"] == [])


def stop_reading(gateway: Gateway) -> None:
    """Let everything that the relay sends pile up."""
    carrier = gateway.link._carrier
    assert isinstance(carrier, WebSocketCarrier)
    assert isinstance(carrier._transport, TlsTransport)
    lower = carrier._transport._lower
    assert lower is not None
    lower.pause_reading()


def sending(world: World) -> WebSocketCarrier:
    """Return the relay's end of its only link."""
    (live,) = world.relay.links.registry.links()
    carrier = live.link.link._carrier
    assert isinstance(carrier, WebSocketCarrier)
    return carrier
