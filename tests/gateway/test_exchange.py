"""What is decided about a caller's requests, and what is said of each."""

import asyncio
import json
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest
from structlog.testing import capture_logs

from sallyport.certs.api_key import ApiKey
from sallyport.config.gateway import ServerConfig
from sallyport.gateway.errors import UpstreamTimedOut, UpstreamUnreachable, UpstreamUntrusted
from sallyport.gateway.exchange import Caller, Conversation, Premises, with_host
from sallyport.gateway.keys import KeyTable, StoredKey
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import Server, open_servers
from sallyport.tunnel.errors import BodyTruncated, HttpRefused, TlsTruncated
from sallyport.tunnel.http1 import CHUNKED, NO_BODY, Body, BodyKind, RequestHead
from sallyport.tunnel.http1_heads import parse_request_head
from sallyport.tunnel.net.http_forward import Answer, CallRecord, Executed, Forward, ForwardFailure, Stage

LABEL = "abcdefghijklmnopqrstuvwxyz234567"
DOMAIN = "tunnel.example.com"
HOST = f"tickets.{LABEL}.{DOMAIN}"
NOW = datetime(2026, 11, 21, 12, 0, 0, 500_000, tzinfo=UTC)


@pytest.fixture
def servers() -> Generator[dict[str, Server], None, None]:
    """Make the servers of a config; nothing here dials them."""
    loop = asyncio.new_event_loop()

    def spawn(_coroutine: object) -> asyncio.Future[None]:
        raise AssertionError("a decision dials nobody")

    configs = {
        "tickets": ServerConfig(url="http://127.0.0.1:9000/mcp"),
        "Wiki": ServerConfig(
            url="https://wiki.internal/mcp", origins=["https://app.example.com"], passthrough=False
        ),
    }
    yield open_servers(configs, loop=loop, spawn=spawn)
    loop.close()


@pytest.fixture
def premises(servers: dict[str, Server]) -> Premises:
    """Make a gateway's shared facts."""
    configs = {
        "tickets": ServerConfig(url="http://127.0.0.1:9000/mcp"),
        "wiki": ServerConfig(url="https://w/mcp"),
    }
    routes = Routes.of(configs, label=LABEL, domains=[DOMAIN])
    return Premises("gw1", routes, servers, lambda: NOW)


@pytest.fixture
def conversation(premises: Premises) -> Conversation:
    """Make the connection of a caller named alice to the server tickets."""
    return Conversation(premises, Caller("cert:alice", "certificate", "0123456789abcdef", HOST))


def decide(conversation: Conversation, request: str) -> Forward | Answer:
    """Decide about a request given as lines, without its Host."""
    first, *fields = request.strip().splitlines()
    lines = [first, f"Host: {HOST}", *fields, "", ""]
    return conversation.decide(parse_request_head("\r\n".join(lines).encode()))


def forwarded(decision: Forward | Answer) -> Forward:
    """Demand that a request goes on."""
    assert isinstance(decision, Forward), decision
    return decision


def sent(decision: Forward | Answer, body: Body = NO_BODY) -> RequestHead:
    """Return the head that goes to the server, as the server reads it."""
    return parse_request_head(forwarded(decision).head.framed(body))


def error_of(answer: Forward | Answer) -> tuple[int, dict[str, object]]:
    """Demand an answer of the gateway's own; return its status and JSON-RPC error."""
    assert isinstance(answer, Answer), answer
    assert (b"Content-Type", b"application/json") in answer.headers
    body = json.loads(answer.body)
    assert body["jsonrpc"] == "2.0"
    assert body["id"] is None
    return answer.status, body["error"]


def test_the_head_is_made_anew(conversation: Conversation) -> None:
    """Host is the upstream's; hop-by-hop fields and ours are gone; all else keeps place, case and number."""
    head = sent(
        decide(
            conversation,
            """POST /mcp/x?y=%2e%2e HTTP/1.1
            accept: application/json
            Accept: text/event-stream
            Connection: keep-alive, X-Secret
            X-Secret: 1
            X-Forwarded-For: 10.0.0.1
            Forwarded: for=10.0.0.1
            Proxy-Authorization: Basic eDp5
            Sallyport-Base: http://127.0.0.1:7420
            Mcp-Method: tools/call
            Mcp-Method: tools/list
            TE: trailers
            Transfer-Encoding: chunked
            Authorization: Bearer eyJ
            traceparent: 00-1-2-01""".replace("            ", ""),
        ),
        CHUNKED,
    )

    assert head.target == b"/mcp/x?y=%2e%2e"
    assert head.host == b"127.0.0.1:9000"
    assert head.body is CHUNKED
    assert head.headers == [
        (b"Host", b"127.0.0.1:9000"),
        (b"accept", b"application/json"),
        (b"Accept", b"text/event-stream"),
        (b"Mcp-Method", b"tools/call"),
        (b"Mcp-Method", b"tools/list"),
        (b"Authorization", b"Bearer eyJ"),
        (b"traceparent", b"00-1-2-01"),
        (b"Transfer-Encoding", b"chunked"),
    ]


