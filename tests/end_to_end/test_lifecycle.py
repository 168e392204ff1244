"""
A tunnel is disabled, enabled and archived beside a relay that serves it, with the commands of the docs.
"""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from sallyport.tunnel.alerts import Alert, alert_record
from tests.harness.child_process import run_sallyport
from tests.harness.mcp_wire import ModernClient, error_code, open_stream, result_text
from tests.harness.product import Product
from tests.harness.stage import Stage, start_fixture
from tests.hostile.hellos import client_hello

pytestmark = pytest.mark.anyio

_CUT_WITHIN = 5  # seconds, as the documentation promises


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stage]:
    """Run a product of the test's own."""
    fixture = start_fixture(tmp_path)
    with fixture.process, Product(tmp_path / "product") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        yield Stage(fixture, product, tunnel, tunnel.start_gateway(), tunnel.start_connector())


async def test_disabled_enabled_archived(own: Stage) -> None:
    """Streams are cut in time, both ends are told why, and what is archived never comes back."""
    with anyio.fail_after(50):
        await _expect_cut(own, "disable")
        assert await _alert(own) == alert_record(Alert.INTERNAL_ERROR)
        waits = await to_thread.run_sync(partial(own.gateway.wait_for, "no link"))
        assert "is disabled by the relay's operator" in str(waits["reason"])
        assert float(str(waits["next_dial_seconds"])) >= 60
        await _command(own, "enable")
        other = await to_thread.run_sync(partial(own.tunnel.start_gateway, "gw2"))
        answer = await ModernClient(own.connector.endpoint()).call("probe_echo", text="again")
        assert result_text(answer) == "again"
        await _expect_cut(own, "archive", "--yes")
        assert await _alert(own) == alert_record(Alert.UNRECOGNIZED_NAME)
        told = await to_thread.run_sync(partial(other.wait_for, "relay says go away", reason="revoked"))
        assert "is archived for good" in str(told["text"])
        waits = await to_thread.run_sync(partial(other.wait_for, "no link"))
        assert float(str(waits["next_dial_seconds"])) >= 300
        async with await ModernClient(own.connector.endpoint()).post("server/discover") as reply:
            assert reply.status == 503
            assert error_code(await reply.json()) == -32000
        add = partial(run_sallyport, "relay", "tunnel", "add", own.tunnel.identity.root_path)
        done = await to_thread.run_sync(partial(add, folder=own.product.relay_folder))
        assert done.returncode == 1
        assert "is archived for good, and its ID is never used again" in done.stderr


async def _expect_cut(own: Stage, verb: str, *options: str) -> None:
    """Run a command under an open stream, and check that the stream is cut and not ended."""
    reply = await open_stream(own.tunnel.tls_endpoint())
    await _command(own, verb, *options)
    done = time.monotonic()
    async with reply:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reply.body()
    assert time.monotonic() - done < _CUT_WITHIN


async def _command(own: Stage, verb: str, *options: str) -> None:
    run = partial(own.product.run, "relay", "tunnel", verb, own.tunnel.id, *options)
    await to_thread.run_sync(partial(run, folder=own.product.relay_folder))


async def _alert(own: Stage) -> bytes:
    """Return what the relay says to a new caller."""
    reader, writer = await asyncio.open_connection("127.0.0.1", own.product.relay_port)
    writer.write(client_hello(own.tunnel.host("tickets")))
    try:
        return await reader.read()
    finally:
        writer.close()
