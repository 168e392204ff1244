"""
One caller's connection at the gateway: what is done with each of its requests.

``decide`` is asked for every request, whatever the handshake saw: who makes it (``credentials``), where does
it go (``routes``), may it (``policy``), and with which head. The head that is sent on is made anew, never the
caller's bytes: Host is the upstream's own, hop-by-hop fields and ours are gone, everything else keeps its
order, repeated or not.

``explain`` puts a failure into words for the caller: a JSON-RPC error that says what failed, where, why, and
whether the call may have run. No internal address is in it. ``finished`` writes one ``call`` line a request,
without a header, a query or a byte of any body.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from json import dumps

import structlog

from sallyport.config.logs import CallLog
from sallyport.gateway.credentials import UNIDENTIFIED, Credential, Keys, identify
from sallyport.gateway.errors import RequestRefused, UpstreamFailed
from sallyport.gateway.policy import Policy
from sallyport.gateway.routes import CANARY, Route, Routes
from sallyport.gateway.servers import Server
from sallyport.gateway.yardstick import Yardstick, is_measurement
from sallyport.tunnel.errors import BodyTruncated, HttpRefused, TlsTruncated
from sallyport.tunnel.http1 import Headers, OutgoingHead, RequestHead, without_hop_by_hop
from sallyport.tunnel.net.http_forward import (
    Answer,
    CallRecord,
    Decision,
    Forward,
    ForwardFailure,
    json_rpc_error,
)

log = structlog.get_logger("sallyport.gateway")
calls = CallLog("sallyport.gateway")

# Nobody has listed an origin for the gateway's own answer. Every key is good for it: no server is asked.
_CANARY_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the connection, and how it is called in the logs."""

    principal: str
    """``cert:NAME`` or ``key:NAME``; ``unidentified`` before a key has said who it is."""
    trust: str
    """How the caller proved it: ``certificate``, ``key`` or ``none``."""
    reference: str
    """The connection's id in all three logs."""
    server_name: str
    """The SNI of the inner TLS."""

    @classmethod
    def unidentified(cls, reference: str, server_name: str) -> "Caller":
        """Make a caller who presented no certificate: each of his requests must say who he is."""
        return cls("unidentified", "none", reference, server_name)

    @property
    def certified(self) -> str:
        """The principal that the handshake proved; empty where it proved none."""
        return self.principal if self.trust == "certificate" else ""


