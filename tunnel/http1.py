"""
HTTP/1.1, without I/O: bytes in, events out; heads in, bytes out.

The map: ``http1_heads`` judges a complete head by ``http1_grammar``, with ``http1_split`` as a second reading
and ``http1_faults`` to name what is wrong; ``http1_memo`` recognises one that comes again; ``http1_body``
finds the end of a body; ``http1_encode`` writes.
Here are the two readers that put them together, and the names that the rest of the product imports.

A reader is fed with ``receive`` and answers with the events of one message: its head, pieces of its body as
they came, ``END_OF_MESSAGE``. It then stops. What was received beyond is held (``held``) until
``start_next`` (requests) or for ever (answers: bytes that nobody asked for, a connection to be dropped). So
a pipelined request is never looked at while the one before it is being answered.

After an exception a reader is not used again.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.http1_body import BodyDecoder, body_decoder
from sallyport.tunnel.http1_encode import (
    CONTINUE,
    LAST_CHUNK,
    OutgoingHead,
    chunk,
    encode_request,
    encode_response,
    pass_response,
    without_hop_by_hop,
)
from sallyport.tunnel.http1_faults import check_beginning
from sallyport.tunnel.http1_grammar import Headers
from sallyport.tunnel.http1_heads import (
    CHUNKED,
    METHODS,
    NO_BODY,
    UNTIL_CLOSE,
    Body,
    BodyKind,
    HeadLimits,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
)
from sallyport.tunnel.http1_memo import HeadMemo
from sallyport.tunnel.limits import limit

__all__ = [
    "CHUNKED",
    "CONTINUE",
    "END_OF_MESSAGE",
    "LAST_CHUNK",
    "METHODS",
    "NO_BODY",
    "UNTIL_CLOSE",
    "Body",
    "BodyKind",
    "EndOfMessage",
    "HeadLimits",
    "HeadMemo",
    "Headers",
    "OutgoingHead",
    "RequestEvent",
    "RequestHead",
    "RequestReader",
    "ResponseEvent",
    "ResponseHead",
    "ResponseReader",
    "chunk",
    "encode_request",
    "encode_response",
    "pass_response",
    "without_hop_by_hop",
]

_DEFAULT_LIMITS = HeadLimits()
_COUNTED = (BodyKind.LENGTH, BodyKind.NONE)  # where the head says how many bytes follow

_MAX_INTERIM: Final = limit(
    64, "heads",
    "interim answers (1xx) before the final one: early hints come once or twice, progress reports now and "
    "then",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """The message is complete."""


END_OF_MESSAGE = EndOfMessage()

RequestEvent = RequestHead | bytes | EndOfMessage
ResponseEvent = ResponseHead | bytes | EndOfMessage

_Head = TypeVar("_Head", RequestHead, ResponseHead)


class _MessageReader(Generic[_Head]):
    """
    What reading a request and reading an answer have in common; ``_status`` is the role.

    Attributes:
        has_ended: The message is complete and the next one was not started.
        held: What was received behind the end of the message.
    """

    def __init__(self, status: int, limits: HeadLimits, memo: HeadMemo[_Head]) -> None:
        self._status = status
        self._limits = limits
        self._memo: HeadMemo[_Head] = memo
        self._is_memo_valid = True
        self._beginning = bytearray()  # a head of which the end has not come
        self._decoder: BodyDecoder | None = None  # while a body is being read
        self.held = b""
        self.has_ended = False

    @property
    def is_in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return bool(self._beginning)

    @property
    def is_between(self) -> bool:
        """Whether a head is due and nothing of it has come."""
        return not (self.has_ended or self._beginning or self._decoder is not None)

    @property
    def is_in_body(self) -> bool:
        """Whether the head is complete and the body is not."""
        return self._decoder is not None

    def whole(self, data: bytes) -> tuple[_Head, bytes] | None:
        """
        Take data that is one whole message with a known head, as most are that are not streams.

        It says what ``receive`` would say in three events, for a fraction of the cost.

        Returns:
            Head and body; None for anything else, and then nothing is taken: feed it to ``receive``.
        """
        if self.has_ended or self._decoder is not None or self._beginning or not self._is_memo_valid:
            return None
        known = self._memo.recall(data)
        if known is None:
            return None
        head, start = known
        length = head.body.length
        if len(data) != start + length or (not length and not self._ends_with_head(head)):
            return None
        self.has_ended = True
        return head, data[start:]

    def _ends_with_head(self, head: _Head) -> bool:
        """Whether the head is the whole message, of which no bytes of a body were declared."""
        raise NotImplementedError

    def _read_head(self, data: bytes) -> tuple[_Head, bytes] | None:
        """Return a head that is now complete, judged, and what is behind it; None while it is not."""
        memo = self._memo if self._is_memo_valid else None
        is_in_pieces = bool(self._beginning)
        if memo is not None and not is_in_pieces and (known := memo.recall(data)) is not None:
            return known[0], data[known[1] :]
        found = self._take_head(data)
        if found is None:
            return None
        raw, rest = found
        # One that came in pieces may be known as well.
        if memo is not None and is_in_pieces and (known := memo.recall(raw)) is not None:
            return known[0], rest
        head = self._judge(raw)
        if memo is not None:
            memo.keep(raw, head)
        return head, rest

    def _judge(self, raw: bytes) -> _Head:
        """Judge a complete head."""
        raise NotImplementedError

    def _take_head(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return the complete head and what is behind it; None while it is incomplete."""
        if self._beginning:
            checked = len(self._beginning)
            self._beginning += data
            end = self._beginning.find(b"\r\n\r\n", max(checked - 3, 0)) + 4
        else:
            checked = 0
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._beginning += data
        if end < 4:
            if len(self._beginning) > self._limits.size:
                raise HttpRefused(self._too_large(), f"head larger than {self._limits.size} bytes")
            check_beginning(self._beginning, checked, status=self._status)
            return None
        if end > self._limits.size:
            raise HttpRefused(self._too_large(), f"head larger than {self._limits.size} bytes")
        if self._beginning:
            data = bytes(self._beginning)
            self._beginning.clear()
        return data[:end], data[end:]

    def _too_large(self) -> int:
        return 431 if self._status == 400 else self._status

    def _begin_body(self, body: Body, data: bytes, events: list[_Head | bytes | EndOfMessage]) -> None:
        """Turn to what is behind a head; a body that is there as a whole, as most are, needs no decoder."""
        kind, length = body
        if kind in _COUNTED and len(data) >= length:
            if length:
                events.append(data if len(data) == length else data[:length])
            self.has_ended = True
            self.held = data[length:]
            events.append(END_OF_MESSAGE)
            return
        self._decoder = body_decoder(body, status=self._status)
        self._take_body(data, events)

    def _take_body(self, data: bytes, events: list[_Head | bytes | EndOfMessage]) -> None:
        if self._decoder is None:
            raise AssertionError("a body is read only behind its head")
        payload: list[bytes] = []
        rest = self._decoder.receive(data, payload)
        events += payload
        if rest is not None:
            self._decoder = None
            self.has_ended = True
            self.held = rest
            events.append(END_OF_MESSAGE)


