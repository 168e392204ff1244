"""
OPEN's payload: what a relay says of a caller when it opens a stream (SPEC.md §6).

    reference 8 bytes | u8 n | server name n | u8 m | remote address m | first bytes

The reference is the first eight bytes of the caller's ClientHello random: relay, gateway and connector can
each read it, so it names the stream in all three logs. Everything here is the relay's *claim*: good for
logs and limits, never for a decision about who the caller is.
"""

from dataclasses import dataclass
from typing import Final

from sallyport.tunnel.frames import violation
from sallyport.tunnel.limits import ADDRESS_MAX, OPEN_FIRST_MAX, SERVER_NAME_MAX

_REFERENCE_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Opening:
    """
    What OPEN carries.

    Attributes:
        reference: 16 lower-case hex digits, the stream's name in every log.
        server_name: The name that the caller asked for in SNI, as the relay claims.
        address: The caller's address in text, as the relay claims.
        first: The first bytes of the stream, already read by the relay.
    """

    reference: str
    server_name: str
    address: str
    first: bytes


def encode_opening(opening: Opening) -> bytes:
    """
    Make OPEN's payload.

    Raises:
        ValueError: A field is longer than SPEC.md allows, not ASCII, or the reference is not 16 hex digits.
    """
    reference = bytes.fromhex(opening.reference)
    if len(reference) != _REFERENCE_SIZE:
        raise ValueError(f"a reference has {2 * _REFERENCE_SIZE} hex digits, not {len(opening.reference)}")
    if len(opening.first) > OPEN_FIRST_MAX:
        raise ValueError(f"{len(opening.first)} first bytes; at most {OPEN_FIRST_MAX} are allowed")
    name = _encode_text(opening.server_name, SERVER_NAME_MAX)
    address = _encode_text(opening.address, ADDRESS_MAX)
    return b"".join((reference, name, address, opening.first))


def _encode_text(text: str, most: int) -> bytes:
    data = text.encode("ascii")
    if len(data) > most or not text.isprintable():
        raise ValueError(f"{text[:most]!r} is longer than {most} characters or not printable")
    return bytes((len(data),)) + data


def read_opening(payload: memoryview) -> Opening:
    """
    Read OPEN's payload; what is kept of it is copied.

    Raises:
        ProtocolViolation: It is not as SPEC.md §6 says.
    """
    reference = payload[:_REFERENCE_SIZE].hex()
    name, address_at = _read_text(payload, _REFERENCE_SIZE, SERVER_NAME_MAX)
    address, first_at = _read_text(payload, address_at, ADDRESS_MAX)
    first = bytes(payload[first_at:])
    if len(first) > OPEN_FIRST_MAX:
        raise violation(f"OPEN with {len(first)} first bytes; at most {OPEN_FIRST_MAX} are allowed")
    return Opening(reference, name, address, first)


def _read_text(payload: memoryview, at: int, most: int) -> tuple[str, int]:
    """Read one length and so many printable ASCII characters; return them and where the next field begins."""
    if at >= len(payload):
        raise violation("OPEN that ends before its address")
    end = at + 1 + payload[at]
    if payload[at] > most or end > len(payload):
        raise violation(
            f"OPEN with a text of {payload[at]} bytes; at most {most} are allowed, within the frame"
        )
    try:
        text = str(payload[at + 1 : end], "ascii")
    except UnicodeDecodeError:
        raise violation("OPEN with a text that is not ASCII") from None
    if not text.isprintable():
        raise violation("OPEN with a text that is not printable")
    return text, end
