"""HELLO, HELLO_ACK, REFUSED and CONTROL: strict where two readers could differ, open to later fields."""

import json
from collections.abc import Callable

import pytest

from sallyport.tunnel.control import encode_control, read_control
from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.frames import RefusalCode
from sallyport.tunnel.hello import (
    Hello,
    HelloAck,
    Refusal,
    encode_hello,
    encode_refusal,
    read_hello,
    read_hello_ack,
    read_refusal,
    read_version,
)
from sallyport.tunnel.json_object import read_object

HELLO = {
    "version": 1,
    "capabilities": ["alpha", "beta"],
    "max_streams": 100,
    "boot_id": "b00t",
    "link_index": 1,
    "revocation_number": 7,
    "software": "sallyport/0.1.0",
}


def payload(fields: object) -> memoryview:
    """Write a payload as another implementation would."""
    return memoryview(json.dumps(fields).encode())


def test_round_trips() -> None:
    """What is written is read again."""
    hello = Hello(max_streams=5, boot_id="x", capabilities=frozenset({"a", "b"}), link_index=3)
    assert read_hello(memoryview(encode_hello(hello))) == hello
    ack = HelloAck(max_streams=5, boot_id="ü", software="relay/1", time=1_700_000_000)
    assert read_hello_ack(memoryview(encode_hello(ack))) == ack
    for refusal in (Refusal(RefusalCode.REVOKED, "revoked"), Refusal(RefusalCode.OVERLOADED, "later", 2.5)):
        assert read_refusal(memoryview(encode_refusal(refusal))) == refusal


def test_hello_of_another_implementation() -> None:
    """Keys that are not known are ignored, and the order of keys means nothing."""
    hello = read_hello(payload(dict(reversed(HELLO.items())) | {"later": {"deep": [1, 2]}}))
    assert hello == Hello(
        capabilities=frozenset({"alpha", "beta"}),
        max_streams=100,
        boot_id="b00t",
        link_index=1,
        revocation_number=7,
        software="sallyport/0.1.0",
    )


@pytest.mark.parametrize("key", HELLO)
def test_a_missing_key(key: str) -> None:
    """Every key of version 1 is needed."""
    with pytest.raises(ProtocolViolation, match=key):
        read_hello(payload({name: value for name, value in HELLO.items() if name != key}))


INTEGERS = {
    "version": (1, 2**53 - 1),
    "max_streams": (0, 2**31 - 1),
    "link_index": (0, 2**53 - 1),
    "revocation_number": (0, 2**53 - 1),
}


@pytest.mark.parametrize(("key", "least", "most"), [(key, *bounds) for key, bounds in INTEGERS.items()])
def test_integers(key: str, least: int, most: int) -> None:
    """An integer is in its range, and is no float, boolean or text."""
    for value in (least, least + 1, most - 1, most):
        assert getattr(read_hello(payload(HELLO | {key: value})), key) == value
    for unwanted in (least - 1, most + 1, 2**64, -(2**63), 1.0, 1.5, True, False, None, "1", [1], {}):
        with pytest.raises(ProtocolViolation, match=key):
            read_hello(payload(HELLO | {key: unwanted}))


@pytest.mark.parametrize(("key", "least", "most"), [("boot_id", 1, 64), ("software", 0, 128)])
def test_texts(key: str, least: int, most: int) -> None:
    """A text is in its range and printable: it goes to logs and terminals."""
    for value in ("x" * least, "x" * most, "größe ✓"[: max(least, 7)]):
        assert getattr(read_hello(payload(HELLO | {key: value})), key) == value
    bad = ["x" * (most + 1), "a\nb", "\x1b[31m", "\x00", "\u2028", "\u202e", "\ud800", 7, None, ["x"]]
    for unwanted in bad + ([""] if least else []):
        with pytest.raises(ProtocolViolation):
            read_hello(payload(HELLO | {key: unwanted}))


@pytest.mark.parametrize(
    "capabilities",
    [None, "alpha", {"alpha": 1}, ["a", "a"], ["a", 1], [""], ["ä"], ["a\n"], ["x" * 65], [["a"]]],
)
def test_bad_capabilities(capabilities: object) -> None:
    """Capabilities are a list of different ASCII names."""
    with pytest.raises(ProtocolViolation, match="capabilities"):
        read_hello(payload(HELLO | {"capabilities": capabilities}))


def test_the_number_of_capabilities() -> None:
    """At most 32 capabilities are read."""
    names = [f"c{number}" for number in range(33)]
    assert len(read_hello(payload(HELLO | {"capabilities": names[:32]})).capabilities) == 32
    with pytest.raises(ProtocolViolation, match="capabilities"):
        read_hello(payload(HELLO | {"capabilities": names}))


@pytest.mark.parametrize("time", [None, -1, 1.5, "now", 2**53])
def test_ack_without_a_good_time(time: object) -> None:
    """HELLO_ACK needs the relay's time."""
    with pytest.raises(ProtocolViolation, match="time"):
        read_hello_ack(payload(HELLO | {"time": time}))


def test_the_version_of_a_hello_that_is_otherwise_strange() -> None:
    """The version can be read from a HELLO of which nothing else is known."""
    assert read_version(payload({"version": 9, "max_streams": "many"}), "HELLO") == 9


