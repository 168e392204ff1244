"""
A head that is recognised says what it would say if it were judged anew.

The oracle is the same reader without a memory: for every sequence of bytes both give the same events, or
refuse with the same status and rule.
"""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings, strategies as st

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1 import (
    END_OF_MESSAGE,
    EndOfMessage,
    HeadMemo,
    RequestHead,
    RequestReader,
    ResponseHead,
    ResponseReader,
    pass_response,
)
from sallyport.tunnel.http1_heads import parse_request_head, parse_response_head
from sallyport.tunnel.http1_memo import KNOWN_HEAD_SIZE, KNOWN_HEADS

Said = list[object]


class Forgetful(HeadMemo[RequestHead]):
    """Recognises nothing."""

    def recall(self, data: bytes) -> None:
        return None


class ForgetfulOfAnswers(HeadMemo[ResponseHead]):
    """Recognises nothing."""

    def recall(self, data: bytes) -> None:
        return None


def said(feed: Callable[[bytes], Iterable[object]], pieces: list[bytes]) -> Said:
    """Return what a reader says of pieces: its events, bodies joined, and how it refused."""
    heads: Said = []
    body = b""
    for piece in pieces:
        try:
            for event in feed(piece):
                if isinstance(event, bytes):
                    body += event
                elif isinstance(event, EndOfMessage):
                    heads.append(body)
                    body = b""
                else:
                    heads.append(event)
        except HttpRefused as refusal:
            return [*heads, body, (refusal.status, refusal.rule)]
    return [*heads, body]


def requests_of(reader: RequestReader) -> Callable[[bytes], list[object]]:
    """Feed a reader, request after request."""

    def feed(data: bytes) -> list[object]:
        events: list[object] = list(reader.receive(data))
        while reader.has_ended and (reader.held or events):
            more = reader.start_next()
            if not more:
                break
            events += more
        return events

    return feed


LENGTHS = st.one_of(
    st.integers(0, 40).map(lambda number: b"%d" % number),
    st.sampled_from([b"", b"+5", b"-1", b"05", b"00", b"5 ", b" 5", b"5\t", b"0x5", b"5, 5", b"5_0"]),
    st.sampled_from([b"9" * 15, b"9" * 16, b"9" * 17, b"9007199254740992", b"9007199254740993", b"1" * 400]),
    st.sampled_from([b"5\r\nX: y", b"5\n", b"\xb2"]),
)
FIELDS = st.sampled_from(
    [
        b"",
        b"X: 1\r\n",
        b"Mcp-Session-Id: a\r\n",
        b"Connection: close\r\n",
        b"Content-Length: 5\r\n",
        b"Expect: 100-continue\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X:\r\n",
    ]
)
NAMES = st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"])


@st.composite
def request_streams(draw: st.DrawFn) -> list[bytes]:
    """Draw requests that resemble each other, whole or cut, some of them with bytes changed."""
    name, before, behind = draw(NAMES), draw(FIELDS), draw(FIELDS)
    stream = b""
    for _ in range(draw(st.integers(1, 5))):
        length = draw(LENGTHS)
        body = b"x" * (int(length) if length.isdigit() and len(length) < 3 else 5)
        head = b"POST /mcp HTTP/1.1\r\nHost: a\r\n" + before + name + b": " + length + b"\r\n" + behind
        stream += head + b"\r\n" + body
    if draw(st.booleans()):
        position = draw(st.integers(0, len(stream) - 1))
        stream = stream[:position] + draw(st.binary(max_size=2)) + stream[position + 1 :]
    step = draw(st.sampled_from([len(stream), len(stream), 7, 1]))
    return [stream[start : start + step] for start in range(0, len(stream), max(step, 1))]


