"""
Links, as the relay sees them: judged once, then a place to open streams.

A gateway's connection is a link's from its SNI on. Its TLS handshake proves that it has the key to a
certificate under the tunnel's root, and nothing more: the rest is judged when its HELLO is there, so that a
refusal can be answered in words (REFUSED) and not by a TLS alert, which a TLS 1.3 client reads too late to
understand (identity §4). ``link_judgement`` is that decision.

    socket ── TlsTransport ── WebSocketCarrier ── Link ── GatewayLink (its handler) ── Registry

A ``GatewayLink`` lives as long as its connection. What happens to several of them on one tunnel is the
registry's business; here its decisions are carried out and logged.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from cryptography import x509
from structlog.typing import FilteringBoundLogger

from sallyport.certs.errors import CertificateError
from sallyport.certs.facts import read_facts
from sallyport.certs.names import Identity
from sallyport.certs.verify import verified_chain
from sallyport.relay.link_judgement import judge, judge_tunnel
from sallyport.relay.pending import Pending
from sallyport.relay.registry import LiveLink, Registry, Tunnel
from sallyport.tunnel.errors import TunnelError
from sallyport.tunnel.events import Hello, HelloAck, Opening, Refusal
from sallyport.tunnel.frames import GoAwayReason
from sallyport.tunnel.limits import MAX_STREAMS, limit
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.net.websocket import WebSocketCarrier
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget

log = structlog.get_logger("sallyport.relay")

HANDSHAKE_TIMEOUT: Final = limit(
    15.0, "seconds",
    "for the TLS handshake of a link: generous, because gateways come back in storms; where others wait for "
    "the place, it is given less",
)  # fmt: skip

CUT_TIMEOUT: Final = limit(
    2.0, "seconds",
    "for a link to close in order when its tunnel was disabled or archived: with the look at the database "
    "before it, streams are gone within five",
)  # fmt: skip

RETIREMENT: Final = limit(
    600.0, "seconds",
    "that a link which was replaced may go on serving its open streams before it is closed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RelaySide:
    """
    What the relay says of itself in HELLO_ACK.

    Attributes:
        boot_id: chosen when the process started.
        software: name and version.
        clock: the time, with a zone.
    """

    boot_id: str
    software: str
    clock: Callable[[], datetime]

    def acknowledge(self, hello: Hello) -> HelloAck:
        """
        Answer a HELLO that was accepted.
        """
        return HelloAck(
            max_streams=MAX_STREAMS,
            boot_id=self.boot_id,
            link_index=hello.link_index,
            software=self.software,
            time=int(self.clock().timestamp()),
        )


class Links:
    """
    All links of this relay, from their sockets on.

    Args:
        registry: where links are listed once they are up.
        side: what the relay says of itself.
        budget: the memory that all links share.
        tasks: where links that were replaced are waited for.
        loop: the running loop.
    """

    def __init__(
        self,
        registry: "Registry[GatewayLink]",
        side: RelaySide,
        *,
        budget: MemoryBudget,
        tasks: TaskGroup,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.registry = registry
        self.side = side
        self.budget = budget
        self.tasks = tasks
        self.loop = loop
        self.is_leaving = False
        self._pending: Pending[GatewayLink] = Pending()

    @property
    def pending_count(self) -> int:
        """
        How many connections are open for a link that is not up.
        """
        return len(self._pending)

    def admit(self, tunnel: Tunnel, *, address: str) -> "GatewayLink | None":
        """
        Give a connection that asks for a link a place among those on their way up.

        Args:
            tunnel: the tunnel of the SNI's label.
            address: where the connection comes from.

        Returns:
            What will be its link, whose ``protocol`` it needs, or whose ``settled`` if it gets none; None if
            there are too many.
        """
        gateway_link = GatewayLink(self, tunnel.label, address=address)
        displaced = self._pending.admit(gateway_link)
        if displaced is None:
            gateway_link.turn_away()
            return None
        for other in displaced:
            other.turn_away()
        return gateway_link

    def settled(self, gateway_link: "GatewayLink") -> None:
        """
        Take note that a link is up, or its connection gone.
        """
        self._pending.discard(gateway_link)

    def leave(self) -> None:
        """
        Ask every gateway to go elsewhere, and refuse those that come.
        """
        self.is_leaving = True
        for live in self.registry.links():
            live.link.link.leave(GoAwayReason.SHUTDOWN)

    def cut_unserved(self) -> None:
        """
        Cut the links of tunnels that were disabled or archived, and with them the streams that they carry.

        Call this when the registry has new tunnels. A link that is not judged yet is judged by them.
        """
        for live in self.registry.links():
            refusal = judge_tunnel(self.registry.tunnel(live.label))
            if refusal is not None:
                live.link.cut(refusal)

    def close(self) -> "list[asyncio.Future[None]]":
        """
        Close every link.

        Returns:
            One future for each, done when it is closed.
        """
        links = [live.link.link for live in self.registry.links()]
        for gateway_link in self._pending:
            links.append(gateway_link.link)
            if gateway_link.can_be_displaced:
                gateway_link.abort()
        for link in links:
            link.close(GoAwayReason.SHUTDOWN)
        return [link.closed for link in links]


class GatewayLink:
    """
    One link, from its socket to its end: the handler of its ``Link``.

    Args:
        links: all links of this relay.
        label: the label in the SNI.
        address: where the connection comes from.
    """

    def __init__(self, links: Links, label: str, *, address: str) -> None:
        self._links = links
        self._connection: _Connection | None = None
        self._is_retiring = False
        self._chain: Sequence[x509.Certificate] = ()
        self._live: LiveLink[GatewayLink] | None = None
        self._identity: Identity | None = None
        self._is_proven = False
        self._is_refused = False
        self.label = label
        self._cutting: asyncio.TimerHandle | None = None
        self.address = address
        self.arrived = links.loop.time()
        self.since: datetime | None = None
        self.link = Link(Side.RELAY, self, budget=links.budget, loop=links.loop)

    # On its way up

    @property
    def can_be_displaced(self) -> bool:
        """
        Whether its connection may be ended for another one's sake: it has not shown a certificate yet, or
        will not be a link any more.
        """
        return not self._is_proven or self.link.closed.done()

    def protocol(self, context: ssl.SSLContext) -> TlsTransport:
        """
        Make the protocol of its connection; one that ends at once, if it was turned away meanwhile.

        Args:
            context: the TLS context of the tunnel's links.
        """
        self._connection = _Connection(self, context, loop=self._links.loop)
        if self._is_refused:
            self._connection.abort()
        return self._connection

    def turn_away(self) -> None:
        """
        End it, because there are too many.
        """
        self._is_refused = True
        self._log().warning("link turned away", reason="too many at once")
        self.abort()
        self.link.close(GoAwayReason.SHUTDOWN)

    def give_up(self) -> None:
        """
        End it before it has got a protocol: there is none for it.
        """
        self._is_refused = True
        self.link.close(GoAwayReason.SHUTDOWN)
        self.connection_over()

    def abort(self) -> None:
        """
        End its connection at once.
        """
        if self._connection is not None:
            self._connection.abort()

    def connection_over(self) -> None:
        """
        Take note that the connection is gone, and with it whatever it held.
        """
        self._links.settled(self)

    # What the relay does with it

    @property
    def is_ready(self) -> bool:
        """
        Whether it takes streams.
        """
        return self.link.is_ready

    @property
    def stream_count(self) -> int:
        """
        How many streams are open on it.
        """
        return self.link.stream_count

    def open_stream(self, protocol: asyncio.Protocol, opening: Opening) -> Stream:
        """
        Open a stream to the gateway.

        Raises:
            LimitReached: a limit of this link forbids it.
            LinkLost: the link has gone, or is going.
        """
        return self.link.open_stream(protocol, opening)

    def cut(self, refusal: Refusal) -> None:
        """
        End the link and every stream on it, and tell the gateway why.

        Args:
            refusal: what the gateway will be told when it comes back.
        """
        if self._cutting is not None:
            return
        self._log().warning("link cut", streams=self.stream_count, reason=refusal.text)
        self.link.close(GoAwayReason.REVOKED, refusal.text)
        # A gateway that reads nothing keeps the connection from closing in order, and its streams with it.
        self._cutting = self._links.loop.call_later(CUT_TIMEOUT, self.link.abort)

    def status(self) -> dict[str, object]:
        """
        Describe the link for the health listener.
        """
        hello, live, rtt = self.link.peer_hello, self._live, self.link.rtt
        return {
            "tunnel": f"tnl_{self.label}",
            "gateway": live.gateway if live else None,
            "boot_id": hello.boot_id if hello else None,
            "index": hello.link_index if hello else None,
            "software": hello.software if hello else None,
            "address": self.address,
            "since": self.since.isoformat(timespec="seconds") if self.since else None,
            "streams": self.stream_count,
            "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
            "leaving": not self.is_ready,
        }

    # What TLS and the link tell

    def handshake_done(self, tls: ssl.SSLObject) -> None:
        """
        Keep the verified chain for the judgement that comes with HELLO.

        Raises:
            CertificateRefused: a member cannot be read.
        """
        self._chain = verified_chain(tls)
        self._is_proven = True

    def hello_received(self, link: Link, hello: Hello) -> HelloAck | Refusal:
        """
        Judge the gateway.
        """
        registry = self._links.registry
        verdict = judge(
            registry.tunnel(self.label),
            self._chain,
            is_full=registry.is_full(self.label),
            is_leaving=self._links.is_leaving,
            now=self._links.side.clock(),
        )
        if isinstance(verdict, Refusal):
            self._is_refused = True
            self._log().warning("link refused", code=verdict.code.name.lower(), reason=verdict.text)
            return verdict
        self._identity = verdict
        return self._links.side.acknowledge(hello)

    def link_ready(self, link: Link) -> None:
        """
        List the link, and tell those whose place it takes.
        """
        hello, identity = link.peer_hello, self._identity
        if hello is None or identity is None:
            raise AssertionError("a link is ready after its HELLO was judged")
        self._links.settled(self)
        self.since = self._links.side.clock()
        self._live = LiveLink(self.label, identity.name, hello.boot_id, hello.link_index, self)
        joined = self._links.registry.add(self._live)
        self._log().info(
            "link up",
            index=hello.link_index,
            boot=hello.boot_id,
            software=hello.software,
            serial=read_facts(self._chain[0]).full_serial,
        )
        if joined.is_second_process:
            self._log().warning("another process has the same gateway name", boot=hello.boot_id)
        for replaced in joined.replaced:
            replaced.link.retire()

    def retire(self) -> None:
        """
        Make room for the link that has taken its place: streams that are open go on, and then it ends.
        """
        self.link.leave(GoAwayReason.REPLACED)
        if not self._is_retiring:
            self._is_retiring = True
            self._links.tasks.start_soon(self._close_when_idle)

    async def _close_when_idle(self) -> None:
        with anyio.move_on_after(RETIREMENT):
            await self.link.wait_idle()
        self.link.close(GoAwayReason.REPLACED)

    def stream_opened(self, link: Link, stream: Stream, opening: Opening) -> asyncio.Protocol:
        """
        Never called: the mux refuses an OPEN from a gateway (SPEC.md).
        """
        raise AssertionError("a gateway opens no streams")

    def go_away_received(self, link: Link, reason: GoAwayReason, text: str) -> None:
        """
        Log it: a link that is leaving is no candidate any more.
        """
        self._log().info("link leaving", reason=reason.name.lower(), text=text)

    def link_lost(self, link: Link, error: TunnelError | None) -> None:
        """
        Take the link off the list. Its connection may be there for a while yet: see ``connection_over``.
        """
        if self._cutting is not None:
            self._cutting.cancel()
        if self._live is not None:
            self._links.registry.remove(self._live)
            self._log().info("link down", reason=_reason(error))
        elif not self._is_refused:
            self._log().warning("link failed", reason=_reason(error))

    def _log(self) -> FilteringBoundLogger:
        bound: FilteringBoundLogger = log.bind(tunnel=f"tnl_{self.label}", address=self.address)
        return bound.bind(gateway=self._identity.name) if self._identity is not None else bound


class _Connection(TlsTransport):
    """
    The connection of a link. It is over with its socket and not before, whatever became of the link.
    """

    def __init__(
        self, gateway_link: GatewayLink, context: ssl.SSLContext, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            TlsEngine(context, server_side=True),
            WebSocketCarrier.server(gateway_link.link),
            loop=loop,
            verify=gateway_link.handshake_done,
            handshake_timeout=HANDSHAKE_TIMEOUT,
        )
        self._gateway_link = gateway_link

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gateway_link.connection_over()


def _reason(error: TunnelError | None) -> str:
    if error is None:
        return "closed"
    if isinstance(error.__cause__, CertificateError):
        return str(error.__cause__)
    return str(error)
