"""
The gateway's door: where a stream becomes a caller.

Each stream that the relay opens knocks here. The door reads the ClientHello, answers a wrong name or a wrong
application protocol with the alert that says so, ends the inner TLS and learns from the verified chain who
calls; then the caller's requests go to ``exchange``. Nothing that the relay said is used for a decision: its
server name and address are written into logs and no more (identity.md, section 3).

A caller without a certificate comes in only where the config turns API keys on, as nobody yet: each of his
requests must then say who he is. Whether one was presented is read from the chain that was verified, never
from what the context demands. With keys on there is also ``sallyport-root/1``, for callers who hold the
tunnel's ID and a key: they are shown the root, and the connection closes behind the handshake.

Handshakes are the dearest thing that a stranger can ask for, so one is begun a turn of the event loop:
streams that are already open wait for no more than that, and its answer leaves before the next is begun, so
that its caller has something to do meanwhile. And those that wait for their caller's answer are bounded:
beyond that the oldest gives way, since a caller who means it answers within one round trip.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, cast

import structlog

from sallyport.certs.contexts import HTTP_ALPN, INNER_ALPN, ROOT_ALPN
from sallyport.certs.errors import CertificateRefused, NameRefused, Rule
from sallyport.certs.names import CallerTarget, Identity, Role, parse_host
from sallyport.certs.verify import verified_chain, verify_identity
from sallyport.tunnel.alerts import Alert, alert_record
from sallyport.tunnel.errors import HelloRefused
from sallyport.tunnel.events import Opening
from sallyport.tunnel.frames import ResetCode
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.sni import ClientHello, read_client_hello
from sallyport.tunnel.tls_engine import TlsEngine

log = structlog.get_logger("sallyport.gateway.door")

HANDSHAKE_TIMEOUT: Final = limit(
    10.0, "seconds",
    "from a stream's opening to its complete handshake, waiting included: a slow phone on a slow path "
    "needs two, and a stalled hello must not hold its place for long",
)  # fmt: skip
HANDSHAKES_AT_ONCE: Final = limit(
    64, "handshakes",
    "that wait for their caller's answer, each with about 30 KiB of OpenSSL's state; beyond it the oldest "
    "gives way, or the new ones wait",
)  # fmt: skip
_GIVES_WAY_AFTER: Final = limit(
    1.0, "seconds",
    "that a handshake may wait for its caller before it gives way to others: a round trip round the world, "
    "and time for a machine that is busy with a crowd. Whoever would keep honest callers out must begin 64 "
    "handshakes a second, and only slows them",
)  # fmt: skip
HANDSHAKES_WAITING: Final = limit(
    1024, "streams",
    "hellos that wait for their turn of the event loop; behind them a stream is refused at once",
)  # fmt: skip

_CARRY_CALLS: Final = frozenset({HTTP_ALPN.encode("ascii"), INNER_ALPN.encode("ascii")})
_SHOWS_ROOT: Final = (ROOT_ALPN.encode("ascii"),)


class Calls(Protocol):
    """Serves the requests of one connection; see ``exchange``."""

    def calls_for(self, identity: Identity | None, opening: Opening, sni: str) -> asyncio.Protocol:
        """Return the protocol that reads the caller's requests; without an identity he has yet to say it."""

    def refusals_for(self, refused: CertificateRefused, opening: Opening) -> asyncio.Protocol:
        """Return the protocol that answers every request with the rule that a certificate failed."""


@dataclass(frozen=True, slots=True)
class DoorContexts:
    """
    What the door makes handshakes with; both present the same leaf.

    Attributes:
        calls: For callers who are about to make calls.
        root: For those who want to see the root. It is there where API keys are on, and callers without a
            certificate are let in then, which ``calls`` must allow; None elsewhere.
    """

    calls: ssl.SSLContext
    root: ssl.SSLContext | None = None


@dataclass
class DoorCounts:
    """
    What happened at the door so far.

    Attributes:
        admitted: Handshakes completed by a caller who was then let in.
        refused: Streams that ended here, for whatever reason.
    """

    admitted: int = 0
    refused: int = 0


