"""
What the HTTP server of this package is told, and what it tells: values only.

``HttpServer`` (``http_server``) reads a request and asks its owner for a ``Decision``: an ``Answer`` of his
own, or ``Forward`` to the next hop. An ``Exchange`` (``http_exchange``) carries a Forward out, over a
connection from a ``ClientPool`` (``http_client``). Whatever happens, one ``CallRecord`` comes back for each
request.

Two rules about repeating and failing stand behind these types:

* At most once. A request is written to one connection. From its first byte on, a failure is
  ``executed: unknown``; before it, ``no``. Nothing is ever sent again.
* A caller gets either a whole answer, or an error that says so, or an answer that is visibly cut off.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

import structlog

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1 import (
    METHODS,
    Body,
    BodyKind,
    Headers,
    OutgoingHead,
    RequestHead,
    ResponseHead,
    encode_response,
)

if TYPE_CHECKING:
    import asyncio

    from sallyport.tunnel.net.http_client import ClientPool

log = structlog.get_logger("sallyport.http")

Stage = Literal["dial", "send", "head", "body"]
Executed = Literal["no", "unknown"]
Outcome = Literal["answered", "refused", "failed", "caller-left"]


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A whole answer made by us.

    Attributes:
        status: 200 to 599.
        headers: Without framing fields, which are added.
        body: The bytes of it, left out for HEAD.
    """

    status: int
    headers: Headers
    body: bytes

    def encoded_head(self, *, keep_alive: bool) -> bytes:
        """Return its head as it is sent; ``keep_alive``: another request may follow on the connection."""
        framing = Body(BodyKind.LENGTH, len(self.body))
        phrase = reason_phrase(self.status)
        return encode_response(ResponseHead(self.status, phrase, self.headers, framing, keep_alive))


@dataclass(frozen=True, slots=True)
class ForwardTimeouts:
    """
    How long to wait for the next hop, in seconds. How long a dial may take is the business of who dials.

    Attributes:
        first_byte: From the last byte of the request that could be sent, to the head of the answer.
        idle: Between two pieces of the answer's body. A quiet event stream ends at it.
    """

    first_byte: float
    idle: float


@dataclass(frozen=True, slots=True)
class ForwardFailure:
    """
    Why a forwarded request has no whole answer.

    Attributes:
        stage: How far it had come: no connection; the request not wholly sent; no head of an answer; the
            answer cut off.
        error: What happened. In stage ``dial``, what the owner's dial raised. Afterwards ``TimeoutError``,
            ``HttpRefused`` (what came is not an answer), ``BodyTruncated``, or the connection's own error,
            which is a ``TunnelError`` or an ``OSError``.
        executed: Whether the next hop may have acted on it.
        connection: The transport that carried it; None in stage ``dial``.
        number: Of the request on that connection, from 1.
    """

    stage: Stage
    error: Exception
    executed: Executed
    connection: "asyncio.Transport | None" = None
    number: int = 1


@dataclass(frozen=True, slots=True)
class Forward:
    """
    Send the request on. It holds nothing of one request in particular, so one that repeats another's head
    may be given the same.

    Attributes:
        head: The head to send, without hop-by-hop fields, Host and target those of the next hop. Its
            framing follows that of the request as received.
        upstream: Connections to the next hop.
        timeouts: How long to wait for it.
        explain: Makes the caller's answer out of a failure, as long as no answer has begun.
    """

    head: OutgoingHead
    upstream: "ClientPool"
    timeouts: ForwardTimeouts
    explain: Callable[[ForwardFailure], Answer]

    def explained(self, failure: ForwardFailure) -> Answer:
        """Return the answer that ``explain`` makes, or a plain one where it fails itself."""
        try:
            return self.explain(failure)
        except Exception:
            log.exception("the explanation of a failure failed")
            return json_rpc_error(502, "bad gateway", data={"executed": failure.executed})


Decision = Answer | Forward


@dataclass(slots=True)
class CallRecord:
    """
    What became of one request; handed over exactly once, when it is settled, and never changed again.

    Attributes:
        number: Of the request on the caller's connection, from 1.
        head: What was asked; None where it could not be read.
        started: When its head was complete, on the loop's clock.
        status: Of the final answer as the caller was sent it; None when he was sent none.
        request_bytes: Of the body, as received from the caller.
        response_bytes: Of the body, as handed to the caller's connection.
        seconds: From ``started`` to the end of the answer.
        outcome: ``answered`` by the next hop or by a successful Answer; ``refused`` by us; ``failed`` at the
            next hop; ``caller-left`` before he had the whole answer.
        failure: What failed, for ``failed``.
        rule: The codec's rule, for a request refused by the codec; else empty.
        upstream: The transport to the next hop that carried it; None when none did.
        upstream_number: Of the request on that connection, from 1; 0 when none carried it.
    """

    number: int
    head: RequestHead | None = field(repr=False)
    started: float
    status: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    seconds: float = 0.0
    outcome: Outcome = "answered"
    failure: ForwardFailure | None = None
    rule: str = ""
    upstream: "asyncio.Transport | None" = field(default=None, repr=False)
    upstream_number: int = 0

    @property
    def method(self) -> str:
        """Empty where the head could not be read."""
        return "" if self.head is None else self.head.method.decode("ascii")

    @property
    def path(self) -> str:
        """The target without its query; empty where the head could not be read."""
        return "" if self.head is None else self.head.target.partition(b"?")[0].decode("ascii")

    def facts(self, rule: str = "") -> dict[str, object]:
        """
        Say what the log says of every call, in its order.

        Args:
            rule: Which rule of the owner's refused it; the codec's own goes before.
        """
        facts: dict[str, object] = {
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "ms": round(self.seconds * 1000, 1),
            "outcome": self.outcome,
        }
        if rule := self.rule or rule:
            facts["rule"] = rule
        return facts


def json_rpc_error(
    status: int,
    message: str,
    *,
    code: int = -32000,
    data: Mapping[str, object] | None = None,
    headers: Headers | None = None,
) -> Answer:
    """
    Make an answer that MCP clients understand: an HTTP status with a JSON-RPC error as its body.

    The id is null, for requests are not looked into; Python's and TypeScript's clients show the message.

    Args:
        status: Never 404: clients take that for the end of their session.
        message: For the caller to read: what is wrong, and whose.
        code: JSON-RPC's error code; -32000 is "server error".
        data: Facts a program may act on, such as ``{"executed": "no"}``.
        headers: Further fields, in front.
    """
    error: dict[str, object] = {"code": code, "message": message}
    if data:
        error["data"] = dict(data)
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}, separators=(",", ":"))
    return Answer(status, [*(headers or []), (b"Content-Type", b"application/json")], body.encode())


def refusal_answer(refusal: HttpRefused, executed: Executed) -> Answer:
    """Make the answer to a request that the codec refuses."""
    # RFC 9110 §15.5.6: a 405 says what is allowed.
    headers = [(b"Allow", b", ".join(sorted(METHODS)))] if refusal.status == 405 else None
    data = {"rule": refusal.rule, "executed": executed}
    return json_rpc_error(refusal.status, str(refusal), data=data, headers=headers)


def reason_phrase(status: int) -> bytes:
    """Return the standard phrase of a status, empty for one that has none."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
