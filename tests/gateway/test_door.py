"""The door: who gets in through a stream, what the others are told, and how many at once."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest

from sallyport.certs.contexts import (
    caller_context,
    door_context,
    keyed_caller_context,
    root_asking_context,
    root_giving_context,
)
from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.names import Identity, tunnel_host
from sallyport.certs.verify import find_root, unverified_chain
from sallyport.gateway import door as door_module
from sallyport.gateway.door import Door, DoorContexts
from sallyport.tunnel.errors import TlsFailed
from sallyport.tunnel.events import Opening
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine
from tests.harness.identity import DOMAIN, TestIdentity
from tests.harness.link_pair import Owner, Recorder, link_pair

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make one tunnel for all tests of this file."""
    return TestIdentity(tmp_path_factory.mktemp("tunnel") / "identity")


class Calls:
    """Remembers who was let in, as whom, and what for."""

    def __init__(self) -> None:
        self.admitted: list[tuple[Identity | None, str, str]] = []
        self.refused: list[CertificateRefused] = []
        self.connections: asyncio.Queue[Recorder] = asyncio.Queue()

    def calls_for(self, identity: Identity | None, opening: Opening, sni: str) -> asyncio.Protocol:
        self.admitted.append((identity, opening.reference, sni))
        return self._connection()

    def refusals_for(self, refused: CertificateRefused, opening: Opening) -> asyncio.Protocol:
        self.refused.append(refused)
        return self._connection()

    def _connection(self) -> Recorder:
        connection = Recorder()
        self.connections.put_nowait(connection)
        return connection


@asynccontextmanager
async def open_door(
    identity: TestIdentity, *, with_keys: bool = False
) -> AsyncIterator[tuple[Door, Calls, Link]]:
    """Join a relay's link to a gateway's door."""
    loop = asyncio.get_running_loop()
    calls = Calls()
    leaf, root = identity.directory.gateway("gw"), identity.root
    contexts = DoorContexts(
        door_context(leaf, root, certificate_required=not with_keys),
        root_giving_context(leaf, root) if with_keys else None,
    )
    door = Door(
        contexts,
        label=identity.label,
        domains=identity.directory.domains(),
        calls=calls,
        loop=loop,
    )
    relay = Owner()
    gateway = Owner(serve=lambda stream: door.knock(stream, stream.opening))
    async with link_pair("memory", relay, gateway) as (near, _):
        with anyio.fail_after(5):
            await relay.ready.wait()
        yield door, calls, near


def knock(link: Link, context: ssl.SSLContext, server_name: str) -> tuple[Recorder, TlsTransport]:
    """Begin a caller's inner TLS over a new stream."""
    caller = Recorder()
    tls = TlsTransport(
        TlsEngine(context, server_side=False, server_hostname=server_name),
        caller,
        loop=asyncio.get_running_loop(),
        verify=lambda _: None,
        handshake_timeout=5,
    )
    link.open_stream(tls, Opening("ab" * 8, "claimed.by.the.relay", "192.0.2.1:9", b""))
    return caller, tls


async def test_a_caller_is_named_by_its_certificate(identity: TestIdentity) -> None:
    """Who calls comes from the certificate and which name from the inner hello, not from the relay."""
    name = tunnel_host(identity.label, DOMAIN)
    async with open_door(identity) as (door, calls, link):
        caller, _ = knock(link, caller_context(identity.bundle), name)
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
            served = await calls.connections.get()
            assert caller.transport is not None
            caller.transport.write(b"request")
            await served.until(lambda p: p.received == b"request")
        ((who, reference, sni),) = calls.admitted
        assert who is not None
        assert who.name == "alice"
        assert reference == "ab" * 8
        assert sni == name
        assert door.counts.admitted == 1


