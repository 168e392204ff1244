"""
PROXY protocol headers made by hand: what balancers send, and what nobody should.
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
UNSPEC, INET, INET6, UNIX = range(4)
STREAM, DGRAM = 1, 2
LOCAL, PROXY = 0, 1

# What Amazon's balancers add: PP2_TYPE_AWS with the endpoint's ID, and padding (PP2_TYPE_NOOP).
AWS_TLV = b"\xea\x00\x17\x01vpce-08d2bf15fac5001c9"
PADDING_TLV = b"\x04\x00\x24" + bytes(36)


def proxy_header(
    source: str = "192.0.2.7", *, command: int = PROXY, version: int = 2, tlvs: bytes = b"", port: int = 40001
) -> bytes:
    """Encode the header of a TCP connection from an address, to 198.51.100.1 or 2001:db8::1, port 443."""
    address = ip_address(source)
    match address:
        case IPv4Address():
            family, destination = INET, socket.inet_aton("198.51.100.1")
        case IPv6Address():
            family, destination = INET6, socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    addresses = address.packed + destination + port.to_bytes(2, "big") + (443).to_bytes(2, "big")
    return raw_header(addresses + tlvs, command=command, version=version, family=family)


def local_header() -> bytes:
    """Encode what a balancer says before a health probe."""
    return raw_header(b"", command=LOCAL, family=UNSPEC, transport=0)


def raw_header(
    rest: bytes,
    *,
    command: int = PROXY,
    version: int = 2,
    family: int = INET,
    transport: int = STREAM,
    length: int | None = None,
) -> bytes:
    """Encode a header that may be wrong in any field."""
    size = len(rest) if length is None else length
    kind = bytes([version << 4 | command, family << 4 | transport])
    return SIGNATURE + kind + size.to_bytes(2, "big") + rest


@dataclass(frozen=True)
class HostileHeader:
    """
    One header that is refused.

    Attributes:
        name: what is wrong with it.
        data: what the peer sends.
        judged_at: the bytes of it that are enough to refuse it.
    """

    name: str
    data: bytes
    judged_at: int


def hostile_headers() -> list[HostileHeader]:
    """Return every kind of header that nobody should send, each with the first byte that gives it away."""
    good = proxy_header()
    return [
        HostileHeader("plain HTTP", b"GET / HTTP/1.1\r\n\r\n", 1),
        HostileHeader("a ClientHello", b"\x16\x03\x01\x02\x00\x01\x00", 1),
        HostileHeader("the protocol's version 1", b"PROXY TCP4 192.0.2.7 198.51.100.1 40001 443\r\n", 1),
        HostileHeader("blank lines", b"\r\n\r\n\r\n\r\n", 5),
        HostileHeader("a signature with one wrong byte", SIGNATURE[:-1] + b"\r" + good[12:], 12),
        HostileHeader("version 1 behind the signature", proxy_header(version=1), 13),
        HostileHeader("version 3", proxy_header(version=3), 13),
        HostileHeader("command 2", proxy_header(command=2), 13),
        HostileHeader("command 15", proxy_header(command=15), 13),
        HostileHeader("family 4", raw_header(bytes(12), family=4), 14),
        HostileHeader("transport 3", raw_header(bytes(12), transport=3), 14),
        HostileHeader("IPv4 without room for its addresses", raw_header(bytes(11)), 16),
        HostileHeader("IPv4 with no addresses", raw_header(b""), 16),
        HostileHeader("IPv6 with the addresses of IPv4", raw_header(bytes(12), family=INET6), 16),
        HostileHeader("64 KiB announced", raw_header(bytes(12), length=65535), 16),
        HostileHeader("one byte more than the limit", raw_header(bytes(12), length=4081), 16),
        HostileHeader("LOCAL with 64 KiB", raw_header(b"", command=LOCAL, length=65535), 16),
    ]
