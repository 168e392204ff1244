"""
Writing HTTP/1.1: heads from what was understood, chunks, and which fields may pass a hop.

The mirror of ``http1_heads``. A head that is written here is matched against the same expression that one
must match to be read, so a line end smuggled into a value by any mistake above cannot leave.
"""

import re
from dataclasses import dataclass

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

# Fields for whoever handles the request or reads the answer: Connection must not name them (RFC 9110 §7.6.1).
# If it could, the far side would judge a message without what was judged here: whom it is for, who sends
# it, what it holds, which method and session of MCP it means.
_END_TO_END = frozenset(
    b"authorization cache-control cookie host last-event-id location origin set-cookie "
    b"www-authenticate".split(),
)
_END_TO_END_PREFIXES = (b"access-control-", b"content-", b"mcp-", b"sec-")

_FRAMING = (b"content-length", b"transfer-encoding", b"connection")


def without_hop_by_hop(headers: Headers) -> Headers:
    """
    Return the fields that pass to the next hop: all but a short list, in order, as they were sent.

    Kept back are hop-by-hop fields and those that Connection names, Expect, Forwarded, X-Forwarded-*,
    Proxy-* and Sallyport-*, also where they are written with underscores. Connection cannot name Host, nor
    any other field that the far side must see as it was judged here.
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


@dataclass(frozen=True, slots=True)
class OutgoingHead:
    """
    The head of a request on its way out: all of it but the framing fields.

    Apart, because those are the body's matter, and the rest is often the same for many requests.

    Attributes:
        method: As in ``RequestHead``.
        beginning: The request line and the fields, each with its line end.
    """

    method: bytes
    beginning: bytes

    @classmethod
    def of(cls, head: RequestHead) -> "OutgoingHead":
        """
        Write a head down: HTTP/1.1, without the framing fields that it came with.

        Raises:
            ValueError: The head is not one that we would accept ourselves.
        """
        lines = [b"%b %b HTTP/1.1" % (head.method, head.target)]
        lines += [b"%b: %b" % field for field in head.headers if field[0].lower() not in _FRAMING]
        return cls(head.method, _beginning(lines, REQUEST_SHAPE))

    def framed(self, body: Body) -> bytes:
        """Return the whole head, for a body with that framing."""
        return _framed(self.beginning, body)


def encode_request(head: RequestHead) -> bytes:
    """
    Write a request head: HTTP/1.1, with the framing fields that ``head.body`` asks for.

    Raises:
        ValueError: The head is not one that we would accept ourselves.
    """
    return OutgoingHead.of(head).framed(head.body)


def encode_response(head: ResponseHead) -> bytes:
    """
    Write the head of an answer: HTTP/1.1, with the framing fields that ``head.body`` asks for.

    ``Connection: close`` is added unless ``head.keep_alive``. An answer without a body keeps the
    Content-Length that it had, which tells what HEAD and 304 leave out, unless its status forbids one.

    Raises:
        ValueError: The head is not one that we would accept ourselves.
    """
    beginning = _response_beginning(head, head.headers)
    return _framed(beginning, head.body, closes=not head.keep_alive and head.status >= 200)


def pass_response(head: ResponseHead, body: Body, *, keep_alive: bool) -> bytes:
    """
    Write the head of an answer for the next hop: ``encode_response`` of what passes it.

    Args:
        head: As it was received.
        body: The framing that the next hop gets.
        keep_alive: Whether the connection to it goes on.

    Raises:
        ValueError: As ``encode_response``.
    """
    model = head.model or head
    passing = model.passing
    if passing is None:
        passing = model.passing = _response_beginning(model, without_hop_by_hop(model.headers))
    return _framed(passing, body, closes=not keep_alive and head.status >= 200)


def _response_beginning(head: ResponseHead, fields: Headers) -> bytes:
    """Return the status line and the fields, each with its line end, all but the framing fields."""
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    keeps_length = head.body.kind is BodyKind.NONE and head.status >= 200 and head.status != 204
    for field in fields:
        name = field[0].lower()
        if name not in _FRAMING or (keeps_length and name == b"content-length"):
            lines.append(b"%b: %b" % field)
    return _beginning(lines, RESPONSE_SHAPE)


def chunk(data: bytes) -> bytes:
    """Return data, which must not be empty, as one chunk: an empty one would end the body."""
    if not data:
        raise ValueError("an empty chunk")
    return b"%x\r\n%b\r\n" % (len(data), data)


def _beginning(lines: list[bytes], shape: re.Pattern[bytes]) -> bytes:
    """Join the lines of a head, which is complete but for the framing fields and the empty line."""
    joined = b"\r\n".join([*lines, b""])
    # A line end inside a value could make two fields of one, both well shaped: so the lines are counted.
    if not shape.fullmatch(joined + b"\r\n") or joined.count(b"\n") != len(lines):
        raise ValueError("a head that may not be sent")
    return joined


def _framed(beginning: bytes, body: Body, *, closes: bool = False) -> bytes:
    """Add the framing fields, ``Connection: close`` where the connection ends, and the empty line."""
    end = b"Connection: close\r\n\r\n" if closes else b"\r\n"
    kind, length = body
    if length or kind is BodyKind.LENGTH:
        return b"%bContent-Length: %d\r\n%b" % (beginning, length, end)
    return beginning + (b"Transfer-Encoding: chunked\r\n" if kind is BodyKind.CHUNKED else b"") + end


def _nominated(headers: Headers) -> frozenset[bytes]:
    """Return the names that Connection fields name, and may name."""
    values = [value for name, value in headers if len(name) == 10 and name.lower() == b"connection"]
    if not values:
        return frozenset()
    options = {option.strip(b" \t").lower() for value in values for option in value.split(b",")}
    return frozenset(
        option for option in options - _END_TO_END if not option.startswith(_END_TO_END_PREFIXES)
    )
