"""
Connections to the next hop, kept alive between requests.

A ``ClientPool`` has one next hop. It lends a connection to one ``Requester`` at a time: the one that was
idle for the shortest time, or a new one. A connection goes back only when it is clean: the request wholly
sent, the answer wholly read and not a byte beyond, both sides willing. One that receives anything while
idle, be it bytes or an end of file, is dropped at once.

Nothing is retried here. An idle connection found closed *before* it is lent is passed over, which is not a
retry, since not a byte of the request was written to it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final, Protocol, cast

from sallyport.tunnel.errors import BodyTruncated, HttpRefused
from sallyport.tunnel.http1 import HeadLimits, HeadMemo, ResponseEvent, ResponseHead, ResponseReader
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.deadline import Deadline
from sallyport.tunnel.net.lone_head import LoneHead
from sallyport.tunnel.net.unread import descriptor_of, read_unread, unread_among, unread_probe

_MAX_IDLE: Final = limit(
    512, "connections",
    "idle to one next hop, each a descriptor there too: as many as a busy gateway has calls under way, for "
    "with fewer each burst would dial anew; the idle time takes them away soon enough",
)  # fmt: skip

_LOOK_LASTS: Final = limit(
    0.001, "seconds",
    "for which a look at idle connections holds, by the loop's clock, which stands still within a turn: "
    "servers close on us while we are not looking for as long as their FIN is under way anyhow",
)  # fmt: skip
_LOOKED_AT: Final = limit(
    16, "connections",
    "idle ones that are looked at together, the next to be lent: as many as calls that come in one message",
)  # fmt: skip

Dial = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]


class Cancellable(Protocol):
    """A task that was started for us."""

    def cancel(self) -> object:
        """Stop it; it may have ended."""


Spawn = Callable[[Coroutine[object, object, None]], Cancellable]


class Requester(Protocol):
    """Who was lent a connection, and what it tells him."""

    def connected(self, connection: "UpstreamConnection") -> None:
        """The connection is his until he gives it back, or it is lost."""

    def dial_failed(self, error: Exception) -> None:
        """There will be no connection."""

    def answer_received(self, events: Sequence[ResponseEvent]) -> None:
        """Part of the answer has come."""

    def whole_answer(self, head: ResponseHead, body: bytes) -> None:
        """All of the answer has come at once."""

    def connection_failed(self, error: Exception) -> None:
        """The connection ended, or spoke nonsense, before the answer was complete."""

    def timed_out(self) -> None:
        """The connection's deadline, which only he sets, has come."""

    def pause_request(self) -> None:
        """The connection takes no more for now."""

    def resume_request(self) -> None:
        """It takes more again."""


class ClientPool:
    """
    Connections to one next hop.

    Args:
        dial: Connects what the given factory makes, over TCP, TLS or anything else; raises its owner's own
            errors. When it returns, the connection is made, or will be made or lost without it, within a
            time of its owner's choosing. Cancelled when the caller has left.
        idle_timeout: Seconds after which an idle connection is closed. To be shorter than the next hop's
            own, so that it is never the one that closes (uvicorn: 5 s).
        loop: The running loop.
        spawn: Starts a task in the owner's task group.
        limits: How large the head of an answer may be.
        max_idle: How many idle connections are kept.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        idle_timeout: float,
        loop: asyncio.AbstractEventLoop,
        spawn: Spawn,
        limits: HeadLimits | None = None,
        max_idle: int = _MAX_IDLE,
    ) -> None:
        self.idle_timeout = idle_timeout
        self.loop = loop
        self.limits = limits or HeadLimits()
        self.heads = HeadMemo[ResponseHead]()  # a server begins its answers alike on all its connections
        self._dial = dial
        self._spawn = spawn
        self._max_idle = max_idle
        self._idle: list[UpstreamConnection] = []  # the last one was used last
        self._closed = False

    def lend(self, requester: Requester) -> "Dialling | None":
        """
        Give the requester a connection: at once if one is idle (then returns None), or by dialling.

        ``requester.connected`` or ``requester.dial_failed`` follows, the former perhaps before this returns.
        """
        now = self.loop.time()
        while self._idle:
            if self._idle[-1].quiet_until <= now:
                self._look(now)
                continue
            connection = self._idle.pop()
            if connection.is_usable():
                connection.requester = requester
                requester.connected(connection)
                return None
            connection.abort()
        connection = UpstreamConnection(self, requester)
        return Dialling(connection, self._spawn(self._connect(connection)))

    def close(self) -> None:
        """Close idle connections, and from now on each one that comes back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _look(self, now: float) -> None:
        """Drop those of the next connections to be lent in which something waits that nobody asked for."""
        looked_at = self._idle[-_LOOKED_AT:]
        unread = unread_among([each.descriptor for each in looked_at if each.descriptor is not None])
        for connection in looked_at:
            connection.quiet_until = now + _LOOK_LASTS
            if connection.descriptor in unread:
                self._idle.remove(connection)
                connection.abort()

    async def _connect(self, connection: "UpstreamConnection") -> None:
        try:
            await self._dial(lambda: connection)
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception as error:
            # Which errors a dial raises is its owner's affair, who gets this one back to explain it.
            connection.dial_failed(error)

    # For connections

    def take_back(self, connection: "UpstreamConnection") -> None:
        """Keep a clean connection for the next request, or close it."""
        if self._closed or len(self._idle) >= self._max_idle:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: "UpstreamConnection") -> None:
        """Take note that an idle connection is no more."""
        if connection in self._idle:
            self._idle.remove(connection)


