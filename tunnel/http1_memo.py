"""
Heads that come again: what was judged once need not be judged twice.

A client writes the same head for every request of a session, but for the digits of Content-Length, and a
server the same head for its answers until the second of its Date is over. Judging a head by two readings
costs most of what an HTTP hop costs (``http1_heads``). Its verdict depends on its bytes and on nothing else,
so a head that repeats a known one byte for byte has the known verdict; and so has one that differs in those
digits alone, which say how long the body is and nothing else.

That the digits matter to nothing else is a property of ``http1_heads``, and a test holds it to that: with
and without a memo a reader says the same of every sequence of bytes.

A memo serves one connection, or the connections to one next hop. It keeps few heads and only short ones,
because each costs memory for as long as the connection lives.
"""

import re
from typing import Final, Generic, TypeVar

from sallyport.tunnel.http1_heads import BodyKind, RequestHead, ResponseHead
from sallyport.tunnel.limits import limit

KNOWN_HEADS: Final = limit(
    4, "heads",
    "remembered for each connection: an MCP client has one for its calls, one for its event stream and one "
    "or two for the beginning of a session",
)  # fmt: skip
KNOWN_HEAD_SIZE: Final = limit(
    4096, "bytes",
    "of a head that is remembered: more than clients send, and small beside the buffers of a connection",
)  # fmt: skip

# One digit fewer than the largest length that is understood: a longer number is judged by ``http1_heads``.
_MOST_DIGITS: Final = 15
_LENGTH_FIELD: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)

_Head = TypeVar("_Head", RequestHead, ResponseHead)


class _Known(Generic[_Head]):
    """
    A head that was judged, cut where the digits of its length begin.

    Attributes:
        head: The verdict.
        prefix: Its bytes before the digits; all of them when it has none.
        start: How many they are.
        rest: The digits and what is behind them; empty when it has none.
        size: How many bytes it has in all.
    """

    __slots__ = ("_digits", "_position", "head", "prefix", "rest", "size", "start")

    def __init__(self, raw: bytes, head: _Head) -> None:
        self.head: _Head = head
        self.size = len(raw)
        found = _LENGTH_FIELD.search(raw) if head.body.kind is BodyKind.LENGTH else None
        if found is None:
            self.prefix, self.start, self.rest = raw, self.size, b""
            return
        self.start, end = found.span(1)
        self.prefix, self.rest = raw[: self.start], raw[self.start :]
        self._digits = end - self.start
        self._position = [name.lower() for name, _ in head.headers].index(b"content-length")

    def with_other_length(self, data: bytes) -> tuple[_Head, int] | None:
        """Recognise a head that begins like this one and has other digits: as ``HeadMemo.recall``."""
        start, suffix = self.start, self.rest[self._digits :]
        end = data.find(b"\r", start, start + _MOST_DIGITS + 1)
        if end <= start or not data.startswith(suffix, end):
            return None
        digits = data[start:end]
        if not digits.isdigit() or (digits[0] == 0x30 and digits != b"0"):
            return None
        return self.head.with_length(digits, self._position), end + len(suffix)


class HeadMemo(Generic[_Head]):
    """The heads that were judged last, the newest first."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[_Known[_Head]] = []

    def recall(self, data: bytes) -> tuple[_Head, int] | None:
        """
        Recognise the head that data begins with.

        Args:
            data: What was received, from the first byte of a head.

        Returns:
            The head and how many bytes it takes; None for one that is new, or not complete.
        """
        for known in self._known:
            if not data.startswith(known.prefix):
                continue
            if data.startswith(known.rest, known.start):
                return known.head, known.size
            if (found := known.with_other_length(data)) is not None:
                return found
        return None

    def keep(self, raw: bytes, head: _Head) -> None:
        """
        Remember a head.

        Args:
            raw: Its bytes, from the first to the empty line.
            head: What ``http1_heads`` has said of them.
        """
        if len(raw) <= KNOWN_HEAD_SIZE:
            self._known.insert(0, _Known(raw, head))
            del self._known[KNOWN_HEADS:]
