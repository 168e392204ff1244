"""Answers of HTTP/1.1: where each ends, what is not one, and how ours are written."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from sallyport.tunnel import http1_heads, http1_split
from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.http1 import (
    CHUNKED,
    END_OF_MESSAGE,
    NO_BODY,
    UNTIL_CLOSE,
    Body,
    BodyKind,
    ResponseHead,
    ResponseReader,
    encode_response,
)


@pytest.fixture(params=["httptools", "h11"])
def second_reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with each second reading."""
    monkeypatch.setattr(http1_heads, "split_response", getattr(http1_split, f"_{request.param}_response"))


def response_verdict(method: bytes) -> Callable[[bytes], object]:
    def judge(raw: bytes) -> object:
        reader = ResponseReader()
        reader.expect(method)
        try:
            return reader.receive(raw)
        except HttpRefused as refused:
            return refused.status

    return judge


def answer(
    raw: bytes, method: bytes = b"GET", *, eof: bool = False
) -> tuple[list[ResponseHead], bytes, bool]:
    """Return the heads, the body, and whether the answer is complete."""
    reader = ResponseReader()
    reader.expect(method)
    events = list(reader.receive(raw))
    if eof:
        events += reader.receive_eof()
    heads = [event for event in events if isinstance(event, ResponseHead)]
    body = b"".join(event for event in events if isinstance(event, bytes))
    return heads, body, END_OF_MESSAGE in events


@pytest.mark.usefixtures("second_reading")
@pytest.mark.parametrize(
    ("raw", "method", "body", "framing"),
    [
        (b"200 OK\r\nContent-Length: 2\r\n\r\nab", b"GET", b"ab", Body(BodyKind.LENGTH, 2)),
        (b"200\r\nContent-Length: 0\r\n\r\n", b"GET", b"", Body(BodyKind.LENGTH, 0)),
        (b"200 \r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"POST", b"a", CHUNKED),
        (b"200 OK\r\nContent-Length: 2\r\n\r\n", b"HEAD", b"", NO_BODY),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD", b"", NO_BODY),
        (b"204 No Content\r\n\r\n", b"DELETE", b"", NO_BODY),
        (b"304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", b"", NO_BODY),
        (b"599 \xe9\t?\r\nContent-Length: 1\r\n\r\na", b"GET", b"a", Body(BodyKind.LENGTH, 1)),
    ],
)
def test_answers(raw: bytes, method: bytes, body: bytes, framing: Body) -> None:
    """The framing of an answer follows from its fields, its status and the request's method."""
    heads, got, complete = answer(b"HTTP/1.1 " + raw, method)
    assert (heads[0].body, got, complete) == (framing, body, True)
    assert heads[0].keep_alive


def test_an_answer_until_close() -> None:
    """Without a framing field an answer ends with its connection, which then carries no other."""
    heads, body, complete = answer(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert (heads[0].body, heads[0].keep_alive, body, complete) == (UNTIL_CLOSE, False, b"abc", False)
    assert answer(b"HTTP/1.1 200 OK\r\n\r\nabc", eof=True)[2]


def test_interim_answers() -> None:
    """1xx heads come before the final one, and are no end."""
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    heads, _, complete = answer(raw)
    assert ([head.status for head in heads], complete) == ([100, 103], False)
    heads, body, complete = answer(raw + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
    assert ([head.status for head in heads], body, complete) == ([100, 103, 200], b"a", True)


@pytest.mark.usefixtures("second_reading")
@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20),
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 100,
    ],
    ids=lambda raw: repr(raw[:60]),
)
def test_what_is_not_an_answer_is_502(raw: bytes) -> None:
    """Garbage from a server is a bad gateway, whatever is wrong with it."""
    assert response_verdict(b"GET")(raw) == 502


def test_bytes_that_nobody_asked_for_are_held() -> None:
    """A second answer, or more than was declared, is not delivered."""
    reader = ResponseReader()
    reader.expect(b"GET")
    reader.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n")
    assert len(reader.held) == len(b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_truncated_answer() -> None:
    """An end of file inside an answer is an error in every framing but one."""
    for raw in (b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"):
        with pytest.raises(BodyTruncated):
            answer(raw, eof=True)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_documented_error(raw: bytes) -> None:
    """Nothing else ever comes out of a reader."""
    response_verdict(b"GET")(raw)
    response_verdict(b"POST")(b"HTTP/1.1 200 OK\r\n" + raw)


def test_encoding_answers() -> None:
    """The framing fields are ours; a length that describes a body left out stays."""
    fields = [(b"content-length", b"5"), (b"X", b"y"), (b"Connection", b"z")]

    def encoded(status: int, body: Body, *, keep_alive: bool = True) -> bytes:
        return encode_response(ResponseHead(status, b"R", fields, body, keep_alive))

    assert encoded(200, CHUNKED) == b"HTTP/1.1 200 R\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
    closing = encoded(200, UNTIL_CLOSE, keep_alive=False)
    assert closing == b"HTTP/1.1 200 R\r\nX: y\r\nConnection: close\r\n\r\n"
    assert encoded(200, Body(BodyKind.LENGTH, 7)) == b"HTTP/1.1 200 R\r\nX: y\r\nContent-Length: 7\r\n\r\n"
    assert encoded(304, NO_BODY) == b"HTTP/1.1 304 R\r\ncontent-length: 5\r\nX: y\r\n\r\n"
    assert encoded(204, NO_BODY) == b"HTTP/1.1 204 R\r\nX: y\r\n\r\n"
    assert encoded(103, NO_BODY, keep_alive=False) == b"HTTP/1.1 103 R\r\nX: y\r\n\r\n"
