"""
The gateway's yardstick: bodies to measure a tunnel with, and no server behind them.

The reserved server ``_canary`` answers for the gateway itself, and two kinds of its requests move bytes, for
``sallyport bench``:

* ``GET /_canary?bytes=N`` is answered with N bytes;
* ``POST /_canary`` with a body is answered, once the whole of it has come and was dropped, with its length.

Both go the way of every call that is forwarded, so they are streamed, paused and timed out by what carries
real ones; the next hop is made up here. Each such connection is one measurement. What bounds an eager caller:
N and the body end at 16 MiB, a body must declare its length, and a few measurements run at once, beyond which
the answer is 503. What a measurement holds in memory is one piece, whatever its size.
"""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from sallyport.gateway.errors import MeasurementsRunning, RequestRefused
from sallyport.tunnel.http1 import (
    Body,
    BodyKind,
    EndOfMessage,
    OutgoingHead,
    RequestHead,
    RequestReader,
    ResponseHead,
    encode_response,
)
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.http_client import ClientPool, Spawn
from sallyport.tunnel.net.http_forward import Answer, Forward, ForwardFailure, ForwardTimeouts

MEASURE_MOST: Final = limit(
    16 * 1024 * 1024, "bytes",
    "that one measurement moves, either way: a second of 130 Mbit/s, and a caller must ask again for more",
)  # fmt: skip
MEASURED_AT_ONCE: Final = limit(
    4, "connections",
    "on which callers measure, all of them together at one worker, answered 503 beyond it: they move bytes "
    "as fast as the tunnel carries them, and it is there for calls",
)  # fmt: skip
_PATIENCE: Final = limit(
    30.0, "seconds",
    "in which a measurement's caller takes or sends nothing; then its place is another's",
)  # fmt: skip
_PIECE: Final = limit(
    64 * 1024, "bytes",
    "handed on in one turn of the event loop, which is all that a measurement holds: the next turn is for "
    "the calls beside it",
)  # fmt: skip

_QUERY: Final = re.compile(rb"\?bytes=([1-9][0-9]{0,8})")
_RULE: Final = "measurement"


def is_measurement(head: RequestHead, target: bytes) -> bool:
    """
    Tell whether a request to ``_canary`` asks for more than the gateway's word, and judge it if so.

    Args:
        head: The request.
        target: Its path and query for that server.

    Raises:
        RequestRefused: 400, 411 or 413 for a measurement that is none, or is too large.
    """
    _, mark, query = target.partition(b"?")
    if mark:
        _bytes_asked(head.method, mark + query)
        return True
    return head.method == b"POST" and _has_body(head.body)


def _bytes_asked(method: bytes, query: bytes) -> int:
    found = _QUERY.fullmatch(query)
    if method not in (b"GET", b"HEAD") or found is None:
        raise RequestRefused(400, _RULE, "a measurement is GET with ?bytes=N, or POST with a body")
    if int(found[1]) > MEASURE_MOST:
        raise RequestRefused(400, _RULE, f"one measurement moves at most {MEASURE_MOST} bytes")
    return int(found[1])


def _has_body(body: Body) -> bool:
    if body.kind is BodyKind.CHUNKED:
        raise RequestRefused(411, _RULE, "a measured body declares its length")
    if body.length > MEASURE_MOST:
        raise RequestRefused(413, _RULE, f"one measurement moves at most {MEASURE_MOST} bytes")
    return body.length > 0


class Yardstick:
    """
    Carries out measurements.

    Args:
        loop: The running loop.
        spawn: Starts a task in the owner's task group.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop, spawn: Spawn) -> None:
        self._loop = loop
        # Every answer says that its connection ends, so the pool keeps none.
        self._pool = ClientPool(self._dial, idle_timeout=_PATIENCE, loop=loop, spawn=spawn)
        self._running = 0
        # Random, so that nothing on the way can make it smaller.
        self._filler = os.urandom(_PIECE)

    def forward(
        self, head: RequestHead, target: bytes, explain: Callable[[ForwardFailure], Answer]
    ) -> Forward:
        """
        Return the decision about a measurement.

        Args:
            head: A request that ``is_measurement`` has accepted.
            target: Its path and query for ``_canary``.
            explain: Puts a failure into words for the caller.
        """
        rebuilt = replace(head, target=target, version=b"1.1", headers=[(b"Host", head.host)])
        return Forward(OutgoingHead.of(rebuilt), self._pool, ForwardTimeouts(_PATIENCE, _PATIENCE), explain)

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> None:
        if self._running >= MEASURED_AT_ONCE:
            raise MeasurementsRunning(MEASURED_AT_ONCE)
        protocol = factory()
        self._running += 1
        protocol.connection_made(_Measurement(protocol, self._filler, loop=self._loop, ended=self._leave))

    def _leave(self) -> None:
        self._running -= 1


class _Measurement(asyncio.Transport):
    """A transport for one request, whose far end swallows it and answers with filler."""

    def __init__(
        self,
        protocol: asyncio.Protocol,
        filler: bytes,
        *,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[], None],
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._filler = filler
        self._loop = loop
        self._ended = ended
        self._request = RequestReader()
        self._received = 0
        self._head: RequestHead | None = None
        self._answer_head = b""
        self._left = 0  # bytes of the answer's body, not yet delivered
        self._is_reading = True
        self._is_due = False  # a delivery is on the loop's list
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing:
            return
        for event in self._request.receive(bytes(data)):
            if isinstance(event, bytes):
                self._received += len(event)
            elif isinstance(event, EndOfMessage):
                self._answer()
            else:
                self._head = event

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._deliver_soon()

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return 0  # what is written is gone

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._ended()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _answer(self) -> None:
        head = self._head
        if head is None:
            raise AssertionError("a request ends behind its head")
        kind, body = b"application/octet-stream", b""
        if head.method == b"POST":
            kind, body = b"application/json", b'{"received": %d}' % self._received
            length = len(body)
        else:
            length = _bytes_asked(head.method, b"?" + head.target.partition(b"?")[2])
            self._left = length if head.method == b"GET" else 0
        fields = [(b"Content-Type", kind), (b"Cache-Control", b"no-store")]
        framing = Body(BodyKind.LENGTH, length)
        self._answer_head = encode_response(ResponseHead(200, b"OK", fields, framing, False)) + body
        self._deliver_soon()

    def _deliver_soon(self) -> None:
        """Deliver in a turn of its own, as a socket would: whoever wrote is still at work."""
        if not self._is_due and self._is_reading and not self._is_closing:
            self._is_due = bool(self._answer_head or self._left)
            if self._is_due:
                self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if not self._is_reading or self._is_closing:
            return
        piece = min(self._left, _PIECE)
        data = self._answer_head + self._filler[:piece]
        self._answer_head = b""
        self._left -= piece
        self._protocol.data_received(data)
        self._deliver_soon()
