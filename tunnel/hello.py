"""
HELLO, HELLO_ACK and REFUSED: how two ends agree to be a link (SPEC.md §4).

The gateway says HELLO; the relay judges it, with what it knows from the certificate, and answers HELLO_ACK or
REFUSED. Nobody calls the link up before the ACK. Each payload is one JSON object: keys that are not known are
ignored, so that fields can be added; those that are known must have the right type and range.
"""

from dataclasses import dataclass
from typing import Final, TypeGuard

from sallyport.tunnel.frames import RefusalCode, violation
from sallyport.tunnel.json_object import JsonObject, JsonValue, read_object, write_object
from sallyport.tunnel.limits import HELLO_MAX, STREAM_ID_MAX, TEXT_MAX, limit

# Version 1: the first. A change that an end of version 1 could misread takes the next number.
PROTOCOL_VERSION: Final = 1

# The largest integer that every JSON reader keeps exact (RFC 8259 §6).
_INTEGER_MAX: Final = 2**53 - 1
_NAME_MAX: Final = limit(64, "characters", "of a capability, and of a boot id: they go into a log")
_SOFTWARE_MAX: Final = limit(128, "characters", "of a peer's software and version: they go into a log")
_CAPABILITIES_MAX: Final = limit(
    32, "number",
    "capabilities that a peer may name: each is kept as long as its link",
)  # fmt: skip
_RETRY_AFTER_MAX: Final = limit(
    86_400.0, "seconds",
    "the longest wait that a refusal may name: a day, what is longer is for an operator to say",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """
    What a gateway says of itself and of the link.

    Attributes:
        version: The protocol version that it speaks.
        capabilities: Names of optional behaviours that it knows.
        max_streams: How many streams it takes at once on this link.
        boot_id: Chosen when its process started: tells a restart from a reconnect.
        link_index: Which of its links this is, from 0.
        revocation_number: The number of the latest revocation statement that it knows; 0 for none.
        software: Name and version, for logs.
    """

    version: int = PROTOCOL_VERSION
    capabilities: frozenset[str] = frozenset()
    max_streams: int
    boot_id: str
    link_index: int = 0
    revocation_number: int = 0
    software: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAck(Hello):
    """
    The relay's own side of the same, and the time.

    Attributes:
        time: The relay's clock in whole seconds since 1970, for the gateway's clock check.
    """

    time: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    Why the relay will not have the link.

    Attributes:
        code: The reason, for the program.
        text: The reason and the remedy, for a person; one line.
        retry_after: Seconds to wait before trying again; None when it cannot help until something changes.
    """

    code: RefusalCode
    text: str
    retry_after: float | None = None


def encode_hello(hello: Hello) -> bytes:
    """
    Make the payload of HELLO, or of HELLO_ACK when it is one.

    Raises:
        ValueError: It is longer than SPEC.md allows.
    """
    fields: JsonObject = {
        "version": hello.version,
        "capabilities": list[JsonValue](sorted(hello.capabilities)),
        "max_streams": hello.max_streams,
        "boot_id": hello.boot_id,
        "link_index": hello.link_index,
        "revocation_number": hello.revocation_number,
        "software": hello.software,
    }
    if isinstance(hello, HelloAck):
        fields["time"] = hello.time
    return _sized(write_object(fields))


def encode_refusal(refusal: Refusal) -> bytes:
    """Make the payload of REFUSED; a text that is too long is cut."""
    shown = "".join(character if character.isprintable() else "?" for character in refusal.text)
    fields: JsonObject = {"code": int(refusal.code), "text": shown[:TEXT_MAX]}
    if refusal.retry_after is not None:
        fields["retry_after"] = refusal.retry_after
    return _sized(write_object(fields))


def _sized(payload: bytes) -> bytes:
    if len(payload) > HELLO_MAX:
        raise ValueError(f"{len(payload)} bytes; HELLO and its answers have at most {HELLO_MAX}")
    return payload


def read_version(payload: memoryview, what: str) -> int:
    """Read only the version, the one field whose meaning no version may change."""
    return _integer(read_object(payload, what), "version", least=1)


def read_hello(payload: memoryview) -> Hello:
    """
    Read HELLO.

    Raises:
        ProtocolViolation: A field is missing, of the wrong type, or out of range.
    """
    return _read_shared(read_object(payload, "HELLO"))


def read_hello_ack(payload: memoryview) -> HelloAck:
    """
    Read HELLO_ACK.

    Raises:
        ProtocolViolation: A field is missing, of the wrong type, or out of range.
    """
    fields = read_object(payload, "HELLO_ACK")
    shared = _read_shared(fields)
    return HelloAck(
        version=shared.version,
        capabilities=shared.capabilities,
        max_streams=shared.max_streams,
        boot_id=shared.boot_id,
        link_index=shared.link_index,
        revocation_number=shared.revocation_number,
        software=shared.software,
        time=_integer(fields, "time"),
    )


def read_refusal(payload: memoryview) -> Refusal:
    """
    Read REFUSED.

    Raises:
        ProtocolViolation: A field is missing, of the wrong type, or out of range.
    """
    fields = read_object(payload, "REFUSED")
    retry_after = fields.get("retry_after")
    if retry_after is not None and (
        isinstance(retry_after, bool)
        or not isinstance(retry_after, int | float)
        or not 0 <= retry_after <= _RETRY_AFTER_MAX
    ):
        raise violation(f"retry_after that is not 0 to {_RETRY_AFTER_MAX:.0f} seconds")
    return Refusal(
        code=RefusalCode(_integer(fields, "code")),
        text=_text(fields, "text", TEXT_MAX),
        retry_after=None if retry_after is None else float(retry_after),
    )


def _read_shared(fields: JsonObject) -> Hello:
    """Read what HELLO and HELLO_ACK have in common."""
    return Hello(
        version=_integer(fields, "version", least=1),
        capabilities=_names(fields, "capabilities"),
        max_streams=_integer(fields, "max_streams", most=STREAM_ID_MAX),
        boot_id=_text(fields, "boot_id", _NAME_MAX, least=1),
        link_index=_integer(fields, "link_index"),
        revocation_number=_integer(fields, "revocation_number"),
        software=_text(fields, "software", _SOFTWARE_MAX),
    )


def _integer(fields: JsonObject, key: str, *, least: int = 0, most: int = _INTEGER_MAX) -> int:
    value = fields.get(key)
    # In Python a bool is an int; in JSON it is not.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise violation(f"{key} that is not an integer from {least} to {most}")
    return value


def _text(fields: JsonObject, key: str, most: int, *, least: int = 0) -> str:
    value = fields.get(key)
    # It goes to logs and terminals: no line breaks, no escape sequences.
    if not isinstance(value, str) or not least <= len(value) <= most or not value.isprintable():
        raise violation(f"{key} that is not {least} to {most} printable characters")
    return value


def _names(fields: JsonObject, key: str) -> frozenset[str]:
    values = fields.get(key)
    if not isinstance(values, list) or len(values) > _CAPABILITIES_MAX:
        raise violation(f"{key} that is not a list of at most {_CAPABILITIES_MAX} names")
    names = frozenset(value for value in values if _is_name(value))
    if len(names) != len(values):
        raise violation(f"{key} with something that is not a name, or a name twice")
    return names


def _is_name(value: JsonValue) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _NAME_MAX and value.isascii() and value.isprintable()