@dataclass(frozen=True, slots=True)
class Premises:
    """What all connections of a gateway share."""

    gateway: str
    """The gateway's own name."""
    routes: Routes
    servers: Mapping[str, Server]
    now: Callable[[], datetime]
    """The time, with a zone."""
    keys: Keys | None = None
    """Where API keys are looked up; None when they are off."""
    yardstick: Yardstick | None = None
    """Measures the tunnel for callers; None where nothing is measured."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """
    What was decided about a head: good for all requests that repeat it, as long as their key is.

    Nothing else that a decision depends on can change under a connection: who holds its certificate, and what
    the config says.
    """

    credential: Credential
    caller: Caller
    server: Server
    forward: Forward


def _welcome(_principal: str) -> None:
    """Let every principal in."""


class Conversation:
    """
    The requests of one connection, one at a time.

    Args:
        premises: The gateway.
        caller: Who is on the connection, as far as the handshake has shown.
        welcome: Called with the principal of each head that proves one, before anything else is decided about
            it, and not again for a head that repeats it; may raise ``RequestRefused``.
    """

    def __init__(
        self, premises: Premises, caller: Caller, *, welcome: Callable[[str], None] = _welcome
    ) -> None:
        self._premises = premises
        self._connection = caller
        self._welcome = welcome
        self._caller = caller  # of the request at hand: keys come and go between two of them
        self._number = 0  # of the request at hand, as its CallRecord will have it
        # What the log will say of the request at hand; an HttpServer has one at a time.
        self._server = ""
        self._rule = ""

    def decide(self, head: RequestHead) -> Decision:
        """Decide about one request."""
        self._number += 1
        self._caller = self._connection
        model = head.model or head
        plan = model.plan
        try:
            if not (isinstance(plan, _Plan) and plan.credential.is_still_good(self._premises.keys)):
                decided = self._decide_anew(head)
                if not isinstance(decided, _Plan):
                    return decided
                plan = model.plan = decided
        except RequestRefused as refusal:
            self._rule = refusal.rule
            return refusal_answer(self._premises.gateway, refusal, call=self._call)
        self._caller = plan.caller  # who was welcome when the plan was made, on this connection
        self._server = plan.server.name
        plan.server.counts.calls += 1
        return plan.forward

    def finished(self, record: CallRecord) -> None:
        """Count a call and write its line; ``HttpServer`` tells of each request exactly once."""
        server, rule = self._server, self._rule
        self._server = self._rule = ""
        if record.failure is None:
            calls.write(call_facts, record, self._caller, server, rule)
        else:
            self._log_failure(record, record.failure, server, rule)

    def _log_failure(self, record: CallRecord, failure: ForwardFailure, server: str, rule: str) -> None:
        """Count a call that has failed and write its line, which does not wait for others."""
        text = _log_text(failure)
        asked = self._premises.servers.get(server)
        if asked is not None:
            asked.counts.failed += 1
            asked.counts.last_failure = text
        facts = call_facts(record, self._caller, server, rule)
        facts |= {"failure": text, "stage": failure.stage, "executed": failure.executed}
        log.warning("call", **facts)

    def _decide_anew(self, head: RequestHead) -> _Plan | Decision:
        """Decide about a head that repeats none, or of which nobody knows whether its key is still good."""
        # Before the route: which servers there are is not for strangers.
        credential, headers = self._identify(head)
        route = self._premises.routes.decide(head, self._caller.server_name)
        self._server = route.server
        if route.server == CANARY:
            _CANARY_POLICY.admitted(headers)
            return self._canary(head, route.target)
        credential.require(route.server)
        return self._plan(head, credential, headers, route)

    def _plan(self, head: RequestHead, credential: Credential, headers: Headers, route: Route) -> "_Plan":
        """Make the head that is sent on, for this request and for those that repeat it."""
        server = self._premises.servers[route.server]
        authority = server.upstream.url.authority
        passing = with_host(without_hop_by_hop(server.policy.admitted(headers)), authority)
        outgoing = OutgoingHead.of(replace(head, target=route.target, headers=passing, host=authority))
        forward = Forward(outgoing, server.pool, server.timeouts, self._explain)
        return _Plan(credential, self._caller, server, forward)

    def _identify(self, head: RequestHead) -> tuple[Credential, Headers]:
        """Say who makes this request, for the log as well; return his headers without a key."""
        credential, headers = identify(
            head.headers,
            certified=self._connection.certified,
            keys=self._premises.keys,
            target=head.target,
        )
        self._caller = replace(self._connection, principal=credential.principal, trust=credential.trust)
        self._welcome(credential.principal)
        return credential, headers

    def _canary(self, head: RequestHead, target: bytes) -> Decision:
        """Answer for the gateway itself: ``sallyport doctor`` has come all the way, or ``bench`` measures."""
        if is_measurement(head, target):
            if self._premises.yardstick is None:
                raise RequestRefused(503, "measurement", "this gateway does not measure")
            return self._premises.yardstick.forward(head, target, self._explain)
        now = self._premises.now().astimezone(UTC)
        body = {
            "canary": True,
            "gateway": self._premises.gateway,
            "caller": self._caller.principal,
            "time": now.isoformat(timespec="milliseconds"),
        }
        headers = [
            (b"Date", format_datetime(now, usegmt=True).encode("ascii")),
            (b"Content-Type", b"application/json"),
            (b"Cache-Control", b"no-store"),
        ]
        return Answer(200, headers, dumps(body).encode())

    def _explain(self, failure: ForwardFailure) -> Answer:
        """Say to the caller why there is no answer."""
        status, why = status_and_reason(failure)
        return json_rpc_error(
            status,
            f"gateway {self._premises.gateway}: server {self._server} {why}",
            data={
                "where": "gateway",
                "server": self._server,
                "call": self._call,
                "stage": failure.stage,
                "executed": failure.executed,
            },
        )

    @property
    def _call(self) -> str:
        """The id under which the logs of all three programs have the request at hand."""
        return f"{self._caller.reference}.{self._number}"


def with_host(headers: Headers, authority: bytes) -> Headers:
    """Return the fields with Host naming the upstream: where the caller's stood, or in front."""
    named = [(name, authority) if name.lower() == b"host" else (name, value) for name, value in headers]
    is_named = any(name.lower() == b"host" for name, _ in headers)
    return named if is_named else [(b"Host", authority), *named]


def refusal_answer(gateway: str, refusal: RequestRefused, *, call: str) -> Answer:
    """Tell a caller which rule refused the request, and that nothing was executed."""
    # RFC 9110 §15.5.2 wants a challenge, RFC 6750 §3.1 no error where nothing was presented; and there is no
    # resource_metadata, for it is no matter of OAuth.
    challenge = b"Bearer" if refusal.rule == UNIDENTIFIED else b'Bearer error="invalid_token"'
    return json_rpc_error(
        refusal.status,
        f"gateway {gateway}: {refusal}",
        data={"where": "gateway", "call": call, "rule": refusal.rule, "executed": "no"},
        headers=[(b"WWW-Authenticate", challenge)] if refusal.status == 401 else None,
    )


def status_and_reason(failure: ForwardFailure) -> tuple[int, str]:
    """
    Judge why a server gave no answer.

    Returns:
        The status for the caller, 502, 503 or 504, and a clause that goes behind the server's name.
    """
    match failure.error:
        case UpstreamFailed() as error:
            return error.status, error.why
        case TimeoutError():
            return 504, "did not answer in time"
        case HttpRefused() as error:
            return 502, f"answered with something that is not HTTP/1.1: {error.rule}"
        case BodyTruncated() | TlsTruncated() | ConnectionAbortedError():
            return 502, "closed the connection before its answer was complete"
        case _:
            return 502, "broke the connection before its answer was complete"


def call_facts(record: CallRecord, caller: Caller, server: str, rule: str) -> dict[str, object]:
    """
    Say what the one line of a call says, in its order.

    Args:
        record: What became of it.
        caller: Who made it.
        server: Where it went; empty when that was not decided.
        rule: Which rule of the gateway's refused it, if one did.
    """
    return {
        "call": f"{caller.reference}.{record.number}",
        "caller": caller.principal,
        "trust": caller.trust,
        "server": server,
        **record.facts(rule),
    }


def _log_text(failure: ForwardFailure) -> str:
    """Put a failure into words for the operator, with the address and the system's own reason."""
    text = str(failure.error) or type(failure.error).__name__
    hint = getattr(failure.error, "hint", "")
    return f"{text} ({hint})" if hint else text
