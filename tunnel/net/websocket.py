"""
The carrier of a link: one WebSocket (RFC 6455) under our own asyncio protocol.

This file moves the bytes in callbacks, and with its neighbours is all that knows that a link travels over a
WebSocket: ``websocket_upgrade`` opens it, a codec makes frames (``websocket_codec``), and what the frames may
be is said here, for every codec.

What it demands of the peer, beside RFC 6455 (SPEC.md, carrier): subprotocol ``sallyport.v1``, no extensions
(ciphertext does not compress, and there is no decompression bomb without decompression), binary messages of
one fragment and of at most 128 KiB. The link has its own PING; the WebSocket's are answered, but only at a
rate at which nobody means harm, and never while the peer does not read the answers.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from websockets.protocol import Side

from sallyport.tunnel.buckets import TokenBucket
from sallyport.tunnel.errors import LinkLost
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.websocket_codec import CodecName, FrameCodec, Opcode, chosen_codec, codec_maker
from sallyport.tunnel.net.websocket_upgrade import Upgrade

_HIGH_WATER: Final = limit(
    64 * 1024, "bytes",
    "that this process keeps for the kernel before it stops asking the mux for more: what is sent next is "
    "decided late, while a long path is still full",
)  # fmt: skip

_PINGS_PER_SECOND: Final = limit(
    2.0, "per second",
    "WebSocket pings answered. A peer that pings and does not read the pongs made a server grow by 35 "
    "MiB/s; nobody needs these pings",
)  # fmt: skip
_PING_BURST: Final = limit(20, "frames", "WebSocket pings answered at once")
_UNREAD_MAX: Final = limit(
    1024 * 1024, "bytes",
    "queued for a peer that does not read, beyond which its link is broken",
)  # fmt: skip


class WebSocketCarrier(asyncio.Protocol):
    """
    One WebSocket that carries one link; make it with ``server`` or ``client``.

    Args:
        link: The link to carry.
        upgrade: The WebSocket's beginning, client's or server's.
        codec: Which codec makes its frames; None for the process's own.
    """

    def __init__(self, link: Link, upgrade: Upgrade, codec: CodecName | None = None) -> None:
        self._link = link
        self._upgrade = upgrade
        self._make_codec = codec_maker(codec or chosen_codec())
        self._codec: FrameCodec | None = None
        self._transport: asyncio.Transport | None = None
        self._is_open = False  # until something ends it: a close frame, an error, the connection's loss
        self._is_paused = False
        self.is_writable = False  # open and not paused; every message asks
        self._peer_closed = False
        self._error: LinkLost | None = None
        self._pings = TokenBucket(_PING_BURST, _PINGS_PER_SECOND, link.loop.time())
        # What is done for every message is done by whoever does it; the carrier only introduces them.
        self.message_received = link.message_received
        self.send: Callable[[bytes], None] = _cannot_write
        self.write: Callable[[bytes], None] = _cannot_write

    @classmethod
    def server(cls, link: Link, *, codec: CodecName | None = None) -> "WebSocketCarrier":
        """Return the relay's end."""
        return cls(link, Upgrade.server(), codec)

    @classmethod
    def client(cls, link: Link, host: str, *, codec: CodecName | None = None) -> "WebSocketCarrier":
        """
        Return the gateway's end.

        Args:
            link: The link to carry.
            host: The relay's name for this tunnel's links, as sent in SNI.
            codec: Which codec makes its frames; None for the process's own.
        """
        return cls(link, Upgrade.client(host), codec)

    # The carrier, as the link sees it; ``send`` is the codec's own

    def close(self) -> None:
        if self._transport is None:
            return
        if self._is_open and self._codec is not None:
            self._codec.close()
        self._shut()
        self._transport.close()

    def abort(self) -> None:
        self._shut()
        if self._transport is not None:
            self._transport.abort()

    # The protocol, as the transport sees it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.write = self._transport.write
        self._link.carrier_connected(self)
        if self._transport.is_closing():
            return
        self._upgrade.start()
        self.write(self._upgrade.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self._error is not None or self._peer_closed:
            return
        try:
            if self._codec is not None:
                self._codec.receive(data)
            else:
                self._receive_upgrade(data)
        except LinkLost as error:
            self._break(error)

    def eof_received(self) -> bool:
        if self._codec is None and self._error is None:
            try:
                self._upgrade.receive_eof()
            except LinkLost as error:
                self._break(error)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut()
        # They know this carrier, and none is freed at once while they know each other.
        self._codec = None
        self.send = self.write = _cannot_write
        if self._peer_closed:
            exc = None  # The peer has closed in order; that it did not wait for our answer is no error.
        self._link.carrier_lost(self._error or exc)

    def pause_writing(self) -> None:
        self._is_paused = True
        self.is_writable = False

    def resume_writing(self) -> None:
        self._is_paused = False
        self.is_writable = self._is_open
        self._link.carrier_writable()

    # The receiver, as the codec sees it; ``message_received`` is the link's own, ``write`` the transport's

    def frame_received(self, opcode: Opcode) -> None:
        if opcode is Opcode.PING:
            unread = 0 if self._transport is None else self._transport.get_write_buffer_size()
            if unread > _UNREAD_MAX or not self._pings.take(self._link.loop.time()):
                self.abort()
                raise LinkLost("the peer floods the link with WebSocket pings")
        elif opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION):
            self.abort()
            raise LinkLost("the peer sent a text message or a fragment, which a link never carries")

    def peer_closed(self) -> None:
        self._peer_closed = True
        self._shut()
        # The server ends the connection; the client waits for that (RFC 6455 §7.1.1).
        if self._upgrade.side is Side.SERVER and self._transport is not None:
            self._transport.close()

    # Inside

    def _receive_upgrade(self, data: bytes) -> None:
        try:
            rest = self._upgrade.receive(data)
        finally:
            self.write(self._upgrade.data_to_send())
        if rest is None:
            return
        self._codec = self._make_codec(self._upgrade.side, self)
        self.send = self._codec.send
        self._is_open = True
        self.is_writable = not self._is_paused
        self._link.carrier_opened()
        if rest and self._codec is not None:
            self._codec.receive(rest)

    def _shut(self) -> None:
        """Send nothing more: behind a close frame, in order or not, nothing is looked at (RFC 6455 §1.4)."""
        self._is_open = self.is_writable = False

    def _break(self, error: LinkLost) -> None:
        """Give the WebSocket up, behind what was written to tell the peer why."""
        self._error = error
        self._shut()
        if self._transport is not None:
            self._transport.close()


def _cannot_write(data: bytes) -> None:
    raise AssertionError("a link sends while its carrier is writable, and a carrier while it is connected")
