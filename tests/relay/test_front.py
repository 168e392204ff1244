"""The public port of a real relay: who gets a link, who a stream, who an alert."""

import asyncio
from pathlib import Path

import anyio
import pytest
import structlog
from structlog.testing import capture_logs

from sallyport.tunnel.alerts import Alert, alert_record
from tests.hostile.hellos import Fate, client_hello, hostile_hellos, records
from tests.relay.relay_world import Echo, TestTunnel, running_relay

pytestmark = pytest.mark.anyio


async def test_a_caller_reaches_the_gateway(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The hello arrives untouched, and what follows goes both ways until both have finished."""
    hello = client_hello(tunnel.host())
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(hello)
            stream, echo = await gateway.next_stream()
            assert await reader.readexactly(len(hello)) == hello
            assert stream.opening.server_name == tunnel.host()
            assert stream.opening.address == "127.0.0.1"
            writer.write(b"more" * 10_000)
            writer.write_eof()
            assert await reader.read() == b"more" * 10_000
            assert isinstance(echo, Echo)
            assert bytes(echo.received) == hello + b"more" * 10_000
            writer.close()
            await world.relay.front.wait_until_idle()
    (line,) = [entry for entry in logs if entry["event"] == "stream"]
    assert line["call"] == stream.opening.reference
    assert line["tunnel"] == tunnel.id
    assert line["link"] == "gw1"
    assert line["bytes_in"] == line["bytes_out"] == len(hello) + 40_000
    assert line["outcome"] == "finished"
