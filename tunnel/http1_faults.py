"""
Naming what is wrong with a head.

Only ever reached for a head that is refused: ``http1_grammar`` has said no, and somebody will want to know
why. Nothing here decides that a head is good.
"""

import re

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1_grammar import TARGET, TOKEN

_CONTROL = rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
_BYTE_FAULT = re.compile(_CONTROL + rb"|(?<!\r)\n|\r(?!\n)")
# As far as a head has come. A final CR is judged with the byte that follows it.
_EARLY_FAULT = re.compile(_CONTROL + rb"|(?<!\r)\n|\r(?!\n|\Z)")

_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_STATUS = re.compile(rb"[1-5][0-9]{2}(?: |\Z)")
_KNOWN_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")


def check_beginning(beginning: bytes | bytearray, since: int, *, status: int) -> None:
    """
    Refuse an unfinished head as soon as it cannot become a good one.

    Without this, a head with bare LF line ends would be waited for until the head timeout.

    Args:
        beginning: The head as far as it has come.
        since: How many of its bytes were checked before.
        status: The status to refuse with.

    Raises:
        HttpRefused: A control character, a bare CR or LF, or an empty line before the message.
    """
    # The byte before is looked at again: it may be a CR, which then was not judged.
    fault = _byte_fault(beginning, _EARLY_FAULT, max(since - 1, 0), status)
    if fault is not None:
        raise fault


def request_fault(raw: bytes) -> HttpRefused:
    """Say why a complete head has not the shape of a request's."""
    fault = _byte_fault(raw, _BYTE_FAULT, 0, 400)
    if fault is not None:
        return fault
    line, _, fields = raw.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]):
        return HttpRefused(400, "malformed request line")
    _, target, version = parts
    if version not in _KNOWN_VERSIONS:
        if _VERSION.fullmatch(version):
            return HttpRefused(505, "HTTP version")
        return HttpRefused(400, "malformed request line")
    if not TARGET.fullmatch(target):
        return HttpRefused(400, "malformed request target")
    return _fields_fault(fields, 400)


def response_fault(raw: bytes) -> HttpRefused:
    """Say why a complete head has not the shape of an answer's."""
    fault = _byte_fault(raw, _BYTE_FAULT, 0, 502)
    if fault is not None:
        return fault
    line, _, fields = raw.partition(b"\r\n")
    version, _, rest = line.partition(b" ")
    if version not in _KNOWN_VERSIONS:
        return HttpRefused(502, "answer that is not HTTP/1.1")
    if not _STATUS.match(rest):
        return HttpRefused(502, "malformed status line")
    return _fields_fault(fields, 502)


def _byte_fault(
    raw: bytes | bytearray, pattern: re.Pattern[bytes], position: int, status: int
) -> HttpRefused | None:
    if raw.startswith((b"\r", b"\n", b" ", b"\t")):
        return HttpRefused(status, "whitespace before the message")
    # The expression looks behind itself, so it sees the byte before the position too.
    fault = pattern.search(raw, position)
    if fault is None:
        return None
    rule = {b"\n": "bare LF", b"\r": "bare CR"}.get(bytes(fault.group()), "control character in the head")
    return HttpRefused(status, rule)


def _fields_fault(fields: bytes, status: int) -> HttpRefused:
    # Two empty lines are at the end: that which ends the head, and what is behind it.
    for line in fields.split(b"\r\n")[:-2]:
        if line.startswith((b" ", b"\t")):
            return HttpRefused(status, "folded header field")
        name, colon, _ = line.partition(b":")
        if not colon or not name:
            return HttpRefused(status, "header field without a name")
        if name.endswith((b" ", b"\t")):
            return HttpRefused(status, "whitespace before a colon")
        if not TOKEN.fullmatch(name):
            return HttpRefused(status, "malformed header name")
    return HttpRefused(status, "malformed head")
