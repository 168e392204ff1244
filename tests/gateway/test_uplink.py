"""The uplink against a relay's end that a test drives: who is believed, and how often it is asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import anyio
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sallyport.certs.authority import make_relay_authority
from sallyport.certs.contexts import CaFile, link_server_context
from sallyport.certs.storage import write_private, write_public
from sallyport.gateway.door import Door
from sallyport.gateway.errors import RelayRefused, RelayUnreachable
from sallyport.gateway.uplink import Uplink, UplinkSettings, probe_link
from sallyport.processes import free_port
from sallyport.tunnel.events import Hello, HelloAck, Opening, Refusal
from sallyport.tunnel.frames import GoAwayReason, RefusalCode
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.http_hop import until
from tests.harness.identity import DOMAIN, TestIdentity
from tests.harness.link_pair import ACK, Owner, Recorder

pytestmark = pytest.mark.anyio


class RelaysEnd(Owner):
    """Accepts links over real TLS, with one verdict for all of them, and remembers them."""

    def __init__(self, identity: TestIdentity, folder: Path, *, sends_away: bool = False) -> None:
        super().__init__()
        made = make_relay_authority([f"*.link.{DOMAIN}"], datetime.now(UTC))
        self.ca, certificate, key = folder / "ca.pem", folder / "relay.pem", folder / "relay.key"
        write_public(self.ca, made.authority.certificate.public_bytes(Encoding.PEM))
        write_public(certificate, made.certificate.public_bytes(Encoding.PEM))
        encoded = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(key, encoded)
        self.links: list[Link] = []
        self.hellos: list[Hello] = []
        self.heard: Callable[[], object] = bool  # called for each HELLO, before it is answered
        self._context = link_server_context(certificate, key, identity.root)
        self._sends_away = sends_away
        self._came = asyncio.Event()

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol for one gateway's connection."""
        loop = asyncio.get_running_loop()
        link = Link(Side.RELAY, self, budget=MemoryBudget(1 << 20), loop=loop)
        return TlsTransport(
            TlsEngine(self._context, server_side=True),
            WebSocketCarrier.server(link),
            loop=loop,
            verify=lambda _: None,
            handshake_timeout=5,
        )

    def hello_received(self, link: Link, hello: Hello) -> HelloAck | Refusal:
        self.hellos.append(hello)
        self.heard()
        return super().hello_received(link, hello)

    def link_ready(self, link: Link) -> None:
        super().link_ready(link)
        self.links.append(link)
        self._came.set()
        if self._sends_away:
            link.leave(GoAwayReason.SHUTDOWN)

    async def until_links(self, count: int) -> None:
        """Wait until so many links have come up."""
        while len(self.links) < count:
            self._came.clear()
            await self._came.wait()


class Waiting:
    """A door behind which every stream waits."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def knock(self, stream: Stream, _opening: Opening) -> asyncio.Protocol:
        """Let a caller in."""
        self.streams.append(stream)
        return asyncio.Protocol()


@pytest.fixture
def identity(tmp_path: Path) -> TestIdentity:
    """Make a tunnel."""
    return TestIdentity(tmp_path / "identity")


@asynccontextmanager
async def serve(relay: RelaysEnd, identity: TestIdentity) -> AsyncIterator[UplinkSettings]:
    """Listen on loopback, and say what a gateway's settings for that would be."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(relay.protocol, "127.0.0.1", 0)
    async with server:
        yield settings_for(identity, relay.ca, server.sockets[0].getsockname()[1])
        for link in relay.links:
            link.close(GoAwayReason.SHUTDOWN)
            with anyio.fail_after(5):
                await link.closed


def settings_for(identity: TestIdentity, ca: Path, port: int) -> UplinkSettings:
    """Return settings for a relay on loopback."""
    return UplinkSettings(
        host="127.0.0.1",
        port=port,
        trust=CaFile(ca),
        tunnel=identity.directory.tunnel_id(),
        domain=DOMAIN,
        leaf=identity.directory.link("gw"),
        root=identity.root,
        software="test",
    )


