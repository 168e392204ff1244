"""
The second reading of a head: ``httptools``, or ``h11`` where there is no wheel of it.

Both are given one complete head and nothing else, so neither ever sees a body, and both return only the
fields. None means that this reading does not agree with the first (``http1_heads``), which refuses the head.
httptools costs 2 µs for a head and h11 30 µs; the verdicts are the same, and a test holds them to it.

h11 only judges: it tidies the values that it returns (a Content-Length of ``1, 1`` comes back as ``1``), and
what a field means is for ``http1_heads`` to say about the bytes that were sent.
"""

from collections.abc import Callable

import h11

from sallyport.tunnel.http1_grammar import Headers

try:
    import httptools
except ImportError:
    _HAS_HTTPTOOLS = False
else:
    _HAS_HTTPTOOLS = True



def plain_split(raw: bytes) -> Headers:
    """Split the fields of a head that has the shape of one, and judge nothing."""
    lines = raw.split(b"\r\n")[1:-2]
    return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]


class _Collector:
    """What httptools calls back."""

    __slots__ = ("fields", "on_header", "target")

    def __init__(self) -> None:
        self.fields: Headers = []
        self.target = b""
        self.on_header: Callable[[bytes, bytes], None] = self._add

    def _add(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_url(self, url: bytes) -> None:
        self.target += url


def _httptools_request(raw: bytes, method: bytes, target: bytes) -> Headers | None:
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        # An Upgrade is ignored, as RFC 9110 §7.8 allows: the head is complete all the same.
        pass
    except httptools.HttpParserError:
        return None
    agreed = parser.get_method() == method and collector.target == target
    return collector.fields if agreed and _has_all(collector.fields, raw) else None


def _httptools_response(raw: bytes, status: int) -> Headers | None:
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserError:
        return None
    agreed = parser.get_status_code() == status
    return collector.fields if agreed and _has_all(collector.fields, raw) else None


def _h11_request(raw: bytes, method: bytes, target: bytes) -> Headers | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request) or event.method != method or event.target != target:
        return None
    return plain_split(raw) if _has_all(event.headers.raw_items(), raw) else None


def _h11_response(raw: bytes, status: int) -> Headers | None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Response | h11.InformationalResponse) or event.status_code != status:
        return None
    return plain_split(raw) if _has_all(event.headers.raw_items(), raw) else None


def _has_all(fields: Headers, raw: bytes) -> bool:
    # Every line but the first and the last, which is empty, is one field.
    return len(fields) == raw.count(b"\n") - 2


split_request: Callable[[bytes, bytes, bytes], Headers | None]
split_response: Callable[[bytes, int], Headers | None]
if _HAS_HTTPTOOLS:
    split_request, split_response = _httptools_request, _httptools_response
else:
    split_request, split_response = _h11_request, _h11_response
