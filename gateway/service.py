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
from itertools import count

from sallyport.certs.errors import CertificateRefused
from sallyport.certs.names import Identity
from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.exchange import Caller, Conversation, Premises, log_call, refusal_answer
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import Server
from sallyport.tunnel.events import Opening
from sallyport.tunnel.http1 import RequestHead
from sallyport.tunnel.net.http_forward import CallRecord, Decision
from sallyport.tunnel.net.http_server import HttpServer

# Seconds. The connector gives its idle connections up after 60, so that it is never this end that closes
# one on which a request is on its way.
_IDLE_CALLER = 120.0
# Seconds from the first byte of a head to its last (slowloris).
_HEAD = 10.0


class Gateway:
    """
    Serves authenticated callers. This is the door's ``Calls``.

    Args:
        name: The gateway's own name.
        routes: The names and paths that it answers for.
        servers: The servers by name.
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
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.servers = servers
        self._premises = Premises(name, routes, servers, now)
        self._loop = loop
        # A connection lives as long as its transport; this only knows which there are.
        self._connections: weakref.WeakSet[HttpServer] = weakref.WeakSet()

    def calls_for(self, identity: Identity, opening: Opening, sni: str) -> asyncio.Protocol:
        """
        Serve one connection.

        Args:
            identity: Who calls, from the verified certificate.
            opening: The stream; only its reference is used.
            sni: The server name of the inner ClientHello.
        """
        caller = Caller(f"cert:{identity.name}", "certificate", opening.reference, sni)
        conversation = Conversation(self._premises, caller)
        return self._serve(conversation.decide, conversation.finished)

    def refusals_for(self, refused: CertificateRefused, opening: Opening) -> asyncio.Protocol:
        """
        Answer every request on a connection with the rule that its certificate failed.

        Args:
            refused: The verifier's verdict.
            opening: The stream.
        """
        detail = f"{refused}; {refused.hint}" if refused.hint else str(refused)
        refusal = RequestRefused(403, str(refused.rule), detail)
        caller = Caller("refused", "none", opening.reference, "")
        numbers = count(1)  # of the requests, as their CallRecords will have them

        def decide(_head: RequestHead) -> Decision:
            call = f"{opening.reference}.{next(numbers)}"
            return refusal_answer(self._premises.gateway, refusal, call=call)

        def finished(record: CallRecord) -> None:
            log_call(record, caller, server="", rule=record.rule or str(refused.rule), failure="")

        return self._serve(decide, finished)

    def drain(self) -> None:
        """Close connections that are between requests, and each other one after its running request."""
        for connection in list(self._connections):
            connection.drain()

    def close(self) -> None:
        """Give up the idle connections to servers."""
        for server in self.servers.values():
            server.pool.close()

    def _serve(
        self, decide: Callable[[RequestHead], Decision], finished: Callable[[CallRecord], None]
    ) -> HttpServer:
        connection = HttpServer(
            decide, finished=finished, loop=self._loop, idle_timeout=_IDLE_CALLER, head_timeout=_HEAD
        )
        self._connections.add(connection)
        return connection
