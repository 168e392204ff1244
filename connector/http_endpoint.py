"""
The loopback HTTP endpoint: one local request in, one request to the gateway out.

The HTTP itself is ``tunnel.net``'s: it reads the request, streams both bodies, keeps the connections to the
gateway alive and never sends a request twice. Here is decided what each request becomes (``local_request``),
and what a client is told when the gateway cannot be asked: 503 at once, with a JSON-RPC error that names the
hop and says whether the call may have been executed. Never 404, which an MCP client takes for the end of its
session.

Deliberately absent: time limits on answers. The gateway has them, for each server its own, and says which one
was reached; a second set here could only cut what the gateway still wants to wait for.
"""

import asyncio
from typing import Final
from weakref import WeakSet

import structlog

from sallyport.config.logs import CallLog
from sallyport.connector.dial import Dialler, GatewayTransport
from sallyport.connector.errors import GatewayRefused, HopFailed, LocalRequestRefused
from sallyport.connector.local_request import LocalSide, without
from sallyport.tunnel.http1 import OutgoingHead, RequestHead, without_hop_by_hop
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.http_client import ClientPool, Spawn
from sallyport.tunnel.net.http_forward import (
    Answer,
    CallRecord,
    Decision,
    Forward,
    ForwardFailure,
    ForwardTimeouts,
    json_rpc_error,
)
from sallyport.tunnel.net.http_server import HttpServer

log = structlog.get_logger("sallyport.connector.endpoint")
calls = CallLog("sallyport.connector.endpoint")

GATEWAY_IDLE_TIMEOUT: Final = limit(
    60.0, "seconds",
    "an idle connection to the gateway is kept for: half the gateway's own limit, so that the gateway "
    "never closes one that is about to be used",
)  # fmt: skip
CLIENT_IDLE_TIMEOUT: Final = limit(
    600.0, "seconds",
    "between two requests of a local client, which keeps its connection while its user thinks; a "
    "descriptor costs little",
)  # fmt: skip
HEAD_TIMEOUT: Final = limit(
    30.0, "seconds",
    "from the first byte of a head to its last: local programs write a head at once",
)  # fmt: skip
# Seconds: more than the longest that a gateway can be configured to wait, which is a day.
_GATEWAY_KNOWS_BEST: Final = ForwardTimeouts(first_byte=25 * 3600.0, idle=25 * 3600.0)


class HttpEndpoint:
    """
    What stands behind the listeners.

    Args:
        dialler: Dials the gateway.
        local: The local end: its port, and what it serves.
        loop: The running loop.
        spawn: Starts a task in the owner's task group.
    """

    def __init__(
        self, dialler: Dialler, local: LocalSide, *, loop: asyncio.AbstractEventLoop, spawn: Spawn
    ) -> None:
        self._dialler = dialler
        self._local = local
        self._loop = loop
        self._gateway_host = dialler.host.encode("ascii")
        self._pool = ClientPool(dialler.dial, idle_timeout=GATEWAY_IDLE_TIMEOUT, loop=loop, spawn=spawn)
        self._clients: WeakSet[HttpServer] = WeakSet()

    def accept(self) -> asyncio.Protocol:
        """Return the protocol for a new local connection: what ``loop.create_server`` wants."""
        client = HttpServer(
            self.decide,
            finished=self._finished,
            loop=self._loop,
            idle_timeout=CLIENT_IDLE_TIMEOUT,
            head_timeout=HEAD_TIMEOUT,
        )
        self._clients.add(client)
        return client

    def close(self) -> None:
        """Drop every connection, to clients and to the gateway; calls under way are cut off."""
        for client in list(self._clients):
            client.abort()
        self._pool.close()

    def decide(self, head: RequestHead) -> Decision:
        """Say what becomes of a request: refused here, or sent on to the gateway."""
        model = head.model or head
        if isinstance(model.plan, Forward):
            return model.plan  # It repeats one that was admitted, and nothing has changed since.
        try:
            host = self._local.check(head.headers)
        except LocalRequestRefused as error:
            return json_rpc_error(error.status, str(error), data={"rule": error.rule, "executed": "no"})
        forward = model.plan = Forward(
            OutgoingHead.of(self._rebuilt(head, host)), self._pool, _GATEWAY_KNOWS_BEST, self._explain
        )
        return forward

    def _rebuilt(self, head: RequestHead, host: bytes) -> RequestHead:
        """Return the head as the gateway is to see it."""
        # Where the connector has no key, a client's own goes on: it is for the gateway to judge.
        ours = [name.lower() for name, _ in self._dialler.credential]
        headers = without(without_hop_by_hop(head.headers), b"host", b"origin", *ours)
        headers.insert(0, (b"Host", self._gateway_host))
        headers.append((b"Sallyport-Base", self._local.public_base(host, head.target)))
        headers.extend(self._dialler.credential)
        return RequestHead(
            method=head.method,
            target=self._local.gateway_target(head.target),
            version=b"1.1",
            headers=headers,
            body=head.body,
            keep_alive=True,
            expect_continue=False,
            host=self._gateway_host,
        )

    # Failures

    def _explain(self, failure: ForwardFailure) -> Answer:
        """Make the client's answer out of a failure, as long as no other answer has begun."""
        error = self._translate(failure)
        if error is None:
            # A mistake of ours: its text is for the log, which ``_finished`` writes, and not for the wire.
            data = {"executed": failure.executed, "hop": "connector"}
            return json_rpc_error(503, "the connector failed: its log says why", data=data)
        call = _call_id(error.reference, failure.number)
        data = {"executed": failure.executed, "hop": error.hop, "call": call}
        return json_rpc_error(503, str(error), data=data)

    def _translate(self, failure: ForwardFailure) -> HopFailed | None:
        if isinstance(failure.error, HopFailed):
            return failure.error
        if isinstance(failure.connection, GatewayTransport):
            return self._dialler.explain_loss(failure.connection, failure.error)
        return None

    # Logging

    def _finished(self, record: CallRecord) -> None:
        """Write the one line of a call."""
        failure = record.failure
        if failure is None:
            calls.write(_call_facts, record)
            return
        error = self._translate(failure)
        facts = _call_facts(record, error)
        if error is None:
            log.error("call", **facts, exc_info=failure.error)
        else:
            facts |= {"hop": error.hop, "executed": failure.executed}
            write = log.error if isinstance(error, GatewayRefused) else log.warning
            write("call", **facts, reason=str(error), hint=error.hint)


def _call_facts(record: CallRecord, error: HopFailed | None = None) -> dict[str, object]:
    """Say what the line of every call says; ``error`` for one that failed at another hop."""
    return {"call": _call_of(record, error), **record.facts()}


def _call_of(record: CallRecord, error: HopFailed | None) -> str:
    """Return the id under which the gateway logs the call; empty when it never left this machine."""
    if isinstance(record.upstream, GatewayTransport):
        return _call_id(record.upstream.reference, record.upstream_number)
    return _call_id(error.reference, 1) if error is not None else ""


def _call_id(reference: str, number: int) -> str:
    return f"{reference}.{number}" if reference else ""
