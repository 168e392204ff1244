"""
Bodies of HTTP/1.1 messages: where one ends (RFC 9112 §6, §7).

One small machine for each framing. Each is fed what comes behind the head and answers with the payload and,
once the body has ended, with the bytes that belong to the next message. Payload passes as it came and is
never held back: what arrives of a chunk is delivered before the chunk is complete.

The chunked machine takes the grammar at its word where parsers are known to differ: hexadecimal digits only
(no sign, prefix or underscore), at most sixteen, exact CRLF, bounded extensions and trailers. Extensions and
trailers are dropped: the next hop gets chunks of our own making, which also keeps a Content-Length in a
trailer from ever being seen.
"""

import re
from enum import Enum
from typing import Final, Protocol

from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.http1_grammar import FIELD_LINE, FIELD_LINE_BEGINNING
from sallyport.tunnel.http1_heads import MAX_LENGTH, Body, BodyKind
from sallyport.tunnel.limits import limit

_MAX_EXTENSION: Final = limit(
    256, "bytes",
    "of one chunk's extensions, which say nothing to anybody here; without a bound each byte of payload "
    "could be made to cost 256 (CVE-2023-39326)",
)  # fmt: skip
_MAX_EXTENSIONS: Final = limit(16 * 1024, "bytes", "of all chunk extensions of a body")

_MAX_TRAILERS: Final = limit(
    8 * 1024, "bytes",
    "of all trailer fields of a body together: a checksum and a signature fit",
)  # fmt: skip

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]{0,%d})?\r\n" % (_MAX_EXTENSION - 1))
_SIZE_LINE_BEGINNING = re.compile(
    rb"(?:[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]{0,%d})?\r?)?" % (_MAX_EXTENSION - 1)
)


class BodyDecoder(Protocol):
    """Finds the end of one body."""

    def receive(self, data: bytes, payload: list[bytes]) -> bytes | None:
        """
        Feed bytes and append what of them is payload.

        Returns:
            The bytes behind the body once it has ended (often none), and None as long as it goes on.

        Raises:
            HttpRefused: The framing is broken; nothing more may be fed.
        """

    def receive_eof(self) -> None:
        """
        Take note that the connection has ended.

        Raises:
            BodyTruncated: The body had not.
        """


def body_decoder(body: Body, *, status: int) -> BodyDecoder:
    """
    Return the machine for a framing.

    Args:
        body: As the head declared it.
        status: The status with which broken framing is refused: 400 for a request, 502 for an answer.
    """
    match body.kind:
        case BodyKind.NONE | BodyKind.LENGTH:
            return LengthDecoder(body.length)
        case BodyKind.CHUNKED:
            return ChunkedDecoder(status)
        case BodyKind.UNTIL_CLOSE:
            return UntilCloseDecoder()


class LengthDecoder:
    """A body of a declared length, which may be 0."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._left = length

    def receive(self, data: bytes, payload: list[bytes]) -> bytes | None:
        left = self._left
        if len(data) < left:
            if data:
                self._left = left - len(data)
                payload.append(data)
            return None
        self._left = 0
        if left:
            payload.append(data[:left])
        return data[left:]

    def receive_eof(self) -> None:
        if self._left:
            raise BodyTruncated(self._length - self._left, self._length)


class UntilCloseDecoder:
    """The body of an answer that ends with the connection (RFC 9112 §6.3, item 8)."""

    def receive(self, data: bytes, payload: list[bytes]) -> bytes | None:
        if data:
            payload.append(data)
        return None

    def receive_eof(self) -> None:
        """End the body: for this framing the end of the connection is the end."""


class _ChunkedState(Enum):
    SIZE = "at or in a chunk's size line"
    DATA = "in a chunk's data"
    DATA_END = "at the CRLF behind a chunk's data"
    TRAILERS = "at or in a trailer line"


class ChunkedDecoder:
    """A chunked body (RFC 9112 §7.1)."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._state = _ChunkedState.SIZE
        self._left = 0  # bytes of the current chunk still to come
        self._received = 0
        self._line = b""  # a line of which the end has not come: bounded by what its expression matches
        self._extensions = 0
        self._trailers = 0

    def receive(self, data: bytes, payload: list[bytes]) -> bytes | None:
        if self._line:
            data, self._line = self._line + data, b""
        position = 0
        while True:
            match self._state:
                case _ChunkedState.DATA:
                    position = self._take_data(data, position, payload)
                    if self._left:
                        return None
                case _ChunkedState.SIZE:
                    found = self._take_size_line(data, position)
                    if found is None:
                        return None
                    position = found
                case _ChunkedState.DATA_END:
                    found = self._take_data_end(data, position)
                    if found is None:
                        return None
                    position = found
                case _ChunkedState.TRAILERS:
                    if data.startswith(b"\r\n", position):
                        return data[position + 2 :]
                    found = self._take_trailer(data, position)
                    if found is None:
                        return None
                    position = found

    def receive_eof(self) -> None:
        raise BodyTruncated(self._received)

    # Each takes one thing from data at position and returns the position behind it; None: more must come.

    def _take_data(self, data: bytes, position: int, payload: list[bytes]) -> int:
        piece = data[position : position + self._left]
        if piece:
            payload.append(piece)
            self._left -= len(piece)
            self._received += len(piece)
        if not self._left:
            self._state = _ChunkedState.DATA_END
        return position + len(piece)

    def _take_data_end(self, data: bytes, position: int) -> int | None:
        end = data[position : position + 2]
        if end == b"\r\n":
            self._state = _ChunkedState.SIZE
            return position + 2
        if end not in (b"", b"\r"):
            raise HttpRefused(self._status, "chunk longer than its size")
        self._line = end
        return None

    def _take_size_line(self, data: bytes, position: int) -> int | None:
        line = _SIZE_LINE.match(data, position)
        if line is None:
            if not _SIZE_LINE_BEGINNING.fullmatch(data, position):
                raise HttpRefused(self._status, "malformed chunk size")
            self._line = data[position:]
            return None
        digits, extension = line.groups()
        if extension:
            self._extensions += len(extension)
            if self._extensions > _MAX_EXTENSIONS:
                raise HttpRefused(self._status, "too many chunk extensions")
        self._left = int(digits, 16)
        if self._left > MAX_LENGTH:
            raise HttpRefused(self._status, "malformed chunk size")
        self._state = _ChunkedState.DATA if self._left else _ChunkedState.TRAILERS
        return line.end()

    def _take_trailer(self, data: bytes, position: int) -> int | None:
        line = FIELD_LINE.match(data, position)
        length = (line.end() if line else len(data)) - position
        if self._trailers + length > _MAX_TRAILERS:
            raise HttpRefused(self._status, "trailers too large")
        if line is None:
            if not FIELD_LINE_BEGINNING.fullmatch(data, position):
                raise HttpRefused(self._status, "malformed trailer")
            self._line = data[position:]
            return None
        self._trailers += length
        return line.end()
