"""Bodies of HTTP/1.1 messages: their ends, however the bytes are cut, with h11 as the oracle."""

import h11
import pytest
from hypothesis import given, settings, strategies as st

from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.http1 import CHUNKED, LAST_CHUNK, NO_BODY, UNTIL_CLOSE, Body, BodyKind, chunk
from sallyport.tunnel.http1_body import body_decoder


def decode(body: Body, data: bytes, size: int | None = None) -> tuple[bytes, bytes | None]:
    """Return the payload, and what is behind the body or None while it goes on."""
    decoder, payload = body_decoder(body, status=400), list[bytes]()
    step = size or max(len(data), 1)
    for start in range(0, max(len(data), 1), step):
        rest = decoder.receive(data[start : start + step], payload)
        if rest is not None:
            assert b"" not in payload
            return b"".join(payload), rest + data[start + step :]
    return b"".join(payload), None


@pytest.mark.parametrize("size", [None, 1, 2, 3, 5])
def test_each_framing_finds_its_end(size: int | None) -> None:
    """What is behind a body is handed back, byte for byte, however it was cut."""
    assert decode(NO_BODY, b"next", size) == (b"", b"next")
    assert decode(Body(BodyKind.LENGTH, 5), b"helloGET /", size) == (b"hello", b"GET /")
    assert decode(Body(BodyKind.LENGTH, 5), b"hell", size) == (b"hell", None)
    assert decode(UNTIL_CLOSE, b"hello", size) == (b"hello", None)
    data = b'5\r\nhello\r\n06;x="y"\r\n world\r\n0\r\nTrailer: x\r\nB:\r\n\r\nGET /'
    assert decode(CHUNKED, data, size) == (b"hello world", b"GET /")


def test_payload_is_not_held_back() -> None:
    """What has come of a chunk is delivered before the chunk is complete."""
    payload: list[bytes] = []
    assert body_decoder(CHUNKED, status=400).receive(b"ff\r\nabc", payload) is None
    assert payload == [b"abc"]


def test_a_length_is_passed_without_a_copy() -> None:
    """A piece of a long body is the very object that was received."""
    data, payload = b"x" * 1000, list[bytes]()
    body_decoder(Body(BodyKind.LENGTH, 2000), status=400).receive(data, payload)
    assert payload[0] is data


@pytest.mark.parametrize(
    ("body", "data", "received", "expected"),
    [
        (Body(BodyKind.LENGTH, 3), b"ab", 2, 3),
        (CHUNKED, b"", 0, None),
        (CHUNKED, b"5\r\nabc", 3, None),
        (CHUNKED, b"3\r\nabc\r\n", 3, None),
        (CHUNKED, b"3\r\nabc\r\n0\r\n", 3, None),
    ],
)
def test_an_early_end_is_an_error(body: Body, data: bytes, received: int, expected: int | None) -> None:
    """A body that stops says how much of it had come."""
    decoder = body_decoder(body, status=400)
    decoder.receive(data, [])
    with pytest.raises(BodyTruncated) as truncated:
        decoder.receive_eof()
    assert (truncated.value.received, truncated.value.expected) == (received, expected)


def test_the_end_of_the_connection_ends_the_one_framing_that_it_ends() -> None:
    """A body until close, and none at all, may end so."""
    body_decoder(UNTIL_CLOSE, status=502).receive_eof()
    body_decoder(NO_BODY, status=400).receive_eof()


def test_the_largest_chunk() -> None:
    """2^53 is accepted and one more is not; no memory is taken for either."""
    assert decode(CHUNKED, b"20000000000000\r\nab") == (b"ab", None)
    with pytest.raises(HttpRefused):
        decode(CHUNKED, b"20000000000001\r\n")


def test_refusals_carry_the_role() -> None:
    """The same fault is 400 in a request and 502 in an answer."""
    for status in (400, 502):
        with pytest.raises(HttpRefused) as refused:
            body_decoder(CHUNKED, status=status).receive(b"x", [])
        assert refused.value.status == status


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300)), st.integers(1, 50), st.binary(max_size=10))
def test_chunks_come_back(pieces: list[bytes], size: int, behind: bytes) -> None:
    """What ``chunk`` writes is read back, however it is cut."""
    data = b"".join(chunk(piece) for piece in pieces) + LAST_CHUNK + behind
    assert decode(CHUNKED, data, size) == (b"".join(pieces), behind)


def test_an_empty_chunk_is_not_written_by_mistake() -> None:
    """It would end the body."""
    with pytest.raises(ValueError, match="empty"):
        chunk(b"")


_WHOLE = [b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n"]
_BITS = st.sampled_from([b"0", b"5", b"a", b"\r\n", b"\r", b"\n", b";", b"x", b" ", b"+", b":", *_WHOLE])


def oracle(data: bytes) -> tuple[bytes, bytes] | None:
    """Return payload and rest as h11 finds them; None where it refuses or wants more."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    payload = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                return payload, connection.trailing_data[0]
            elif not isinstance(event, h11.Request):
                return None
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=1500, deadline=None)
@given(st.lists(_BITS, max_size=12).map(b"".join), st.one_of(st.none(), st.integers(1, 4)))
def test_nothing_is_accepted_that_h11_refuses(data: bytes, size: int | None) -> None:
    """The same end and payload as h11 finds, or a refusal."""
    try:
        payload, rest = decode(CHUNKED, data, size)
    except HttpRefused:
        return
    if rest is not None:
        assert oracle(data) == (payload, rest)
