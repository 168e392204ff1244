"""
Random texts that must not be found where nobody may read, and the forms in which they could turn up there.

A canary has 32 characters. Its first twelve are drawn once per run and kind, so that one search for these
finds every canary of the kind, and finds one of which only the beginning is left, too.
"""

import base64
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

_ALPHABET = string.ascii_letters + string.digits
_PREFIX = 12
_LENGTH = 32

# Longest needle in bytes; who searches in pieces lets them overlap by this much.
OVERLAP = 128


@dataclass(frozen=True)
class CanaryKind:
    """All canaries of one kind: ``arguments``, ``results`` or ``headers``."""

    name: str
    prefix: str

    @classmethod
    def draw(cls, name: str) -> "CanaryKind":
        """Draw the beginning that all canaries of a kind share."""
        letters = [secrets.choice(_ALPHABET) for _ in range(_PREFIX)]
        # So that the URL form differs from the plain one, and standard base64 from the URL-safe one.
        letters[_PREFIX // 2] = "+"
        return cls(name, "".join(letters))

    def new(self) -> str:
        """Return a canary that nobody has seen before."""
        rest = (secrets.choice(_ALPHABET) for _ in range(_LENGTH - _PREFIX))
        return self.prefix + "".join(rest)

    @cached_property
    def needles(self) -> Mapping[str, bytes]:
        """The beginning in every form, by the form's name."""
        plain = self.prefix.encode()
        hexadecimal = plain.hex()
        needles = {
            "plain": plain,
            "UTF-16": self.prefix.encode("utf-16-le"),
            "hex": hexadecimal.encode(),
            "HEX": hexadecimal.upper().encode(),
            "URL": quote(self.prefix, safe="").encode(),
            "URL, every byte": b"".join(b"%%%02X" % byte for byte in plain),
        }
        for shift in range(3):
            encoded = _base64_within(plain, shift)
            needles[f"base64, {shift} before"] = encoded
            needles[f"URL-safe base64, {shift} before"] = encoded.translate(bytes.maketrans(b"+/", b"-_"))
        return needles

    def count_in(self, data: bytes | bytearray | memoryview) -> int:
        """Count the places where the beginning stands in any form."""
        # The URL-safe form is the standard one where neither has a special character: count it once.
        return sum(bytes(data).count(needle) for needle in set(self.needles.values()))


def _base64_within(plain: bytes, shift: int) -> bytes:
    """Return the characters that ``plain`` alone decides when ``shift`` bytes stand before it."""
    encoded = base64.b64encode(bytes(shift) + plain + bytes(3))
    first = -(-shift * 8 // 6)
    last = (shift + len(plain)) * 8 // 6
    return encoded[first:last]
