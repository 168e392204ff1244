"""
The ClientHello: the one message that the relay reads.

A caller's first TLS message is in the clear and names the host that it wants. The relay peeks at it,
takes the outer server name (RFC 6066, section 3), the ALPN list (RFC 7301) and the random, and decides; the
bytes themselves travel on untouched, so whoever ends the TLS judges the rest. Three rules follow:

* Whatever arrives, the answer is a hello, ``None`` for "not whole yet", or ``HelloRefused`` with the alert
  of the table in SPEC.md; and more bytes never change an answer that was given.
* What is unknown is skipped: GREASE (RFC 8701) by itself, and an encrypted hello (ECH) too, since only its
  outer name can be routed. What is known and ambiguous is refused: two names, an extension that appears
  twice, a name whose spelling two programs could read differently.
* Versions, cipher suites and key shares are not looked at: they are between the caller and the gateway.

A hello may be cut anywhere: into segments by TCP, and into records by its sender. ``least_length`` says how
much must have arrived before reading again can be worth it, so that a peer who trickles bytes wakes the
relay a few dozen times and not once for each byte.
"""

from dataclasses import dataclass
from typing import Final, NoReturn

from sallyport.tunnel.alerts import SPEC_ALERTS, Situation
from sallyport.tunnel.errors import HelloRefused

# Bytes on the wire, record headers included. Real hellos take 200 to 1,800 (the largest carry a post-quantum
# key share, or ECH); what is peeked stays in the kernel's buffer, so this bounds memory per connection.
MAX_HELLO: Final = 16 * 1024

# RFC 1035, section 2.3.4, without the root's trailing dot.
MAX_NAME: Final = 253
MAX_LABEL: Final = 63


@dataclass(frozen=True, slots=True)
class ClientHello:
    """
    What a ClientHello says to the relay.

    Attributes:
        server_name: the outer SNI, checked and in lower case.
        alpn: the protocols offered, in order; ``None`` when the extension is absent.
        random: the 32 bytes of ClientHello.random.
        length: the bytes of the records that held the hello, headers included.
    """

    server_name: str
    alpn: tuple[bytes, ...] | None
    random: bytes
    length: int

    @property
    def reference(self) -> str:
        """
        Name this connection in every log: sixteen hex digits that only its two ends and the relay know.
        """
        return self.random[:8].hex()


def read_client_hello(data: bytes) -> ClientHello | None:
    """
    Read the ClientHello that a connection begins with.

    Args:
        data: everything that has arrived, from the connection's first byte. What follows the hello's last
            record is ignored.

    Returns:
        The hello, or ``None`` while it may still become one: call again with ``least_length`` bytes or more.

    Raises:
        HelloRefused: this can never become a hello that the relay could act upon; says which alert to send.
    """
    gathered = _gather(data)
    if gathered.message is None:
        return None
    return _parse(gathered.message, gathered.length)


def least_length(data: bytes) -> int:
    """
    Say how many bytes, from the first, must have arrived before ``read_client_hello`` is worth calling again.

    Args:
        data: everything that has arrived, as given to ``read_client_hello``, which returned ``None`` for it.

    Returns:
        More than ``len(data)``, and never more than the hello's whole length.

    Raises:
        HelloRefused: as ``read_client_hello`` does.
    """
    gathered = _gather(data)
    return max(gathered.length, len(data) + 1)


# Records (RFC 8446, section 5.1).

_RECORD_HEADER: Final = 5
_HANDSHAKE_RECORD: Final = 22  # ContentType.handshake
_MAX_FRAGMENT: Final = 2**14

_MESSAGE_HEADER: Final = 4
_CLIENT_HELLO: Final = 1  # HandshakeType.client_hello


@dataclass(frozen=True, slots=True)
class _Gathered:
    """
    The first handshake message without its record headers.

    ``message`` is ``None`` while bytes are missing. ``length`` counts the bytes of the records that hold
    the message: what they come to when it is whole, and the least that they can come to until then.
    """

    message: bytes | None
    length: int


