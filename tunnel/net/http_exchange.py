"""
One request on its way to the next hop, and its answer on its way back.

An ``Exchange`` stands between the caller's connection and one to the next hop, and lives from the decision to
forward until the answer is complete, has failed, or nobody wants it. It copies nothing it need not, starts
no task, and sets no timer of its own:

* The request goes up as it comes, one write for what one callback brought. What comes while the connection
  is still being dialled waits, up to a bound.
* The head of the answer goes down before its body and at once; then every piece as it arrives. An answer
  may begin, and end, before the request has been sent whole (a server's own 413).
* Each side that takes no more pauses the other. A transport told to read on may deliver what it held before
  that call returns, and so end the exchange in the middle of it: such a call comes last, or what follows
  looks again.
* Both sides speak HTTP/1.1 framing of our own: a length stays a length, everything else becomes chunks. To
  an HTTP/1.0 caller, who knows no chunks, an answer of unknown length ends with the connection.

It ends exactly once, and tells the caller's side how through ``Caller``.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sallyport.tunnel.errors import TlsFailed
from sallyport.tunnel.http1 import (
    CHUNKED,
    LAST_CHUNK,
    UNTIL_CLOSE,
    Body,
    BodyKind,
    EndOfMessage,
    RequestHead,
    ResponseEvent,
    ResponseHead,
    chunk,
    pass_response,
)
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.http_client import Dialling, UpstreamConnection
from sallyport.tunnel.net.http_forward import CallRecord, Executed, Forward, ForwardFailure, Stage

_HELD_WHILE_DIALLING: Final = limit(
    64 * 1024, "bytes",
    "of a body kept while the next hop is being dialled: a usual MCP request whole, an upload's beginning",
)  # fmt: skip


class Caller(Protocol):
    """The caller's connection, as an exchange uses it."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Sends bytes of the answer."""

    def update_reading(self) -> None:
        """Read on, perhaps at once, or no more: ``Exchange.is_request_paused`` has changed."""

    def answer_complete(self, *, keep_alive: bool) -> None:
        """The whole answer was written."""

    def answer_failed(self, failure: ForwardFailure, *, begun: bool) -> None:
        """There is no whole answer; ``begun``: some of it was written, so no other can be."""

    def abort(self) -> None:
        """Drop a caller who has taken nothing for as long as the next hop may be silent."""


