"""
CONTROL's payload: a named message between the two ends of a link (SPEC.md §9).

``{"name": "…", "body": {…}}``. Names are added over time; an end ignores a name that it does not know. What a
name means is not this package's business.
"""

from typing import Final

from sallyport.tunnel.frames import violation
from sallyport.tunnel.json_object import JsonObject, read_object, write_object
from sallyport.tunnel.limits import CONTROL_MAX, limit

_NAME_MAX: Final = limit(64, "characters", "of a CONTROL message's name: it goes into a log")


def encode_control(name: str, body: JsonObject) -> bytes:
    """
    Make CONTROL's payload.

    Raises:
        ValueError: It is longer than SPEC.md allows, the name is no name, or the body is no JSON.
    """
    payload = write_object({"name": name, "body": body})
    if len(payload) > CONTROL_MAX or not _is_name(name):
        raise ValueError(
            f"CONTROL {name[:_NAME_MAX]!r} with {len(payload)} bytes; at most {CONTROL_MAX} are allowed"
        )
    return payload


def read_control(payload: memoryview) -> tuple[str, JsonObject]:
    """
    Read CONTROL's payload.

    Raises:
        ProtocolViolation: It is not as SPEC.md §9 says.
    """
    fields = read_object(payload, "CONTROL")
    name, body = fields.get("name"), fields.get("body", {})
    if not isinstance(name, str) or not _is_name(name):
        raise violation("CONTROL without a name")
    if not isinstance(body, dict):
        raise violation("CONTROL with a body that is not an object")
    return name, body


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _NAME_MAX and text.isascii() and text.isprintable()