@pytest.mark.parametrize("nominated", ["Host", "host, HOST, close"])
def test_connection_cannot_name_host(conversation: Conversation, nominated: str) -> None:
    """A request goes up with the server's Host, whatever the caller's Connection says (RFC 9112 §3.2)."""
    head = sent(decide(conversation, f"GET /mcp HTTP/1.1\nConnection: {nominated}"))

    assert head.headers == [(b"Host", b"127.0.0.1:9000")]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([(b"A", b"1"), (b"hOST", b"old"), (b"B", b"2")], [(b"A", b"1"), (b"hOST", b"up"), (b"B", b"2")]),
        ([(b"A", b"1")], [(b"Host", b"up"), (b"A", b"1")]),
    ],
)
def test_there_is_always_a_host(
    headers: list[tuple[bytes, bytes]], wanted: list[tuple[bytes, bytes]]
) -> None:
    """It stands where the caller's stood, or in front."""
    assert with_host(headers, b"up") == wanted


def test_the_path_form_loses_its_first_segment(premises: Premises) -> None:
    """The connector's form: the tunnel's own name, and the server in the path."""
    host = f"{LABEL}.{DOMAIN}"
    conversation = Conversation(premises, Caller("cert:alice", "certificate", "0" * 16, host))
    head = parse_request_head(f"GET /wiki/mcp?a HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    decision = forwarded(conversation.decide(head))

    assert sent(decision).target == b"/mcp?a"
    assert sent(decision).host == b"wiki.internal"
    assert decision.upstream is premises.servers["wiki"].pool


def test_a_length_stays_a_length(conversation: Conversation) -> None:
    """The framing of a request is the caller's, and stands once in its head."""
    decision = forwarded(decide(conversation, "POST /mcp HTTP/1.1\nContent-Length: 17"))

    head = sent(decision, Body(BodyKind.LENGTH, 17))
    assert head.body == Body(BodyKind.LENGTH, 17)
    assert [value for name, value in head.headers if name == b"Content-Length"] == [b"17"]
    assert (decision.timeouts.first_byte, decision.timeouts.idle) == (60.0, 600.0)


@pytest.mark.parametrize(
    ("request_text", "status", "rule"),
    [
        ("GET /admin HTTP/1.1", 403, "exposed"),
        ("GET /mcp/../admin HTTP/1.1", 403, "path"),
        ("POST /mcp HTTP/1.1\nOrigin: https://evil.test", 403, "origin"),
        ("POST /mcp HTTP/1.1\nAuthorization: Bearer sp_abc", 401, "key"),
        ("POST /mcp HTTP/1.1\nSallyport-Key: sp_abc", 401, "key"),
    ],
)
def test_a_refusal_names_its_rule(
    conversation: Conversation, request_text: str, status: int, rule: str
) -> None:
    """The caller learns the rule, the gateway and the id, and that nothing was executed."""
    found, error = error_of(decide(conversation, request_text))

    assert found == status
    assert error["data"] == {
        "where": "gateway",
        "call": "0123456789abcdef.1",
        "rule": rule,
        "executed": "no",
    }
    assert str(error["message"]).startswith(f"gateway gw1: refused by rule {rule}: ")


def test_a_401_has_a_challenge_and_leads_to_no_oauth_server(conversation: Conversation) -> None:
    """A client that found resource_metadata would go and look for a login page."""
    answer = decide(conversation, "POST /mcp HTTP/1.1\nAuthorization: Bearer sp_abc")

    assert isinstance(answer, Answer)
    challenges = [value for name, value in answer.headers if name == b"WWW-Authenticate"]
    assert challenges == [b'Bearer error="invalid_token"']


def test_the_policy_is_that_of_the_server(premises: Premises) -> None:
    """What one server lists does not open another."""
    host = f"{LABEL}.{DOMAIN}"
    conversation = Conversation(premises, Caller("cert:alice", "certificate", "0" * 16, host))
    fields = f"Host: {host}\r\nOrigin: https://app.example.com\r\nAuthorization: Bearer x\r\n\r\n"

    wiki = forwarded(conversation.decide(parse_request_head(f"GET /wiki/mcp HTTP/1.1\r\n{fields}".encode())))
    tickets = conversation.decide(parse_request_head(f"GET /tickets/mcp HTTP/1.1\r\n{fields}".encode()))

    assert [name for name, _ in sent(wiki).headers] == [b"Host", b"Origin"]
    assert error_of(tickets)[0] == 403


def test_the_canary_is_answered_by_the_gateway(premises: Premises) -> None:
    """With its name, the caller's and the time, in Date as well."""
    host = f"{LABEL}.{DOMAIN}"
    conversation = Conversation(premises, Caller("cert:alice", "certificate", "0" * 16, host))
    answer = conversation.decide(
        parse_request_head(f"GET /_canary HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    )

    assert isinstance(answer, Answer)
    assert answer.status == 200
    assert json.loads(answer.body) == {
        "canary": True,
        "gateway": "gw1",
        "caller": "cert:alice",
        "time": "2026-11-21T12:00:00.500+00:00",
    }
    date = dict(answer.headers)[b"Date"].decode()
    assert parsedate_to_datetime(date) == NOW.replace(microsecond=0)


@pytest.mark.parametrize("field", ["Origin: https://app.example.com", "Sallyport-Key: x"])
def test_the_canary_is_no_way_around_the_policy(premises: Premises, field: str) -> None:
    """A browser page gets nothing from it."""
    host = f"{LABEL}.{DOMAIN}"
    conversation = Conversation(premises, Caller("cert:alice", "certificate", "0" * 16, host))
    request = f"GET /_canary HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n"

    assert error_of(conversation.decide(parse_request_head(request.encode())))[0] in (401, 403)


FAILURES = [
    (
        "dial",
        UpstreamUnreachable("tickets", "127.0.0.1:9000", "refused the connection"),
        "no",
        503,
        "refused",
    ),
    ("dial", UpstreamTimedOut("tickets", "127.0.0.1:9000", "did not connect within 5 s"), "no", 504, "5 s"),
    (
        "dial",
        UpstreamUntrusted("tickets", "127.0.0.1:9000", "has a bad certificate"),
        "no",
        502,
        "certificate",
    ),
    ("head", TimeoutError("an answer did not come within 60 s"), "unknown", 504, "in time"),
    ("head", HttpRefused(502, "malformed head"), "unknown", 502, "not HTTP/1.1"),
    ("head", ConnectionAbortedError("closed"), "unknown", 502, "closed the connection"),
    ("send", ConnectionResetError(104, "reset by 127.0.0.1:9000"), "unknown", 502, "broke the connection"),
    ("head", TlsTruncated("after the handshake"), "unknown", 502, "closed the connection"),
    ("body", BodyTruncated(5), "unknown", 502, "closed the connection"),
]


@pytest.mark.parametrize(("stage", "error", "executed", "status", "why"), FAILURES)
def test_a_failure_is_explained(
    conversation: Conversation, stage: Stage, error: Exception, executed: Executed, status: int, why: str
) -> None:
    """What, where, why and whether it may have run; no internal address."""
    decision = forwarded(decide(conversation, "POST /mcp HTTP/1.1"))

    answer = decision.explain(ForwardFailure(stage, error, executed))

    found, told = error_of(answer)
    assert found == status
    assert str(told["message"]).startswith("gateway gw1: server tickets ")
    assert why in str(told["message"])
    assert told["data"] == {
        "where": "gateway",
        "server": "tickets",
        "call": "0123456789abcdef.1",
        "stage": stage,
        "executed": executed,
    }
    assert b"127.0.0.1" not in answer.body


def test_an_answered_call_has_one_line(conversation: Conversation, servers: dict[str, Server]) -> None:
    """Who called what and how it ended, and nothing of what was said."""
    decide(conversation, "POST /mcp?secret=1 HTTP/1.1\nAuthorization: Bearer secret")
    head = parse_request_head(
        b"POST /mcp?secret=1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\n\r\n"
    )
    record = CallRecord(1, head, 5.0, status=200, request_bytes=10, response_bytes=20, seconds=0.01234)

    with capture_logs() as lines:
        conversation.finished(record)

    assert lines == [
        {
            "event": "call",
            "log_level": "info",
            "call": "0123456789abcdef.1",
            "caller": "cert:alice",
            "trust": "certificate",
            "server": "tickets",
            "method": "POST",
            "path": "/mcp",
            "status": 200,
            "request_bytes": 10,
            "response_bytes": 20,
            "ms": 12.3,
            "outcome": "answered",
        }
    ]
    assert (servers["tickets"].counts.calls, servers["tickets"].counts.failed) == (1, 0)


def test_a_failed_call_says_why(conversation: Conversation, servers: dict[str, Server]) -> None:
    """The operator's line has the address and the remedy that the caller was not told."""
    decide(conversation, "POST /mcp HTTP/1.1")
    error = UpstreamUnreachable("tickets", "127.0.0.1:9000", "refused the connection", hint="is it running")
    failure = ForwardFailure("dial", error, "no")

    with capture_logs() as lines:
        conversation.finished(CallRecord(1, None, 0.0, status=503, outcome="failed", failure=failure))

    assert lines[0]["log_level"] == "warning"
    assert lines[0]["stage"] == "dial"
    assert lines[0]["executed"] == "no"
    assert lines[0]["failure"] == "server tickets at 127.0.0.1:9000 refused the connection (is it running)"
    assert servers["tickets"].counts.failed == 1
    assert servers["tickets"].counts.last_failure == lines[0]["failure"]


def test_a_refusal_is_logged_with_its_rule_and_the_next_line_is_clean(conversation: Conversation) -> None:
    """One request's verdict does not stick to the next; the codec's own refusals name their rule as well."""
    with capture_logs() as lines:
        decide(conversation, "GET /admin HTTP/1.1")
        conversation.finished(CallRecord(1, None, 0.0, status=403, outcome="refused"))
        decide(conversation, "GET /mcp HTTP/1.1")
        conversation.finished(CallRecord(2, None, 0.0, status=200))
        conversation.finished(CallRecord(3, None, 0.0, status=400, outcome="refused", rule="two Hosts"))

    assert [line.get("rule") for line in lines] == ["exposed", None, "two Hosts"]
    assert [line["server"] for line in lines] == ["", "tickets", ""]
    assert [line["call"][-2:] for line in lines] == [".1", ".2", ".3"]


# Requests that repeat a head


class Ring:
    """Keys that can be revoked."""

    def __init__(self, *stored: StoredKey) -> None:
        self.keys = KeyTable(stored)

    def table(self) -> KeyTable:
        return self.keys


def repeated(conversation: Conversation, fields: str = "") -> tuple[Forward | Answer, RequestHead]:
    """Decide about a request; return the decision and a head that repeats its head."""
    raw = f"POST /mcp HTTP/1.1\r\nHost: {HOST}\r\n{fields}Content-Length: 5\r\n\r\n".encode()
    first = parse_request_head(raw)
    return conversation.decide(first), first.with_length(b"1234", len(first.headers) - 1)


def test_what_was_decided_holds_for_a_head_that_repeats(
    conversation: Conversation, servers: dict[str, Server]
) -> None:
    """The same head goes on, and every call is counted and has its own number."""
    decision, again = repeated(conversation)

    assert conversation.decide(again) is decision
    assert servers["tickets"].counts.calls == 2
    failure = ForwardFailure("dial", UpstreamUnreachable("tickets", "a:1", "refused"), "no")
    assert error_of(forwarded(decision).explain(failure))[1]["data"]["call"] == "0123456789abcdef.2"


def test_a_key_is_judged_for_every_request(premises: Premises) -> None:
    """A key that was revoked meanwhile opens nothing, however often its head was let through."""
    key = ApiKey.of_random(bytes(32))
    ring = Ring(StoredKey("bot", key.digest, frozenset({"tickets"}), NOW))
    conversation = Conversation(
        replace(premises, keys=ring), Caller("unidentified", "none", "0123456789abcdef", HOST)
    )
    decision, again = repeated(conversation, f"Sallyport-Key: {key.text.decode()}\r\n")
    assert conversation.decide(again) is forwarded(decision)

    ring.keys = ring.keys.without("bot")

    status, error = error_of(conversation.decide(again))
    assert (status, error["data"]["rule"]) == (401, "key")


def test_a_key_that_was_bound_anew_is_judged_anew(premises: Premises) -> None:
    """The same key with fewer servers is another key."""
    key = ApiKey.of_random(bytes(32))
    ring = Ring(StoredKey("bot", key.digest, None, NOW))
    conversation = Conversation(
        replace(premises, keys=ring), Caller("unidentified", "none", "0123456789abcdef", HOST)
    )
    _, again = repeated(conversation, f"Sallyport-Key: {key.text.decode()}\r\n")
    ring.keys = KeyTable([StoredKey("bot", key.digest, frozenset({"wiki"}), NOW)])

    status, error = error_of(conversation.decide(again))
    assert (status, error["data"]["rule"]) == (403, "key-server")


def test_a_refusal_is_decided_each_time(conversation: Conversation) -> None:
    """Nothing is remembered of what was refused, but the refusal is the same."""
    raw = f"POST /admin HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\n".encode()
    head = parse_request_head(raw)
    assert error_of(conversation.decide(head))[0] == 403
    assert error_of(conversation.decide(head.with_length(b"7", 1)))[0] == 403