class Exchange:
    """
    One forwarded request.

    Args:
        caller: Where the request comes from.
        request: Its head as received.
        forward: What to send, and where.
        record: Where to count.
        body: The whole body where it came together with the head; else it is received.

    Attributes:
        is_request_paused: The next hop, or what may be held for it, takes no more of the request for now.
        has_begun: The head of the final answer was written to the caller.
    """

    __slots__ = (
        "_answer_paused",
        "_caller",
        "_chunked",
        "_connection",
        "_dialling",
        "_forward",
        "_head",
        "_held",
        "_is_over",
        "_keep_alive",
        "_last_chunk",
        "_pieces",
        "_record",
        "_request",
        "_request_complete",
        "_reusable",
        "has_begun",
        "is_request_paused",
    )

    def __init__(
        self,
        caller: Caller,
        request: RequestHead,
        forward: Forward,
        record: CallRecord,
        body: bytes | None = None,
    ) -> None:
        self._caller = caller
        self._request = request
        self._forward = forward
        self._record = record
        self._dialling: Dialling | None = None
        self._connection: UpstreamConnection | None = None
        self._is_over = False
        # Going up
        self._head = forward.head.framed(request.body)  # empty once it was sent
        if body:
            self._head += body
        self._pieces: list[bytes] = []  # of the body, not yet sent
        self._held = 0  # their bytes, while dialling
        self._request_complete = body is not None
        self._last_chunk = LAST_CHUNK if request.body is CHUNKED else b""  # empty once it was sent
        self.is_request_paused = False
        # Coming down
        self.has_begun = False  # the final head was written to the caller
        self._chunked = False
        self._reusable = False  # the connection to the next hop, as far as the answer says
        self._keep_alive = False  # the caller's connection
        self._answer_paused = False

    def start(self) -> None:
        """Ask for a connection; a whole request follows when there is one, another when it is flushed."""
        if self._is_over:
            return  # the caller was lost when he was told to continue
        self._dialling = self._forward.upstream.lend(self)

    # The request, from the caller's side

    def receive_body(self, data: bytes) -> None:
        """Take a piece of the request's body; ``flush`` sends it."""
        self._pieces.append(data)
        self._held += len(data)

    def receive_end(self) -> None:
        """Take note that the request is complete; ``flush`` sends what that means."""
        self._request_complete = True

    def flush(self) -> None:
        """Send what was taken, as one write."""
        connection = self._connection
        if connection is None:
            if self._held > _HELD_WHILE_DIALLING and not self._request_complete:
                self.pause_request()
            return
        if self._is_over:
            return
        head, self._head = self._head, b""
        data = head
        if self._pieces or self._last_chunk:
            data += self._body_to_send()
        if not data:
            return
        # In this order: writing may find that the connection is lost, and so end the exchange.
        if not self.has_begun:
            connection.deadline.set(self._forward.timeouts.first_byte)
        if head:
            connection.send_request(self._forward.head.method, data)
        else:
            connection.send(data)

    def abandon(self) -> None:
        """Drop everything: nobody waits for the answer. The next hop sees it at once."""
        self._is_over = True
        if self._dialling is not None:
            self._dialling.cancel()
        if self._connection is not None:
            self._connection.abort()

    def pause_answer(self) -> None:
        """Receive no more of the answer: the caller takes no more for now."""
        self._answer_paused = True
        if self._connection is not None:
            self._connection.pause_answer()

    def resume_answer(self) -> None:
        """Receive again."""
        self._answer_paused = False
        if self._connection is not None and not self._is_over:
            # In this order: resuming may end the exchange, and then the deadline is that of somebody else.
            self._connection.deadline.set(self._patience())
            self._connection.resume_answer()

    # The connection's side: Requester

    def connected(self, connection: UpstreamConnection) -> None:
        """Send what has been waiting for the connection."""
        # An idle connection is there at once; then the head waits for what came with it, for one write.
        is_flush_due = self._request_complete or self._dialling is not None
        self._connection = connection
        self._dialling = None
        self._record.upstream = connection.transport
        self._record.upstream_number = connection.requests + 1
        if self._answer_paused:
            connection.pause_answer()
        self._held = 0
        if self.is_request_paused:
            self.resume_request()
        if is_flush_due:
            self.flush()

    def dial_failed(self, error: Exception) -> None:
        """Report that the request went nowhere."""
        self._fail(error, stage="dial", executed="no")

    def answer_received(self, events: Sequence[ResponseEvent]) -> None:
        """Pass on what has come, as one write."""
        heads = b""
        pieces: list[bytes] = []
        is_complete = False
        for event in events:
            if isinstance(event, bytes):
                pieces.append(event)
            elif isinstance(event, EndOfMessage):
                is_complete = True
            else:
                heads += self._answer_head(event)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._record.response_bytes += len(body)
        if self._chunked:
            body = (chunk(body) if body else b"") + (LAST_CHUNK if is_complete else b"")
        data = heads + body if heads else body
        if data:
            self._caller.write(data)
        if self._is_over or self._connection is None:
            return  # the caller was lost in the middle of the write
        if is_complete:
            self._complete(self._connection)
        else:
            self._connection.deadline.set(self._patience())

    def whole_answer(self, head: ResponseHead, body: bytes) -> None:
        """Pass on an answer that has come at once, as one write."""
        self._record.response_bytes = head.body.length
        self._caller.write(self._final_head(head, head.body) + body)
        if not self._is_over and self._connection is not None:  # else the caller was lost in the write
            self._complete(self._connection)

    def connection_failed(self, error: Exception) -> None:
        """Report how far the request, and its answer, had come."""
        if self.has_begun:
            self._fail(error, stage="body", executed="unknown")
            return
        stage: Stage = "head" if self._request_is_sent() else "send"
        self._fail(error, stage=stage, executed=self._executed(error))

    def timed_out(self) -> None:
        """Judge whose silence it is, and end the exchange when it is the next hop's."""
        if self._answer_paused:
            self.abandon()
            self._caller.abort()
            return
        connection = self._connection
        if connection is None:
            raise AssertionError("the deadline belongs to a connection")
        if not self.has_begun and not self._request_complete and not self.is_request_paused:
            # It is the caller who is slow with his request, and his own timer who watches that.
            connection.deadline.set(self._forward.timeouts.first_byte)
            return
        connection.abort()
        waited = self._patience()
        missing = "more of its answer" if self.has_begun else "an answer"
        self.connection_failed(TimeoutError(f"{missing} did not come within {waited:g} s"))

    def pause_request(self) -> None:
        """Read no more of the request: the next hop takes no more for now."""
        if not self.is_request_paused:
            self.is_request_paused = True
            self._caller.update_reading()

    def resume_request(self) -> None:
        """Read on."""
        if self.is_request_paused:
            self.is_request_paused = False
            self._caller.update_reading()

    # Inside

    def _body_to_send(self) -> bytes:
        """Return what was taken of the body; of a chunked one as a chunk, with the last one in the end."""
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._last_chunk:
            body = chunk(body) if body else b""
            if self._request_complete:
                body, self._last_chunk = body + self._last_chunk, b""
        return body

    def _answer_head(self, head: ResponseHead) -> bytes:
        """Return the head for the caller, framed for him; nothing for an interim one that he may not see."""
        if head.status < 200:
            # 100 is of the hop that waits for it; HTTP/1.0 knows no interim answers (RFC 9110 §15.2).
            if head.status == 100 or self._request.version == b"1.0":
                return b""
            return pass_response(head, head.body, keep_alive=True)
        body = head.body
        if body.kind in (BodyKind.CHUNKED, BodyKind.UNTIL_CLOSE):
            body = CHUNKED if self._request.version == b"1.1" else UNTIL_CLOSE
        self._chunked = body is CHUNKED
        return self._final_head(head, body)

    def _final_head(self, head: ResponseHead, body: Body) -> bytes:
        """Return the head of the answer proper, for a body with that framing."""
        self.has_begun = True
        self._reusable = head.keep_alive
        # An answer that overtakes the request leaves the rest of it unread, and so ends the connection.
        self._keep_alive = self._request.keep_alive and self._request_complete
        self._record.status = head.status
        return pass_response(head, body, keep_alive=self._keep_alive)

    def _complete(self, connection: UpstreamConnection) -> None:
        self._is_over = True
        connection.give_back(clean=self._reusable and self._request_is_sent())
        self._caller.answer_complete(keep_alive=self._keep_alive)

    def _fail(self, error: Exception, *, stage: Stage, executed: Executed) -> None:
        if self._is_over:
            return
        self._is_over = True
        connection = None if self._connection is None else self._connection.transport
        number = max(1, self._record.upstream_number)
        failure = ForwardFailure(stage, error, executed, connection, number)
        self._caller.answer_failed(failure, begun=self.has_begun)

    def _executed(self, error: Exception) -> Executed:
        """
        Whether the next hop may have acted on a request that was at least begun to be sent.

        A TLS 1.3 client may write before the server has judged its certificate. A fatal alert before any
        answer on a fresh connection is that judgement, and the server has not looked at the request.
        """
        is_fresh = self._connection is not None and self._connection.requests == 1
        return "no" if is_fresh and isinstance(error, TlsFailed) and error.alert is not None else "unknown"

    def _request_is_sent(self) -> bool:
        connection = self._connection
        if connection is None or not self._request_complete or self._head or self._pieces:
            return False
        return not connection.transport.get_write_buffer_size()

    def _patience(self) -> float:
        return self._forward.timeouts.idle if self.has_begun else self._forward.timeouts.first_byte