@settings(max_examples=600, deadline=None)
@given(request_streams())
def test_requests_are_read_alike_with_and_without_memory(pieces: list[bytes]) -> None:
    """A memory changes no verdict."""
    plain = RequestReader()
    plain._memo = Forgetful()
    assert said(requests_of(RequestReader()), pieces) == said(requests_of(plain), pieces)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            LENGTHS,
            st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"404 Not Found", b"100 Go"]),
            FIELDS,
            st.sampled_from([b"POST", b"GET", b"HEAD"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_answers_are_read_alike_with_and_without_memory(
    answers: list[tuple[bytes, bytes, bytes, bytes]],
) -> None:
    """Neither does one that all connections to a server share."""
    memo = HeadMemo[ResponseHead]()
    for length, status, field, method in answers:
        found = []
        raw = b"HTTP/1.1 " + status + b"\r\nContent-Length: " + length + b"\r\n" + field + b"\r\n"
        for each in (memo, ForgetfulOfAnswers()):
            reader = ResponseReader(memo=each)
            reader.expect(method)
            found.append(said(reader.receive, [raw, b"x" * 40]))
        assert found[0] == found[1]


@settings(max_examples=400, deadline=None)
@given(request_streams())
def test_a_whole_request_is_what_its_events_say(pieces: list[bytes]) -> None:
    """``whole`` takes what ``receive`` would have said in three events, and nothing else."""
    short, plain = RequestReader(), RequestReader()
    for piece in pieces:
        assert events_or_whole(short, piece) == events_or_refusal(plain, piece)
        if plain.has_ended and plain.held:
            return  # Both hold what is behind it.
        for reader in (short, plain):
            if reader.has_ended:
                reader.start_next()


def events_or_refusal(reader: RequestReader, piece: bytes) -> Said:
    """Return the events of a piece, or how it was refused."""
    try:
        return list(reader.receive(piece))
    except HttpRefused as refusal:
        return [(refusal.status, refusal.rule)]


def events_or_whole(reader: RequestReader, piece: bytes) -> Said:
    """Return the same of a reader that is first asked for a whole message."""
    message = reader.whole(piece)
    if message is None:
        return events_or_refusal(reader, piece)
    head, body = message
    return [head, *([body] if body else []), END_OF_MESSAGE]


def request(length: int, *, name: str = "a") -> bytes:
    return b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (name.encode(), length)


def test_a_repeated_head_is_the_model_and_one_of_another_length_says_so() -> None:
    """Whoever has decided about the first need not decide about the others."""
    memo = HeadMemo[RequestHead]()
    first = parse_request_head(request(5))
    memo.keep(request(5), first)

    again = memo.recall(request(5) + b"hello")
    longer = memo.recall(request(1234) + b"...")

    assert again == (first, len(request(5)))
    assert again[0] is first
    assert longer is not None
    assert longer[0].model is first
    assert longer[0].body.length == 1234
    assert longer[0].headers == [(b"Host", b"a"), (b"Content-Length", b"1234")]
    assert first.headers == [(b"Host", b"a"), (b"Content-Length", b"5")]


def test_few_heads_are_kept_and_short_ones_only() -> None:
    """What a connection can make us remember is bounded."""
    memo = HeadMemo[RequestHead]()
    for number in range(KNOWN_HEADS + 1):
        raw = request(1, name=str(number))
        memo.keep(raw, parse_request_head(raw))
    large = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * KNOWN_HEAD_SIZE + b"\r\n\r\n"
    memo.keep(large, parse_request_head(large))

    assert memo.recall(request(1, name="0")) is None
    assert memo.recall(large) is None
    assert all(memo.recall(request(1, name=str(number))) for number in range(1, KNOWN_HEADS + 1))


@pytest.mark.parametrize("cut", [1, 20, 45])
def test_a_head_that_is_not_complete_is_not_recognised(cut: int) -> None:
    """Half a head is no head, however familiar it looks."""
    memo = HeadMemo[RequestHead]()
    memo.keep(request(5), parse_request_head(request(5)))
    assert memo.recall(request(5)[:-cut]) is None


def test_what_passes_of_an_answer_is_written_once() -> None:
    """The framing is that of each answer, the rest that of the model."""
    memo = HeadMemo[ResponseHead]()
    raw = b"HTTP/1.1 200 OK\r\nA: 1\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"
    first = parse_response_head(raw, b"POST")
    memo.keep(raw, first)
    found = memo.recall(raw.replace(b"5", b"17"))
    assert found is not None
    second = found[0]

    assert pass_response(second, second.body, keep_alive=True) == (
        b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 17\r\n\r\n"
    )
    assert pass_response(first, first.body, keep_alive=False) == (
        b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    )
    assert first.passing == b"HTTP/1.1 200 OK\r\nA: 1\r\n"
