"""
The PROXY header: what balancers send, what nobody should, each cut at every byte.

The contract under test: for every prefix of every input there is a header, ``None`` or ``ProxyRefused``; once
a prefix has an answer other than ``None``, every longer prefix has the same.
"""

from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from sallyport.tunnel.errors import ProxyRefused
from sallyport.tunnel.proxy_v2 import (
    PROXY_HEADER_MAX,
    SIGNATURE,
    ProxyHeader,
    least_header,
    read_proxy_header,
)
from tests.hostile.proxy_headers import (
    AWS_TLV,
    DGRAM,
    INET,
    PADDING_TLV,
    UNIX,
    UNSPEC,
    HostileHeader,
    hostile_headers,
    local_header,
    proxy_header,
    raw_header,
)

Answer = ProxyHeader | str | None

GOOD = {
    "IPv4": (proxy_header("192.0.2.7"), "192.0.2.7"),
    "IPv6": (proxy_header("2001:db8::7"), "2001:db8::7"),
    "IPv4 inside IPv6": (proxy_header("::ffff:192.0.2.7"), "192.0.2.7"),
    "TLVs behind the addresses": (proxy_header(tlvs=AWS_TLV + PADDING_TLV), "192.0.2.7"),
    "TLVs that make no sense": (proxy_header(tlvs=b"\xff\xff\xff"), "192.0.2.7"),
    "as long as may be": (proxy_header(tlvs=bytes(PROXY_HEADER_MAX - 28)), "192.0.2.7"),
    "no family": (raw_header(b"", family=UNSPEC, transport=0), None),
    "no family, with TLVs": (raw_header(AWS_TLV, family=UNSPEC, transport=0), None),
    "a UNIX socket": (raw_header(bytes(216), family=UNIX), None),
    "UDP": (raw_header(bytes(12), family=INET, transport=DGRAM), None),
}


def answer(data: bytes) -> Answer:
    """Read a header; a refusal is its detail. Anything else that is raised fails the test."""
    try:
        return read_proxy_header(data)
    except ProxyRefused as refused:
        return refused.detail


def check_every_prefix(data: bytes) -> Answer:
    """Read every prefix, check that the answer never changes once it was given, and return the last one."""
    answers = [answer(data[:length]) for length in range(len(data) + 1)]
    for earlier, later in pairwise(answers):
        assert earlier is None or earlier == later
    for length, given_answer in enumerate(answers):
        if given_answer is None:
            assert length < least_header(data[:length]) <= PROXY_HEADER_MAX
    return answers[-1]


@pytest.mark.parametrize("name", GOOD)
def test_what_balancers_send(name: str) -> None:
    """The address is read, what is unknown is skipped, and what follows is left alone."""
    data, address = GOOD[name]
    assert answer(data[:-1]) is None
    expected = ProxyHeader(address, is_local=False, length=len(data))
    assert check_every_prefix(data + b"\x16\x03\x01") == expected


@pytest.mark.parametrize(
    "data",
    [local_header(), proxy_header(command=0), raw_header(b"\x00", command=0, family=9, transport=9)],
    ids=["bare", "with addresses", "with numbers that mean nothing"],
)
def test_a_balancer_may_speak_for_itself(data: bytes) -> None:
    """LOCAL says that the connection is the balancer's own, whatever else stands in it."""
    assert check_every_prefix(data) == ProxyHeader(None, is_local=True, length=len(data))


@pytest.mark.parametrize("case", hostile_headers(), ids=lambda case: case.name)
def test_what_nobody_should_send(case: HostileHeader) -> None:
    """Each is refused at the first byte that gives it away, and not before."""
    assert isinstance(check_every_prefix(case.data), str)
    assert answer(case.data[: case.judged_at - 1]) is None
    assert isinstance(answer(case.data[: case.judged_at]), str)


def test_the_least_length_is_the_headers_as_soon_as_it_is_known() -> None:
    """A peer who trickles a header wakes the relay for its fixed part and for its end."""
    data = proxy_header(tlvs=AWS_TLV)
    assert {least_header(data[:length]) for length in range(16)} == {16}
    assert {least_header(data[:length]) for length in range(16, len(data) + 1)} == {len(data)}


@given(st.binary(max_size=200))
@example(SIGNATURE)
def test_any_bytes_have_an_answer(data: bytes) -> None:
    """A header, ``None`` or a refusal; nothing else, at any prefix."""
    check_every_prefix(data)


@given(st.binary(min_size=4, max_size=80))
@example(b"\x21\x11\x00\x0c" + bytes(12))
def test_any_bytes_behind_the_signature_have_an_answer(data: bytes) -> None:
    """The same where the first gate is passed."""
    check_every_prefix(SIGNATURE + data)


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 60), st.integers(0, 255))
def test_a_header_with_any_byte_changed_has_an_answer(name: str, place: int, byte: int) -> None:
    """One step from a good header is where a careless reader falls."""
    data = bytearray(GOOD[name][0])
    data[min(place, len(data) - 1)] = byte
    check_every_prefix(bytes(data[:300]))


@given(st.ip_addresses(), st.binary(max_size=100))
def test_every_address_is_read_back(source: object, tlvs: bytes) -> None:
    """What a balancer says is what is read, written as the relay writes addresses."""
    mapped = getattr(source, "ipv4_mapped", None)
    found = read_proxy_header(proxy_header(str(source), tlvs=tlvs))
    assert found is not None
    assert found.address == str(mapped or source)