@pytest.mark.parametrize(
    ("server_name", "alert"),
    [
        ("a" * 32 + f".{DOMAIN}", "unrecognized_name"),
        (f"elsewhere.{DOMAIN}", "unrecognized_name"),
        ("{label}.link." + DOMAIN, "unrecognized_name"),
        ("{label}.other.test", "unrecognized_name"),
    ],
)
async def test_a_name_that_is_not_ours(identity: TestIdentity, server_name: str, alert: str) -> None:
    """A hello for another tunnel, for the link's name or for another domain gets its alert."""
    async with open_door(identity) as (door, calls, link):
        caller, _ = knock(link, caller_context(identity.bundle), server_name.format(label=identity.label))
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))
        (error,) = caller.lost
        assert isinstance(error, TlsFailed)
        assert error.alert == alert
        assert calls.admitted == []
        assert door.counts.refused == 1


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["http/1.1"], "http/1.1"),
        (["h2", "http/1.1"], "http/1.1"),
        (["sallyport/1"], "sallyport/1"),
    ],
)
async def test_application_protocols_that_carry_http_1_1(
    identity: TestIdentity, offered: list[str], chosen: str | None
) -> None:
    """No list, or one with HTTP/1.1 or our own protocol in it, is welcome."""
    context = caller_context(identity.bundle)
    context.set_alpn_protocols(offered)
    async with open_door(identity) as (_, _calls, link):
        caller, tls = knock(link, context, tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
        assert tls.get_extra_info("ssl_object").selected_alpn_protocol() == chosen


@pytest.mark.parametrize("offered", [["h2"], ["acme-tls/1"], ["h3", "h2"]])
async def test_application_protocols_without_http_1_1(identity: TestIdentity, offered: list[str]) -> None:
    """A list that holds nothing of ours ends with no_application_protocol."""
    context = caller_context(identity.bundle)
    context.set_alpn_protocols(offered)
    async with open_door(identity) as (_, calls, link):
        caller, _tls = knock(link, context, tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))
        (error,) = caller.lost
        assert isinstance(error, TlsFailed)
        assert error.alert == "no_application_protocol"
        assert calls.admitted == []


async def test_the_hello_may_come_a_byte_at_a_time(identity: TestIdentity) -> None:
    """A hello that trickles in is read like any other."""
    async with open_door(identity) as (_, _calls, link):
        caller = Recorder()
        engine = TlsEngine(
            caller_context(identity.bundle),
            server_side=False,
            server_hostname=tunnel_host(identity.label, DOMAIN),
        )
        engine.start()
        hello = engine.data_to_send()
        stream = link.open_stream(caller, Opening("cd" * 8, "x", "192.0.2.1:9", hello[:1]))
        for byte in hello[1:]:
            stream.write(bytes((byte,)))
            await asyncio.sleep(0)
        with anyio.fail_after(5):
            await caller.until(lambda p: len(p.received) > 0)
        assert caller.received[0] == 22  # a handshake record: the gateway's ServerHello


