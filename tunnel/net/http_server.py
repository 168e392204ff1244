"""
One caller's connection: requests in, answers out, one at a time.

The server reads a head, asks its owner for a ``Decision``, and then either answers or has an ``Exchange``
carry the request on. What it is doing is its ``_Phase``:

    IDLE ──bytes──► HEAD ──head──► BUSY ──whole answer──► IDLE, DISCARDING or LEAVING
      ▲                                                        │
      └───────────── rest of the request read ─────────────────┘ (DISCARDING)

* The next request is not looked at before the answer to the former is complete, and the caller takes it: a
  pipelining caller who reads nothing would else fill our memory with answers. What he sends meanwhile is
  held, up to a bound, and then not read.
* While a request is being answered the connection is read all the same, because that is how a caller who
  leaves is noticed: close_notify, FIN and reset all mean that he has left, and the next hop hears it at once.
* An answer that overtakes its request leaves the rest of it to be read and dropped: within bounds and on the
  same connection if it is short, else while the connection lingers (``departure``).
* An answer that fails after it began is cut so that it cannot be taken for a whole one.
* A transport may deliver what it holds before ``resume_reading`` returns (a mux stream does, and TLS). So
  reading is resumed last of all, and never while the events of a former delivery are being worked off.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

import structlog

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1 import (
    CONTINUE,
    BodyKind,
    EndOfMessage,
    HeadLimits,
    RequestHead,
    RequestReader,
)
from sallyport.tunnel.http1_heads import MAX_LENGTH
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.deadline import Deadline
from sallyport.tunnel.net.departure import Departure
from sallyport.tunnel.net.http_exchange import Exchange
from sallyport.tunnel.net.http_forward import (
    Answer,
    CallRecord,
    Decision,
    Executed,
    Forward,
    ForwardFailure,
    json_rpc_error,
    refusal_answer,
)
from sallyport.tunnel.net.lone_head import LoneHead
from sallyport.tunnel.net.unread import unread_probe

log = structlog.get_logger("sallyport.http")

_BODY_IDLE: Final = limit(
    30.0, "seconds",
    "without a byte of a request's body, after which the caller is taken for gone (slow-body attacks)",
)  # fmt: skip

_HELD: Final = limit(
    64 * 1024, "bytes",
    "of further requests that a caller may send ahead of an answer; then its connection is not read",
)  # fmt: skip

_DISCARDED: Final = limit(
    64 * 1024, "bytes",
    "of a request that was answered early which are rather read than the connection lost",
)  # fmt: skip


class _Phase(Enum):
    IDLE = "between requests"
    HEAD = "a request's head has begun"
    BUSY = "a request is being answered"
    DISCARDING = "answered; the rest of the request is dropped, then the next may come"
    LEAVING = "answered or not, the connection ends: see Departure"


# Each call asks, and a name of the module is found in a third of the time that a member of a class takes.
_IDLE, _BUSY, _LEAVING = _Phase.IDLE, _Phase.BUSY, _Phase.LEAVING


class HttpServer(asyncio.Protocol):
    """
    One caller's connection.

    Args:
        decide: Called with each request's head, once it is complete. It may raise ``HttpRefused``; any other
            exception is a mistake of its owner's and is answered 500.
        finished: Called once for each request, when it is settled.
        loop: The running loop.
        idle_timeout: Seconds between two requests, after which the connection is closed.
        first_request_timeout: The same before the first request; ``idle_timeout`` when None.
        head_timeout: Seconds for a request's head, from its first byte.
        limits: How large a head may be.
        body_limit: Bytes of a request's body, beyond which it is answered 413; None for no limit.
        ended: Called once, when the connection is gone.

    Attributes:
        is_last_request: Whether to close once the next request is answered; for its owner to set, while he
            decides about it at the latest.
        write: Sends bytes to the caller, once the connection is made: the transport's own.
    """

    write: Callable[[bytes], None]
    _lone_head: LoneHead

    def __init__(
        self,
        decide: Callable[[RequestHead], Decision],
        *,
        finished: Callable[[CallRecord], None],
        loop: asyncio.AbstractEventLoop,
        idle_timeout: float,
        head_timeout: float,
        limits: HeadLimits | None = None,
        body_limit: int | None = None,
        first_request_timeout: float | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._decide = decide
        self._finished = finished
        self._loop = loop
        self._idle_timeout = idle_timeout
        self._first_timeout = idle_timeout if first_request_timeout is None else first_request_timeout
        self._head_timeout = head_timeout
        self._body_limit = MAX_LENGTH if body_limit is None else body_limit
        self._ended = ended
        self._reader = RequestReader(limits or HeadLimits())
        self._transport: asyncio.Transport | None = None
        self._departure: Departure | None = None
        self._deadline = Deadline(loop, self._expired)
        self._phase = _Phase.IDLE
        self._number = 0
        self._is_draining = False
        self.is_last_request = False
        # The request being answered
        self._request: RequestHead | None = None
        self._record: CallRecord | None = None
        self._forward: Forward | None = None
        self._exchange: Exchange | None = None
        # Flow
        self._is_taking = False  # events are being worked off: whoever settles a request need not go on
        self._is_reading = True
        self._writing_paused = False

    def drain(self) -> None:
        """Close once the running request is answered; at once between requests."""
        self._is_draining = True
        if self._transport is not None:
            self._lone_head.release()
            if self._phase in (_Phase.IDLE, _Phase.HEAD):
                self._leave().close()

    def abort(self) -> None:
        """Drop the connection at once, and the running request with it."""
        self._drop_request()
        if self._transport is not None:
            self._leave().abort()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._lone_head = LoneHead(unread_probe(transport), loop=self._loop, take=self._read)
        if self._is_draining:
            self._leave().close()
        else:
            self._deadline.set(self._first_timeout)

    def data_received(self, data: bytes) -> None:
        if self._departure is not None:
            self._departure.data_received(data)
            return
        lone_head = self._lone_head
        if is_joined := bool(lone_head.held):
            data = lone_head.join(data)
        is_due = self._phase is _IDLE and not self._writing_paused
        if is_due and (message := self._reader.whole(data)) is not None:
            head, body = message
            self._take_whole(head, body)
        elif is_joined or not (is_due and self._reader.is_between and lone_head.hold(data)):
            self._read(data)

    def eof_received(self) -> bool:
        self._lone_head.release()
        if self._departure is not None:
            self._departure.eof_received()
        elif self._phase is _Phase.BUSY:
            self.abort()
        else:
            self._leave().close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_request()
        if self._transport is not None:
            self._leave().connection_lost()
        if self._ended is not None:
            self._ended()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._exchange is not None:
            self._exchange.pause_answer()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._exchange is not None:
            self._exchange.resume_answer()
        elif self._phase is _Phase.IDLE and not self._is_taking:
            self._read()

    # Requests

    def _read(self, data: bytes = b"") -> None:
        """Work off data and what was held, request after request as far as each is settled."""
        self._is_taking = True
        try:
            events = self._reader.receive(data) if data else []
            while True:
                for event in events:
                    if isinstance(event, bytes):
                        self._take_body(event)
                    elif isinstance(event, EndOfMessage):
                        self._take_end()
                    else:
                        self._begin(event)
                    if self._phase is _Phase.LEAVING:
                        return
                if not self._reader.has_ended or self._phase is not _Phase.IDLE or self._writing_paused:
                    break
                events = self._reader.start_next()
        except HttpRefused as refusal:
            self._refuse(refusal)
            return
        finally:
            self._is_taking = False
        if self._exchange is not None:
            self._exchange.flush()
        self._wait_for_more()

    def _take_whole(self, head: RequestHead, body: bytes) -> None:
        """Take a request that has come at once."""
        self._is_taking = True
        try:
            self._begin(head, body)
        except HttpRefused as refusal:
            self._refuse(refusal)
            return
        finally:
            self._is_taking = False
        if self._exchange is None:
            self._read()  # It is answered: on to the next.
        elif not self._is_reading:
            self.update_reading()

    def _take_body(self, data: bytes) -> None:
        record = self._record
        if record is not None:
            record.request_bytes = size = record.request_bytes + len(data)
            if size > self._body_limit:
                # It may have been declared no length: a chunked body grows until it is too long.
                raise self._too_large()
        if self._exchange is not None:
            self._exchange.receive_body(data)

    def _take_end(self) -> None:
        if self._exchange is not None:
            self._exchange.receive_end()
        elif self._phase is _Phase.DISCARDING:
            self._turn_to_next(self._loop.time())

    def _begin(self, head: RequestHead, body: bytes | None = None) -> None:
        """Have a request decided upon, and do what was decided; ``body`` where the whole of it is there."""
        self._request = head
        record = self._open_record(head)
        length = head.body.length
        record.request_bytes = 0 if body is None else length
        if length > self._body_limit:
            raise self._too_large()
        try:
            decision = self._decide(head)
        except HttpRefused:
            raise
        except Exception:
            # Whatever it is, it is ours: the log gets the reason, and the caller a status.
            log.exception("the decision about a request failed")
            record.outcome = "failed"
            decision = json_rpc_error(500, "internal error", data={"executed": "no"})
        self._is_draining |= self.is_last_request
        if not isinstance(decision, Forward):
            if decision.status >= 400 and record.outcome == "answered":
                record.outcome = "refused"
            self._answer(decision)
            return
        self._forward = decision
        self._exchange = exchange = Exchange(self, head, decision, record, body)
        if head.expect_continue:
            self.write(CONTINUE)
        if self._writing_paused:
            exchange.pause_answer()
        exchange.start()

    def _too_large(self) -> HttpRefused:
        return HttpRefused(413, f"body larger than {self._body_limit} bytes")

    def _turn_to_next(self, now: float) -> None:
        self._request = None
        if self._is_draining:
            self._leave().close()
            return
        self._phase = _IDLE
        self._deadline.set(self._idle_timeout, now)

    def _wait_for_more(self) -> None:
        """Set the timer that fits what is missing, if anything is, and read on unless enough is held."""
        phase, reader = self._phase, self._reader
        if phase is _Phase.BUSY or phase is _Phase.DISCARDING:
            if not reader.has_ended:
                self._deadline.set(_BODY_IDLE)
        elif phase is _Phase.IDLE and reader.is_in_head:
            self._phase = _Phase.HEAD
            self._deadline.set(self._head_timeout)
        if reader.held or not self._is_reading:
            self.update_reading()

    # Answers

    def _answer(self, answer: Answer) -> None:
        """Send an answer of ours; the record has its outcome already."""
        request, record = self._request, self._record
        if record is None:
            raise AssertionError("an answer belongs to a request")
        keep_alive = request is not None and request.keep_alive and self._may_go_on(request)
        body = b"" if request is not None and request.method == b"HEAD" else answer.body
        record.status = answer.status
        record.response_bytes = len(body)
        self.write(answer.encoded_head(keep_alive=keep_alive and not self._is_draining) + body)
        self.answer_complete(keep_alive=keep_alive)

    def _may_go_on(self, request: RequestHead) -> bool:
        """Whether what is left of the request is better read than the connection lost."""
        if self._reader.has_ended:
            return True
        # Whoever waits for 100 and is answered otherwise may or may not send his body: nobody can tell.
        is_known = request.body.kind is BodyKind.LENGTH and not request.expect_continue
        return is_known and request.body.length <= _DISCARDED

    def answer_complete(self, *, keep_alive: bool) -> None:
        """
        Go on behind a whole answer: to the next request, the rest of this one, or the end.

        To be called last: what was held is worked off, and more may come, before this returns.
        """
        self._exchange = None
        now = self._close_record()
        if self._phase is _LEAVING:
            return
        has_ended = self._reader.has_ended
        if self._is_draining or not keep_alive:
            if has_ended:
                self._leave().close()
            else:
                self._leave().linger()
            return
        if has_ended:
            self._turn_to_next(now)
        else:
            self._phase = _Phase.DISCARDING
        if self._is_taking:
            return
        if self._reader.held:
            self._read()
            return
        if has_ended and not self._writing_paused:
            self._reader.start_next()
        if not has_ended or not self._is_reading:
            self._wait_for_more()

    def _refuse(self, refusal: HttpRefused) -> None:
        """Answer what the codec refuses, and close: nobody knows where the next request would begin."""
        if self._phase is _Phase.DISCARDING:
            self._leave().linger()
            return
        record = self._record or self._open_record(None)
        record.outcome, record.rule = "refused", refusal.rule
        exchange, self._exchange = self._exchange, None
        executed: Executed = "no"
        if exchange is not None:
            executed = "unknown"
            exchange.abandon()
            if exchange.has_begun:
                self._cut()
                return
        self._request = None
        self._answer(refusal_answer(refusal, executed))

    # The exchange's side: Caller

    def update_reading(self) -> None:
        """
        Read, unless the request is paused or enough is held.

        To be called last: the transport may deliver what it holds before this returns.
        """
        exchange = self._exchange
        wanted = (exchange is None or not exchange.is_request_paused) and len(self._reader.held) <= _HELD
        if wanted is self._is_reading or self._departure is not None or self._connection.is_closing():
            return
        if not wanted:
            self._is_reading = False
            self._connection.pause_reading()
        elif not self._is_taking:
            self._is_reading = True
            self._connection.resume_reading()

    def answer_failed(self, failure: ForwardFailure, *, begun: bool) -> None:
        """Explain the failure, or cut the answer off where it has begun."""
        if self._record is None or self._forward is None:
            raise AssertionError("an exchange belongs to a request")
        self._exchange = None
        self._record.outcome, self._record.failure = "failed", failure
        if begun:
            self._cut()
            return
        self._answer(self._forward.explained(failure))

    # Endings

    def _drop_request(self) -> None:
        """Settle the running request, if there is one: its caller is gone."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        if self._record is not None:
            self._record.outcome = "caller-left"
            self._close_record()

    def _cut(self) -> None:
        """End an answer that has begun and will not be complete."""
        self._close_record()
        is_close_delimited = self._request is not None and self._request.version == b"1.0"
        self._leave().cut(is_close_delimited=is_close_delimited)

    def _leave(self) -> Departure:
        """Have nothing more to do with the connection than to end it."""
        self._phase = _Phase.LEAVING
        self._deadline.cancel()
        self._lone_head.cancel()
        if self._departure is None:
            self._departure = Departure(self._connection, self._loop)
        return self._departure

    def _expired(self) -> None:
        match self._phase:
            case _Phase.IDLE:
                self._leave().close()
            case _Phase.DISCARDING:
                self._leave().linger()
            case _Phase.HEAD:
                self._refuse(HttpRefused(408, "the head did not come in time"))
            case _Phase.BUSY if self._reader.has_ended:
                # The whole request is there. Taking this deadline back for each would cost more than it does.
                return
            case _Phase.BUSY if self._exchange is not None and self._exchange.is_request_paused:
                # It is the next hop that does not take the request, and its own deadline that says so.
                self._deadline.set(_BODY_IDLE)
            case _Phase.BUSY:
                self._refuse(HttpRefused(408, "the body did not come in time"))
            case _Phase.LEAVING:
                raise AssertionError("this deadline was cancelled")

    # Inside

    @property
    def _connection(self) -> asyncio.Transport:
        if self._transport is None:
            raise AssertionError("nothing is sent before the connection is made")
        return self._transport

    def _open_record(self, head: RequestHead | None) -> CallRecord:
        self._phase = _BUSY
        self._number += 1
        self._record = record = CallRecord(self._number, head, self._loop.time())
        return record

    def _close_record(self) -> float:
        """Hand the record over, if there is one, and return the time."""
        now = self._loop.time()
        record, self._record = self._record, None
        if record is not None:
            record.seconds = now - record.started
            self._finished(record)
        return now
