"""
The uplink: keeps one link to the relay up, for as long as the gateway runs.

It dials out, and is done with a dial only when the relay has answered HELLO: a TLS 1.3 client whose
certificate is refused would otherwise believe that it is connected. Whatever fails is one typed error whose
text names the relay and says what to do; the wait until the next dial is ``backoff``'s business.

A relay that says GO_AWAY still serves the streams that are open, so the next link is made before the last one
is left. Deliberately absent: any decision by the text of an error, and any listening socket.
"""

import asyncio
import random
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import anyio
import structlog
from cryptography import x509

from sallyport.certs.contexts import RelayTrust, check_pin, link_client_context
from sallyport.certs.errors import CertificateError
from sallyport.certs.files import LeafFiles
from sallyport.certs.names import Role, TunnelId, link_host
from sallyport.certs.verify import verify_leaf_file
from sallyport.gateway.backoff import MAX_RETRY_AFTER_SECONDS, Backoff
from sallyport.gateway.door import Door
from sallyport.gateway.errors import GatewayError, RelayRefused, RelayUnreachable
from sallyport.tunnel.errors import LinkLost, LinkRefused, TlsFailed, TlsTruncated, TunnelError
from sallyport.tunnel.events import Hello, HelloAck, Opening, Refusal
from sallyport.tunnel.frames import GoAwayReason
from sallyport.tunnel.limits import MAX_STREAMS, limit
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.sockets import tune_link
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.tcp import connect_tcp, reason_of
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget

log = structlog.get_logger("sallyport.gateway.uplink")

_CONNECT_TIMEOUT: Final = limit(15.0, "seconds", "for the relay to accept the connection")
_HANDSHAKE_TIMEOUT: Final = limit(
    60.0, "seconds",
    "for the TLS handshake and the WebSocket's: a relay that takes back thousands of gateways at once "
    "answers late, and clients which gave up after ten seconds made it answer nobody (8,000 of 8,000 "
    "failed; with a minute, none did)",
)  # fmt: skip

_RETIREMENT: Final = limit(
    600.0, "seconds",
    "that a link which was left may go on serving its open streams, event streams among them",
)  # fmt: skip


