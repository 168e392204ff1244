"""
Heads of HTTP/1.1 messages: what one says, or why it is refused.

A head is read twice, by two readings that have nothing in common. First one regular expression must match
the raw bytes whole (``http1_grammar``); then ``httptools`` (``h11`` where it has no wheel) splits the same
bytes (``http1_split``), and both must have found the same request line and the same number of fields. Then
comes what the fields mean together, here. What is refused is looked at again, slowly, only to name the
rule (``http1_faults``).

Parsers on a path disagree about exactly the things refused here (CL with TE, bare LF, obs-fold, two Hosts,
a Host that differs from the absolute form), and each disagreement is a way to smuggle a request. Nothing
here is ever forwarded as it came: ``http1_encode`` writes new heads from what was understood.

Deliberately absent: bodies (``http1_body``), trailers, upgrades, HTTP/0.9 and HTTP/2.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1_faults import request_fault, response_fault
from sallyport.tunnel.http1_grammar import REQUEST_SHAPE, RESPONSE_SHAPE, Headers
from sallyport.tunnel.http1_split import plain_split, split_request, split_response
from sallyport.tunnel.limits import limit

HEAD_SIZE: Final = limit(
    64 * 1024, "bytes",
    "of a head, both empty lines included: what a caller that never ends its head can make us hold. Node "
    "allows 16 KiB, nginx 32 KiB, h11 16 KiB; MCP mirrors arguments into headers, hence more",
)  # fmt: skip
HEAD_FIELDS: Final = limit(
    100, "fields",
    "of a head: many tiny fields cost more work than their bytes. aiohttp and Apache allow as many",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """
    How large a head may be.

    Attributes:
        size: Bytes of the whole head, both empty lines included.
        fields: Header fields.
    """

    size: int = HEAD_SIZE
    fields: int = HEAD_FIELDS


MAX_LENGTH: Final = limit(
    2**53, "bytes",
    "the largest Content-Length that is understood: exact in every implementation's numbers, JavaScript's "
    "included",
)  # fmt: skip

_DEFAULT_LIMITS = HeadLimits()


class BodyKind(Enum):
    """How the end of a body is found (RFC 9112 §6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"  # answers only


class Body(NamedTuple):
    """
    The framing of a body.

    Attributes:
        kind: How its end is found.
        length: Bytes, for ``BodyKind.LENGTH``; 0 for the others.
    """

    kind: BodyKind
    length: int = 0


NO_BODY = Body(BodyKind.NONE)
CHUNKED = Body(BodyKind.CHUNKED)
UNTIL_CLOSE = Body(BodyKind.UNTIL_CLOSE)


@dataclass(slots=True)
class RequestHead:
    """
    The head of a request.

    Attributes:
        method: One of ``METHODS``.
        target: In origin form (``/path?query``), or ``*`` for OPTIONS; an absolute form is reduced to it.
        version: ``b"1.1"`` or ``b"1.0"``.
        headers: Names as they were sent, in order, repeated ones too; values without surrounding whitespace.
        body: Its framing: none, a length, or chunked.
        keep_alive: Whether the caller's connection may carry another request; never so for HTTP/1.0.
        expect_continue: Whether the caller waits for ``100 Continue`` before it sends the body.
        host: The value of Host; empty where an HTTP/1.0 caller sent none.
        model: The head that this one repeats but for the digits of its Content-Length (``http1_memo``); None
            for one that was read anew. What depends on anything else is true of both.
        plan: What the connection's owner remembers of a model; nobody else looks at it.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    body: Body
    keep_alive: bool
    expect_continue: bool
    host: bytes
    model: "RequestHead | None" = field(default=None, compare=False, repr=False)
    plan: object = field(default=None, compare=False, repr=False)

    def with_length(self, digits: bytes, position: int) -> "RequestHead":
        """
        Return the head that differs from this one in the length of its body only.

        Args:
            digits: The value of Content-Length.
            position: Where that field stands among the headers.
        """
        return RequestHead(
            self.method,
            self.target,
            self.version,
            _with_value(self.headers, position, digits),
            Body(BodyKind.LENGTH, int(digits)),
            self.keep_alive,
            self.expect_continue,
            self.host,
            self,
        )


@dataclass(slots=True)
class ResponseHead:
    """
    The head of an answer, interim ones (1xx) included.

    Attributes:
        status: 100 to 599, never 101.
        reason: The reason phrase, which may be empty.
        headers: As in a request.
        body: Its framing, given the request's method.
        keep_alive: Whether the connection may carry another request.
        model: As in a request.
        passing: What of it passes to the next hop, once somebody has written that down (``http1_encode``).
    """

    status: int
    reason: bytes
    headers: Headers
    body: Body
    keep_alive: bool
    model: "ResponseHead | None" = field(default=None, compare=False, repr=False)
    passing: bytes | None = field(default=None, compare=False, repr=False)

    def with_length(self, digits: bytes, position: int) -> "ResponseHead":
        """Return the head that differs from this one in the length of its body only: as for requests."""
        body = Body(BodyKind.LENGTH, int(digits))
        headers = _with_value(self.headers, position, digits)
        return ResponseHead(self.status, self.reason, headers, body, self.keep_alive, self)


def _with_value(headers: Headers, position: int, value: bytes) -> Headers:
    changed = headers.copy()
    changed[position] = (headers[position][0], value)
    return changed


METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"QUERY"})
# Tunnels and echoes through a gateway are what a confused deputy is made of (RFC 9110 §9.3.6, §9.3.8).
_REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(.*)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,15}")
_FRAMING_FIELDS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})


def parse_request_head(raw: bytes, limits: HeadLimits = _DEFAULT_LIMITS) -> RequestHead:
    """
    Read one complete request head (RFC 9112 §3, §5, §6).

    Args:
        raw: From the first byte of the request line to the empty line, that included.
        limits: How many fields it may have; its size was checked by whoever isolated it.

    Raises:
        HttpRefused: With the status for the caller (400, 405, 417, 431, 501, 505) and the rule's name.
    """
    _check_fields_count(raw, limits, status=431)
    shape = REQUEST_SHAPE.fullmatch(raw)
    if shape is None:
        raise request_fault(raw)
    method, target, minor = shape.groups()
    _check_method(method)
    headers = split_request(raw, method, target)
    framing = _framing_fields(headers if headers is not None else plain_split(raw))
    version = b"1." + minor
    host = _host(framing.get(b"host", []), version)
    target = _origin_form(target, method, host)
    body = _declared_body(framing, version, status=400) or NO_BODY
    expect_continue = _expects_continue(framing.get(b"expect", []), version)
    if headers is None:
        # Every rule of ours passed and the second reading still differs: nobody knows what it says.
        raise HttpRefused(400, "malformed head")
    keep_alive = version == b"1.1" and b"close" not in _connection_options(framing)
    return RequestHead(method, target, version, headers, body, keep_alive, expect_continue, host)


def parse_response_head(raw: bytes, method: bytes, limits: HeadLimits = _DEFAULT_LIMITS) -> ResponseHead:
    """
    Read one complete head of an answer (RFC 9112 §4, §6.3).

    Args:
        raw: From the first byte of the status line to the empty line, that included.
        method: The method of the request, which decides whether a body follows.
        limits: How many fields it may have.

    Raises:
        HttpRefused: With status 502 and the rule's name.
    """
    _check_fields_count(raw, limits, status=502)
    shape = RESPONSE_SHAPE.fullmatch(raw)
    if shape is None:
        raise response_fault(raw)
    minor, digits, reason = shape.groups()
    status, version = int(digits), b"1." + minor
    if status == 101:
        raise HttpRefused(502, "answer 101 to a request that asked for no upgrade")
    headers = split_response(raw, status)
    framing = _framing_fields(headers if headers is not None else plain_split(raw))
    declared = _declared_body(framing, version, status=502)
    if headers is None:
        raise HttpRefused(502, "malformed head")
    if method == b"HEAD" or status < 200 or status in (204, 304):
        body = NO_BODY
    else:
        body = declared or UNTIL_CLOSE
    persistent = version == b"1.1" and body is not UNTIL_CLOSE
    keep_alive = persistent and b"close" not in _connection_options(framing)
    return ResponseHead(status, reason or b"", headers, body, keep_alive)


# What the fields mean for the framing


def _check_fields_count(raw: bytes, limits: HeadLimits, *, status: int) -> None:
    # Two line ends are not those of a field: the first line's and the empty line's.
    if raw.count(b"\n") - 2 > limits.fields:
        raise HttpRefused(status, f"more than {limits.fields} header fields")


def _check_method(method: bytes) -> None:
    if method in METHODS:
        return
    if method in _REFUSED_METHODS:
        raise HttpRefused(405, f"method {method.decode('ascii')}")
    raise HttpRefused(501, "unknown method")


def _framing_fields(headers: Headers) -> Mapping[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered in _FRAMING_FIELDS:
            fields.setdefault(lowered, []).append(value)
    return fields


def _host(values: list[bytes], version: bytes) -> bytes:
    """Return the one Host (RFC 9112 §3.2)."""
    if not values and version == b"1.0":
        return b""
    if len(values) != 1:
        raise HttpRefused(400, "two Host fields" if values else "no Host field")
    if not _HOST.fullmatch(values[0]):
        raise HttpRefused(400, "malformed Host")
    return values[0]


def _origin_form(target: bytes, method: bytes, host: bytes) -> bytes:
    """Reduce the target to origin form; an absolute form must name the Host (RFC 9112 §3.2.2)."""
    if target.startswith(b"/"):
        return target
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise HttpRefused(400, "malformed request target")
    authority, rest = absolute.groups()
    if not authority or authority.lower() != host.lower():
        raise HttpRefused(400, "absolute form for another host")
    return rest if rest.startswith(b"/") else b"/" + rest


def _declared_body(framing: Mapping[bytes, list[bytes]], version: bytes, *, status: int) -> Body | None:
    """Return the framing that Content-Length or Transfer-Encoding declares; None when neither is there."""
    lengths = framing.get(b"content-length")
    codings = framing.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise HttpRefused(status, "both Content-Length and Transfer-Encoding")
        if version == b"1.0":
            raise HttpRefused(status, "Transfer-Encoding in HTTP/1.0")
        # Coding names have no case (RFC 9112 §7); anything but this one coding, once, is refused.
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise HttpRefused(status, "Transfer-Encoding other than chunked")
        return CHUNKED
    if lengths is None:
        return None
    if len(lengths) != 1:
        raise HttpRefused(status, "two Content-Length fields")
    if not _LENGTH.fullmatch(lengths[0]):
        raise HttpRefused(status, "malformed Content-Length")
    length = int(lengths[0])
    if length > MAX_LENGTH:
        raise HttpRefused(status, "malformed Content-Length")
    return Body(BodyKind.LENGTH, length)


def _expects_continue(values: list[bytes], version: bytes) -> bool:
    """Whether to answer 100 (RFC 9110 §10.1.1: any other expectation is 417, and 1.0 knows none)."""
    if version == b"1.0":
        return False
    if any(value.lower() != b"100-continue" for value in values):
        raise HttpRefused(417, "unknown expectation")
    return bool(values)


def _connection_options(framing: Mapping[bytes, list[bytes]]) -> set[bytes]:
    values = framing.get(b"connection")
    if values is None:
        return set()
    return {option.strip(b" \t").lower() for value in values for option in value.split(b",")}
