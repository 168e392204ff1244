"""
The PROXY protocol, version 2: who stands behind a balancer.

A balancer that forwards TCP hides its clients' addresses. One that speaks the PROXY protocol says them first,
in a header before the first byte of the connection itself (haproxy, ``doc/proxy-protocol.txt``, section 2.2):

    signature (12) | version and command (1) | family and transport (1) | length (2) | addresses | TLVs

Only version 2 is read: it is binary, says its own length, and cannot be mistaken for anything else. The rules
are those of ``sni``, which reads what comes behind it:

* Whatever arrives, the answer is a header, ``None`` for "not whole yet", or ``ProxyRefused``; and more bytes
  never change an answer that was given. Each byte is judged as soon as it is there.
* What is unknown is skipped: TLVs, families that have no IP address (UNSPEC, UNIX) and transports that cannot
  be ours. The connection is served then, under the balancer's own address, as the specification asks.
* An unknown version or command, and a header that has no room for the addresses it announces, are refused.

Whether a peer may say such a header at all is not decided here: an address is believed only from balancers
that the operator has listed, and theirs must begin with one.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from sallyport.tunnel.errors import ProxyRefused
from sallyport.tunnel.limits import limit

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED: Final = 16  # up to the length, and with it

PROXY_HEADER_MAX: Final = limit(
    4096, "bytes",
    "of a PROXY header: addresses take 28 or 52 of them, what balancers add about themselves a few hundred",
)  # fmt: skip

_VERSION: Final = 2
_LOCAL: Final = 0  # commands
_PROXY: Final = 1

_INET: Final = 1  # families, in the high half of their byte
_INET6: Final = 2
_STREAM: Final = 1  # transports, in its low half

# Bytes of the addresses and ports of each family that has them, and of one address.
_SIZES: Final = {_INET: (12, 4), _INET6: (36, 16)}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """
    What a balancer says of a connection.

    Attributes:
        address: where the connection comes from, without port; ``None`` where no IP address is named.
        is_local: the balancer speaks for itself: a health probe, mostly.
        length: the bytes of the header, TLVs included. What follows is the connection's own.
    """

    address: str | None
    is_local: bool
    length: int


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """
    Read the header that a balancer's connection begins with.

    Args:
        data: everything that has arrived, from the connection's first byte. What follows the header is
            ignored.

    Returns:
        The header, or ``None`` while it may still become one: call again with ``least_header`` bytes or more.

    Raises:
        ProxyRefused: this can never become a header.
    """
    length = least_header(data)
    if len(data) < length:
        return None
    is_local = data[12] & 0x0F == _LOCAL
    family, transport = data[13] >> 4, data[13] & 0x0F
    if is_local or transport != _STREAM or family not in _SIZES:
        return ProxyHeader(None, is_local, length)
    _, size = _SIZES[family]
    return ProxyHeader(_shown(data[_FIXED : _FIXED + size]), is_local, length)


def least_header(data: bytes) -> int:
    """
    Say how many bytes the header takes, as far as that is known.

    Args:
        data: everything that has arrived, from the connection's first byte.

    Returns:
        The header's length once its fixed part is there, else the fixed part's.

    Raises:
        ProxyRefused: as ``read_proxy_header`` does.
    """
    _check_signature(data)
    _check_command(data)
    _check_kind(data)
    if len(data) < _FIXED:
        return _FIXED
    size = int.from_bytes(data[14:_FIXED], "big")
    if _FIXED + size > PROXY_HEADER_MAX:
        raise ProxyRefused(f"a header of {_FIXED + size} bytes, more than {PROXY_HEADER_MAX}")
    needed, _ = _SIZES.get(data[13] >> 4, (0, 0))
    if size < needed and data[12] & 0x0F == _PROXY:
        raise ProxyRefused(f"{size} bytes for addresses that take {needed}")
    return _FIXED + size


def _check_signature(data: bytes) -> None:
    begun = data[: len(SIGNATURE)]
    if not SIGNATURE.startswith(begun):
        raise ProxyRefused("no PROXY protocol header, version 2, at the beginning")


def _check_command(data: bytes) -> None:
    if len(data) <= 12:
        return
    version, command = data[12] >> 4, data[12] & 0x0F
    if version != _VERSION:
        raise ProxyRefused(f"version {version}")
    if command not in (_LOCAL, _PROXY):
        raise ProxyRefused(f"command {command}")


def _check_kind(data: bytes) -> None:
    """
    Refuse the numbers that the specification keeps for later, but not where they mean nothing (LOCAL).
    """
    if len(data) <= 13 or data[12] & 0x0F == _LOCAL:
        return
    family, transport = data[13] >> 4, data[13] & 0x0F
    if family > 3 or transport > 2:
        raise ProxyRefused(f"family {family} with transport {transport}")


def _shown(packed: bytes) -> str:
    """
    Write an address as the relay writes those that it sees itself: IPv4 as such, also inside IPv6.
    """
    if len(packed) == 4:
        return str(IPv4Address(packed))
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
