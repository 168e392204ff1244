"""
One JSON object, read strictly.

HELLO, its answers and CONTROL carry JSON, because they are rare and grow fields over the years. The
standard parser is lenient where two readers could disagree, so this one refuses what is ambiguous:
duplicate keys, NaN and the infinities, numbers that overflow to one, lone surrogates, and nesting that
would end a recursive reader.
"""

import json
import math
import re
from typing import Final, NoReturn, TypeAlias

from sallyport.tunnel.frames import violation
from sallyport.tunnel.limits import JSON_DEPTH_MAX

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

# Strings, and what stands between brackets. The closing quote is optional so that a text without one is
# passed over once and not tried anew from each of its quotes.
_NO_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)


def read_object(payload: memoryview, what: str) -> JsonObject:
    """
    Read a payload that must be one JSON object in UTF-8.

    Args:
        payload: The bytes; their number was checked against the frame's limit.
        what: The frame's name, for the error.

    Raises:
        ProtocolViolation: It is anything else, or ambiguous.
    """
    try:
        text = str(payload, "utf-8")
        _check_depth(text)
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except (ValueError, RecursionError):
        # Which of the rules it was could only be told in the words of the parser, which may quote the
        # payload.
        raise violation(f"{what} that is not strict JSON") from None
    if not isinstance(value, dict):
        raise violation(f"{what} that is not a JSON object")
    return value


def write_object(value: JsonObject) -> bytes:
    """Write an object compactly; raises ValueError for what cannot be read back by ``read_object``."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the parser recurses into it."""
    depth = 0
    for bracket in _NO_BRACKET.sub("", text):
        depth += 1 if bracket in "[{" else -1
        if depth > JSON_DEPTH_MAX:
            raise ValueError("nested too deeply")


def _object_without_duplicates(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number that overflows")
    return number
