"""
The measuring end of one connection: requests go out, times come in.

A measurement must cost little beside what it measures, so this is a Protocol of callbacks: the next request
is written in the callback that brought the end of the former answer, and both clock readings are taken there.
No task and no future stands between two calls, only before the first and behind the last.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final, cast

from sallyport.tunnel.errors import HttpRefused, TunnelError
from sallyport.tunnel.http1 import EndOfMessage, Headers, ResponseEvent, ResponseHead, ResponseReader

_PIECE: Final = 64 * 1024
_FILLER: Final = os.urandom(_PIECE)  # random, so that nothing on the way can make it smaller
_KEPT: Final = 64 * 1024  # bytes of an answer that are kept, to be read: no error says more

# JSON-RPC ids of one width, so that the length of a request does not change with its number.
_numbers: Final = count(1_000_000_000)


@dataclass(frozen=True, slots=True)
class Request:
    """
    A request that can be sent again and again.

    Attributes:
        method: Of HTTP.
        data: The head, and a small body; up to the number, if it has one.
        after_number: The rest of the body, behind a number that is new in each request; empty for none.
        filler: Bytes of body that follow, whatever they are.
    """

    method: bytes
    data: bytes = field(repr=False)  # the head may hold a key
    after_number: bytes = b""
    filler: int = 0

    def encode(self) -> bytes:
        """Return it as it goes out, but for the filler."""
        return b"%b%d%b" % (self.data, next(_numbers), self.after_number) if self.after_number else self.data


NUMBER_WIDTH: Final = 10
"""Digits of the number in a request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its head, the beginning of its body, and the length of all of it."""

    status: int
    headers: Headers
    body: bytes
    size: int


class Probe(asyncio.Protocol):
    """
    One connection that makes calls and takes their times.

    Args:
        seconds: Where to put what each call answered 200 took, from its first byte written to its last byte
            read.
        clock: Seconds, finer than a call.

    Attributes:
        lost: Whether the connection is gone, or will carry no further request.
        transport: What carries it; None before it is made.
    """

    def __init__(self, seconds: list[float], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = seconds
        self.lost = False
        self.transport: asyncio.Transport | None = None
        self._clock = clock
        self._reader = ResponseReader()
        self._done: asyncio.Future[Reply] | None = None
        self._writing_paused = False
        # Of the calls that are being made
        self._request = Request(b"GET", b"")
        self._left = 0  # calls
        self._until = 0.0
        self._started = 0.0
        self._filler_left = 0
        # Of the answer that is being read
        self._status = 0
        self._headers: Headers = []
        self._keep_alive = True
        self._pieces: list[bytes] = []
        self._size = 0

    def repeat(self, request: Request, *, calls: int, until: float) -> asyncio.Future[Reply]:
        """
        Make calls, one after the other.

        Args:
            request: What to send each time.
            calls: How many at most, at least one.
            until: When no further call is begun, on the clock.

        Returns:
            The last answer: after the last call, or one whose status is not 200, or one that ends the
            connection. Fails with what the connection ended with.
        """
        if self._done is not None and not self._done.done():
            raise AssertionError("a connection makes one call at a time")
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._done = done
        self._request, self._left, self._until = request, calls, until
        if self.lost:
            done.set_exception(ConnectionAbortedError("the connection was closed"))
        else:
            self._send()
        return done

    def close(self) -> None:
        """Have nothing more to do with the connection: close it in order, but under a call."""
        self.lost = True
        if self.transport is None:
            return
        if self._done is None or (self._done.done() and not self._done.cancelled()):
            self.transport.close()
        else:
            self.transport.abort()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._reader.receive(data))
        except TunnelError as error:
            self._fail(error)

    def eof_received(self) -> bool:
        try:
            self._take(self._reader.receive_eof())
        except TunnelError as error:
            self._fail(error)
        self.lost = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionAbortedError("the connection was closed"))

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._pour()

    # Inside

    def _send(self) -> None:
        transport = self.transport
        if transport is None:
            raise AssertionError("calls are made on a connection")
        self._pieces, self._size = [], 0
        self._filler_left = self._request.filler
        self._reader.expect(self._request.method)
        data = self._request.encode()
        self._started = self._clock()
        transport.write(data)
        self._pour()

    def _pour(self) -> None:
        while self._filler_left and not self._writing_paused and self.transport is not None:
            piece = _FILLER[: min(self._filler_left, _PIECE)]
            self._filler_left -= len(piece)
            self.transport.write(piece)

    def _take(self, events: list[ResponseEvent]) -> None:
        for event in events:
            if isinstance(event, bytes):
                if self._size < _KEPT:
                    self._pieces.append(event)
                self._size += len(event)
            elif isinstance(event, EndOfMessage):
                self._complete()
            elif event.status >= 200:
                self._begin(event)

    def _begin(self, head: ResponseHead) -> None:
        self._status, self._headers, self._keep_alive = head.status, head.headers, head.keep_alive

    def _complete(self) -> None:
        now = self._clock()
        self._filler_left = 0  # an answer may overtake its request
        if self._reader.held:
            self._fail(HttpRefused(502, "more than one answer"))
            return
        if self._status == 200:
            self.seconds.append(now - self._started)
        self._left -= 1
        self.lost |= not self._keep_alive
        if self._left > 0 and now < self._until and self._status == 200 and not self.lost:
            self._send()
        elif self._done is not None and not self._done.done():
            body = b"".join(self._pieces)[:_KEPT]
            self._done.set_result(Reply(self._status, self._headers, body, self._size))

    def _fail(self, error: Exception) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
