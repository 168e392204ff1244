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
from typing import Final

from sallyport.tunnel.alerts import Situation
from sallyport.tunnel.hello_records import MESSAGE_HEADER, first_message, refuse
from sallyport.tunnel.limits import limit

MAX_NAME: Final = limit(
    253, "characters",
    "of a server name (RFC 1035 §2.3.4, without the root's trailing dot)",
)  # fmt: skip
MAX_LABEL: Final = limit(63, "characters", "of one label of a server name")


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
    first = first_message(data)
    if first.message is None:
        return None
    return _parse(first.message, first.length)


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
    return max(first_message(data).length, len(data) + 1)


# The message (RFC 8446, section 4.1.2).

_SERVER_NAME: Final = 0
_ALPN: Final = 16

_HOST_NAME: Final = 0  # NameType.host_name, the only one that was ever assigned


def _parse(message: bytes, length: int) -> ClientHello:
    body = _Cursor(message, "the ClientHello")
    body.take(MESSAGE_HEADER)
    body.take(2)  # legacy_version
    random = body.take(32)
    if len(body.vector(1)) > 32:
        refuse(Situation.MALFORMED, "a legacy session id of more than 32 bytes")
    suites = body.vector(2)
    if not suites or len(suites) % 2:
        refuse(Situation.MALFORMED, f"{len(suites)} bytes of cipher suites")
    if not body.vector(1):
        refuse(Situation.MALFORMED, "no compression method")
    extensions = _extensions(body)
    if _SERVER_NAME not in extensions:
        refuse(Situation.NO_NAME, "the ClientHello has no server name")
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
            refuse(Situation.REPEATED, f"extension {kind} appears twice")
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
        refuse(Situation.MALFORMED, "a server name of an unknown type")
    raw = names.vector(2)
    if not names.is_empty:
        refuse(Situation.REPEATED, "more than one server name")
    if not raw:
        refuse(Situation.MALFORMED, "an empty server name")
    return _host_name(raw)


def _host_name(raw: bytes) -> str:
    """
    Check a host name and fold its case.

    Only what every program spells alike is let through: letters, digits and hyphens in dot-separated
    labels (RFC 5890, section 2.3.1), no trailing dot, and nothing that a resolver might take for an IPv4
    address.
    """
    if len(raw) > MAX_NAME:
        refuse(Situation.BAD_NAME, f"a server name of {len(raw)} characters")
    if raw.translate(None, _NAME_BYTES):
        refuse(Situation.BAD_NAME, "a server name with a character that no host name has")
    labels = raw.decode("ascii").lower().split(".")
    if not all(labels):
        refuse(Situation.BAD_NAME, "a server name with an empty label or a trailing dot")
    if any(len(label) > MAX_LABEL or label.startswith("-") or label.endswith("-") for label in labels):
        refuse(Situation.BAD_NAME, "a server name with a label that breaks the rules of DNS")
    # inet_aton reads decimal, octal and hexadecimal numbers, one to four of them; a name cannot end in one.
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        refuse(Situation.BAD_NAME, "an IP address as server name")
    return ".".join(labels)


_NAME_BYTES: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."


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
        refuse(Situation.MALFORMED, "an empty ALPN list or protocol")
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
            refuse(Situation.MALFORMED, f"a length in {self._what} overruns it")
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
            refuse(Situation.MALFORMED, f"bytes are left over in {self._what}")