@pytest.mark.parametrize("retry_after", [-1, 86_401, True, "5", [5]])
def test_bad_retry_after(retry_after: object) -> None:
    """retry_after is a number of seconds up to a day."""
    with pytest.raises(ProtocolViolation, match="retry_after"):
        read_refusal(payload({"code": 1, "text": "no", "retry_after": retry_after}))


def test_refusals_from_another_implementation() -> None:
    """An unknown code is read as INTERNAL; retry_after may be null, and an integer."""
    refusal = read_refusal(payload({"code": 999, "text": "", "retry_after": None}))
    assert refusal == Refusal(RefusalCode.INTERNAL, "", None)
    assert read_refusal(payload({"code": 3, "text": "no", "retry_after": 5})).retry_after == 5.0


def test_a_refusal_that_is_too_long_or_not_printable() -> None:
    """A refusal is always sent: its text is cut and cleaned."""
    refusal = read_refusal(memoryview(encode_refusal(Refusal(RefusalCode.REVOKED, "bad\n" * 200))))
    assert refusal.text == ("bad?" * 200)[:255]


def test_a_hello_that_is_too_long() -> None:
    """A HELLO that the peer would refuse for its size is not sent."""
    with pytest.raises(ValueError, match="4096"):
        encode_hello(Hello(max_streams=1, boot_id="x" * 5000))


# Strict JSON. The objects are valid but for one thing each.
NOT_STRICT = {
    "empty": b"",
    "not UTF-8": b'{"name":"\xff"}',
    "surrogate in UTF-8": b'{"name":"\xed\xa0\x80"}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"name":"x"}',
    "NUL": b'{"name":"x"}\x00',
    "trailing rubbish": b'{"name":"x"} {}',
    "array": b'["name"]',
    "text": b'"name"',
    "null": b"null",
    "duplicate key": b'{"name":"x","name":"y"}',
    "duplicate key, written differently": b'{"name":"x","\\u006eame":"y"}',
    "duplicate key inside": b'{"name":"x","body":{"a":1,"a":2}}',
    "NaN": b'{"name":"x","body":{"a":NaN}}',
    "Infinity": b'{"name":"x","body":{"a":-Infinity}}',
    "overflow": b'{"name":"x","body":{"a":1e999}}',
    "endless integer": b'{"name":"x","body":{"a":' + b"9" * 5000 + b"}}",
    "lone surrogate": b'{"name":"x","body":{"a":"\\ud800"}}',
    "lone surrogate as a key": b'{"name":"x","body":{"\\udc00":1}}',
    "control character": b'{"name":"x","body":{"a":"\n"}}',
    "single quotes": b"{'name':'x'}",
    "comment": b'{"name":"x"}//',
    "trailing comma": b'{"name":"x",}',
    "deep": b'{"name":"x","body":{"a":' + b"[" * 15 + b"]" * 15 + b"}}",
    "too deep for a parser": b"[" * 16_000,
    "too deep, as keys": b'{"a":' * 3000,
}


@pytest.mark.parametrize("text", NOT_STRICT.values(), ids=NOT_STRICT.keys())
def test_json_that_is_not_strict(text: bytes) -> None:
    """What two readers could take differently, or what could end one, is refused."""
    with pytest.raises(ProtocolViolation, match="thing that is not"):
        read_object(memoryview(text), "thing")


def test_json_that_is_strict() -> None:
    """All that JSON has is read, pairs of surrogates and brackets in texts included."""
    value = {"a": [1, -2.5, True, None, "[[[[[[[[[[[[[[[[[[[[" * 3], "😀": {"ü": []}}
    for ascii_only in (True, False):
        assert read_object(memoryview(json.dumps(value, ensure_ascii=ascii_only).encode()), "it") == value


def test_control_round_trip() -> None:
    """A CONTROL message comes out as it went in."""
    payload = encode_control("revocation", {"number": 7, "names": ["gw1", "größe"]})
    assert read_control(memoryview(payload)) == ("revocation", {"number": 7, "names": ["gw1", "größe"]})


def test_control_without_a_body() -> None:
    """The body may be missing."""
    assert read_control(memoryview(b'{"name":"x"}')) == ("x", {})


@pytest.mark.parametrize(
    "fields", [{}, {"name": ""}, {"name": 1}, {"name": "x" * 65}, {"name": "ä"}, {"name": "x", "body": []}]
)
def test_bad_control(fields: object) -> None:
    """CONTROL has a name, and a body that is an object."""
    with pytest.raises(ProtocolViolation, match="CONTROL"):
        read_control(payload(fields))


@pytest.mark.parametrize(
    "write",
    [
        lambda: encode_control("x" * 65, {}),
        lambda: encode_control("", {}),
        lambda: encode_control("x", {"a": "y" * 16_384}),
        lambda: encode_control("x", {"a": float("nan")}),
    ],
)
def test_control_that_cannot_be_sent(write: Callable[[], bytes]) -> None:
    """What the peer would refuse is refused before it is sent."""
    with pytest.raises(ValueError, match=r"."):
        write()