@asynccontextmanager
async def running(
    relay: RelaysEnd,
    identity: TestIdentity,
    *,
    door: Door | None = None,
    draw: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[Uplink]:
    """Run an uplink to a relay on loopback, for ten seconds at most."""
    async with serve(relay, identity) as settings:
        uplink = Uplink(settings, door, budget=MemoryBudget(1 << 20), draw=draw)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(uplink.run)
            with anyio.fail_after(10):
                yield uplink
            tasks.cancel_scope.cancel()


async def test_a_trial_link_brings_the_relays_clock(identity: TestIdentity, tmp_path: Path) -> None:
    """A probe makes a link, reads the ACK and closes."""
    relay = RelaysEnd(identity, tmp_path)
    async with serve(relay, identity) as settings:
        with anyio.fail_after(5):
            ack = await probe_link(settings, budget=MemoryBudget(1 << 20))
    assert ack.time == ACK.time
    # The gateway may be running, and its callers are not to be given to the trial.
    assert relay.hellos[0].max_streams == 0


async def test_a_refusal_is_told_in_words(identity: TestIdentity, tmp_path: Path) -> None:
    """What the relay says in REFUSED is what the operator reads, with the time to wait."""
    relay = RelaysEnd(identity, tmp_path)
    relay.verdict = Refusal(RefusalCode.CERTIFICATE_EXPIRED, "expired on Sunday", 30)
    async with serve(relay, identity) as settings:
        with anyio.fail_after(5), pytest.raises(RelayRefused, match="expired on Sunday") as refused:
            await probe_link(settings, budget=MemoryBudget(1 << 20))
    assert refused.value.retry_after == 30


async def test_another_relay_is_not_believed(identity: TestIdentity, tmp_path: Path) -> None:
    """A relay whose certificate comes from another CA gets no HELLO."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    trusted, impostor = RelaysEnd(identity, tmp_path / "one"), RelaysEnd(identity, tmp_path / "two")
    async with serve(impostor, identity) as settings:
        misled = settings_for(identity, trusted.ca, settings.port)
        with anyio.fail_after(5), pytest.raises(RelayRefused, match="not the relay that the config trusts"):
            await probe_link(misled, budget=MemoryBudget(1 << 20))
    assert impostor.links == []


async def test_nobody_at_the_address(identity: TestIdentity, tmp_path: Path) -> None:
    """An address where nobody listens is named."""
    port = free_port()
    settings = settings_for(identity, RelaysEnd(identity, tmp_path).ca, port)
    with anyio.fail_after(5), pytest.raises(RelayUnreachable, match=f"127.0.0.1:{port}"):
        await probe_link(settings, budget=MemoryBudget(1 << 20))


async def test_a_relay_that_sends_every_link_away_is_asked_ever_less(
    identity: TestIdentity, tmp_path: Path
) -> None:
    """Each GO_AWAY of a fresh link takes a longer wait, and the links that were left are closed."""
    ceilings: list[float] = []

    def draw() -> float:
        ceilings.append(0.0)
        return 0.0  # no jitter, so that the test need not wait; that it is asked for is the point

    relay = RelaysEnd(identity, tmp_path, sends_away=True)
    async with running(relay, identity, draw=draw):
        await relay.until_links(3)
        await relay.links[0].closed
    assert len(ceilings) >= 2


async def test_a_link_that_was_sent_away_is_not_called_up(identity: TestIdentity, tmp_path: Path) -> None:
    """It takes no streams any more, so until there is another one the gateway is not ready, and says why."""
    relay = RelaysEnd(identity, tmp_path, sends_away=True)
    async with running(relay, identity, draw=lambda: 1.0) as uplink:
        await relay.until_links(1)
        await until(lambda: bool(uplink.state.last_error))
        assert not uplink.state.connected
        assert uplink.state.last_error == "the relay has sent the link away: shutdown"


async def test_a_link_that_comes_up_in_a_drain_takes_no_streams(
    identity: TestIdentity, tmp_path: Path
) -> None:
    """The relay sent the first one away in the middle of a call; the second is left as soon as it is up."""
    door, relay = Waiting(), RelaysEnd(identity, tmp_path)
    async with (
        running(relay, identity, door=cast(Door, door)) as uplink,
        anyio.create_task_group() as tasks,
    ):
        await relay.until_links(1)
        call = relay.links[0].open_stream(Recorder(), Opening("0" * 16, "h", "192.0.2.1", b"x"))
        await until(lambda: bool(door.streams))
        relay.heard = lambda: tasks.start_soon(uplink.drain, 10)
        relay.links[0].leave(GoAwayReason.SHUTDOWN)
        await relay.until_links(2)
        await until(lambda: relay.links[1].is_leaving)
        assert not relay.links[0].closed.done(), "the call has its time"
        call.close()
        door.streams[0].close()
        await relay.links[0].closed
        await relay.links[1].closed


async def test_a_lost_link_is_made_again(identity: TestIdentity, tmp_path: Path) -> None:
    """When the relay drops the link the gateway notices, says so, and dials again."""
    relay = RelaysEnd(identity, tmp_path)
    async with running(relay, identity) as uplink:
        await relay.until_links(1)
        relay.links[0].close(GoAwayReason.SHUTDOWN)
        await relay.until_links(2)
        assert uplink.state.clock_offset is not None
