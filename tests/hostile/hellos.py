"""
ClientHellos made by hand, and the corpus of hostile ones with the alert that answers each.

``hostile_hellos`` takes the name of a host that the relay under test would serve, so that each case is
refused for its own reason and not for an unknown name. Nothing in a case depends on time: where bytes are
withheld (``Fate.WAITS``) the relay may neither answer nor spin until its own deadline.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

UNEXPECTED_MESSAGE = 10
RECORD_OVERFLOW = 22
HANDSHAKE_FAILURE = 40
ILLEGAL_PARAMETER = 47
DECODE_ERROR = 50
PROTOCOL_VERSION = 70
UNRECOGNIZED_NAME = 112

SERVER_NAME, SUPPORTED_GROUPS, ALPN, SUPPORTED_VERSIONS, KEY_SHARE, ECH = 0, 10, 16, 43, 51, 0xFE0D
GREASE = 0x3A3A

RANDOM = bytes(range(32))


class Fate(Enum):
    """What becomes of a hello."""

    REFUSED = auto()
    WAITS = auto()


@dataclass(frozen=True)
class HostileHello:
    """
    One case.

    Attributes:
        name: what is hostile about it.
        data: what the peer sends; after it, it stays silent and does not close.
        alert: the alert that the relay answers, ``None`` where the hello is not whole.
        readable: there is nothing wrong with the hello itself, only no tunnel that it could be for.
    """

    name: str
    data: bytes
    alert: int | None
    readable: bool = False

    @property
    def fate(self) -> Fate:
        return Fate.WAITS if self.alert is None else Fate.REFUSED


# Making hellos


def vector(width: int, content: bytes) -> bytes:
    """Write a vector with its length before it, in ``width`` bytes."""
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    """Encode one extension."""
    return kind.to_bytes(2, "big") + vector(2, content)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """Encode a server_name extension with any number of names."""
    return extension(SERVER_NAME, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def alpn(*protocols: bytes) -> bytes:
    """Encode an ALPN extension."""
    return extension(ALPN, vector(2, b"".join(vector(1, protocol) for protocol in protocols)))


def usual_extensions() -> list[bytes]:
    """Encode what every TLS 1.3 client sends beside a name."""
    return [
        extension(SUPPORTED_GROUPS, vector(2, b"\x00\x1d\x00\x17")),
        extension(SUPPORTED_VERSIONS, vector(1, b"\x03\x04")),
        extension(KEY_SHARE, vector(2, b"\x00\x1d" + vector(2, bytes(32)))),
    ]


def hello_message(
    extensions: Iterable[bytes],
    *,
    session_id: bytes = bytes(32),
    suites: bytes = b"\x13\x01\x13\x02",
    compression: bytes = b"\x00",
    tail: bytes = b"",
) -> bytes:
    """Encode a ClientHello as a handshake message, without a record around it."""
    body = b"\x03\x03" + RANDOM + vector(1, session_id) + vector(2, suites) + vector(1, compression)
    body += vector(2, b"".join(extensions)) + tail
    return b"\x01" + vector(3, body)


def record(fragment: bytes, *, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    """Put a fragment into one TLS record."""
    return bytes([kind]) + version + vector(2, fragment)


def records(message: bytes, sizes: Sequence[int]) -> bytes:
    """Cut a message into records of the given sizes, used in turn until nothing is left."""
    parts, turn = [], 0
    while message:
        size = sizes[turn % len(sizes)]
        parts.append(record(message[:size]))
        message = message[size:]
        turn += 1
    return b"".join(parts)


def client_hello(host: str | None, *more: bytes) -> bytes:
    """Encode a plain hello for ``host`` in one record, with more extensions at its end."""
    names = [] if host is None else [server_name(host.encode())]
    return record(hello_message([*names, *usual_extensions(), *more]))


# The corpus


def hostile_hellos(host: str) -> list[HostileHello]:
    """
    List every hostile hello.

    Args:
        host: a name that would be served if the hello were a good one.
    """
    return [
        *_not_tls(host),
        *_cut_wrongly(host),
        *_undecodable(host),
        *_ambiguous(host),
        *_names(host),
        *_names_of_others(),
        *_unfinished(host),
    ]


def _not_tls(host: str) -> list[HostileHello]:
    good = hello_message([server_name(host.encode()), *usual_extensions()])
    return [
        HostileHello("plain HTTP", f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), UNEXPECTED_MESSAGE),
        HostileHello("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", UNEXPECTED_MESSAGE),
        HostileHello("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", UNEXPECTED_MESSAGE),
        HostileHello(
            "SSLv2 hello", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37), UNEXPECTED_MESSAGE
        ),
        HostileHello("zeros", bytes(64), UNEXPECTED_MESSAGE),
        HostileHello("all ones", b"\xff" * 64, UNEXPECTED_MESSAGE),
        HostileHello("one byte of rubbish", b"x", UNEXPECTED_MESSAGE),
        HostileHello(
            "PROXY header nobody asked for", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n", UNEXPECTED_MESSAGE
        ),
        HostileHello("an alert first", record(b"\x02\x28", kind=21), UNEXPECTED_MESSAGE),
        HostileHello("application data first", record(bytes(40), kind=23), UNEXPECTED_MESSAGE),
        HostileHello("a heartbeat first", record(b"\x01\x40\x00" + bytes(16), kind=24), UNEXPECTED_MESSAGE),
        HostileHello("change_cipher_spec first", record(b"\x01", kind=20) + record(good), UNEXPECTED_MESSAGE),
        HostileHello("a ServerHello", record(b"\x02" + good[1:]), UNEXPECTED_MESSAGE),
        HostileHello("a HelloRequest", record(bytes(4)), UNEXPECTED_MESSAGE),
        HostileHello("major version 2", record(good, version=b"\x02\x00"), PROTOCOL_VERSION),
        HostileHello("major version 4", record(good, version=b"\x04\x01"), PROTOCOL_VERSION),
        HostileHello("DTLS", b"\x16\xfe\xfd" + bytes(10), PROTOCOL_VERSION),
    ]


def _cut_wrongly(host: str) -> list[HostileHello]:
    good = hello_message([server_name(host.encode()), *usual_extensions()])
    half = len(good) // 2
    first, second = record(good[:half]), record(good[half:])
    return [
        HostileHello("an empty record", record(b""), UNEXPECTED_MESSAGE),
        HostileHello("an empty record in between", first + record(b"") + second, UNEXPECTED_MESSAGE),
        HostileHello(
            "an alert in between", first + record(b"\x01\x00", kind=21) + second, UNEXPECTED_MESSAGE
        ),
        HostileHello(
            "another version in between", first + record(good[half:], version=b"\x05\x00"), PROTOCOL_VERSION
        ),
        HostileHello("two hellos in one record", record(good + good), UNEXPECTED_MESSAGE),
        HostileHello("a byte behind the hello in its record", record(good + b"\x00"), UNEXPECTED_MESSAGE),
        HostileHello("a record of 16 KiB and one byte", b"\x16\x03\x01\x40\x01" + good, RECORD_OVERFLOW),
        HostileHello("a record of 64 KiB", b"\x16\x03\x01\xff\xff" + good, RECORD_OVERFLOW),
        HostileHello("a record that fills the limit", b"\x16\x03\x01\x40\x00" + good, HANDSHAKE_FAILURE),
        HostileHello("a message of 16 MiB", record(b"\x01\xff\xff\xff" + good[4:]), HANDSHAKE_FAILURE),
        HostileHello("a message of 20 KiB", _padded(host, 20 * 1024), HANDSHAKE_FAILURE),
        HostileHello(
            "one-byte records past the limit", records(_padded_message(host, 4000), [1]), HANDSHAKE_FAILURE
        ),
    ]


def _undecodable(host: str) -> list[HostileHello]:
    name, usual = server_name(host.encode()), usual_extensions()
    cases = {
        "an empty message": b"\x01\x00\x00\x00",
        "a message of a version only": b"\x01\x00\x00\x02\x03\x03",
        "a session id of 33 bytes": hello_message([name, *usual], session_id=bytes(33)),
        "no cipher suites": hello_message([name, *usual], suites=b""),
        "half a cipher suite": hello_message([name, *usual], suites=b"\x13\x01\x13"),
        "no compression method": hello_message([name, *usual], compression=b""),
        "bytes behind the extensions": hello_message([name, *usual], tail=b"\x00"),
        "an extension that overruns": hello_message([name, *usual, b"\x00\x2d\x00\xff\x01"]),
        "half an extension header": hello_message([name, *usual, b"\x00\x2d\x00"]),
        "suites that overrun": b"\x01" + vector(3, b"\x03\x03" + RANDOM + b"\x00" + b"\xff\xff\x13\x01"),
        "an empty name extension": hello_message([extension(SERVER_NAME, b""), *usual]),
        "an empty name list": hello_message([server_name(), *usual]),
        "an empty name": hello_message([server_name(b""), *usual]),
        "a name list that overruns": hello_message(
            [extension(SERVER_NAME, b"\x00\xff\x00\x00\x01a"), *usual]
        ),
        "a name that overruns": hello_message([extension(SERVER_NAME, b"\x00\x04\x00\x00\xffa"), *usual]),
        "bytes behind the name list": hello_message([extension(SERVER_NAME, name[4:] + b"\x00"), *usual]),
        "a name of an unknown type": hello_message([server_name(host.encode(), kind=1), *usual]),
        "an empty ALPN extension": hello_message([name, *usual, extension(ALPN, b"")]),
        "an empty ALPN list": hello_message([name, *usual, alpn()]),
        "an empty ALPN protocol": hello_message([name, *usual, alpn(b"http/1.1", b"")]),
        "bytes behind the ALPN list": hello_message(
            [name, *usual, extension(ALPN, vector(2, b"\x01a") + b"\x00")]
        ),
    }
    return [HostileHello(case, record(message), DECODE_ERROR) for case, message in cases.items()]


def _ambiguous(host: str) -> list[HostileHello]:
    name, usual = server_name(host.encode()), usual_extensions()
    cases = {
        "two names": hello_message([server_name(host.encode(), b"other.example"), *usual]),
        "the same name twice": hello_message([server_name(host.encode(), host.encode()), *usual]),
        "two name extensions": hello_message([name, *usual, server_name(b"other.example")]),
        "two ALPN extensions": hello_message([name, *usual, alpn(b"h2"), alpn(b"http/1.1")]),
        "an unknown extension twice": hello_message(
            [name, *usual, extension(4660, b""), extension(4660, b"")]
        ),
    }
    return [HostileHello(case, record(message), ILLEGAL_PARAMETER) for case, message in cases.items()]


def _names(host: str) -> list[HostileHello]:
    raw = host.encode()
    cases = {
        "a trailing dot": raw + b".",
        "a leading dot": b"." + raw,
        "only a dot": b".",
        "two dots": raw.replace(b".", b"..", 1),
        "an underscore": b"_x." + raw,
        "a NUL": raw + b"\x00.evil.example",
        "a space": b" " + raw,
        "a newline": raw + b"\n",
        "a slash": raw + b"/",
        "a port": raw + b":443",
        "a wildcard": b"*." + raw,
        "user information": b"u@" + raw,
        "a percent escape": b"%61." + raw,
        "a name in UTF-8": "bücher.".encode() + raw,
        "a fullwidth dot": raw.replace(b".", "\uff0e".encode(), 1),
        "a Kelvin sign": "\u212a.".encode() + raw,
        "bytes that are no UTF-8": b"\xff\xfe." + raw,
        "a label that begins with a hyphen": b"-a." + raw,
        "a label that ends with a hyphen": b"a-." + raw,
        "a label of 64 characters": b"a" * 64 + b"." + raw,
        "254 characters": _lengthened(raw, 254),
        "10,000 characters": b"a." * 5000 + raw,
        "an IPv4 address": b"192.0.2.1",
        "an IPv4 address in one number": b"3221225985",
        "an IPv4 address in octal": b"0300.0.02.01",
        "an IPv4 address in hexadecimal": b"0xc0000201",
        "a name that ends in a number": b"a.b.1",
        "an IPv6 address": b"2001:db8::1",
        "an IPv6 address in brackets": b"[2001:db8::1]",
    }
    without = record(hello_message(usual_extensions()))
    return [
        HostileHello("no name", without, UNRECOGNIZED_NAME),
        HostileHello("no extensions at all", record(_without_extensions()), UNRECOGNIZED_NAME),
        HostileHello(
            "a name in the encrypted hello only",
            client_hello(None, extension(ECH, bytes(200))),
            UNRECOGNIZED_NAME,
        ),
        *(
            HostileHello(
                case, record(hello_message([server_name(name), *usual_extensions()])), UNRECOGNIZED_NAME
            )
            for case, name in cases.items()
        ),
    ]


def _names_of_others() -> list[HostileHello]:
    names = ("localhost", "example.net", "www.example.net")
    return [
        HostileHello(f"the name {name}", client_hello(name), UNRECOGNIZED_NAME, readable=True)
        for name in names
    ]


def _unfinished(host: str) -> list[HostileHello]:
    good = client_hello(host)
    return [
        HostileHello("the first byte", good[:1], None),
        HostileHello("half a record header", good[:3], None),
        HostileHello("a record header", good[:5], None),
        HostileHello("half the hello", good[: len(good) // 2], None),
        HostileHello("all but the last byte", good[:-1], None),
        HostileHello("half the hello in one-byte records", records(good[5:], [1])[: len(good) * 3], None),
    ]


def _lengthened(host: bytes, size: int) -> bytes:
    """Put labels in front of a name until it has ``size`` characters."""
    prefix = (b"a" * 49 + b".") * 6
    return prefix[: size - len(host) - 2] + b"a." + host


def _without_extensions() -> bytes:
    return b"\x01" + vector(3, b"\x03\x03" + RANDOM + b"\x00" + vector(2, b"\x13\x01") + b"\x01\x00")


def _padded_message(host: str, size: int) -> bytes:
    return hello_message([server_name(host.encode()), *usual_extensions(), extension(21, bytes(size))])


def _padded(host: str, size: int) -> bytes:
    return records(_padded_message(host, size), [16 * 1024])
