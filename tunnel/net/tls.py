"""
TLS over any asyncio transport: a protocol to what is below, a transport to what is above.

Below is a TCP connection or a mux ``Stream``; above is an ordinary ``asyncio.Protocol``. The same class ends
the inner TLS at the gateway, begins it at the connector, and carries the link on both of its ends.

The rules it keeps:

* The protocol above hears ``connection_made`` only when the handshake is complete *and* ``verify`` has judged
  the peer, so nobody above can write a byte to a peer that was not checked.
* It hears ``connection_lost`` always and once, with the reason; also when the handshake failed.
* The peer's close_notify is ``eof_received``; an end of file without it, ``connection_lost(TlsTruncated)``.
* ``close`` sends close_notify, ``abort`` does not, so that a cut answer cannot be taken for a whole one.

``write_eof`` sends close_notify and goes on reading, as TLS 1.3 allows (RFC 8446 §6.1): who refuses a request
says so at once and still swallows the rest of it. Deliberately absent: buffering, which is done below.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from sallyport.tunnel.errors import TlsFailed, TlsTruncated, TunnelError
from sallyport.tunnel.net.sockets import finish_writing
from sallyport.tunnel.net.unread import read_unread
from sallyport.tunnel.tls_engine import PIECE, TlsEngine

_NOBODY: Final = asyncio.Protocol()


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """
    One TLS connection, from the first byte of its handshake to its close.

    Args:
        engine: A fresh engine.
        upper: The protocol above. ``set_protocol`` may replace it, for instance in its ``connection_made``.
        loop: The running loop, for the handshake's timer.
        verify: Judges the peer after the handshake; what it raises refuses the peer and becomes the
            reason of ``connection_lost``.
        handshake_timeout: Seconds from the start to a complete handshake.
    """

    __slots__ = (
        "_admitted",
        "_closing",
        "_engine",
        "_eof_due",
        "_eof_sent",
        "_held",
        "_loop",
        "_lost",
        "_lower",
        "_outgoing",
        "_reading",
        "_timer",
        "_upper",
        "_verify",
        "first_flight",
    )

    def __init__(
        self,
        engine: TlsEngine,
        upper: asyncio.Protocol,
        *,
        loop: asyncio.AbstractEventLoop,
        verify: Callable[[ssl.SSLObject], None],
        handshake_timeout: float,
    ) -> None:
        # Not asyncio's own, which would give each of ten thousand streams a dictionary for nothing.
        self._engine = engine
        self._outgoing = engine.outgoing
        self._upper = upper
        self._loop = loop
        # Both are let go when the handshake is over: most of a connection's life comes after it.
        self._verify: Callable[[ssl.SSLObject], None] | None = verify
        self._timer: asyncio.TimerHandle | None = loop.call_later(
            handshake_timeout, self._handshake_timed_out
        )
        self._lower: asyncio.Transport | None = None
        self._admitted = False  # the protocol above knows this transport
        self._closing = False
        self._lost = False
        self._reading = True
        self._held = b""  # plaintext that came while the protocol above was not reading
        self._eof_due = False
        self._eof_sent = False
        # What a client wrote first, its ClientHello: logs take their reference from it.
        self.first_flight = b""

    # From below: the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        if self._closing:  # Whoever wanted this connection has given it up while it was being made.
            self._lower.abort()
            return
        if self._engine.tls.server_side:
            return
        try:
            self._engine.start()
        except TlsFailed as error:
            self._fail(error)
            return
        self.first_flight = self._engine.data_to_send()
        self._lower.write(self.first_flight)

    def data_received(self, data: bytes | memoryview) -> None:
        engine = self._engine
        if self._lost or engine.peer_closed:
            return  # What comes behind a close_notify is ignored (RFC 8446 §6.1).
        if len(data) > PIECE:
            # Each piece goes up before the next is decrypted: to join them costs more than the further calls,
            # most of it in page faults.
            for piece in _pieces(data):
                self.data_received(piece)
            return
        try:
            plaintext = engine.receive(data)
        except TunnelError as error:
            self._fail(error)
            return
        if self._outgoing.pending:
            self._flush()
        if not self._admitted and self._engine.handshake_complete and not self._admit():
            return
        if plaintext and self._reading and not self._held and not self._closing:
            self._upper.data_received(plaintext)
        elif plaintext and not self._closing:
            self._held += plaintext
        if self._engine.failure is not None:
            self._fail(self._engine.failure)
        elif self._engine.peer_closed:
            self._deliver_eof()

    def eof_received(self) -> bool:
        if self._lost:
            return False
        try:
            self._engine.receive_eof()
        except TlsTruncated as error:
            self._fail(error)
            return False
        # The peer has closed in order and may still read: what is above decides when this end closes.
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._lost and (rest := read_unread(self._lower)):
            # A reset came right behind the peer's last words, an early answer for instance.
            self._reading = True
            self._deliver_held()
            self.data_received(rest)
        if exc is None and not self._closing and not self._engine.peer_closed:
            exc = TlsTruncated("after the handshake" if self._admitted else "during the handshake")
        self._lose(exc)

    def pause_writing(self) -> None:
        if self._admitted and not self._lost:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._admitted and not self._lost:
            self._upper.resume_writing()

    # From above: the transport's methods

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._lost or self._eof_sent or not data:
            return
        try:
            if len(data) <= PIECE:
                self._engine.send(data)
            else:
                self._send_pieces(data)
        except TlsFailed as error:
            self._fail(error)
            return
        if self._outgoing.pending and self._lower is not None:
            self._lower.write(self._outgoing.read())

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self._stop_timer()
        if not self._eof_sent:
            self._engine.close()
            self._flush()
        if self._lower is not None:
            self._lower.close()

    def abort(self) -> None:
        self._closing = True
        self._stop_timer()
        if self._lower is not None:
            self._lower.abort()

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._lost or self._eof_sent:
            return
        self._eof_sent = True
        self._engine.close()
        self._flush()
        if self._lower is not None and self._lower.can_write_eof():
            finish_writing(self._lower)

    def pause_reading(self) -> None:
        self._reading = False
        if self._lower is not None:
            self._lower.pause_reading()

    def resume_reading(self) -> None:
        self._reading = True
        if self._held or self._eof_due:
            # As with asyncio's own transports, nothing is delivered from inside this method.
            self._loop.call_soon(self._deliver_held)
        if self._lower is not None and not self.is_closing():
            self._lower.resume_reading()

    def is_reading(self) -> bool:
        return self._reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._upper = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._upper

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._lower is not None:
            self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return 0 if self._lower is None else self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._engine.tls
        return default if self._lower is None else self._lower.get_extra_info(name, default)

    # Inside

    def _admit(self) -> bool:
        """Judge the peer and introduce it to the protocol above; False when it was refused."""
        self._stop_timer()
        verify, self._verify = self._verify, None
        if verify is None:
            raise AssertionError("a handshake is complete once")
        try:
            verify(self._engine.tls)
        except Exception as error:
            # Whatever the judge raises, a refusal or a mistake of ours, the peer stays outside.
            self._fail(error)
            return False
        self._admitted = True
        self._upper.connection_made(self)
        return not self.is_closing()

    def _deliver_held(self) -> None:
        if self._reading and not self._closing:
            held, self._held = self._held, b""
            if held:
                self._upper.data_received(held)
            if self._eof_due:
                self._deliver_eof()

    def _deliver_eof(self) -> None:
        if self._closing or self._lost:
            return
        if not self._reading or self._held:
            self._eof_due = True
            return
        self._eof_due = False
        if not self._upper.eof_received():
            self.close()

    def _send_pieces(self, data: bytes | bytearray | memoryview) -> None:
        """
        Encrypt much data and write it on.

        The pieces stay apart: joining them costs more page faults than the copy itself. All are encrypted
        before the first is written, because writing may call back.
        """
        encrypted = []
        for each in _pieces(data):
            self._engine.send(each)
            encrypted.append(self._engine.data_to_send())
        if self._lower is not None:
            for piece in encrypted:
                self._lower.write(piece)

    def _flush(self) -> None:
        if self._outgoing.pending and self._lower is not None:
            self._lower.write(self._outgoing.read())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _handshake_timed_out(self) -> None:
        self._fail(TlsFailed(None, "the handshake took too long"))

    def _fail(self, error: Exception) -> None:
        """Tell the peer by whatever alert the engine has ready, and the protocol above by name."""
        self._flush()
        if self._lower is not None:
            if isinstance(error, TlsTruncated):
                self._lower.abort()
            else:
                self._lower.close()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._closing = True
        self._stop_timer()
        self._verify = None
        # Who is above holds this transport; two that held each other would wait for the garbage collector,
        # which does not see how much memory OpenSSL has behind them.
        upper, self._upper = self._upper, _NOBODY
        upper.connection_lost(error)


def _pieces(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """Cut data as the engine wants it."""
    for start in range(0, len(data), PIECE):
        yield memoryview(data)[start : start + PIECE]