@dataclass(frozen=True)
class UplinkSettings:
    """
    Where the link goes and as whom.

    Attributes:
        host: The relay's name or address.
        port: The relay's port.
        trust: What the relay must prove.
        tunnel: The tunnel that this gateway serves.
        domain: The relay's tunnel domain.
        leaf: The link's certificate and key; read again for every dial, so a rotated one is picked up.
        root: The tunnel's root, against which the leaf is checked before dialling.
        software: What the relay's log calls this program.
        max_streams: How many streams one link may carry at once.
        boot_id: By which the relay tells a restart from a reconnect; the same for all workers of a gateway.
        index: Which worker's link this is.
    """

    host: str
    port: int
    trust: RelayTrust
    tunnel: TunnelId
    domain: str
    leaf: LeafFiles
    root: x509.Certificate
    software: str
    max_streams: int = MAX_STREAMS
    boot_id: str = field(default_factory=lambda: secrets.token_hex(8))
    index: int = 0

    @property
    def address(self) -> str:
        """Return the relay's address as text."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class UplinkState:
    """
    How the uplink stands, for ``gateway status``.

    Attributes:
        connected: Whether streams can arrive now.
        since: Unix time of the last change of ``connected``.
        attempts: Dials since the last link was up.
        last_error: Why the last dial failed or the last link ended; "" when nothing did.
        clock_offset: The relay's clock minus ours in seconds, by the last ACK; None before.
    """

    connected: bool = False
    since: float = field(default_factory=time.time)
    attempts: int = 0
    last_error: str = ""
    clock_offset: float | None = None


class Uplink:
    """
    Keeps a link up and hands its streams to the door.

    Args:
        settings: Where to and as whom.
        door: Takes the streams; None for a trial that takes none.
        budget: The memory that all links of this process share.
        draw: Draws evenly from [0, 1), for the jitter.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        door: Door | None,
        *,
        budget: MemoryBudget,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.state = UplinkState()
        self._door = door
        self._budget = budget
        self._backoff = Backoff(draw)
        self._links: set[Link] = set()
        self._draining = False

    @property
    def rtt(self) -> float | None:
        """Return the last measured round trip to the relay in seconds."""
        return next((link.rtt for link in self._links if link.is_ready), None)

    @property
    def stream_count(self) -> int:
        """Return how many callers' streams are open."""
        return sum(link.stream_count for link in self._links)

    async def run(self) -> None:
        """Dial, serve, dial again, until ``drain`` or until the task is cancelled."""
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as retiring:
            while not self._draining:
                try:
                    link, ended = await self.connect()
                except (GatewayError, CertificateError) as error:
                    await self._wait_after(error)
                    continue
                up_since = loop.time()
                await ended.wait()
                retiring.start_soon(_retire, link)
                # Also behind a GO_AWAY, for which the old link still serves: a relay that takes a link and
                # sends it away at once must not be asked a thousand times a second.
                self._backoff.lasted(loop.time() - up_since)
                if not self._draining:
                    await anyio.sleep(self._backoff.next_delay())

    async def connect(self) -> "tuple[Link, anyio.Event]":
        """
        Make one link.

        Returns:
            The link, which is up, and an event that is set when another one is due: this one was lost, or
            one of its ends has said GO_AWAY.

        Raises:
            CertificateError: Our own certificate would be refused.
            RelayUnreachable: No connection.
            RelayRefused: What answered gives no link.
        """
        self.state.attempts += 1
        attempt = _Attempt(self, self._hello())
        try:
            link = await attempt.dial(self._budget)
        except BaseException:
            attempt.give_up()
            raise
        if link.closed.done():
            raise RelayRefused(self.settings.address, "the link was lost as soon as it was up")
        self._note_up(link)
        if self._draining:  # It was being made when the gateway began to leave.
            link.leave(GoAwayReason.SHUTDOWN)
        return link, attempt.successor_due

    async def drain(self, seconds: float) -> None:
        """
        Take no new streams, let those that are open finish, and close.

        Args:
            seconds: How long they may take.
        """
        self._draining = True
        for link in list(self._links):
            link.leave(GoAwayReason.SHUTDOWN)
        with anyio.move_on_after(seconds):
            while busy := next((link for link in self._links if link.stream_count), None):
                await busy.wait_idle()
        for link in list(self._links):
            link.close(GoAwayReason.SHUTDOWN)

    # What attempts tell

    def knock(self, stream: Stream, opening: Opening) -> asyncio.Protocol:
        """Give the protocol for a stream that the relay has opened."""
        if self._door is None:
            return _NobodyHome()
        return self._door.knock(stream, opening)

    def link_sent_away(self, link: Link, reason: GoAwayReason, text: str) -> None:
        """Take note that the relay gives a link no new streams."""
        self._note_connected()
        why = reason.name.lower().replace("_", " ")
        self.state.last_error = f"the relay has sent the link away: {text or why}"

    def link_ended(self, link: Link, error: TunnelError | None) -> None:
        """Take note of the end of a link that was up."""
        self._links.discard(link)
        self._note_connected()
        if error is not None:
            self.state.last_error = str(error)
        log.info("link down", relay=self.settings.address, reason=str(error) if error else "closed")

    # Inside

    def _hello(self) -> Hello:
        return Hello(
            max_streams=self.settings.max_streams,
            boot_id=self.settings.boot_id,
            link_index=self.settings.index,
            software=self.settings.software,
        )

    def _note_up(self, link: Link) -> None:
        self._links.add(link)
        self.state.attempts = 0
        if link.is_ready:  # It may have been sent away in the same breath.
            self.state.last_error = ""
        if link.peer_ack is not None:
            self.state.clock_offset = link.peer_ack.time - time.time()
        self._note_connected()
        log.info("link up", relay=self.settings.address, tunnel=str(self.settings.tunnel))

    def _note_connected(self) -> None:
        connected = any(link.is_ready for link in self._links)
        if self.state.connected != connected:
            self.state.connected = connected
            self.state.since = time.time()

    async def _wait_after(self, error: GatewayError | CertificateError) -> None:
        self.state.last_error = str(error)
        retry_after = error.retry_after if isinstance(error, RelayRefused) else None
        delay = self._backoff.next_delay(retry_after=retry_after)
        log.warning("no link", reason=str(error), hint=error.hint, next_dial_seconds=round(delay, 2))
        await anyio.sleep(delay)


async def _retire(link: Link) -> None:
    """Close a link that was left, when the streams on it have ended or have had their time."""
    with anyio.move_on_after(_RETIREMENT):
        await link.wait_idle()
    link.close(GoAwayReason.SHUTDOWN)


