"""
HTTP/1.1 requests that must be refused, each with the status that answers it, and odd ones that must not be.

``hostile_requests`` takes the host and the path of a server that the door under test would serve, so that
each case is refused for its own reason. After its answer the connection closes. A fault in the head never
reaches an upstream; one in the body may come when the head has been forwarded already.

Cases that no parser may wait for (a chunk size of 17 digits, bare LF line ends) end without the bytes that a
lenient parser would wait for; nothing here depends on time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HostileRequest:
    """
    One case.

    Attributes:
        name: What is hostile about it.
        data: What the caller sends; after it, he stays silent and does not close.
        status: What answers it.
        fault: Where it is wrong.
    """

    name: str
    data: bytes
    status: int
    fault: Literal["head", "body"] = "head"


@dataclass(frozen=True)
class OddRequest:
    """
    One case that looks hostile and is not.

    Attributes:
        name: What is odd about it.
        data: What the caller sends.
        body: The body that the upstream must get.
        target: The target that it must get.
    """

    name: str
    data: bytes
    body: bytes = b""
    target: bytes = b""


def hostile_requests(host: bytes = b"server.test", path: bytes = b"/mcp") -> list[HostileRequest]:
    """Return the corpus for a server with that host (as it goes into Host) and path."""
    return [*_framing(host, path), *_lines(host, path), *_targets(host, path), *_chunks(host, path)]


def odd_requests(host: bytes = b"server.test", path: bytes = b"/mcp") -> list[OddRequest]:
    """Return requests that a strict reader accepts all the same."""
    line_and_host = b"%b HTTP/1.1\r\nHost: %b\r\n" % (path, host)
    post = b"POST " + line_and_host
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    two = b"Content-Length: 2\r\n\r\nab"
    mixed = b"tRANSFER-eNCODING: ChUnKeD\r\n\r\n1\r\na\r\n0\r\n\r\n"
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
    absolute = b"GET http://%b%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (host.upper(), path, host)
    query = path + b'?a={|}[^]%00"'
    return [
        OddRequest("mixed-case coding", post + mixed, b"a"),
        OddRequest("capital, zeros", chunked + b"00A\r\nabcdefghij\r\n00\r\n\r\n", b"abcdefghij"),
        OddRequest("chunk extension", chunked + b'2;a=b;c="d"\r\nab\r\n0;e\r\n\r\n', b"ab"),
        OddRequest("CL in a trailer", chunked + b"1\r\na\r\n0\r\nContent-Length: 9\r\n\r\n", b"a"),
        OddRequest("no whitespace behind a colon", post + two.replace(b": ", b":"), b"ab"),
        OddRequest("whitespace around a value", post + two.replace(b" 2", b" \t 2 \t "), b"ab"),
        OddRequest("empty value", post + b"X-Empty:\r\n" + two, b"ab"),
        OddRequest("bytes above 127 in a value", post + b"X-Bytes: \xff\xc3\xa9\r\n" + two, b"ab"),
        OddRequest("Upgrade with a body", post + upgrade + two, b"ab"),
        OddRequest("absolute form for this host", absolute),
        OddRequest("HTTP/1.0", post.replace(b"/1.1", b"/1.0") + two, b"ab"),
        OddRequest("body with GET", b"GET " + line_and_host + two, b"ab"),
        OddRequest("odd query", post.replace(path, query, 1) + two, b"ab", query),
    ]


def _framing(host: bytes, path: bytes) -> Iterable[HostileRequest]:
    """Two readings of where the body ends: request smuggling."""
    first = b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (path, host)
    chunks = b"1\r\na\r\n0\r\n\r\n"

    def fields(name: str, lines: bytes, body: bytes = b"", status: int = 400) -> HostileRequest:
        return HostileRequest(name, first + lines + b"\r\n" + body, status)

    yield fields("CL and TE", b"Content-Length: 11\r\nTransfer-Encoding: chunked\r\n", chunks)
    yield fields("TE and CL", b"Transfer-Encoding: chunked\r\nContent-Length: 11\r\n", chunks)
    yield fields("TE gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", chunks)
    yield fields("TE chunked, identity", b"Transfer-Encoding: chunked, identity\r\n", chunks)
    yield fields("TE twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks)
    yield fields("TE xchunked", b"Transfer-Encoding: xchunked\r\n", chunks)
    yield fields("TE identity", b"Transfer-Encoding: identity\r\n", chunks)
    yield fields("TE empty", b"Transfer-Encoding:\r\n", chunks)
    yield fields("TE quoted", b'Transfer-Encoding: "chunked"\r\n', chunks)
    yield fields("TE with a parameter", b"Transfer-Encoding: chunked;a=b\r\n", chunks)
    yield fields("TE with a comma", b"Transfer-Encoding: chunked,\r\n", chunks)
    yield fields("TE with a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n", chunks)
    yield fields("TE with a space before the colon", b"Transfer-Encoding : chunked\r\n", chunks)
    yield fields("TE folded", b"Transfer-Encoding:\r\n chunked\r\n", chunks)
    yield HostileRequest(
        "TE on HTTP/1.0",
        b"POST %b HTTP/1.0\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (path, host) + chunks,
        400,
    )
    for name, lines in {
        "CL list": b"Content-Length: 1, 1\r\n",
        "CL twice, the same": b"Content-Length: 1\r\nContent-Length: 1\r\n",
        "CL twice, differing": b"Content-Length: 1\r\nContent-Length: 2\r\n",
        "CL with a plus": b"Content-Length: +1\r\n",
        "CL negative": b"Content-Length: -1\r\n",
        "CL hexadecimal": b"Content-Length: 0x1\r\n",
        "CL with an underscore": b"Content-Length: 1_0\r\n",
        "CL with a leading zero": b"Content-Length: 01\r\n",
        "CL with a space inside": b"Content-Length: 1 0\r\n",
        "CL empty": b"Content-Length:\r\n",
        "CL Arabic digit": "Content-Length: ١\r\n".encode(),
        "CL fraction": b"Content-Length: 1.0\r\n",
        "CL beyond 2^53": b"Content-Length: 9007199254740993\r\n",
        "CL of 40 digits": b"Content-Length: " + b"9" * 40 + b"\r\n",
    }.items():
        yield fields(name, lines, b"a")
    yield fields("unknown expectation", b"Expect: 200-ok\r\nContent-Length: 1\r\n", b"a", 417)
    yield fields("two expectations", b"Expect: 100-continue, x\r\nContent-Length: 1\r\n", b"a", 417)


def _lines(host: bytes, path: bytes) -> Iterable[HostileRequest]:
    """Two readings of where a line, a name or the head ends."""
    first = b"GET %b HTTP/1.1\r\n" % path
    host_line = b"Host: %b\r\n" % host
    for name, data in {
        "bare LF everywhere": b"GET %b HTTP/1.1\nHost: %b\n\n" % (path, host),
        "bare LF behind the request line": b"GET %b HTTP/1.1\n" % path + host_line + b"\r\n",
        "bare LF at the end": first + host_line + b"\n",
        "bare LF inside a value": first + host_line + b"X: a\nY: b\r\n\r\n",
        "bare CR inside a value": first + host_line + b"X: a\rY: b\r\n\r\n",
        "bare CR before CRLF": first + host_line + b"X: a\r\r\n\r\n",
        "leading CRLF": b"\r\n" + first + host_line + b"\r\n",
        "leading space": b" " + first + host_line + b"\r\n",
        "folded field": first + host_line + b"X: a\r\n b\r\n\r\n",
        "folded with a tab": first + host_line + b"X: a\r\n\tb\r\n\r\n",
        "space before the first field": first + b" X: a\r\n" + host_line + b"\r\n",
        "space before a colon": first + host_line + b"X : a\r\n\r\n",
        "empty name": first + host_line + b": a\r\n\r\n",
        "no colon": first + host_line + b"X\r\n\r\n",
        "space inside a name": first + host_line + b"X Y: a\r\n\r\n",
        "NUL in a name": first + host_line + b"X\0: a\r\n\r\n",
        "NUL in a value": first + host_line + b"X: a\0b\r\n\r\n",
        "control character in a value": first + host_line + b"X: a\x01b\r\n\r\n",
        "DEL in a value": first + host_line + b"X: a\x7fb\r\n\r\n",
        "non-ASCII name": first + host_line + b"X\xe9: a\r\n\r\n",
        "no Host": first + b"\r\n",
        "two Hosts": first + host_line + host_line + b"\r\n",
        "empty Host": first + b"Host:\r\n\r\n",
        "Host list": first + b"Host: %b, %b\r\n\r\n" % (host, host),
        "Host with user": first + b"Host: a@%b\r\n\r\n" % host,
        "Host with path": first + b"Host: %b/x\r\n\r\n" % host,
        "no version": b"GET %b\r\n" % path + host_line + b"\r\n",
        "tab in the request line": b"GET\t%b\tHTTP/1.1\r\n" % path + host_line + b"\r\n",
        "two spaces in the request line": b"GET  %b HTTP/1.1\r\n" % path + host_line + b"\r\n",
        "space behind the version": b"GET %b HTTP/1.1 \r\n" % path + host_line + b"\r\n",
        "lower-case version": b"GET %b http/1.1\r\n" % path + host_line + b"\r\n",
        "long version": b"GET %b HTTP/1.10\r\n" % path + host_line + b"\r\n",
        "name in place of a method": b"G(T %b HTTP/1.1\r\n" % path + host_line + b"\r\n",
        "a TLS hello": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        "an SSH banner with LF": b"SSH-2.0-OpenSSH_9.2\n",
    }.items():
        yield HostileRequest(name, data, 400)
    for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/3.0"):
        name = f"version {version.decode()}"
        yield HostileRequest(name, b"GET %b %b\r\n" % (path, version) + host_line + b"\r\n", 505)
    yield HostileRequest("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505)
    yield HostileRequest("100 KiB header", first + host_line + b"X: " + b"a" * 100 * 1024 + b"\r\n\r\n", 431)
    yield HostileRequest("1,000 headers", first + host_line + b"X: a\r\n" * 1000 + b"\r\n", 431)
    yield HostileRequest("head without an end", first + host_line + b"X: a\r\n" * 15_000, 431)
    yield HostileRequest("100 KiB target", b"GET /" + b"a" * 100 * 1024, 431)


def _targets(host: bytes, path: bytes) -> Iterable[HostileRequest]:
    """Requests for something else than a path of this host."""
    host_line = b"Host: %b\r\n\r\n" % host

    def line(name: str, request_line: bytes, status: int = 400) -> HostileRequest:
        return HostileRequest(name, request_line + b" HTTP/1.1\r\n" + host_line, status)

    yield line("absolute form, other host", b"GET http://other.test" + path)
    yield line("absolute form, user", b"GET http://a@%b%b" % (host, path))
    yield line("absolute form, no host", b"GET http://" + path)
    yield line("absolute form, other scheme", b"GET ftp://%b%b" % (host, path))
    yield line("authority form", b"GET " + host)
    yield line("relative path", b"GET mcp")
    yield line("asterisk without OPTIONS", b"GET *")
    yield line("fragment", b"GET %b#x" % path)
    yield line("backslash", b"GET /..\\x")
    yield line("NUL in the target", b"GET /\0")
    yield line("raw UTF-8 in the target", "GET /é".encode())
    yield line("CONNECT", b"CONNECT %b:443" % host, 405)
    yield line("CONNECT with a path", b"CONNECT " + path, 405)
    yield line("TRACE", b"TRACE " + path, 405)
    yield line("unknown method", b"BREW " + path, 501)
    yield line("lower-case method", b"get " + path, 501)


def _chunks(host: bytes, path: bytes) -> Iterable[HostileRequest]:
    """Two readings of where a chunk ends."""
    head = b"POST %b HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (path, host)
    for name, body in {
        "chunk size with a plus": b"+5\r\nabcde\r\n0\r\n\r\n",
        "chunk size with a minus": b"-5\r\nabcde\r\n0\r\n\r\n",
        "chunk size with 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
        "chunk size with an underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        "chunk size of 17 digits": b"00000000000000005",
        "chunk size beyond 2^53": b"20000000000001\r\n",
        "chunk size empty": b"\r\nabcde\r\n0\r\n\r\n",
        "chunk size with a space in front": b" 5\r\nabcde\r\n0\r\n\r\n",
        "chunk size with a space behind": b"5 \r\nabcde\r\n0\r\n\r\n",
        "chunk size with bare LF": b"5\nabcde\r\n0\r\n\r\n",
        "chunk size with bare CR": b"5\rabcde\r\n0\r\n\r\n",
        "chunk extension with bare LF": b"5;a\nabcde\r\n0\r\n\r\n",
        "chunk extension with NUL": b"5;a\0\r\nabcde\r\n0\r\n\r\n",
        "chunk extension of 64 KiB": b"5;" + b"a" * 64 * 1024 + b"\r\nabcde\r\n0\r\n\r\n",
        "chunk extensions without end": (b"1;" + b"a" * 250 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n",
        "no CRLF behind a chunk": b"5\r\nabcde0\r\n\r\n",
        "bare LF behind a chunk": b"5\r\nabcde\n0\r\n\r\n",
        "chunk longer than its size": b"5\r\nabcdef\r\n0\r\n\r\n",
        "trailer without a colon": b"0\r\nabc\r\n\r\n",
        "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
        "trailer with bare LF": b"0\r\nX: a\n\r\n",
        "100 KiB of trailers": b"0\r\n" + b"X: aaaaaaaaaaaa\r\n" * 6_000 + b"\r\n",
        "trailer without an end": b"0\r\nX: " + b"a" * 9_000,
    }.items():
        yield HostileRequest(name, head + body, 400, "body")
