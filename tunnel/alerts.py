"""
TLS alerts: the only words that the relay has for a caller.

The relay owns no certificate for a tunnel's name, so it cannot answer a caller in HTTP, nor in anything
else that TLS would protect. What it can do before the first handshake message is answered is what every
TLS server may: send one fatal alert in the clear (RFC 8446, sections 5.1 and 6.2) and close. Clients
report the alert's name, so three alerts carry the three answers that a caller can act upon: there is no
such tunnel, its gateway is away, a limit was reached. ``SPEC_ALERTS`` is the table that SPEC.md prints.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final


class Alert(IntEnum):
    """
    TLS AlertDescription codes (RFC 8446, section 6, and the IANA registry).
    """

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class Situation(StrEnum):
    """
    Why the relay turns a connection away. The values are the words of the table in SPEC.md.
    """

    NOT_TLS = "not a TLS ClientHello"
    WRONG_VERSION = "a record of another protocol version"
    RECORD_TOO_LONG = "a record of more than 16 KiB"
    MALFORMED = "a ClientHello that cannot be decoded"
    REPEATED = "an extension or a server name that appears twice"
    NO_NAME = "no server name"
    BAD_NAME = "a server name that no tunnel can have"
    UNKNOWN_TUNNEL = "unknown or archived tunnel"
    NO_GATEWAY = "no gateway connected"
    LIMIT = "a limit was reached"
    SLOW = "the ClientHello took too long"
    INTERNAL = "the relay cannot serve the connection"


_ALERT_RECORD: Final = 21  # ContentType.alert
_FATAL: Final = 2  # AlertLevel.fatal

# The table of SPEC.md ("what the relay says to callers"): each situation and the fatal alert that answers
# it. A disabled tunnel has no gateway connected, because its links are refused, and is answered so.
SPEC_ALERTS: Final[Mapping[Situation, Alert]] = MappingProxyType(
    {
        Situation.NOT_TLS: Alert.UNEXPECTED_MESSAGE,
        Situation.WRONG_VERSION: Alert.PROTOCOL_VERSION,
        Situation.RECORD_TOO_LONG: Alert.RECORD_OVERFLOW,
        Situation.MALFORMED: Alert.DECODE_ERROR,
        Situation.REPEATED: Alert.ILLEGAL_PARAMETER,
        Situation.NO_NAME: Alert.UNRECOGNIZED_NAME,
        Situation.BAD_NAME: Alert.UNRECOGNIZED_NAME,
        Situation.UNKNOWN_TUNNEL: Alert.UNRECOGNIZED_NAME,
        Situation.NO_GATEWAY: Alert.INTERNAL_ERROR,
        Situation.LIMIT: Alert.HANDSHAKE_FAILURE,
        Situation.SLOW: Alert.HANDSHAKE_FAILURE,
        Situation.INTERNAL: Alert.INTERNAL_ERROR,
    }
)


def alert_record(alert: Alert) -> bytes:
    """
    Encode a fatal alert as one plaintext TLS record.

    The record carries legacy_record_version 0x0303, as RFC 8446, section 5.1, demands.

    Returns:
        Seven bytes, complete: nothing may follow them.
    """
    return bytes((_ALERT_RECORD, 3, 3, 0, 2, _FATAL, alert))


def read_alert_record(data: bytes | memoryview) -> Alert | None:
    """
    Read what ``alert_record`` makes, at the end of what a peer sent; None when it is anything else.

    Python's ``ssl`` has no name for some alerts (120 among them on 3.11), so a client that wants to say
    which one ended its handshake reads the record itself.
    """
    record = bytes(data[-7:])
    if len(record) < 7 or record[0] != _ALERT_RECORD or record[3:6] != bytes((0, 2, _FATAL)):
        return None
    return Alert(record[6]) if record[6] in frozenset(Alert) else None
