"""The public port of a real relay: who gets a stream, who an alert, and that nobody is left hanging."""

import asyncio
import socket
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.relay.registry import TunnelState
from sallyport.relay.store import TunnelStore
from sallyport.tunnel.alerts import Alert, alert_record
from sallyport.tunnel.frames import GoAwayReason, ResetCode
from tests.hostile.hellos import Fate, HostileHello, client_hello, hostile_hellos, records
from tests.relay.relay_world import DOMAIN, NOW, Echo, TestTunnel, World, reset, running_relay, until

pytestmark = pytest.mark.anyio


# Callers with a gateway


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


@pytest.mark.parametrize("size", [1, 100])
async def test_a_hello_in_pieces_reaches_the_gateway_whole(
    tmp_path: Path, tunnel: TestTunnel, size: int
) -> None:
    """However it is cut into records and segments, the gateway gets the bytes that the caller sent."""
    data = records(client_hello(tunnel.host())[5:], [size])
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect()
            for start in range(0, len(data), 37):
                writer.write(data[start : start + 37])
                await writer.drain()
                await asyncio.sleep(0)
            await gateway.next_stream()
            assert await reader.readexactly(len(data)) == data
            writer.close()


async def test_more_than_a_first_frame_holds_is_passed_on(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A caller that sends a lot behind its hello loses nothing of it."""
    data = client_hello(tunnel.host()) + bytes(range(256)) * 2000
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            await world.up(tunnel)
            reader, writer = await world.connect(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()


async def test_a_caller_that_finishes_with_its_hello_is_served(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A FIN behind a whole hello is a half-close like any other."""
    hello = client_hello(tunnel.host())
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            await world.up(tunnel)
            reader, writer = await world.connect(hello)
            writer.write_eof()
            assert await reader.read() == hello
            writer.close()


async def test_a_caller_that_leaves_is_a_reset_for_the_gateway(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The gateway learns at once that nobody waits for the answer any more."""
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(client_hello(tunnel.host()))
            await gateway.next_stream()
            await reader.read(1)
            sock = socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            reset(sock)
            writer.transport.abort()
            await world.relay.front.wait_until_idle()
            await until(lambda: gateway.link.stream_count == 0)
    outcomes = [entry["outcome"] for entry in logs if entry["event"] == "stream"]
    assert outcomes[0] in ("caller-lost", "finished", "left")


async def test_a_gateway_that_resets_ends_the_caller(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A stream that the gateway refuses ends the caller's connection, and the log says who did it."""
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(client_hello(tunnel.host()))
            stream, _ = await gateway.next_stream()
            stream.reset(ResetCode.OVERLOADED)
            await read_to_the_end(reader)
            await world.relay.front.wait_until_idle()
            writer.close()
    (line,) = [entry for entry in logs if entry["event"] == "stream"]
    assert line["outcome"] == "reset-by-gateway:overloaded"


async def test_a_link_that_is_lost_ends_its_callers(tmp_path: Path, tunnel: TestTunnel) -> None:
    """Callers of a gateway that is gone are not left waiting, and the next ones are told at once."""
    hello = client_hello(tunnel.host())
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            reader, writer = await world.connect(hello)
            await gateway.next_stream()
            gateway.link.close(GoAwayReason.SHUTDOWN)
            await read_to_the_end(reader)
            await world.relay.front.wait_until_idle()
            assert await world.say(hello) == alert_record(Alert.INTERNAL_ERROR)
            writer.close()
    (line,) = [entry for entry in logs if entry["event"] == "stream"]
    assert line["outcome"] == "link-lost"


# Choosing a gateway


async def test_a_gateway_at_its_limit_is_skipped(tmp_path: Path, tunnel: TestTunnel) -> None:
    """Streams that one link does not take go to the other; when none takes it, that is told."""
    hello = client_hello(tunnel.host())
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateways = [await world.up(tunnel, index=index, max_streams=1) for index in range(2)]
            callers = [await world.connect(hello) for _ in range(2)]
            for reader, _ in callers:
                assert await reader.readexactly(len(hello)) == hello
            assert [gateway.link.stream_count for gateway in gateways] == [1, 1]
            assert await world.say(hello) == alert_record(Alert.HANDSHAKE_FAILURE)
            for _, writer in callers:
                writer.close()
    (line,) = [entry for entry in logs if entry["event"] == "caller refused"]
    assert line["situation"] == "a limit was reached"


async def test_a_link_that_leaves_gets_no_new_streams(tmp_path: Path, tunnel: TestTunnel) -> None:
    """After a gateway's GO_AWAY its streams go on, and new callers go elsewhere."""
    hello = client_hello(tunnel.host())
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            old = await world.up(tunnel, index=0)
            reader, writer = await world.connect(hello)
            await old.next_stream()
            new = await world.up(tunnel, index=1)
            old.link.leave(GoAwayReason.SHUTDOWN)
            await until(lambda: sum(live.link.is_ready for live in world.relay.links.registry.links()) == 1)
            second_reader, second_writer = await world.connect(hello)
            await new.next_stream()
            assert await second_reader.readexactly(len(hello)) == hello
            writer.write(b"still here")
            assert await reader.readexactly(len(hello) + 10) == hello + b"still here"
            writer.close()
            second_writer.close()


# Those who are turned away


async def test_every_situation_has_its_alert(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """Unknown and archived are told alike; disabled is told as a gateway that is not there."""
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(20):
            hello = client_hello(tunnel.host())
            assert await world.say(client_hello(other_tunnel.host())) == alert_record(Alert.UNRECOGNIZED_NAME)
            assert await world.say(hello) == alert_record(Alert.INTERNAL_ERROR)
            await world.up(tunnel)
            for state, alert in (
                (TunnelState.DISABLED, Alert.INTERNAL_ERROR),
                (TunnelState.ARCHIVED, Alert.UNRECOGNIZED_NAME),
            ):
                await change_state(world, tunnel, state)
                assert await world.say(hello) == alert_record(alert)


async def test_a_link_for_an_unknown_tunnel_is_turned_away(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """There is no root to judge it by, so it gets the alert that a caller gets."""
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(20):
            hello = client_hello(f"{other_tunnel.label}.link.{DOMAIN}")
            assert await world.say(hello) == alert_record(Alert.UNRECOGNIZED_NAME)


async def test_the_hostile_corpus_at_a_real_relay(tmp_path: Path, tunnel: TestTunnel) -> None:
    """Each hostile hello gets its alert and an end, however many of them come at once."""
    answers: dict[str, bytes] = {}

    async def replay(world: World, case: HostileHello) -> None:
        reader, writer = await world.connect(case.data)
        if case.fate is Fate.WAITS:
            writer.write_eof()
        answers[case.name] = await reader.read()
        writer.close()

    cases = hostile_hellos(tunnel.host())
    async with running_relay(tmp_path / "relay", tunnel) as world:
        await world.up(tunnel)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for case in cases:
                    tasks.start_soon(replay, world, case)
    for case in cases:
        alert = Alert.DECODE_ERROR if case.alert is None else Alert(case.alert)
        assert answers[case.name] == alert_record(alert), case.name


async def test_the_alert_arrives_though_bytes_were_unread(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A caller that has sent more than the relay looks at sees the alert, not a reset."""
    data = client_hello(tunnel.host()) + bytes(40_000)
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(20):
            for _ in range(20):
                assert await world.say(data) == alert_record(Alert.INTERNAL_ERROR)


async def test_whoever_is_turned_away_and_stays_is_closed_upon(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A peer that goes on sending, or never closes, is not served any longer for it."""
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(20):
            reader, writer = await world.connect(client_hello(tunnel.host()))
            assert await reader.read() == alert_record(Alert.INTERNAL_ERROR)
            with pytest.raises(ConnectionError):
                await send_without_end(writer)
            writer.close()


async def test_a_plain_http_client_gets_an_alert_and_an_end(tmp_path: Path, tunnel: TestTunnel) -> None:
    """Not one byte of plain text leaves the public port."""
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(20):
            answer = await world.say(f"GET / HTTP/1.1\r\nHost: {tunnel.host()}\r\n\r\n".encode())
            assert answer == alert_record(Alert.UNEXPECTED_MESSAGE)


async def test_nothing_is_left_behind(tmp_path: Path, tunnel: TestTunnel) -> None:
    """After callers of every kind have gone, the relay counts none."""
    hello = client_hello(tunnel.host())
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(30):
            await world.up(tunnel)
            for data in (b"", hello[:50], b"rubbish", hello, client_hello("x.example")):
                for _ in range(10):
                    reader, writer = await world.connect(data)
                    writer.write_eof()
                    await reader.read()
                    writer.close()
            await world.relay.front.wait_until_idle()
            status = world.relay.status()
            assert status["streams"] == status["arrivals"] == 0


async def send_without_end(writer: asyncio.StreamWriter) -> None:
    """Send until the connection breaks."""
    while True:
        writer.write(bytes(10_000))
        await writer.drain()
        await asyncio.sleep(0)


async def read_to_the_end(reader: asyncio.StreamReader) -> None:
    """Read until the connection ends, whichever way it does."""
    try:
        await reader.read()
    except ConnectionResetError:
        return


async def change_state(world: World, tunnel: TestTunnel, state: TunnelState) -> None:
    """Change a tunnel in the database from outside and wait until the relay has seen it."""
    store = TunnelStore(world.config.database)
    store.set_state(tunnel.label, state, now=NOW)
    store.close()

    def is_seen() -> bool:
        known = world.relay.links.registry.tunnel(tunnel.label)
        return known is not None and known.state is state

    await until(is_seen)