def _gather(data: bytes) -> _Gathered:
    """
    Join the fragments of the first handshake message, refusing at the first byte that cannot belong to one.
    """
    message = bytearray()
    start = 0
    while True:
        fragment_size = _record_size(data, start)
        if fragment_size is None:
            return _Gathered(None, _least_end(start, _message_size(message), promised=len(message)))
        end = start + _RECORD_HEADER + fragment_size
        # Before its bytes are looked at, so that the answer does not depend on how many of them came.
        _check_limit(end)
        promised = len(message) + fragment_size
        message += data[start + _RECORD_HEADER : end]
        size = _message_size(message)
        if size is not None and promised > size:
            _refuse(Situation.NOT_TLS, "something follows the ClientHello in its record")
        least = _least_end(end, size, promised=promised)
        _check_limit(least)
        if len(message) == size:
            return _Gathered(bytes(message), end)
        if len(data) < end:
            return _Gathered(None, least)
        start = end


def _check_limit(least: int) -> None:
    if least > MAX_HELLO:
        _refuse(Situation.LIMIT, f"a ClientHello that takes more than {MAX_HELLO} bytes")


def _least_end(end: int, size: int | None, *, promised: int) -> int:
    """
    Say where the message can end at the earliest.

    Args:
        end: where the last record whose header is known ends.
        size: the message's size, or ``None`` while only its header's four bytes are sure to come.
        promised: the message bytes in all records up to there. What is still missing needs a record.
    """
    missing = (size or _MESSAGE_HEADER) - promised
    return end + _RECORD_HEADER + missing if missing > 0 else end


def _record_size(data: bytes, start: int) -> int | None:
    """
    Check the record header at ``start``, as far as it is there.

    Returns:
        The number of bytes in the record's fragment, or ``None`` while the header is incomplete.
    """
    header = data[start : start + _RECORD_HEADER]
    if header[:1] and header[0] != _HANDSHAKE_RECORD:
        _refuse(Situation.NOT_TLS, f"a record begins with byte 0x{header[0]:02x}")
    # The minor version is 1 in some hellos, 3 in others, and means nothing; SSL before 3.0 had no such
    # header.
    if header[1:2] and header[1] != 3:
        _refuse(Situation.WRONG_VERSION, f"a record of major version {header[1]}")
    if len(header) < _RECORD_HEADER:
        return None
    size = int.from_bytes(header[3:5], "big")
    if size == 0:
        _refuse(Situation.NOT_TLS, "an empty handshake record")
    if size > _MAX_FRAGMENT:
        _refuse(Situation.RECORD_TOO_LONG, f"a record of {size} bytes")
    return size


def _message_size(message: bytearray) -> int | None:
    """
    Check the handshake message's header, as far as it is there.

    Returns:
        The message's size, header included, or ``None`` while its header is incomplete.
    """
    if message and message[0] != _CLIENT_HELLO:
        _refuse(Situation.NOT_TLS, f"the first handshake message has type {message[0]}")
    if len(message) < _MESSAGE_HEADER:
        return None
    return _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")


# The message (RFC 8446, section 4.1.2).

_SERVER_NAME: Final = 0
_ALPN: Final = 16

_HOST_NAME: Final = 0  # NameType.host_name, the only one that was ever assigned


def _parse(message: bytes, length: int) -> ClientHello:
    body = _Cursor(message, "the ClientHello")
    body.take(_MESSAGE_HEADER)
    body.take(2)  # legacy_version
    random = body.take(32)
    if len(body.vector(1)) > 32:
        _refuse(Situation.MALFORMED, "a legacy session id of more than 32 bytes")
    suites = body.vector(2)
    if not suites or len(suites) % 2:
        _refuse(Situation.MALFORMED, f"{len(suites)} bytes of cipher suites")
    if not body.vector(1):
        _refuse(Situation.MALFORMED, "no compression method")
    extensions = _extensions(body)
    if _SERVER_NAME not in extensions:
        _refuse(Situation.NO_NAME, "the ClientHello has no server name")
    server_name = _server_name(extensions[_SERVER_NAME])
    alpn = _protocols(extensions[_ALPN]) if _ALPN in extensions else None
    return ClientHello(server_name=server_name, alpn=alpn, random=random, length=length)


