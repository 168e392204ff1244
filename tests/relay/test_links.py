"""Links at a real relay: who gets one, who is refused in words, and what several of them do to each other."""

import asyncio
import shutil
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.certs.authority import Authority, make_leaf, new_key
from sallyport.certs.files import LeafFiles, load_certificate, load_key
from sallyport.certs.names import Identity, Role, link_host
from sallyport.certs.pem import encode_certificates, encode_key
from sallyport.certs.storage import write_private, write_public
from sallyport.config.fields import Address
from sallyport.relay import link_contexts
from sallyport.relay.initialise import initialise
from sallyport.relay.link_contexts import LinkContexts
from sallyport.relay.link_judgement import judge
from sallyport.relay.links import Links, RelaySide
from sallyport.relay.pending import MAX_OF_ADDRESS, MAX_PENDING
from sallyport.relay.registry import MAX_LINKS, Registry, Tunnel, TunnelState
from sallyport.relay.store import TunnelStore
from sallyport.tunnel.errors import LinkRefused, TlsFailed
from sallyport.tunnel.events import Refusal
from sallyport.tunnel.frames import GoAwayReason, RefusalCode
from sallyport.tunnel.windows import MemoryBudget
from tests.certs.certificate_kit import damage_key
from tests.hostile.hellos import client_hello
from tests.relay.relay_world import (
    BUDGET,
    DOMAIN,
    LOOPBACK,
    NOW,
    Gateway,
    TestTunnel,
    World,
    make_config,
    running_relay,
    until,
)
from tests.relay.test_front import change_state

pytestmark = pytest.mark.anyio


def forge_leaf(
    tunnel: TestTunnel, folder: Path, *, role: Role, issuer: str, now: datetime = NOW
) -> LeafFiles:
    """Sign a leaf with a CA of the tunnel's own choice, as somebody could who has its key."""
    files = tunnel.identity.issuing(issuer)
    authority = Authority(load_certificate(files.certificate), load_key(files.key))
    key = new_key()
    leaf = make_leaf(Identity(tunnel.label, role, "gw9"), key.public_key(), issuer=authority, now=now)
    made = LeafFiles(folder / "leaf.pem", folder / "leaf.key")
    write_private(made.key, encode_key(key))
    write_public(made.certificate, encode_certificates([leaf, authority.certificate]))
    return made


def linked(world: World) -> list[dict[str, object]]:
    """Return what the relay says of its links."""
    links = world.relay.status()["links"]
    assert isinstance(links, list)
    return links


def refusal(gateway: Gateway) -> LinkRefused:
    """Return how the relay refused this link in words."""
    assert isinstance(gateway.owner.error, LinkRefused), gateway.owner.error
    return gateway.owner.error


# Who gets a link


async def test_a_good_gateway_gets_its_link(tmp_path: Path, tunnel: TestTunnel) -> None:
    """It is listed with its name, and the acknowledgement carries the relay's clock."""
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            gateway = await world.up(tunnel)
            ack = gateway.link.peer_ack
            assert ack is not None
            assert abs(ack.time - datetime.now(UTC).timestamp()) < 60
            (link,) = linked(world)
            assert (link["tunnel"], link["gateway"], link["software"]) == (tunnel.id, "gw1", "test")
            gateway.link.close(GoAwayReason.SHUTDOWN)
            await until(lambda: not linked(world))
    assert {"link up", "link down"} <= {entry["event"] for entry in logs}
    assert all(entry["gateway"] == "gw1" for entry in logs if entry["event"] in ("link up", "link down"))


async def test_two_tunnels_have_their_own_links(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """A caller of one tunnel never reaches the gateway of another."""
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel, other_tunnel) as world:
            await world.up(tunnel)
            other = await world.up(other_tunnel)
            reader, writer = await world.connect(client_hello(other_tunnel.host()))
            stream, _ = await other.next_stream()
            assert stream.opening.server_name == other_tunnel.host()
            assert await reader.read(1)
            writer.close()


# Who is refused, in words


