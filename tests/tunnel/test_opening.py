"""OPEN's payload: what is written is read again, and nothing else is."""

import pytest

from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.opening import Opening, encode_opening, read_opening

REFERENCE = "00ff10ab20cd30ef"


@pytest.mark.parametrize(
    "opening",
    [
        Opening(REFERENCE, "", "", b""),
        Opening(REFERENCE, "a", "1", b"x"),
        Opening(REFERENCE, "tickets.example.test", "[2001:db8::1]:443", b"\x16\x03\x01"),
        Opening(REFERENCE, "n" * 253, "a" * 64, bytes(32_768)),
    ],
)
def test_round_trip(opening: Opening) -> None:
    """Fields at both ends of their ranges come out as they went in."""
    assert read_opening(memoryview(encode_opening(opening))) == opening


def test_layout() -> None:
    """The payload is byte for byte what SPEC.md §3 and §6 say."""
    opening = Opening(REFERENCE, "ab", "1.2", b"\x16")
    assert encode_opening(opening) == bytes.fromhex(REFERENCE) + b"\x02ab" + b"\x031.2" + b"\x16"


def test_the_first_bytes_are_owned() -> None:
    """What is kept of a borrowed payload is a copy."""
    borrowed = bytearray(encode_opening(Opening(REFERENCE, "ab", "", b"first")))
    opening = read_opening(memoryview(borrowed))
    borrowed[:] = bytes(len(borrowed))
    assert opening == Opening(REFERENCE, "ab", "", b"first")


@pytest.mark.parametrize(
    "opening",
    [
        Opening("00ff", "", "", b""),
        Opening(REFERENCE + "00", "", "", b""),
        Opening("not hexadecimal!", "", "", b""),
        Opening(REFERENCE, "n" * 254, "", b""),
        Opening(REFERENCE, "", "a" * 65, b""),
        Opening(REFERENCE, "ümlaut", "", b""),
        Opening(REFERENCE, "a\nb", "", b""),
        Opening(REFERENCE, "", "", bytes(32_769)),
    ],
)
def test_what_cannot_be_sent(opening: Opening) -> None:
    """A field that the peer would refuse is refused here, before anything is sent."""
    with pytest.raises(ValueError, match=r"."):
        encode_opening(opening)


@pytest.mark.parametrize(
    "fields",
    [
        b"\x00",  # no address
        b"\x05abcd",  # the name goes beyond the payload
        b"\xffabcd",
        b"\x02ab",  # nothing after the name
        b"\x02ab\x04abc",  # the address goes beyond the payload
        b"\xfe" + b"n" * 254 + b"\x00",  # a name of 254 characters
        b"\x00\x41" + b"a" * 65,  # an address of 65 characters
        b"\x02\xc3\xa4\x00",  # not ASCII
        b"\x02a\n\x00",  # not printable
        b"\x00\x01\x1b",
        b"\x01\x00\x00",
        b"\x00\x00" + bytes(32_769),  # too many first bytes
    ],
)
def test_what_is_refused(fields: bytes) -> None:
    """A field that is cut, too long, or would play tricks in a log is refused."""
    with pytest.raises(ProtocolViolation, match="OPEN"):
        read_opening(memoryview(bytes(8) + fields))


def test_each_prefix() -> None:
    """A payload cut at any byte is read as a shorter stream beginning, or refused; nothing else happens."""
    whole = encode_opening(Opening(REFERENCE, "name", "addr", b"first"))
    complete = len(whole) - len(b"first")
    for size in range(10, len(whole)):
        if size < complete:
            with pytest.raises(ProtocolViolation):
                read_opening(memoryview(whole)[:size])
        else:
            assert read_opening(memoryview(whole)[:size]).first == b"first"[: size - complete]