class Dialling:
    """A connection on its way to a requester."""

    def __init__(self, connection: "UpstreamConnection", task: Cancellable) -> None:
        self._connection = connection
        self._task = task

    def cancel(self) -> None:
        """Stop it. The requester hears nothing more; a connection that is made all the same is dropped."""
        self._connection.abort()
        self._task.cancel()


class UpstreamConnection(asyncio.Protocol):
    """
    One connection to the next hop, lent to one requester at a time. Made by ``ClientPool`` only.

    Attributes:
        transport: What carries it, from ``Requester.connected`` on.
        requester: Who has it; None while it is idle.
        deadline: The requester's, from his first byte on; then that of being idle.
        requests: How many requests it has carried, the current one included.
        descriptor: Of its socket, from ``Requester.connected`` on; None where it has none.
        quiet_until: Until when it need not be looked at again before it is lent, by the loop's clock.
    """

    transport: asyncio.Transport

    def __init__(self, pool: ClientPool, requester: Requester) -> None:
        self._pool = pool
        self.requester: Requester | None = requester
        self._reader = ResponseReader(pool.limits, pool.heads)
        self._lost = False
        self._is_made = False
        self.deadline = Deadline(pool.loop, self._expired)
        self.requests = 0
        self.descriptor: int | None = None
        self.quiet_until = 0.0
        self._is_paused = False
        self._lone_head: LoneHead

    # For the requester

    def send_request(self, method: bytes, data: bytes) -> None:
        """Send the beginning of a request, at least its head."""
        self.requests += 1
        self._reader.expect(method)
        self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send more of the request."""
        self.transport.write(data)

    def pause_answer(self) -> None:
        """Receive no more for now."""
        self._is_paused = True
        self.transport.pause_reading()

    def resume_answer(self) -> None:
        """Receive again."""
        self._is_paused = False
        self.transport.resume_reading()

    def give_back(self, *, clean: bool) -> None:
        """
        Return the connection after a whole answer.

        Args:
            clean: The request was wholly sent and the answer allows another; else it is closed.
        """
        self.requester = None
        if not clean or self._lost or self._reader.held or self.transport.is_closing():
            self.abort()
            return
        if self._is_paused:
            # A connection that is idle must be heard when it ends. What TLS has held back may come at once.
            self.resume_answer()
            if self.transport.is_closing():
                return
        self.deadline.set(self._pool.idle_timeout)
        self.quiet_until = 0.0  # Whatever was seen before, its server has spoken since.
        self._pool.take_back(self)

    def abort(self) -> None:
        """Drop the connection at once: the next hop sees that nobody waits for its answer."""
        self.requester = None
        self.deadline.cancel()
        if self._is_made:
            self._lone_head.cancel()
            self.transport.abort()

    # For the pool

    def is_usable(self) -> bool:
        """Whether nothing is known to have happened to it while it was idle."""
        return not (self._lost or self.transport.is_closing())

    def close(self) -> None:
        """Close an idle connection in order."""
        self.deadline.cancel()
        self.transport.close()

    def dial_failed(self, error: Exception) -> None:
        """Take note that there will be no connection, unless that is known already."""
        requester, self.requester = self.requester, None
        if requester is not None and not self._is_made:
            requester.dial_failed(error)

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._is_made = True
        self.descriptor = descriptor_of(self.transport)
        self._lone_head = LoneHead(unread_probe(transport), loop=self._pool.loop, take=self._take)
        if self.requester is None:
            # He left while the last packet of the handshake was on its way.
            self.transport.abort()
            return
        self.requester.connected(self)

    def data_received(self, data: bytes) -> None:
        if self.requester is None:
            self._drop_idle()
            return
        lone_head = self._lone_head
        if is_joined := bool(lone_head.held):
            data = lone_head.join(data)
        message = self._reader.whole(data)
        if message is not None:
            head, body = message
            self.requester.whole_answer(head, body)
        elif is_joined or not (self._reader.is_between and lone_head.hold(data)):
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            events = self._reader.receive(data)
        except HttpRefused as error:
            self._fail(error)
            return
        if events and self.requester is not None:
            self.requester.answer_received(events)

    def eof_received(self) -> bool:
        self._lone_head.release()
        if self.requester is None:
            self._drop_idle()
            return False
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self.requester is not None:
            unread = read_unread(self.transport if self._is_made else None)
            if unread:
                self.data_received(unread)
            if self._is_made:
                self._lone_head.release()
        if self.requester is None:
            self._pool.forget(self)
        elif not self._is_made:
            self.dial_failed(exc or ConnectionAbortedError("the connection ended before it was made"))
        else:
            self._end(exc)
        self.deadline.cancel()
        if self._is_made:
            self._lone_head.cancel()

    def pause_writing(self) -> None:
        if self.requester is not None:
            self.requester.pause_request()

    def resume_writing(self) -> None:
        if self.requester is not None:
            self.requester.resume_request()

    # Inside

    def _end(self, error: Exception | None) -> None:
        """The server sends no more: that ends the answer (an orderly end may), or it fails."""
        if error is None:
            try:
                events = self._reader.receive_eof()
            except BodyTruncated as truncated:
                closed = ConnectionAbortedError("the connection was closed without an answer")
                error = truncated if self._reader.is_in_body else closed
            else:
                if self.requester is not None:
                    self.requester.answer_received(events)
                return
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        requester, self.requester = self.requester, None
        if requester is not None:
            requester.connection_failed(error)
        self.abort()

    def _drop_idle(self) -> None:
        # Bytes that nobody asked for could only be taken for the answer to somebody else's request.
        self._pool.forget(self)
        self.abort()

    def _expired(self) -> None:
        if self.requester is None:
            self._pool.forget(self)
            self.close()
        else:
            self.requester.timed_out()
