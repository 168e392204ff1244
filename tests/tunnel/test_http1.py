"""
Requests of HTTP/1.1: what is accepted, what is refused, and what is written in their place.

h11 is the oracle: what it refuses we refuse, and what both accept both understand alike. Where we are
stricter, the corpus in ``tests/hostile/http_requests.py`` says so case by case.
"""

from dataclasses import replace
from typing import Any

import h11
import pytest
from hypothesis import given, settings, strategies as st

from sallyport.tunnel import http1_heads, http1_split
from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.http1 import (
    CHUNKED,
    END_OF_MESSAGE,
    NO_BODY,
    Body,
    BodyKind,
    EndOfMessage,
    HeadLimits,
    RequestEvent,
    RequestHead,
    RequestReader,
    encode_request,
    without_hop_by_hop,
)
from tests.hostile.http_requests import HostileRequest, OddRequest, hostile_requests, odd_requests

HOSTILE = hostile_requests()
ODD = odd_requests()


def read(data: bytes, sizes: int | None = None) -> list[RequestEvent]:
    """Return the events of a request, fed whole or in pieces of so many bytes, its body joined."""
    reader, events = RequestReader(), []
    step = sizes or max(len(data), 1)
    for start in range(0, len(data), step):
        events += reader.receive(data[start : start + step])
    return joined(events)


def joined(events: list[RequestEvent]) -> list[RequestEvent]:
    heads: list[RequestEvent] = [event for event in events if isinstance(event, RequestHead)]
    body = b"".join(event for event in events if isinstance(event, bytes))
    ends: list[RequestEvent] = [event for event in events if isinstance(event, EndOfMessage)]
    return [*heads, body, *ends]