class _Attempt:
    """One dial, and the handler of the link that comes of it."""

    def __init__(self, uplink: Uplink, hello: Hello) -> None:
        self.successor_due = anyio.Event()
        self._uplink = uplink
        self._settings = uplink.settings
        self._hello = hello
        self._link: Link | None = None
        self._tls: TlsTransport | None = None
        self._outcome: asyncio.Future[None] | None = None

    async def dial(self, budget: MemoryBudget) -> Link:
        """Connect, shake hands, say HELLO; return when the relay has said ACK."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        now = datetime.now(UTC)
        verify_leaf_file(
            settings.leaf, root=settings.root, role=Role.LINK, label=settings.tunnel.label, now=now
        )
        host = link_host(settings.tunnel.label, settings.domain)
        self._outcome = loop.create_future()
        self._link = Link(Side.GATEWAY, self, budget=budget, loop=loop, hello=self._hello)
        self._tls = TlsTransport(
            TlsEngine(
                link_client_context(settings.leaf, settings.trust), server_side=False, server_hostname=host
            ),
            WebSocketCarrier.client(self._link, host),
            loop=loop,
            verify=self._verify_relay,
            handshake_timeout=_HANDSHAKE_TIMEOUT,
        )
        await self._connect(self._tls)
        await self._outcome
        return self._link

    def give_up(self) -> None:
        """Leave nothing behind of a dial that has failed or was cancelled."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.cancel()
        if self._link is not None:
            self._link.close(GoAwayReason.SHUTDOWN)
        if self._tls is not None:
            self._tls.abort()

    async def _connect(self, protocol: TlsTransport) -> None:
        settings = self._settings
        try:
            with anyio.fail_after(_CONNECT_TIMEOUT):
                await connect_tcp(settings.host, settings.port, lambda: protocol)
        except TimeoutError as error:
            detail = f"no answer within {_CONNECT_TIMEOUT:.0f} s"
            raise RelayUnreachable(settings.address, detail) from error
        except socket.gaierror as error:
            raise RelayUnreachable(settings.address, f"the name has no address ({error.strerror})") from error
        except OSError as error:
            raise RelayUnreachable(settings.address, reason_of(error)) from error
        tune_link(protocol.get_extra_info("socket"))

    def _verify_relay(self, tls: ssl.SSLObject) -> None:
        check_pin(tls, self._settings.trust)

    # The link's handler

    def hello_received(self, link: Link, hello: Hello) -> HelloAck | Refusal:
        raise AssertionError("the mux lets no HELLO through to a gateway")

    def link_ready(self, link: Link) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)

    def stream_opened(self, link: Link, stream: Stream, opening: Opening) -> asyncio.Protocol:
        return self._uplink.knock(stream, opening)

    def go_away_received(self, link: Link, reason: GoAwayReason, text: str) -> None:
        # Most reasons are the relay's own; this one concerns what the gateway's operator has, and only words
        # tell him what.
        write = log.warning if reason is GoAwayReason.REVOKED else log.info
        write("relay says go away", relay=self._settings.address, reason=reason.name.lower(), text=text)
        self._uplink.link_sent_away(link, reason, text)
        self.successor_due.set()

    def link_lost(self, link: Link, error: TunnelError | None) -> None:
        self.successor_due.set()
        if self._outcome is None or self._outcome.cancelled():
            return
        if self._outcome.done():
            self._uplink.link_ended(link, error)
        else:
            self._outcome.set_exception(_explain(self._settings, error or LinkLost("closed before HELLO")))


class _NobodyHome(asyncio.Protocol):
    """Ends a stream that arrives while a trial link is up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, Stream):
            transport.abort()


def _explain(settings: UplinkSettings, error: TunnelError) -> GatewayError:
    """Say in the operator's words why a dial that reached something gave no link."""
    refused = _refusal_of(settings, error)
    refused.__cause__ = error
    return refused


def _refusal_of(settings: UplinkSettings, error: TunnelError) -> RelayRefused:
    address, tunnel = settings.address, settings.tunnel
    if isinstance(error, LinkRefused):
        return RelayRefused(
            address,
            f"the relay refuses this gateway: {error.text}",
            hint="the relay's log names the tunnel and the certificate",
            # None: it cannot help until something changes, and nobody says when that will be.
            retry_after=MAX_RETRY_AFTER_SECONDS if error.retry_after is None else error.retry_after,
        )
    if isinstance(error, TlsFailed) and error.alert == "unrecognized_name":
        return RelayRefused(
            address,
            f"the relay does not know tunnel {tunnel}, or serves another domain than {settings.domain}",
            hint="on the relay: sallyport relay tunnel add root.pem",
        )
    if isinstance(error, TlsFailed) and error.alert is not None:
        return RelayRefused(
            address,
            f"the relay ended the handshake with the alert {error.alert}",
            hint="compare this tunnel's root.pem with the one that the relay holds (relay tunnel show)",
        )
    if isinstance(error, TlsFailed):
        return RelayRefused(
            address,
            f"what answers is not the relay that the config trusts: {error.detail}",
            hint="compare relay.ca or relay.pin with what `sallyport certs show relay.pem` says on the relay",
        )
    if isinstance(error.__cause__, CertificateError):
        return RelayRefused(address, str(error.__cause__), hint=error.__cause__.hint)
    if isinstance(error, TlsTruncated):
        return RelayRefused(
            address,
            "the connection ended during the handshake",
            hint="something between may be cutting TLS; run `sallyport doctor`",
        )
    return RelayRefused(address, str(error), hint="run `sallyport doctor` for every hop")


async def probe_link(settings: UplinkSettings, *, budget: MemoryBudget) -> HelloAck:
    """
    Make one link, and close it as soon as the relay has accepted it.

    Returns:
        The relay's ACK, which carries its clock.

    Raises:
        CertificateError: Our own certificate would be refused.
        GatewayError: There is no link to be had, and why.
    """
    # It takes no streams, so that the relay goes on giving callers to the gateway that may be running.
    uplink = Uplink(replace(settings, max_streams=0), None, budget=budget)
    link, _ = await uplink.connect()
    ack = link.peer_ack
    link.close(GoAwayReason.SHUTDOWN)
    if ack is None:
        raise AssertionError("a link on the gateway's side is ready by its ACK")
    return ack
