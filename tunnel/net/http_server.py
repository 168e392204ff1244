"""
One caller's connection: requests in, answers out, one at a time.

The server reads a head, asks its owner for a ``Decision``, and then either answers or has an ``Exchange``
carry the request on. What it is doing is its ``_Phase``:

    IDLE ──bytes──► HEAD ──head──► BUSY ──whole answer──► IDLE | DISCARDING | LINGERING | CLOSED
      ▲                                                     │
      └──────────────── rest of the request read ───────────┘ (DISCARDING)

* The next request is not looked at before the answer to the former is complete. What a pipelining caller
  sends meanwhile is held, up to a bound, and then not read.
* While a request is being answered the connection is read all the same, because that is how a caller who
  leaves is noticed: close_notify, FIN and reset all mean that he has left, and the next hop hears it at once.
* An answer given before the whole request was read says ``Connection: close``, and the connection lingers:
  the rest is read and dropped for a few seconds, since closing on unread bytes would send a reset, which
  can overtake the answer.
* An answer that fails after it began is cut so that it cannot be taken for a whole one.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import cast

import structlog

from sallyport.tunnel.errors import HttpRefused
from sallyport.tunnel.http1 import (
    CONTINUE,
    NO_BODY,
    Body,
    BodyKind,
    EndOfMessage,
    HeadLimits,
    RequestEvent,
    RequestHead,
    RequestReader,
    ResponseHead,
    encode_response,
)
from sallyport.tunnel.net.cutting import cut
from sallyport.tunnel.net.deadline import Deadline
from sallyport.tunnel.net.http_exchange import Exchange
from sallyport.tunnel.net.http_forward import (
    Answer,
    CallRecord,
    Decision,
    ForwardFailure,
    Outcome,
    json_rpc_error,
    reason_phrase,
)

_log = structlog.get_logger("sallyport.http")

# Seconds without a byte of a request's body, after which the caller is taken for gone (slow-body attacks).
_BODY_IDLE = 30.0

# Bytes of further requests that a caller may send ahead of an answer.
_HELD = 64 * 1024

# The rest of a request that was answered early: read and dropped on a connection that goes on, up to this
# many bytes of a declared length; ...
_DISCARDED = 64 * 1024
# ... and on one that closes, up to these bounds. A client that writes its whole body before it looks for an
# answer needs them; nginx lingers for 5 s at a time and 30 s in all.
_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64 * 1024 * 1024

# Seconds for a caller to take what is still to be sent to him when the connection closes.
_CLOSING_SECONDS = 30.0


class _Phase(Enum):
    IDLE = "between requests"
    HEAD = "a request's head has begun"
    BUSY = "a request is being answered"
    DISCARDING = "answered; the rest of the request is dropped, then the next may come"
    LINGERING = "answered; the rest of what comes is dropped, then the connection closes"
    CLOSED = "closing or closed"


class HttpServer(asyncio.Protocol):
    """
    One caller's connection.

    Args:
        decide: Called with each request's head, once it is complete. It may raise ``HttpRefused``; any other
            exception is a mistake of its owner's and is answered 500.
        finished: Called once for each request, when it is settled.
        loop: The running loop.
        idle_timeout: Seconds between two requests, after which the connection is closed.
        head_timeout: Seconds for a request's head, from its first byte.
        limits: How large a head may be.
    """

    def __init__(
        self,
        decide: Callable[[RequestHead], Decision],
        *,
        finished: Callable[[CallRecord], None],
        loop: asyncio.AbstractEventLoop,
        idle_timeout: float,
        head_timeout: float,
        limits: HeadLimits | None = None,
    ) -> None:
        self._decide = decide
        self._finished = finished
        self._loop = loop
        self._idle_timeout = idle_timeout
        self._head_timeout = head_timeout
        self._reader = RequestReader(limits or HeadLimits())
        self._transport: asyncio.Transport | None = None
        self._deadline = Deadline(loop, self._expired)
        self._phase = _Phase.IDLE
        self._number = 0
        self._draining = False
        # The request being answered
        self._request: RequestHead | None = None
        self._record: CallRecord | None = None
        self._exchange: Exchange | None = None
        # Flow
        self._is_taking = False  # events are being worked off: whoever finishes now need not go on himself
        self._reading = True
        self._upload_paused = False
        self._writing_paused = False
        self._linger_left = _LINGER_BYTES

    def drain(self) -> None:
        """Close once the running request is answered; at once between requests."""
        self._draining = True
        if self._phase in (_Phase.IDLE, _Phase.HEAD):
            self._close()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline.set(self._idle_timeout)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.LINGERING:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self._abort()
        elif self._phase is not _Phase.CLOSED:
            self._work_off(lambda: self._reader.receive(data))

    def eof_received(self) -> bool:
        if self._phase is _Phase.BUSY:
            self._caller_left()
            self._abort()
        else:
            self._close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase is _Phase.BUSY:
            self._caller_left()
        self._phase = _Phase.CLOSED
        self._deadline.cancel()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._exchange is not None:
            self._exchange.pause_answer()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._exchange is not None:
            self._exchange.resume_answer()

    # Requests

    def _work_off(self, read: Callable[[], Sequence[RequestEvent]]) -> None:
        """Take what was read, request after request as long as each is settled, and set the timers."""
        self._is_taking = True
        try:
            events = read()
            while events:
                for event in events:
                    self._take(event)
                    if self._phase in (_Phase.LINGERING, _Phase.CLOSED):
                        return
                is_next = self._phase is _Phase.IDLE and self._reader.has_ended
                events = self._reader.start_next() if is_next else []
        except HttpRefused as refusal:
            self._refuse(refusal)
            return
        finally:
            self._is_taking = False
        if self._exchange is not None:
            self._exchange.flush()
        self._wait_for_more()

    def _take(self, event: RequestEvent) -> None:
        if isinstance(event, bytes):
            if self._record is not None:
                self._record.request_bytes += len(event)
            if self._exchange is not None:
                self._exchange.receive_body(event)
        elif isinstance(event, EndOfMessage):
            if self._exchange is not None:
                self._exchange.receive_end()
            elif self._phase is _Phase.DISCARDING:
                self._turn_to_next()
        else:
            self._begin(event)

    def _begin(self, head: RequestHead) -> None:
        self._phase = _Phase.BUSY
        self._request = head
        path = head.target.partition(b"?")[0].decode("ascii")
        record = self._start_record(head.method.decode("ascii"), path)
        try:
            decision = self._decide(head)
            if isinstance(decision, Answer):
                self._answer(decision, "answered" if decision.status < 400 else "refused")
                return
            exchange = Exchange(self, head, decision, record)
        except HttpRefused:
            raise
        except Exception:
            # Whatever it is, it is ours: the log gets the reason and the caller a status.
            _log.exception("the decision about a request failed")
            self._answer(json_rpc_error(500, "internal error", data={"executed": "no"}), "failed")
            return
        self._explain = decision.explain
        self._exchange = exchange
        if head.expect_continue:
            self._write(CONTINUE)
        if self._writing_paused:
            exchange.pause_answer()
        exchange.start()