@pytest.fixture(params=["httptools", "h11"])
def second_reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with each second reading."""
    parser: str = request.param
    monkeypatch.setattr(http1_heads, "split_request", getattr(http1_split, f"_{parser}_request"))
    monkeypatch.setattr(http1_heads, "split_response", getattr(http1_split, f"_{parser}_response"))
    return parser


# The corpus


@pytest.mark.usefixtures("second_reading")
@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile_requests_are_refused(case: HostileRequest) -> None:
    """Each gets its status from what was sent, without waiting for more."""
    with pytest.raises(HttpRefused) as refused:
        read(case.data)
    assert refused.value.status == case.status
    assert refused.value.rule


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile_requests_are_refused_byte_by_byte(case: HostileRequest) -> None:
    """The verdict does not depend on how the bytes were cut."""
    with pytest.raises(HttpRefused) as refused:
        read(case.data, 1)
    assert refused.value.status == case.status


@pytest.mark.usefixtures("second_reading")
@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_odd_requests_are_accepted(case: OddRequest, size: int | None) -> None:
    """What only looks hostile passes, whole, byte by byte and in small pieces."""
    head, body, end = read(case.data, size)
    assert isinstance(head, RequestHead)
    assert head.target == (case.target or b"/mcp")
    assert body == case.body
    assert end is END_OF_MESSAGE


def test_the_first_fault_names_the_rule() -> None:
    """A refusal says which rule it was."""
    with pytest.raises(HttpRefused, match="both Content-Length and Transfer-Encoding"):
        read(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")


# What a head says


def head_of(lines: bytes, first: bytes = b"GET / HTTP/1.1") -> RequestHead:
    head = read(first + b"\r\n" + lines + b"\r\n")[0]
    assert isinstance(head, RequestHead)
    return head


def test_headers_keep_names_order_and_repetition() -> None:
    """Names stay as they were sent, repeated ones too; whitespace around values goes."""
    head = head_of(b"hOST: a\r\nX-A: 1 \r\nMcp-Method:\ttools/list\r\nx-a: 2\r\n")
    assert head.headers == [(b"hOST", b"a"), (b"X-A", b"1"), (b"Mcp-Method", b"tools/list"), (b"x-a", b"2")]


@pytest.mark.parametrize(
    ("first", "lines", "keep_alive"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: keep-alive\r\n", True),
        (b"GET / HTTP/1.1", b"Connection: x, Close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: x\r\nconnection:close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: closed\r\n", True),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_keep_alive(first: bytes, lines: bytes, keep_alive: bool) -> None:
    """HTTP/1.1 persists unless told otherwise, HTTP/1.0 does not."""
    assert head_of(b"Host: a\r\n" + lines, first).keep_alive is keep_alive


def test_expectations() -> None:
    """100-continue is understood without case; HTTP/1.0 has no expectations."""
    assert head_of(b"Host: a\r\nExpect: 100-Continue\r\n").expect_continue
    assert not head_of(b"Host: a\r\n").expect_continue
    assert not head_of(b"Host: a\r\nExpect: 100-continue\r\n", b"GET / HTTP/1.0").expect_continue


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (b"", NO_BODY),
        (b"Content-Length: 0\r\n", Body(BodyKind.LENGTH, 0)),
        (b"Content-Length: 9007199254740992\r\n", Body(BodyKind.LENGTH, 2**53)),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED),
    ],
)
def test_body_framing(lines: bytes, body: Body) -> None:
    """A request without either field has no body."""
    assert head_of(b"Host: a\r\n" + lines, b"POST / HTTP/1.1").body == body


@pytest.mark.parametrize("host", [b"a", b"a.b-c_d~e:65535", b"127.0.0.1:80", b"[::1]", b"[::1]:8080"])
def test_hosts(host: bytes) -> None:
    """Names, addresses and ports are hosts."""
    assert head_of(b"Host: " + host + b"\r\n").host == host


def test_http_1_0_needs_no_host() -> None:
    """The host is then empty."""
    assert head_of(b"", b"GET / HTTP/1.0").host == b""


@pytest.mark.parametrize(
    ("target", "origin"),
    [
        (b"http://A.test", b"/"),
        (b"HTTPS://a.test/x?y=http://b/", b"/x?y=http://b/"),
        (b"http://a.test?q", b"/?q"),
        (b"//a.test/x", b"//a.test/x"),
    ],
)
def test_absolute_form_is_reduced(target: bytes, origin: bytes) -> None:
    """A target that names the Host becomes a path; a path that looks like a host stays a path."""
    assert head_of(b"Host: a.test\r\n", b"GET " + target + b" HTTP/1.1").target == origin


def test_asterisk_for_options() -> None:
    """OPTIONS may ask about the whole server."""
    assert head_of(b"Host: a\r\n", b"OPTIONS * HTTP/1.1").target == b"*"


def test_limits_are_exact() -> None:
    """A head of just the allowed size and fields passes, and one byte or field more does not."""
    plain = b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\r\n"
    RequestReader(HeadLimits(size=len(plain), fields=2)).receive(plain)
    for limits in (HeadLimits(size=len(plain) - 1), HeadLimits(fields=1)):
        with pytest.raises(HttpRefused) as refused:
            RequestReader(limits).receive(plain)
        assert refused.value.status == 431


# Requests one after the other


def test_the_next_request_waits() -> None:
    """Pipelined bytes are held, and read when the former request is settled."""
    reader = RequestReader()
    one = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    events = reader.receive(one + b"GET /2 HTTP/1.1\r\n")
    assert [type(event) for event in events] == [RequestHead, bytes, EndOfMessage]
    assert reader.receive(b"Host: a\r\n\r\n") == []
    assert len(reader.held) == len(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    head, end = reader.start_next()
    assert isinstance(head, RequestHead)
    assert head.target == b"/2"
    assert end is END_OF_MESSAGE
    assert reader.start_next() == []
    assert not reader.is_in_head


def test_a_body_longer_than_declared_is_the_next_message() -> None:
    """Too much of a body is read as a request, and refused as one."""
    reader = RequestReader()
    reader.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na{}\r\n\r\n")
    with pytest.raises(HttpRefused):
        reader.start_next()


def test_end_of_file() -> None:
    """Between requests it is an end; inside one it is a truncation, which says how far it came."""
    reader = RequestReader()
    reader.receive_eof()
    reader.receive(b"POST / HT")
    assert reader.is_in_head
    with pytest.raises(BodyTruncated):
        reader.receive_eof()
    reader.receive(b"TP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
    with pytest.raises(BodyTruncated) as truncated:
        reader.receive_eof()
    assert (truncated.value.received, truncated.value.expected) == (1, 3)


# Differential tests

_NAMES = [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"X-A", b"Upgrade"]
_VALUES = [b"a", b"1", b"01", b"chunked", b"Chunked", b"gzip, chunked", b"close", b"100-continue", b""]
_BITS = [b"\n", b"\r", b"\0", b" ", b"\t", b"\x0b", b":", b"\xff", b",", b"+", b"#", b"\\", b"\r\n", b"\r\n "]


@st.composite
def nearly_requests(draw: st.DrawFn) -> bytes:
    """Draw request heads that are right, or wrong in a few places."""
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"BREW", b""]))
    target = draw(st.sampled_from([b"/", b"/mcp?x=1", b"*", b"http://a/x", b"http://b/x", b"a:80", b""]))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b""]))
    field = st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES))
    fields = [(b"Host", b"a"), *draw(st.lists(field, max_size=4))]
    lines = [b" ".join((method, target, version)), *(name + b": " + value for name, value in fields)]
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        keep = draw(st.integers(0, 2))
        raw = raw[:at] + draw(st.sampled_from(_BITS)) + raw[at + keep :]
    return raw


def verdict(raw: bytes) -> RequestHead | int | None:
    """Return the head, the status of its refusal, or None while more is wanted."""
    try:
        events = RequestReader().receive(raw)
    except HttpRefused as refused:
        return refused.status
    return events[0] if events and isinstance(events[0], RequestHead) else None


def oracle(raw: bytes) -> Any:
    """Return what h11 makes of it: its event, or None where it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=1500, deadline=None)
