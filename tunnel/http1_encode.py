"""
Writing HTTP/1.1: heads from what was understood, chunks, and which fields may pass a hop.

The mirror of ``http1_heads``. A head that is written here is matched against the same expression that one
must match to be read, so a line end smuggled into a value by any mistake above cannot leave.
"""

from sallyport.tunnel.http1_grammar import REQUEST_SHAPE, RESPONSE_SHAPE, Headers
from sallyport.tunnel.http1_heads import Body, BodyKind, RequestHead, ResponseHead

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Fields that mean this hop only (RFC 9110 §7.6.1), and Expect, which this hop answers.
_HOP_BY_HOP = frozenset(
    b"connection expect forwarded keep-alive te trailer transfer-encoding upgrade".split(),
)
_DENIED_PREFIXES = (b"x-forwarded-", b"proxy-", b"sallyport-")
# CGI and WSGI servers read "_" as "-", so with it these would be second copies of what decides a message.
_DENIED_WITH_UNDERSCORES = frozenset({b"content-length", b"host"}) | _HOP_BY_HOP

_FRAMING = (b"content-length", b"transfer-encoding", b"connection")


def without_hop_by_hop(headers: Headers) -> Headers:
    """
    Return the fields that pass to the next hop: all but a short list, in order, as they were sent.

    Kept back are hop-by-hop fields and those that Connection names, Expect, Forwarded, X-Forwarded-*,
    Proxy-* and Sallyport-*, also where they are written with underscores.
    """
    nominated = _nominated(headers)
    passing = []
    for field in headers:
        name = field[0].lower()
        if b"_" in name:
            name = name.replace(b"_", b"-")
            if name in _DENIED_WITH_UNDERSCORES:
                continue
        if name not in _HOP_BY_HOP and name not in nominated and not name.startswith(_DENIED_PREFIXES):
            passing.append(field)
    return passing


def encode_request(head: RequestHead) -> bytes:
    """
    Write a request head: HTTP/1.1, with the framing fields that ``head.body`` asks for.

    Raises:
        ValueError: The head is not one that we would accept ourselves.
    """
    lines = [head.method, b" ", head.target, b" HTTP/1.1\r\n"]
    for name, value in head.headers:
        if name.lower() not in _FRAMING:
            lines += (name, b": ", value, b"\r\n")
    lines.append(_framing_line(head.body))
    lines.append(b"\r\n")
    encoded = b"".join(lines)
    if not REQUEST_SHAPE.fullmatch(encoded):
        raise ValueError("a request head that may not be sent")
    return encoded


def encode_response(head: ResponseHead) -> bytes:
    """
    Write the head of an answer: HTTP/1.1, with the framing fields that ``head.body`` asks for.

    ``Connection: close`` is added unless ``head.keep_alive``. An answer without a body keeps the
    Content-Length that it had, which tells what HEAD and 304 leave out, unless its status forbids one.

    Raises:
        ValueError: The head is not one that we would accept ourselves.
    """
    lines = [b"HTTP/1.1 %d " % head.status, head.reason, b"\r\n"]
    bodiless = head.status < 200 or head.status == 204
    keeps_length = head.body.kind is BodyKind.NONE and not bodiless
    for name, value in head.headers:
        lowered = name.lower()
        if lowered not in _FRAMING or (keeps_length and lowered == b"content-length"):
            lines += (name, b": ", value, b"\r\n")
    lines.append(_framing_line(head.body))
    lines.append(b"\r\n" if head.keep_alive or head.status < 200 else b"Connection: close\r\n\r\n")
    encoded = b"".join(lines)
    if not RESPONSE_SHAPE.fullmatch(encoded):
        raise ValueError("the head of an answer that may not be sent")
    return encoded


def chunk(data: bytes) -> bytes:
    """Return data, which must not be empty, as one chunk: an empty one would end the body."""
    if not data:
        raise ValueError("an empty chunk")
    return b"%x\r\n%b\r\n" % (len(data), data)


def _framing_line(body: Body) -> bytes:
    match body.kind:
        case BodyKind.LENGTH:
            return b"Content-Length: %d\r\n" % body.length
        case BodyKind.CHUNKED:
            return b"Transfer-Encoding: chunked\r\n"
        case BodyKind.NONE | BodyKind.UNTIL_CLOSE:
            return b""


def _nominated(headers: Headers) -> frozenset[bytes]:
    """Return the names that Connection fields name."""
    values = [value for name, value in headers if len(name) == 10 and name.lower() == b"connection"]
    if not values:
        return frozenset()
    return frozenset(option.strip(b" \t").lower() for value in values for option in value.split(b","))
