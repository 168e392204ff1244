"""The relay as a whole: start-up that is strict, health, and an end in order."""

import asyncio
import json
import os
import signal
import urllib.request
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from structlog.testing import capture_logs

from sallyport.certs.errors import CertificateError
from sallyport.relay import app
from sallyport.relay.errors import DatabaseFailed, ListenFailed
from sallyport.tunnel.alerts import Alert, alert_record
from sallyport.tunnel.frames import GoAwayReason, RefusalCode
from tests.hostile.hellos import client_hello
from tests.relay.relay_world import TestTunnel, dial, make_config, running_relay, until
from tests.relay.test_front import read_to_the_end

pytestmark = pytest.mark.anyio


# Start-up


async def test_a_port_in_use_ends_the_start(tmp_path: Path) -> None:
    """The error is the listener's, and nothing is left running."""
    async with running_relay(tmp_path / "one") as world:
        taken = world.config.model_copy(update={"listen": type(world.config.listen)(*world.relay.address)})
        with pytest.raises(ListenFailed, match="the port is in use"):
            async with app.start(taken):
                raise AssertionError("it must not start")


async def test_a_key_that_others_can_read_ends_the_start(tmp_path: Path) -> None:
    """The chmod to run is in the hint."""
    async with running_relay(tmp_path / "relay") as world:
        config = world.config
    config.tls.key.chmod(0o644)
    with pytest.raises(CertificateError, match="mode 0644") as caught:
        async with app.start(config):
            raise AssertionError("it must not start")
    assert "chmod 600" in caught.value.hint


async def test_a_database_that_is_none_ends_the_start(tmp_path: Path) -> None:
    """Nobody is served from a database that cannot be read."""
    async with running_relay(tmp_path / "relay") as world:
        config = world.config
    (tmp_path / "relay" / "relay.db").write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseFailed):
        async with app.start(config):
            raise AssertionError("it must not start")


# Running


async def test_a_database_that_breaks_meanwhile_stops_nobody(
    tmp_path: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was known stays in force; the log says it once, and /readyz until it is over."""
    monkeypatch.setattr(app, "_STORE_INTERVAL", 0.01)
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            failing = True
            real = world.relay._store.change_number

            def change_number() -> int:
                if failing:
                    raise DatabaseFailed("relay.db", "disk I/O error")
                return real()

            monkeypatch.setattr(world.relay._store, "change_number", change_number)
            await until(lambda: not world.relay.readiness().ready)
            await world.up(tunnel)
            failing = False
            await until(lambda: world.relay.readiness().ready)
    assert len([entry for entry in logs if entry["event"] == "database unreadable"]) == 1


async def test_health_tells_what_is_connected(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The listener on loopback answers for supervisors, and for ``tunnel show``."""
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel, health=True) as world:
            await world.up(tunnel)
            assert world.relay.health_address is not None
            base = "http://{}:{}".format(*world.relay.health_address)

            def asked(path: str) -> dict[str, object]:
                with urllib.request.urlopen(base + path, timeout=10) as answer:
                    found: dict[str, object] = json.load(answer)
                    return found

            assert await to_thread.run_sync(asked, "/healthz")
            ready = await to_thread.run_sync(asked, "/readyz")
            assert ready["ready"] is True
            status = await to_thread.run_sync(asked, "/status")
            assert isinstance(status["links"], list)
            assert [link["gateway"] for link in status["links"]] == ["gw1"]


# The end


async def test_a_drain_lets_streams_finish(tmp_path: Path, tunnel: TestTunnel) -> None:
    """No new callers, GO_AWAY for the gateway, and the stream that is open ends by itself."""
    hello = client_hello(tunnel.host())
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(hello)
            await gateway.next_stream()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.relay.drain)
                await until(lambda: gateway.owner.left)
                assert gateway.owner.left == [GoAwayReason.SHUTDOWN]
                with pytest.raises(ConnectionRefusedError):
                    await world.connect()
                writer.write(b"to the end")
                writer.write_eof()
                assert await reader.read() == hello + b"to the end"
                writer.close()
            await gateway.owner.lost.wait()
    (line,) = [entry for entry in logs if entry["event"] == "stream"]
    assert line["outcome"] == "finished"


async def test_a_drain_does_not_wait_for_ever(
    tmp_path: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that do not end in time are cut, and the log says how many."""
    monkeypatch.setattr(app, "DRAIN_TIMEOUT", 0.1)
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(client_hello(tunnel.host()))
            await gateway.next_stream()
            await world.relay.drain()
            await read_to_the_end(reader)
            await gateway.owner.lost.wait()
            writer.close()
    (line,) = [entry for entry in logs if entry["event"] == "streams cut"]
    assert line["streams"] == 1


async def test_a_second_signal_ends_at_once(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The first one waits for the stream that is open, the second does not."""
    config = make_config(tmp_path / "relay", tunnel)
    with capture_logs() as logs, anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.run, config)
            await until(lambda: any(entry["event"] == "listening" for entry in logs))
            host, _, port = logs[0]["address"].rpartition(":")
            address = (host, int(port))
            gateway = await dial(address, tmp_path / "relay" / "relay-ca.pem", tunnel)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(client_hello(tunnel.host()))
            await gateway.next_stream()
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: gateway.owner.left)
            assert not reader.at_eof()
            os.kill(os.getpid(), signal.SIGTERM)
            await read_to_the_end(reader)
            writer.close()
    assert [entry["event"] for entry in logs if entry["event"].startswith("stop")] == [
        "stopping",
        "stopping at once",
        "stopped",
    ]


async def test_a_draining_relay_refuses_links_in_words(
    tmp_path: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway whose handshake was under way learns that it may come back soon."""
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            world.relay.links.leave()
            gateway = await world.dial(tunnel)
            error = gateway.owner.error
            assert error is not None
            assert getattr(error, "code", None) == RefusalCode.LEAVING
            assert error.retryable


async def test_a_relay_without_tunnels_answers(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A fresh relay is ready, and knows nobody."""
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay") as world:
            assert world.relay.readiness().ready
            answer = await world.say(client_hello(tunnel.host()))
            assert answer == alert_record(Alert.UNRECOGNIZED_NAME)