@given(nearly_requests())
def test_nothing_is_accepted_that_h11_refuses(raw: bytes) -> None:
    """The same verdict as h11's, or the stricter one; and where both accept, the same reading."""
    ours, theirs = verdict(raw), oracle(raw)
    if not isinstance(ours, RequestHead):
        return
    assert isinstance(theirs, h11.Request)
    assert (ours.method, ours.version) == (theirs.method, theirs.http_version)
    assert theirs.target.endswith(ours.target) or theirs.target.startswith(b"http")
    # h11 writes the name of a transfer coding, which has no case, in lower case.
    as_h11_writes = [
        (name, value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in ours.headers
    ]
    assert as_h11_writes == theirs.headers.raw_items()


@settings(max_examples=1500, deadline=None)
@given(nearly_requests())
def test_both_second_readings_give_the_same_verdict(raw: bytes) -> None:
    """Without httptools everything is refused and understood as with it."""
    verdicts = []
    for parser in ("httptools", "h11"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http1_heads, "split_request", getattr(http1_split, f"_{parser}_request"))
            verdicts.append(verdict(raw))
    assert verdicts[0] == verdicts[1]


@settings(max_examples=500, deadline=None)
@given(nearly_requests(), st.binary(max_size=20), st.integers(1, 40))
def test_cutting_does_not_change_the_verdict(raw: bytes, rest: bytes, size: int) -> None:
    """Heads fed in pieces are judged as they are whole."""

    def outcome(sizes: int | None) -> object:
        try:
            return read(raw + rest, sizes)
        except HttpRefused as refused:
            return refused.status

    whole, pieces = outcome(None), outcome(size)
    assert whole == pieces or isinstance(pieces, int)  # a piece may show a fault before the head is complete
    if isinstance(pieces, list):
        assert whole == pieces


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_documented_error(raw: bytes) -> None:
    """Nothing else ever comes out of a reader."""
    verdict(raw)
    verdict(b"POST / HTTP/1.1\r\nHost: a\r\n" + raw)


# Writing


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_a_rebuilt_request_reads_as_the_original(case: OddRequest) -> None:
    """What we write, we and h11 read as what was meant."""
    head = read(case.data)[0]
    assert isinstance(head, RequestHead)
    again = replace(head, headers=without_hop_by_hop(head.headers))
    raw = encode_request(again)
    back = verdict(raw)
    assert isinstance(back, RequestHead)
    assert (back.method, back.target, back.body) == (head.method, head.target, head.body)
    assert isinstance(oracle(raw), h11.Request)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/x y", []),
        (b"/x\r\nEvil: 1", []),
        (b"", []),
        (b"/", [(b"X", b"a\r\nEvil: 1")]),
        (b"/", [(b"X\r\nEvil", b"a")]),
        (b"/", [(b"X", b"a\nb")]),
        (b"/", [(b"", b"a")]),
    ],
)
def test_nothing_is_injected(target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """A line end in a value is an error here and not a second field there."""
    with pytest.raises(ValueError, match="may not be sent"):
        encode_request(RequestHead(b"GET", target, b"1.1", headers, NO_BODY, True, False, b"a"))


_PASSING = (
    b"Authorization Mcp-Session-Id X-Custom Origin Host Content-Length Via traceparent Last-Event-ID Cookie "
    b"X-Accel-Buffering my_header Allow"
).split()
_KEPT_BACK = (
    b"Connection Keep-Alive TE Trailer Transfer-Encoding UPGRADE Expect Forwarded X-Forwarded-For "
    b"x-forwarded-anything Proxy-Authorization Proxy-Connection Sallyport-Key sallyport_key X_Forwarded_For "
    b"Transfer_Encoding Content_Length X-Nominated x-NOMINATED-too"
).split()


@pytest.mark.parametrize(
    ("name", "passes"), [(name, True) for name in _PASSING] + [(name, False) for name in _KEPT_BACK]
)
def test_which_fields_pass_a_hop(name: bytes, passes: bool) -> None:
    """A short deny-list, what Connection names, and the same in CGI's spelling; all else passes."""
    nominations = [(b"connection", b"X-Nominated"), (b"Connection", b"close , X-Nominated-Too")]
    headers = [(b"A", b"1"), (name, b"v"), (b"A", b"2"), *nominations]
    kept = without_hop_by_hop(headers)
    assert kept == [(b"A", b"1"), *([(name, b"v")] if passes else []), (b"A", b"2")]


@pytest.mark.parametrize(
    "name",
    b"Host Authorization Cookie Set-Cookie Origin Content-Type Content-Length Cache-Control Last-Event-ID "
    b"Mcp-Session-Id Mcp-Method MCP-Protocol-Version Sec-Fetch-Site Access-Control-Allow-Origin "
    b"WWW-Authenticate Location".split(),
)
def test_what_connection_cannot_name(name: bytes) -> None:
    """A field that is meant for the far side arrives there, whatever Connection says of it."""
    headers = [
        (name, b"v"),
        (b"Connection", b"close, " + name.lower() + b",X"),
        (b"X", b"1"),
        (b"CONNECTION", name),
    ]
    assert without_hop_by_hop(headers) == [(name, b"v")]