async def test_an_expired_certificate_is_told_in_words(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The handshake goes through, and then the gateway reads since when and what to do."""
    leaf = forge_leaf(tunnel, tmp_path, role=Role.LINK, issuer="gateways", now=NOW - timedelta(days=100))
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            refused = refusal(await world.dial(tunnel, leaf=leaf))
    assert refused.code == RefusalCode.CERTIFICATE_EXPIRED
    assert "link certificate gw9 expired on" in refused.text
    assert "issue" in refused.text
    (line,) = [entry for entry in logs if entry["event"] == "link refused"]
    assert line["code"] == "certificate_expired"


async def test_a_callers_certificate_makes_no_link(tmp_path: Path, tunnel: TestTunnel) -> None:
    """TLS lets a client certificate of the tunnel through; the role is judged after it."""
    leaf = forge_leaf(tunnel, tmp_path, role=Role.CALLER, issuer="callers")
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            refused = refusal(await world.dial(tunnel, leaf=leaf))
    assert refused.code == RefusalCode.CERTIFICATE_REFUSED
    assert "link certificate is required" in refused.text


async def test_a_link_leaf_of_the_callers_ca_is_refused(tmp_path: Path, tunnel: TestTunnel) -> None:
    """TLS alone accepts it: only the issuing CA's Subject tells that it may not vouch for links."""
    leaf = forge_leaf(tunnel, tmp_path, role=Role.LINK, issuer="callers")
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            refused = refusal(await world.dial(tunnel, leaf=leaf))
    assert refused.code == RefusalCode.CERTIFICATE_REFUSED
    assert "gateways" in refused.text


@pytest.mark.parametrize("state", [TunnelState.DISABLED, TunnelState.ARCHIVED])
async def test_a_tunnel_that_is_off_is_told_in_words(
    tmp_path: Path, tunnel: TestTunnel, state: TunnelState
) -> None:
    """A gateway learns whether it is worth coming back."""
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            await change_state(world, tunnel, state)
            refused = refusal(await world.dial(tunnel))
    assert refused.code == RefusalCode.TUNNEL_DISABLED
    assert state.value in refused.text
    assert refused.retryable is (state is TunnelState.DISABLED)


# Who does not get through TLS


async def test_another_tunnels_certificate_fails_the_handshake(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """Each label trusts its own root only, so another tenant proves nothing there."""
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel, other_tunnel) as world:
            gateway = await world.dial(other_tunnel, label=tunnel.label)
            assert isinstance(gateway.owner.error, TlsFailed)
            assert gateway.owner.error.alert == "unknown_ca"
            await until(lambda: any(entry["event"] == "link failed" for entry in logs))
            await world.up(tunnel)
            await world.up(other_tunnel)


async def test_a_link_without_a_certificate_fails_the_handshake(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A client that has none is told so by TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with running_relay(tmp_path / "relay", tunnel) as world:
        with anyio.fail_after(20):
            host, port = world.relay.address
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=f"{tunnel.label}.link.{DOMAIN}"
            )
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
                await reader.read()
            writer.transport.abort()


# Who waits for a link


async def hang_about(world: World, tunnel: TestTunnel, count: int) -> list[asyncio.StreamWriter]:
    """Say a good hello for this tunnel's link, this many times, and nothing after it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    writers = []
    for _ in range(count):
        wire = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), wire, server_hostname=link_host(tunnel.label, DOMAIN))
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        _, writer = await world.connect(wire.read())
        writers.append(writer)
    return writers


async def test_hellos_at_one_label_keep_no_other_tunnels_gateway_out(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """Whoever knows one label fills that tunnel's places from his address, and no more."""
    with anyio.fail_after(40):
        async with running_relay(tmp_path / "relay", tunnel, other_tunnel) as world:
            writers = await hang_about(world, tunnel, MAX_PENDING)
            await until(lambda: world.relay.links.pending_count == MAX_OF_ADDRESS)
            await world.up(other_tunnel)
            for writer in writers:
                writer.transport.abort()
            await until(lambda: world.relay.links.pending_count == 0)


async def test_the_oldest_that_say_nothing_give_way_to_the_tunnels_own_gateway(
    tmp_path: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even behind the address that the flood comes from, and in a word to the log."""
    monkeypatch.setattr("sallyport.relay.pending.FAIR_TIME", 0.0)
    with capture_logs() as logs, anyio.fail_after(40):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            writers = await hang_about(world, tunnel, MAX_OF_ADDRESS + 1)
            await world.up(tunnel)
            for writer in writers:
                writer.transport.abort()
    turned_away = [entry for entry in logs if entry["event"] == "link turned away"]
    assert len(turned_away) == 2
    assert not any(entry["event"] == "link failed" for entry in logs[: logs.index(turned_away[1])])


async def test_a_connection_counts_until_it_is_gone(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A link that has ended frees no place while its socket is open: the peer may hold on to that."""
    config = make_config(tmp_path / "relay", tunnel)
    row = Tunnel(tunnel.label, "", tunnel.root_pem, TunnelState.ACTIVE, NOW, NOW)
    context = await LinkContexts(config.tls.certificate, config.tls.key).context(row)
    side = RelaySide(boot_id="b", software="s", clock=lambda: NOW)
    async with anyio.create_task_group() as tasks:
        loop = asyncio.get_running_loop()
        links = Links(Registry(), side, budget=MemoryBudget(BUDGET), tasks=tasks, loop=loop)
        waiting = links.admit(row, address="192.0.2.1")
        assert waiting is not None
        connection = waiting.protocol(context)
        waiting.link.close(GoAwayReason.SHUTDOWN)
        assert waiting.link.closed.done()
        assert links.pending_count == 1
        assert waiting.can_be_displaced
        connection.connection_lost(None)
        assert links.pending_count == 0


async def test_a_relay_without_its_certificate_keeps_no_place(tmp_path: Path, tunnel: TestTunnel) -> None:
    """Who cannot be answered for want of files waits for nothing."""
    folder = tmp_path / "relay"
    with anyio.fail_after(20):
        async with running_relay(folder, tunnel) as world:
            (folder / "relay.key").unlink()
            assert isinstance((await world.dial(tunnel)).owner.error, TlsFailed)
            assert world.relay.links.pending_count == 0


# Several links


async def test_the_same_link_again_replaces_and_lets_finish(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The older link is told to go and keeps its streams; new callers go to the newer one."""
    hello = client_hello(tunnel.host())
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            old = await world.up(tunnel)
            reader, writer = await world.connect(hello)
            await old.next_stream()
            new = await world.up(tunnel)
            await until(lambda: old.owner.left)
            assert old.owner.left == [GoAwayReason.REPLACED]
            second_reader, second_writer = await world.connect(hello)
            await new.next_stream()
            assert await second_reader.readexactly(len(hello)) == hello
            writer.write(b"!")
            assert await reader.readexactly(len(hello) + 1) == hello + b"!"
            writer.close()
            second_writer.close()


async def test_a_link_that_was_replaced_ends_when_it_is_idle(tmp_path: Path, tunnel: TestTunnel) -> None:
    """It is no use any more; one that carries nothing ends at once, the other with its last stream."""
    hello = client_hello(tunnel.host())
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            idle = await world.up(tunnel)
            busy = await world.up(tunnel)
            await idle.owner.lost.wait()
            reader, writer = await world.connect(hello)
            await busy.next_stream()
            await world.up(tunnel)
            await until(lambda: busy.owner.left)
            assert await reader.readexactly(len(hello)) == hello
            assert not busy.owner.lost.is_set()
            writer.close()
            await busy.owner.lost.wait()
            assert len(linked(world)) == 1


async def test_a_link_that_was_replaced_ends_in_the_end(
    tmp_path: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that never ends does not keep it for ever."""
    monkeypatch.setattr("sallyport.relay.links.RETIREMENT", 0.05)
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            old = await world.up(tunnel)
            _, writer = await world.connect(client_hello(tunnel.host()))
            await old.next_stream()
            await world.up(tunnel)
            await old.owner.lost.wait()
            writer.close()


async def test_the_same_name_from_another_process_is_logged(tmp_path: Path, tunnel: TestTunnel) -> None:
    """A copied identity may be a stolen one."""
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            await world.up(tunnel, boot_id="one")
            await world.up(tunnel, boot_id="two")
            await world.dial(tunnel, boot_id="two", index=1)
    boots = [entry["boot"] for entry in logs if entry["event"] == "another process has the same gateway name"]
    assert boots[0] == "two"


# The relay's own certificate


async def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path, tunnel: TestTunnel) -> None:
    """The next handshake serves it, and the link that is up stays."""
    folder = tmp_path / "relay"
    with anyio.fail_after(20):
        async with running_relay(folder, tunnel) as world:
            first = await world.up(tunnel)
            before = world.relay.readiness().certificates
            fresh = tmp_path / "fresh"
            initialise(
                fresh,
                domain=DOMAIN,
                listen=Address(LOOPBACK, 443),
                names=[LOOPBACK],
                now=NOW - timedelta(days=9),
            )
            for name in ("relay.pem", "relay.key", "relay-ca.pem"):
                shutil.move(fresh / name, folder / name)
            await world.up(tunnel, index=1)
            assert first.link.is_ready
            assert world.relay.readiness().certificates != before


def _half_written(path: Path) -> None:
    path.write_text("-----BEGIN CERTIFICATE-----\nMIIB")


@pytest.mark.parametrize("spoil", [_half_written, damage_key])
async def test_bad_certificate_files_are_not_taken(
    tmp_path: Path, tunnel: TestTunnel, spoil: Callable[[Path], None]
) -> None:
    """They leave the ones before in force, and are told once."""
    folder = tmp_path / "relay"
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(folder, tunnel) as world:
            await world.up(tunnel)
            spoil(folder / "relay.pem")
            await world.up(tunnel, index=1)
            await world.up(tunnel, index=2)
            assert not world.relay.readiness().ready
    assert len([entry for entry in logs if entry["event"] == "new certificate files not taken"]) == 1


@pytest.mark.parametrize("fault", ["file", "database", "bug"])
async def test_what_fails_for_one_tunnel_ends_no_other(
    tmp_path: Path,
    tunnel: TestTunnel,
    other_tunnel: TestTunnel,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """The relay is everybody's: a context that cannot be made costs the link that it is for."""
    folder = tmp_path / "relay"
    with capture_logs() as logs, anyio.fail_after(20):
        async with running_relay(folder, tunnel, other_tunnel) as world:
            first = await world.up(tunnel)
            match fault:
                case "file":
                    damage_key(folder / "relay.pem")
                case "database":
                    row = world.relay.links.registry.tunnel(other_tunnel.label)
                    assert row is not None
                    world.relay.links.registry.replace_tunnels([replace(row, root_pem="no PEM")])
                case _:
                    monkeypatch.setattr(link_contexts, "link_server_context", lambda *_: 1 // 0)

            with pytest.raises((ConnectionError, TlsFailed, AssertionError)):
                await world.up(other_tunnel)

            assert first.link.is_ready
            assert world.relay.links.pending_count == 0
    (line,) = [entry for entry in logs if entry["event"] == "no TLS for links"]
    assert ("exc_info" in line) is (fault != "file")


# New tunnels


async def test_a_tunnel_that_is_registered_meanwhile_is_served(
    tmp_path: Path, tunnel: TestTunnel, other_tunnel: TestTunnel
) -> None:
    """A running relay sees what the command line has done, without a signal or a restart."""
    with anyio.fail_after(20):
        async with running_relay(tmp_path / "relay", tunnel) as world:
            assert isinstance((await world.dial(other_tunnel)).owner.error, TlsFailed)
            store = TunnelStore(world.config.database)
            store.register(other_tunnel.label, other_tunnel.root_pem, name=None, now=NOW)
            store.close()
            await until(lambda: world.relay.links.registry.tunnel(other_tunnel.label) is not None)
            await world.up(other_tunnel)


# The judgement itself


@pytest.mark.parametrize(
    ("state", "is_full", "is_leaving", "code"),
    [
        (None, False, False, RefusalCode.TUNNEL_UNKNOWN),
        (TunnelState.ARCHIVED, True, True, RefusalCode.TUNNEL_DISABLED),
        (TunnelState.DISABLED, True, True, RefusalCode.TUNNEL_DISABLED),
        (TunnelState.ACTIVE, False, False, RefusalCode.CERTIFICATE_REFUSED),
    ],
)
async def test_what_cannot_be_helped_is_said_first(
    tunnel: TestTunnel, state: TunnelState | None, is_full: bool, is_leaving: bool, code: RefusalCode
) -> None:
    """Nobody is sent to renew a certificate for a tunnel that is gone."""
    row = None if state is None else Tunnel(tunnel.label, "", tunnel.root_pem, state, NOW, NOW)
    verdict = judge(row, (), is_full=is_full, is_leaving=is_leaving, now=NOW)
    assert isinstance(verdict, Refusal)
    assert verdict.code is code


async def test_a_full_tunnel_takes_no_more_links(tunnel: TestTunnel) -> None:
    """The limit is told with its number, and a relay that leaves says that first."""
    row = Tunnel(tunnel.label, "", tunnel.root_pem, TunnelState.ACTIVE, NOW, NOW)
    chain = (*tunnel.identity.link("gw1").load_presented(), tunnel.identity.root_certificate())
    accepted = judge(row, chain, is_full=False, is_leaving=False, now=NOW)
    assert isinstance(accepted, Identity)
    assert accepted.name == "gw1"
    full = judge(row, chain, is_full=True, is_leaving=False, now=NOW)
    assert isinstance(full, Refusal)
    assert full.code is RefusalCode.TOO_MANY_LINKS
    assert str(MAX_LINKS) in full.text
    leaving = judge(row, chain, is_full=True, is_leaving=True, now=NOW)
    assert isinstance(leaving, Refusal)
    assert leaving.code is RefusalCode.LEAVING