class Door:
    """
    Lets callers in.

    Args:
        contexts: The inner TLS server's; assign others to show another certificate from the next one on.
        label: The tunnel's label.
        domains: The tunnel domains that the root allows.
        calls: Serves those who are let in.
        loop: The running loop.
    """

    def __init__(
        self,
        contexts: DoorContexts,
        *,
        label: str,
        domains: tuple[str, ...],
        calls: Calls,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.contexts = contexts
        self.label = label
        self.domains = domains
        self.calls = calls
        self.loop = loop
        self.counts = DoorCounts()
        self._in_progress: dict[_Visitor, float] = {}  # and since when, in the order of their beginning
        self._waiting: deque[Knock] = deque()
        self._pump_due: asyncio.Handle | None = None

    def knock(self, stream: Stream, opening: Opening) -> asyncio.Protocol:
        """Return the protocol for a stream that the relay has just opened."""
        return Knock(self, stream, opening)

    def is_ours(self, server_name: str) -> bool:
        """Return whether a caller may ask this gateway for that name."""
        for domain in self.domains:
            try:
                target = parse_host(server_name, domain)
            except NameRefused:
                continue
            if isinstance(target, CallerTarget) and target.label == self.label:
                return True
        return False

    # Admission

    def wait(self, knock: "Knock") -> bool:
        """Queue a knock for its handshake; False when too many wait already."""
        if len(self._waiting) >= HANDSHAKES_WAITING:
            return False
        self._waiting.append(knock)
        self._schedule_pump()
        return True

    def handshake_began(self, visitor: "_Visitor") -> None:
        """Take note of a handshake."""
        self._in_progress[visitor] = self.loop.time()

    def handshake_ended(self, visitor: "_Visitor") -> None:
        """Take note that a handshake has succeeded or failed."""
        if self._in_progress.pop(visitor, None) is not None and self._waiting:
            self._schedule_pump()

    def _schedule_pump(self, seconds: float = 0.0) -> None:
        if self._pump_due is not None:
            if seconds:
                return
            self._pump_due.cancel()
        self._pump_due = (
            self.loop.call_later(seconds, self._pump) if seconds else self.loop.call_soon(self._pump)
        )

    def _pump(self) -> None:
        """Begin one of the handshakes that wait, if there is room; the next has a turn of its own."""
        self._pump_due = None
        while self._waiting and self._waiting[0].is_over:
            self._waiting.popleft()
        if not self._waiting:
            return
        patience = self._make_room()
        if patience > 0:
            self._schedule_pump(patience)
            return
        self._waiting.popleft().begin_handshake()
        if self._waiting:
            self._schedule_pump()

    def _make_room(self) -> float:
        """Return 0 when one may begin, if need be in the oldest one's place; else for how long none may."""
        if len(self._in_progress) < HANDSHAKES_AT_ONCE:
            return 0.0
        oldest, began = next(iter(self._in_progress.items()))
        patience = began + _GIVES_WAY_AFTER - self.loop.time()
        if patience > 0:
            return patience
        del self._in_progress[oldest]
        oldest.give_way()
        return 0.0


class Knock(asyncio.Protocol):
    """One stream before its handshake: its hello is read and judged."""

    def __init__(self, door: Door, stream: Stream, opening: Opening) -> None:
        self._door = door
        self._stream = stream
        self._opening = opening
        self._hello: ClientHello | None = None
        self._received = b""
        self._deadline = door.loop.time() + HANDSHAKE_TIMEOUT
        self._timer = door.loop.call_at(self._deadline, self._timed_out)
        self.is_over = False

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            return
        self._received += data
        if self._hello is not None:
            return  # The hello is being waited with; what comes behind it is kept for the engine.
        try:
            hello = read_client_hello(self._received)
        except HelloRefused as error:
            self._refuse(Alert(error.alert), error.detail)
            return
        if hello is None:
            return
        self._hello = hello
        if not self._door.is_ours(hello.server_name):
            self._refuse(Alert.UNRECOGNIZED_NAME, f"{hello.server_name} is not a name of this tunnel")
        elif hello.alpn and not _CARRY_CALLS & set(hello.alpn) and self._root_context(hello) is None:
            self._refuse(Alert.NO_APPLICATION_PROTOCOL, "the caller speaks no HTTP/1.1")
        elif not self._door.wait(self):
            self._end("too many handshakes are waiting")
            self._stream.reset(ResetCode.OVERLOADED)
        else:
            # A hello needs an answer before the caller has more to say.
            self._stream.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_over:
            self._end("the caller left before its handshake")

    def begin_handshake(self) -> None:
        """Put the inner TLS on the stream; from here on the stream belongs to it."""
        if self._hello is None:
            raise AssertionError("a knock waits only once its hello is read")
        self.is_over = True
        self._timer.cancel()
        visitor: _Visitor
        context = self._root_context(self._hello)
        if context is not None:
            visitor = _RootVisitor(self._door, self._stream, self._opening)
        else:
            context = self._door.contexts.calls
            visitor = _Caller(self._door, self._stream, self._opening, self._hello.server_name)
        tls = TlsTransport(
            TlsEngine(context, server_side=True),
            visitor,
            loop=self._door.loop,
            verify=visitor.verify,
            handshake_timeout=max(0.0, self._deadline - self._door.loop.time()),
        )
        self._door.handshake_began(visitor)
        self._stream.set_protocol(tls)
        tls.connection_made(self._stream)
        tls.data_received(self._received)
        self._received = b""
        self._stream.resume_reading()

    def _root_context(self, hello: ClientHello) -> ssl.SSLContext | None:
        """Return what shows the root, to a caller who asks for it where it is shown."""
        return self._door.contexts.root if hello.alpn == _SHOWS_ROOT else None

    def _timed_out(self) -> None:
        if not self.is_over:
            self._end(f"no handshake within {HANDSHAKE_TIMEOUT:.0f} s")
            self._stream.abort()

    def _refuse(self, alert: Alert, why: str) -> None:
        self._end(why)
        self._stream.write(alert_record(alert))
        self._stream.close()

    def _end(self, why: str) -> None:
        self.is_over = True
        self._timer.cancel()
        self._door.counts.refused += 1
        log.info("caller refused", call=self._opening.reference, address=self._opening.address, reason=why)


class _Visitor(asyncio.Protocol):
    """The protocol above the inner TLS as long as the handshake lasts."""

    def __init__(self, door: Door, stream: Stream, opening: Opening) -> None:
        self._door = door
        self._stream = stream
        self._opening = opening

    def verify(self, tls: ssl.SSLObject) -> None:
        """Judge the peer of a finished handshake."""
        raise NotImplementedError

    def give_way(self) -> None:
        """End a handshake that has waited longest for its caller, for the sake of those who are new."""
        self._stream.reset(ResetCode.OVERLOADED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the handshake failed: once it has succeeded, another protocol stands here."""
        self._door.handshake_ended(self)
        self._door.counts.refused += 1
        log.info(
            "caller refused",
            call=self._opening.reference,
            address=self._opening.address,
            reason=str(exc) if exc is not None else "the caller left during the handshake",
        )


class _RootVisitor(_Visitor):
    """Somebody who knows the tunnel's ID and wants to see its root; not a byte of his is read."""

    def verify(self, tls: ssl.SSLObject) -> None:
        """Accept everybody: the root is no secret, and nothing else is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.handshake_ended(self)
        log.info("root shown", call=self._opening.reference, address=self._opening.address)
        cast(asyncio.Transport, transport).set_protocol(asyncio.Protocol())
        transport.close()


class _Caller(_Visitor):
    """Somebody who is about to make calls."""

    def __init__(self, door: Door, stream: Stream, opening: Opening, server_name: str) -> None:
        super().__init__(door, stream, opening)
        self._server_name = server_name
        self._identity: Identity | None = None
        self._refused: CertificateRefused | None = None

    def verify(self, tls: ssl.SSLObject) -> None:
        """
        Judge the caller's certificate.

        OpenSSL has refused, by an alert, whoever has no chain to the root. What it cannot judge (role, label,
        issuing CA) is refused in words: a TLS 1.3 handshake is complete on the caller's side by now, and an
        alert would reach it as a connection that closed.
        """
        try:
            self._identity = self._judge(tls)
        except CertificateRefused as error:
            self._refused = error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.handshake_ended(self)
        protocol = self._protocol()
        tls = cast(asyncio.Transport, transport)
        tls.set_protocol(protocol)
        protocol.connection_made(tls)

    def _judge(self, tls: ssl.SSLObject) -> Identity | None:
        """Say whom the certificate names; None where there is none and none is needed."""
        chain = verified_chain(tls)
        if chain or self._door.contexts.root is None:
            return verify_identity(chain, role=Role.CALLER, label=self._door.label, now=datetime.now(UTC))
        if tls.getpeercert(binary_form=True) is not None:
            # OpenSSL ends such a handshake itself. Were it ever not to, this is no caller without one.
            raise CertificateRefused(Rule.CHAIN, "the caller's certificate", "was presented and not verified")
        return None

    def _protocol(self) -> asyncio.Protocol:
        if self._refused is not None:
            self._door.counts.refused += 1
            log.warning(
                "caller refused",
                call=self._opening.reference,
                address=self._opening.address,
                reason=str(self._refused),
            )
            return self._door.calls.refusals_for(self._refused, self._opening)
        self._door.counts.admitted += 1
        return self._door.calls.calls_for(self._identity, self._opening, self._server_name)
