"""
Heads of HTTP/1.1 messages: what one says, or why it is refused.

A head is read twice, by two readings that have nothing in common. First one regular expression must match
the raw bytes whole (RFC 9112 with every permission to be lenient left out); then ``httptools`` (``h11`` where
it has no wheel) splits the same bytes, and both must have found the same request line and the same number
of fields. What is refused is looked at again, slowly, only to name the rule.

Parsers on a path disagree about exactly the things refused here (CL with TE, bare LF, obs-fold, two Hosts,
a Host that differs from the absolute form), and each disagreement is a way to smuggle a request. Nothing
here is ever forwarded as it came: ``http1_encode`` writes new heads from what was understood.

Deliberately absent: bodies (``http1_body``), trailers, upgrades, HTTP/0.9 and HTTP/2.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1_split import split_request, split_response

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """
    How large a head may be.

    Attributes:
        size: Bytes of the whole head, both empty lines included. Answers a caller that never ends its head:
            this is what each connection can make us hold. Node allows 16 KiB, nginx 32 KiB, h11 16 KiB;
            MCP mirrors arguments into headers, hence more.
        fields: Header fields. Answers quadratic work over many tiny fields. aiohttp and Apache allow 100.
    """

    size: int = 64 * 1024
    fields: int = 100


# Lengths above this are refused: they are exact in every implementation's numbers, JavaScript's included.
MAX_LENGTH = 2**53

_DEFAULT_LIMITS = HeadLimits()


class BodyKind(Enum):
    """How the end of a body is found (RFC 9112 §6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"  # answers only


@dataclass(frozen=True, slots=True)
class Body:
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
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    body: Body
    keep_alive: bool
    expect_continue: bool
    host: bytes


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
    """

    status: int
    reason: bytes
    headers: Headers
    body: Body
    keep_alive: bool


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_FIELDS = rb"(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*+\r\n"
# Visible ASCII without "#" (a fragment is never sent) and "\" (some servers read it as "/").
_TARGET = rb"[!-\x22$-\x5b\x5d-~]++"
REQUEST_SHAPE = re.compile(rb"(" + _TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])\r\n" + _FIELDS)
RESPONSE_SHAPE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (" + _VALUE + rb"))?\r\n" + _FIELDS)
FIELD_LINE = re.compile(_TOKEN + rb":" + _VALUE + rb"\r\n")

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
        raise _request_fault(raw)
    method, target, minor = shape.groups()
    _check_method(method)
    headers = split_request(raw, method, target)
    framing = _framing_fields(headers if headers is not None else _slow_split(raw))
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
        raise _response_fault(raw)
    minor, digits, reason = shape.groups()
    status, version = int(digits), b"1." + minor
    if status == 101:
        raise HttpRefused(502, "answer 101 to a request that asked for no upgrade")
    headers = split_response(raw, status)
    framing = _framing_fields(headers if headers is not None else _slow_split(raw))
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


# Naming what is wrong: only ever reached for a head that is refused

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_WHOLE_TOKEN = re.compile(_TOKEN)
_WHOLE_TARGET = re.compile(_TARGET)
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_STATUS = re.compile(rb"[1-5][0-9]{2}")
# The beginning of a head, as far as it has come, must not hold what no head may hold. A final CR is judged
# with the byte that follows it.
_EARLY_FAULT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")


def check_beginning(beginning: bytes | bytearray, since: int, *, status: int) -> None:
    """
    Refuse an unfinished head as soon as it cannot become a good one.

    Without this, a head with bare LF line ends would be waited for until the head timeout.

    Args:
        beginning: The head as far as it has come.
        since: How many of its bytes were checked before.
        status: The status to refuse with.

    Raises:
        HttpRefused: A control character, a bare CR or LF, or an empty line before the message.
    """
    if beginning.startswith((b"\r", b" ", b"\t")):
        raise HttpRefused(status, "whitespace before the message")
    # A regular expression's lookbehind sees the bytes before its start, so nothing is checked twice but
    # the byte that might have been a final CR.
    fault = _EARLY_FAULT.search(beginning, max(since - 1, 0))
    if fault is not None:
        raise HttpRefused(status, _byte_rule(fault.group()))


def _byte_rule(fault: bytes) -> str:
    return {b"\n": "bare LF", b"\r": "bare CR"}.get(fault, "control character in the head")


def _byte_fault(raw: bytes, status: int) -> HttpRefused | None:
    if raw.startswith((b"\r", b"\n", b" ", b"\t")):
        return HttpRefused(status, "whitespace before the message")
    fault = _CONTROL.search(raw) or _BARE_LINE_END.search(raw)
    return None if fault is None else HttpRefused(status, _byte_rule(fault.group()))


def _request_fault(raw: bytes) -> HttpRefused:
    fault = _byte_fault(raw, 400)
    if fault is not None:
        return fault
    line, _, fields = raw.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or not _WHOLE_TOKEN.fullmatch(parts[0]):
        return HttpRefused(400, "malformed request line")
    _, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if _VERSION.fullmatch(version):
            return HttpRefused(505, "HTTP version")
        return HttpRefused(400, "malformed request line")
    if not _WHOLE_TARGET.fullmatch(target):
        return HttpRefused(400, "malformed request target")
    return _fields_fault(fields, 400)


def _response_fault(raw: bytes) -> HttpRefused:
    fault = _byte_fault(raw, 502)
    if fault is not None:
        return fault
    line, _, fields = raw.partition(b"\r\n")
    version, _, rest = line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return HttpRefused(502, "answer that is not HTTP/1.1")
    if not _STATUS.fullmatch(rest[:3]) or rest[3:4].strip(b" "):
        return HttpRefused(502, "malformed status line")
    return _fields_fault(fields, 502)


def _fields_fault(fields: bytes, status: int) -> HttpRefused:
    for line in fields.split(b"\r\n"):
        if line.startswith((b" ", b"\t")):
            return HttpRefused(status, "folded header field")
        name, colon, _ = line.partition(b":")
        if line and (not colon or not name):
            return HttpRefused(status, "header field without a name")
        if line and name.endswith((b" ", b"\t")):
            return HttpRefused(status, "whitespace before a colon")
        if line and not _WHOLE_TOKEN.fullmatch(name):
            return HttpRefused(status, "malformed header name")
    return HttpRefused(status, "malformed head")


def _slow_split(raw: bytes) -> Headers:
    """Split a well-shaped head that the second reading refused, so that our rules can name the reason."""
    lines = raw.split(b"\r\n")[1:-2]
    return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