class RequestReader(_MessageReader[RequestHead]):
    """
    Reads the requests of one connection, one after the other.

    Args:
        limits: How large a head may be.
    """

    def __init__(self, limits: HeadLimits = _DEFAULT_LIMITS) -> None:
        super().__init__(400, limits, HeadMemo[RequestHead]())

    def receive(self, data: bytes) -> list[RequestEvent]:
        """
        Feed bytes and return what they complete. After ``END_OF_MESSAGE`` bytes are only held.

        Raises:
            HttpRefused: With the status to answer with. The connection can carry no further request.
        """
        if self.has_ended:
            self.held += data
            return []
        events: list[RequestEvent] = []
        if self._decoder is not None:
            self._take_body(data, events)
        elif (found := self._read_head(data)) is not None:
            head, rest = found
            events.append(head)
            self._begin_body(head.body, rest, events)
        return events

    def _judge(self, raw: bytes) -> RequestHead:
        return parse_request_head(raw, self._limits)

    def _ends_with_head(self, head: RequestHead) -> bool:
        return head.body.kind in _COUNTED

    def start_next(self) -> list[RequestEvent]:
        """
        Turn to the next request, and return what the held bytes complete of it.

        To be called once the answer to the former request is complete.

        Raises:
            HttpRefused: As ``receive``.
        """
        if not self.has_ended:
            raise AssertionError("the next request starts behind the end of the former")
        self.has_ended = False
        held, self.held = self.held, b""
        return self.receive(held) if held else []

    def receive_eof(self) -> None:
        """
        Take note that the caller sends no more.

        Raises:
            BodyTruncated: In the middle of a request, or of its head.
        """
        if self._decoder is not None:
            self._decoder.receive_eof()
        if self._beginning:
            raise BodyTruncated(0)


class ResponseReader(_MessageReader[ResponseHead]):
    """
    Reads the answers of one connection, each announced by ``expect``.

    Args:
        limits: How large a head may be.
        memo: Heads that are known; connections to one server may share it, under the same limits.
    """

    def __init__(
        self, limits: HeadLimits = _DEFAULT_LIMITS, memo: HeadMemo[ResponseHead] | None = None
    ) -> None:
        super().__init__(502, limits, HeadMemo[ResponseHead]() if memo is None else memo)
        self.has_ended = True
        self._method = b""
        self._interim = 0

    def expect(self, method: bytes) -> None:
        """Read the answer to a request with that method from here on; nothing must be held."""
        if not self.has_ended or self.held:
            raise AssertionError("an answer is expected on an idle connection only")
        self.has_ended = False
        self._method = method
        # What follows a head depends on the method then, which the memo knows nothing of.
        self._is_memo_valid = method != b"HEAD"
        self._interim = 0

    def receive(self, data: bytes) -> list[ResponseEvent]:
        """
        Feed bytes and return what they complete; interim heads (1xx) come before the final one.

        Raises:
            HttpRefused: What came is not an answer; its status, 502, is for the caller.
        """
        if self.has_ended:
            self.held += data
            return []
        events: list[ResponseEvent] = []
        if self._decoder is not None:
            self._take_body(data, events)
            return events
        while data and (found := self._read_head(data)) is not None:
            head, data = found
            events.append(head)
            if head.status >= 200:
                self._begin_body(head.body, data, events)
                break
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise HttpRefused(502, "too many interim answers")
        return events

    def _judge(self, raw: bytes) -> ResponseHead:
        return parse_response_head(raw, self._method, self._limits)

    def _ends_with_head(self, head: ResponseHead) -> bool:
        return head.body.kind in _COUNTED and head.status >= 200  # behind an interim one another follows

    def receive_eof(self) -> list[ResponseEvent]:
        """
        Take note that the server sends no more, and end a body that ends so.

        Raises:
            BodyTruncated: The answer is not complete, or has not begun.
        """
        if self.has_ended:
            return []
        if self._decoder is None:
            raise BodyTruncated(0)
        self._decoder.receive_eof()
        self._decoder = None
        self.has_ended = True
        return [END_OF_MESSAGE]