def _extensions(body: "_Cursor") -> dict[int, bytes]:
    """
    Read the extensions, each type at most once (RFC 8446, section 4.2).
    """
    if body.is_empty:  # as TLS 1.2 allowed
        return {}
    block = _Cursor(body.vector(2), "the extensions")
    body.expect_end()
    extensions: dict[int, bytes] = {}
    while not block.is_empty:
        kind = block.number(2)
        if kind in extensions:
            _refuse(Situation.REPEATED, f"extension {kind} appears twice")
        extensions[kind] = block.vector(2)
    return extensions


def _server_name(extension: bytes) -> str:
    """
    Read the one host name of a server_name extension (RFC 6066, section 3).
    """
    outer = _Cursor(extension, "the server name extension")
    names = _Cursor(outer.vector(2), "the server name list")
    outer.expect_end()
    if names.number(1) != _HOST_NAME:
        _refuse(Situation.MALFORMED, "a server name of an unknown type")
    raw = names.vector(2)
    if not names.is_empty:
        _refuse(Situation.REPEATED, "more than one server name")
    if not raw:
        _refuse(Situation.MALFORMED, "an empty server name")
    return _host_name(raw)


def _host_name(raw: bytes) -> str:
    """
    Check a host name and fold its case.

    Only what every program spells alike is let through: letters, digits and hyphens in dot-separated
    labels (RFC 5890, section 2.3.1), no trailing dot, and nothing that a resolver might take for an IPv4
    address.
    """
    if len(raw) > MAX_NAME:
        _refuse(Situation.BAD_NAME, f"a server name of {len(raw)} characters")
    if any(byte not in _NAME_BYTES for byte in raw):
        _refuse(Situation.BAD_NAME, "a server name with a character that no host name has")
    labels = raw.decode("ascii").lower().split(".")
    if not all(labels):
        _refuse(Situation.BAD_NAME, "a server name with an empty label or a trailing dot")
    if any(len(label) > MAX_LABEL or label.startswith("-") or label.endswith("-") for label in labels):
        _refuse(Situation.BAD_NAME, "a server name with a label that breaks the rules of DNS")
    # inet_aton reads decimal, octal and hexadecimal numbers, one to four of them; a name cannot end in one.
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        _refuse(Situation.BAD_NAME, "an IP address as server name")
    return ".".join(labels)


_NAME_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    """
    Read the protocol list of an ALPN extension (RFC 7301, section 3.1).
    """
    outer = _Cursor(extension, "the ALPN extension")
    block = _Cursor(outer.vector(2), "the ALPN list")
    outer.expect_end()
    protocols: list[bytes] = []
    while not block.is_empty:
        protocols.append(block.vector(1))
    if not protocols or not all(protocols):
        _refuse(Situation.MALFORMED, "an empty ALPN list or protocol")
    return tuple(protocols)


class _Cursor:
    """
    A place in a block of bytes; to read beyond the block's end is decode_error.
    """

    __slots__ = ("_at", "_block", "_what")

    def __init__(self, block: bytes, what: str) -> None:
        self._block = block
        self._what = what
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._block)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._block):
            _refuse(Situation.MALFORMED, f"a length in {self._what} overruns it")
        taken = self._block[self._at : end]
        self._at = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """
        Take a vector whose length is written before it, in ``width`` bytes (RFC 8446, section 3.4).
        """
        return self.take(self.number(width))

    def expect_end(self) -> None:
        if not self.is_empty:
            _refuse(Situation.MALFORMED, f"bytes are left over in {self._what}")


def _refuse(situation: Situation, detail: str) -> NoReturn:
    raise HelloRefused(SPEC_ALERTS[situation], detail)
