"""
A balancer in front of the relay: a real haproxy where there is one, and hand-made headers everywhere.

The balancer's own connections come from an address that nobody else has, and that alone is listed; so
whatever else is seen in the relay's log was said in a header.
"""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import yaml
from anyio import to_thread

from sallyport.processes import free_port
from sallyport.tunnel.alerts import Alert, alert_record
from tests.harness.child_process import ChildProcess
from tests.harness.mcp_wire import ModernClient, result_text
from tests.harness.product import LOOPBACK, Product, Tunnel
from tests.harness.stage import Fixture
from tests.hostile.hellos import client_hello
from tests.hostile.proxy_headers import local_header, proxy_header

pytestmark = [pytest.mark.anyio, pytest.mark.platform("linux")]

_BALANCER = "127.0.9.9"
_CALLER = "127.0.1.5"

_HAPROXY = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s

frontend public
    bind {listen}
    default_backend relay

backend relay
    source {source}
    server relay {relay} send-proxy-v2 check check-send-proxy inter 100ms
"""


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """Run a relay that believes one balancer."""
    with Product(tmp_path / "product", log_level="debug") as product:
        config = product.relay_folder / "relay.yaml"
        settings = yaml.safe_load(config.read_text()) | {"proxy_protocol_from": [f"{_BALANCER}/32"]}
        config.write_text(yaml.safe_dump(settings))
        product.start_relay()
        yield product


@pytest.fixture
def tunnel(product: Product, fixture: Fixture) -> Tunnel:
    """Register a tunnel to the MCP server."""
    return product.make_tunnel("acme", {"tickets": fixture.url})


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the haproxy program")
async def test_haproxy_says_who_calls(product: Product, tunnel: Tunnel, tmp_path: Path) -> None:
    """Callers and gateways pass through it under their own addresses, and its probes are not heard of."""
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    listen = f"{LOOPBACK}:{port}"
    config.write_text(_HAPROXY.format(listen=listen, source=_BALANCER, relay=product.relay_address))
    relay = product.relay
    assert relay is not None
    with ChildProcess("haproxy", ["haproxy", "-db", "-f", config], folder=tmp_path):
        probe = await to_thread.run_sync(lambda: relay.wait_for("no hello", address=_BALANCER, count=3))
        assert probe["level"] == "debug"
        settings = {"relay": {"address": listen, "ca": str(tunnel.relay_ca)}}
        await to_thread.run_sync(lambda: tunnel.start_gateway(settings=settings))
        endpoint = replace(tunnel.tls_endpoint(), port=port, source=_CALLER)
        with anyio.fail_after(20):
            assert result_text(await ModernClient(endpoint).call("probe_echo", text="hi")) == "hi"
        await to_thread.run_sync(lambda: relay.wait_for("stream", address=_CALLER, link="gw1"))
    assert relay.events("link up", address=LOOPBACK)
    assert {line["level"] for line in _lines_about(relay, _BALANCER)} == {"debug"}


async def test_a_header_in_pieces_and_one_from_a_stranger(product: Product, tunnel: Tunnel) -> None:
    """A listed address is believed, whatever its segments; the same header from elsewhere is an alert."""
    await to_thread.run_sync(tunnel.start_gateway)
    relay = product.relay
    assert relay is not None
    hello = client_hello(tunnel.host("tickets"))
    data = proxy_header("2001:db8::7") + hello
    with anyio.fail_after(20):
        reader, writer = await _connect(product, _BALANCER)
        for start in range(0, len(data), 11):
            writer.write(data[start : start + 11])
            await writer.drain()
            await asyncio.sleep(0)
        # The hand-made hello ends at the gateway, which answers by an alert of its own.
        assert await reader.read()
        writer.close()
        await to_thread.run_sync(lambda: relay.wait_for("stream", address="2001:db8::7"))
        assert await _say(product, _CALLER, data) == alert_record(Alert.UNEXPECTED_MESSAGE)


async def test_a_balancer_without_headers_is_told_and_reported(product: Product, tunnel: Tunnel) -> None:
    """Its callers see an alert, and the operator one warning with the remedy, however many they are."""
    relay = product.relay
    assert relay is not None
    hello = client_hello(tunnel.host("tickets"))
    with anyio.fail_after(20):
        for _ in range(5):
            assert await _say(product, _BALANCER, hello) == alert_record(Alert.UNEXPECTED_MESSAGE)
        assert await _say(product, _BALANCER, local_header() + hello) == alert_record(Alert.INTERNAL_ERROR)
    (warning,) = relay.events("no PROXY header")
    assert (warning["address"], warning["level"]) == (_BALANCER, "warning")
    assert "send-proxy-v2" in str(warning["hint"])


async def _connect(product: Product, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(LOOPBACK, product.relay_port, local_addr=(source, 0))


async def _say(product: Product, source: str, data: bytes) -> bytes:
    """Send something from an address and return everything that is answered."""
    reader, writer = await _connect(product, source)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


def _lines_about(relay: ChildProcess, address: str) -> list[dict[str, object]]:
    """Return every line of the relay's log about an address, whatever its event."""
    return [line for event in ("no hello", "hello refused", "caller refused", "no PROXY header", "stream")
            for line in relay.events(event, address=address)]  # fmt: skip
