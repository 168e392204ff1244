"""
The gateway's service to callers: the protocol that the door puts on each connection.

The door has ended the inner TLS and knows who calls. Here that becomes an ``HttpServer`` with a
``Conversation`` behind it; and for a caller whose certificate the strict verifier refused, one that answers
every request with the rule that failed.
"""

import asyncio
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Final

from sallyport.certs.errors import CertificateRefused
from sallyport.certs.names import Identity
from sallyport.config.gateway import GatewayLimits
from sallyport.gateway.attendance import Attendance, SharedCounts
from sallyport.gateway.credentials import Keys
from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.exchange import Caller, Conversation, Premises, call_facts, calls, refusal_answer
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import Server
from sallyport.gateway.yardstick import Yardstick
from sallyport.tunnel.events import Opening
from sallyport.tunnel.http1 import RequestHead
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.http_forward import CallRecord, Decision
from sallyport.tunnel.net.http_server import HttpServer

_IDLE_CALLER: Final = limit(
    120.0, "seconds",
    "between two requests of a connection. The connector gives its idle connections up after 60, so that "
    "it is never this end that closes one on which a request is on its way",
)  # fmt: skip
_HEAD_TIMEOUT: Final = limit(
    10.0, "seconds",
    "from the first byte of a request's head to its last (slowloris)",
)  # fmt: skip


_DEFAULT_LIMITS: Final = GatewayLimits()


class Gateway:
    """
    Serves authenticated callers. This is the door's ``Calls``.

    Args:
        name: The gateway's own name.
        routes: The names and paths that it answers for.
        servers: The servers by name.
        limits: How much of the gateway callers may use.
        keys: Where API keys are looked up; None when they are off.
        yardstick: Measures the tunnel for callers; None to refuse that.
        shared_counts: Where the workers of the gateway count connections together; None when there is one.
        loop: The running loop.
        now: The time, with a zone.
    """

    def __init__(
        self,
        name: str,
        routes: Routes,
        servers: Mapping[str, Server],
        *,
        loop: asyncio.AbstractEventLoop,
        limits: GatewayLimits = _DEFAULT_LIMITS,
        keys: Keys | None = None,
        yardstick: Yardstick | None = None,
        shared_counts: SharedCounts | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.servers = servers
        self._premises = Premises(name, routes, servers, now, keys, yardstick)
        self._loop = loop
        self._limits = limits
        self._attendance = Attendance(limits.streams_per_caller, shared_counts)
        # A connection lives as long as its transport; this only knows which there are.
        self._connections: weakref.WeakSet[HttpServer] = weakref.WeakSet()

    def calls_for(self, identity: Identity | None, opening: Opening, sni: str) -> asyncio.Protocol:
        """
        Serve one connection.

        Args:
            identity: Who calls, from the verified certificate; None for a caller without one.
            opening: The stream; only its reference is used.
            sni: The server name of the inner ClientHello.
        """
        if identity is None:
            return self._calls_by_key(Caller.unidentified(opening.reference, sni))
        caller = Caller(f"cert:{identity.name}", "certificate", opening.reference, sni)
        if not self._attendance.arrive(caller.principal):
            return self._crowd_out(caller)
        conversation = Conversation(self._premises, caller)
        return self._serve(
            conversation.decide,
            conversation.finished,
            ended=partial(self._attendance.leave, caller.principal),
        )

    def refusals_for(self, refused: CertificateRefused, opening: Opening) -> asyncio.Protocol:
        """
        Answer every request on a connection with the rule that its certificate failed.

        Args:
            refused: The verifier's verdict.
            opening: The stream.
        """
        detail = f"{refused}; {refused.hint}" if refused.hint else str(refused)
        refusal = RequestRefused(403, str(refused.rule), detail)
        return self._refuse_all(refusal, Caller("refused", "none", opening.reference, ""))

    def drain(self) -> None:
        """Close connections that are between requests, and each other one after its running request."""
        for connection in list(self._connections):
            connection.drain()

    def close(self) -> None:
        """Give up the idle connections to servers."""
        for server in self.servers.values():
            server.pool.close()

    def _calls_by_key(self, stranger: Caller) -> HttpServer:
        """
        Serve a caller who has yet to say who he is.

        Until he has, his connection counts among those of all strangers, and has little time and one request;
        from his first good key on it is that key's. A refused stranger leaves: nobody tries keys at leisure.
        """
        if not self._attendance.arrive(stranger.principal):
            return self._crowd_out(stranger)
        seat = _Seat(self._attendance, stranger.principal)

        def welcome(principal: str) -> None:
            seat.take_as(principal)
            connection.is_last_request = False

        conversation = Conversation(self._premises, stranger, welcome=welcome)
        connection = self._serve(
            conversation.decide,
            conversation.finished,
            ended=seat.leave,
            first_request_timeout=_HEAD_TIMEOUT,
        )
        connection.is_last_request = True
        return connection

    def _crowd_out(self, caller: Caller) -> HttpServer:
        """Say to a caller with too many connections that it has; the connection lives for one request."""
        refusal = _too_many(caller.principal, self._attendance.most)
        connection = self._refuse_all(refusal, caller, idle_timeout=_HEAD_TIMEOUT)
        connection.is_last_request = True
        return connection

    def _refuse_all(
        self, refusal: RequestRefused, caller: Caller, *, idle_timeout: float = _IDLE_CALLER
    ) -> HttpServer:
        """Answer every request on a connection with one refusal."""
        numbers = count(1)  # of the requests, as their CallRecords will have them

        def decide(_head: RequestHead) -> Decision:
            call = f"{caller.reference}.{next(numbers)}"
            return refusal_answer(self._premises.gateway, refusal, call=call)

        def finished(record: CallRecord) -> None:
            calls.write(call_facts, record, caller, "", refusal.rule)

        return self._serve(decide, finished, idle_timeout=idle_timeout)

    def _serve(
        self,
        decide: Callable[[RequestHead], Decision],
        finished: Callable[[CallRecord], None],
        *,
        ended: Callable[[], None] | None = None,
        idle_timeout: float = _IDLE_CALLER,
        first_request_timeout: float | None = None,
    ) -> HttpServer:
        connection = HttpServer(
            decide,
            finished=finished,
            ended=ended,
            loop=self._loop,
            idle_timeout=idle_timeout,
            first_request_timeout=first_request_timeout,
            head_timeout=_HEAD_TIMEOUT,
            body_limit=self._limits.request_body,
        )
        self._connections.add(connection)
        return connection


class _Seat:
    """
    As whom a connection without a certificate is counted.

    Args:
        attendance: Where it was counted on arrival.
        principal: As whom.
    """

    def __init__(self, attendance: Attendance, principal: str) -> None:
        self._attendance = attendance
        self._stranger = principal
        self.principal = principal

    def take_as(self, principal: str) -> None:
        """
        Count the connection as the first key's that was good on it; other keys may follow on it uncounted.

        Raises:
            RequestRefused: 503, that key has too many connections.
        """
        if self.principal != self._stranger:
            return
        if not self._attendance.arrive(principal):
            raise _too_many(principal, self._attendance.most)
        self._attendance.leave(self.principal)
        self.principal = principal

    def leave(self) -> None:
        """Take note that the connection has ended."""
        self._attendance.leave(self.principal)


def _too_many(principal: str, most: int) -> RequestRefused:
    return RequestRefused(
        503,
        "streams-per-caller",
        f"{principal} has {most} connections open, as many as limits.streams_per_caller allows",
    )