async def test_callers_that_stall_give_way(identity: TestIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every place taken by callers that stall, the oldest of them ends and a new one is served."""
    monkeypatch.setattr(door_module, "HANDSHAKES_AT_ONCE", 2)
    monkeypatch.setattr(door_module, "_GIVES_WAY_AFTER", 0.05)
    name = tunnel_host(identity.label, DOMAIN)
    async with open_door(identity) as (_, calls, link):
        stalled: list[Recorder] = []
        for _ in range(2):
            engine = TlsEngine(caller_context(identity.bundle), server_side=False, server_hostname=name)
            engine.start()
            opening = Opening("ef" * 8, "x", "192.0.2.1:9", engine.data_to_send())
            quiet = Recorder()
            link.open_stream(quiet, opening)
            stalled.append(quiet)
            with anyio.fail_after(5):
                await quiet.until(lambda p: len(p.received) > 0)
        caller, _ = knock(link, caller_context(identity.bundle), name)
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
            await calls.connections.get()
            await stalled[0].until(lambda p: bool(p.lost))
        assert stalled[1].lost == []


async def test_a_crowd_of_honest_callers_waits_and_gets_in(
    identity: TestIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who does his part of the handshake is sent away for those who come behind him."""
    monkeypatch.setattr(door_module, "HANDSHAKES_AT_ONCE", 2)
    name = tunnel_host(identity.label, DOMAIN)
    async with open_door(identity) as (door, calls, link):
        crowd = [knock(link, caller_context(identity.bundle), name)[0] for _ in range(12)]
        with anyio.fail_after(20):
            for caller in crowd:
                await caller.until(lambda p: p.transport is not None)
                await calls.connections.get()
        assert (door.counts.admitted, door.counts.refused) == (12, 0)


async def test_too_many_waiting_are_refused_at_once(
    identity: TestIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a full queue a stream is reset, so that its caller may try elsewhere."""
    monkeypatch.setattr(door_module, "HANDSHAKES_WAITING", 0)
    async with open_door(identity) as (door, _, link):
        caller, _tls = knock(link, caller_context(identity.bundle), tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))
        assert door.counts.refused == 1


# With API keys on


async def test_without_a_certificate_a_caller_is_nobody_yet(identity: TestIdentity) -> None:
    """He is let in, and it is said that nothing is known of him."""
    async with open_door(identity, with_keys=True) as (door, calls, link):
        caller, _ = knock(link, keyed_caller_context(identity.root), tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await calls.connections.get()
            await caller.until(lambda p: p.transport is not None)
        assert [who for who, _, _ in calls.admitted] == [None]
        assert door.counts.admitted == 1


async def test_with_a_certificate_a_caller_has_its_name_where_keys_are_on(identity: TestIdentity) -> None:
    """Optional does not mean ignored."""
    async with open_door(identity, with_keys=True) as (_, calls, link):
        knock(link, caller_context(identity.bundle), tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await calls.connections.get()
        ((who, _, _),) = calls.admitted
        assert who is not None
        assert who.name == "alice"


async def test_without_keys_nobody_comes_in_without_a_certificate(identity: TestIdentity) -> None:
    """The handshake ends with certificate_required, whatever the caller wanted to say then."""
    async with open_door(identity) as (door, calls, link):
        caller, _ = knock(link, keyed_caller_context(identity.root), tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))
        (error,) = caller.lost
        assert isinstance(error, TlsFailed)
        assert error.alert == "certificate_required"
        assert calls.admitted == []
        assert door.counts.refused == 1


async def test_a_context_that_only_invites_admits_nobody_where_keys_are_off(identity: TestIdentity) -> None:
    """The door's own rule counts, not the context's: an empty chain is refused in words."""
    async with open_door(identity) as (door, calls, link):
        leaf = identity.directory.gateway("gw")
        door.contexts = DoorContexts(door_context(leaf, identity.root, certificate_required=False))
        knock(link, keyed_caller_context(identity.root), tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await calls.connections.get()
        assert calls.admitted == []
        assert [refused.rule for refused in calls.refused] == [Rule.MISSING]


async def test_the_root_is_shown_and_the_connection_closes(identity: TestIdentity) -> None:
    """Whoever asks for it finds the root by the ID, and what he sends reaches nobody."""
    async with open_door(identity, with_keys=True) as (_, calls, link):
        name = tunnel_host(identity.label, DOMAIN)
        caller, tls = knock(link, root_asking_context(), name)
        with anyio.fail_after(5):
            await caller.until(lambda p: p.transport is not None)
            presented = unverified_chain(tls.get_extra_info("ssl_object"))
            tls.write(f"GET /tickets/mcp HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            await caller.until(lambda p: p.eof or bool(p.lost))
        assert find_root(presented, identity.bundle.tunnel, now=datetime.now(UTC)) == identity.root
        assert caller.received == b""
        assert (calls.admitted, calls.refused) == ([], [])


@pytest.mark.parametrize("offered", [["sallyport-root/1"], ["sallyport-root/1", "h2"]])
async def test_the_root_is_shown_only_where_keys_are_on_and_nothing_else_is_asked(
    identity: TestIdentity, offered: list[str]
) -> None:
    """Anywhere else the name of that protocol is unknown."""
    context = root_asking_context()
    context.set_alpn_protocols(offered)
    async with open_door(identity, with_keys=len(offered) > 1) as (_, _calls, link):
        caller, _tls = knock(link, context, tunnel_host(identity.label, DOMAIN))
        with anyio.fail_after(5):
            await caller.until(lambda p: bool(p.lost))
        (error,) = caller.lost
        assert isinstance(error, TlsFailed)
        assert error.alert == "no_application_protocol"
