"""
The record layer under a ClientHello (RFC 8446, section 5.1).

A handshake message may be cut into any number of plaintext records. This file puts the first one of a
connection together again, and knows of it no more than its type and its size; ``sni.py`` reads it. Each byte
is judged as soon as it is there and never again, so that what was refused stays refused and what was
promised (``FirstMessage.length``) only grows.
"""

from dataclasses import dataclass
from typing import Final, NoReturn

from sallyport.tunnel.alerts import SPEC_ALERTS, Situation
from sallyport.tunnel.errors import HelloRefused
from sallyport.tunnel.limits import limit

MAX_HELLO: Final = limit(
    16 * 1024, "bytes",
    "of a ClientHello on the wire, record headers included. Real ones take 200 to 1,800 (the largest "
    "carry a post-quantum key share, or ECH); what is peeked stays in the kernel's buffer, so this bounds "
    "memory per connection",
)  # fmt: skip

_RECORD_HEADER: Final = 5
_HANDSHAKE_RECORD: Final = 22  # ContentType.handshake
_MAX_FRAGMENT: Final = 2**14

MESSAGE_HEADER: Final = 4
_CLIENT_HELLO: Final = 1  # HandshakeType.client_hello


@dataclass(frozen=True, slots=True)
class FirstMessage:
    """
    The first handshake message of a connection, as far as it is there.

    Attributes:
        message: the message without record headers; ``None`` while bytes of it are missing.
        length: the bytes of the records that hold it: what they come to when it is whole, and the least that
            they can come to until then.
    """

    message: bytes | None
    length: int


def first_message(data: bytes) -> FirstMessage:
    """
    Join the fragments of the first handshake message.

    Args:
        data: everything that has arrived, from the connection's first byte.

    Raises:
        HelloRefused: at the first byte that cannot belong to a ClientHello of at most ``MAX_HELLO`` bytes.
    """
    message = bytearray()
    start = 0
    while True:
        fragment_size = _record_size(data, start)
        if fragment_size is None:
            return FirstMessage(None, _least_end(start, _message_size(message), promised=len(message)))
        end = start + _RECORD_HEADER + fragment_size
        # Before its bytes are looked at, so that the answer does not depend on how many of them came.
        _check_limit(end)
        promised = len(message) + fragment_size
        message += data[start + _RECORD_HEADER : end]
        size = _message_size(message)
        if size is not None and promised > size:
            refuse(Situation.NOT_TLS, "something follows the ClientHello in its record")
        least = _least_end(end, size, promised=promised)
        _check_limit(least)
        if len(message) == size:
            return FirstMessage(bytes(message), end)
        if len(data) < end:
            return FirstMessage(None, least)
        start = end


def _check_limit(least: int) -> None:
    if least > MAX_HELLO:
        refuse(Situation.LIMIT, f"a ClientHello that takes more than {MAX_HELLO} bytes")


def _least_end(end: int, size: int | None, *, promised: int) -> int:
    """
    Say where the message can end at the earliest.

    Args:
        end: where the last record whose header is known ends.
        size: the message's size, or ``None`` while only its header's four bytes are sure to come.
        promised: the message bytes in all records up to there. What is still missing needs a record.
    """
    missing = (size or MESSAGE_HEADER) - promised
    return end + _RECORD_HEADER + missing if missing > 0 else end


def _record_size(data: bytes, start: int) -> int | None:
    """
    Check the record header at ``start``, as far as it is there.

    Returns:
        The number of bytes in the record's fragment, or ``None`` while the header is incomplete.
    """
    header = data[start : start + _RECORD_HEADER]
    if header[:1] and header[0] != _HANDSHAKE_RECORD:
        refuse(Situation.NOT_TLS, f"a record begins with byte 0x{header[0]:02x}")
    # The minor version is 1 in some hellos and 3 in others, and means nothing.
    if header[1:2] and header[1] != 3:
        refuse(Situation.WRONG_VERSION, f"a record of major version {header[1]}")
    if len(header) < _RECORD_HEADER:
        return None
    size = int.from_bytes(header[3:5], "big")
    if size == 0:
        refuse(Situation.NOT_TLS, "an empty handshake record")
    if size > _MAX_FRAGMENT:
        refuse(Situation.RECORD_TOO_LONG, f"a record of {size} bytes")
    return size


def _message_size(message: bytearray) -> int | None:
    """
    Check the handshake message's header, as far as it is there.

    Returns:
        The message's size, header included, or ``None`` while its header is incomplete.
    """
    if message and message[0] != _CLIENT_HELLO:
        refuse(Situation.NOT_TLS, f"the first handshake message has type {message[0]}")
    if len(message) < MESSAGE_HEADER:
        return None
    return MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER], "big")


def refuse(situation: Situation, detail: str) -> NoReturn:
    """
    Refuse what has arrived, with the alert of the table in SPEC.md.

    Raises:
        HelloRefused: always.
    """
    raise HelloRefused(SPEC_ALERTS[situation], detail)
