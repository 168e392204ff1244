"""
The carrier of a link: one WebSocket (RFC 6455) under our own asyncio protocol.

``websockets`` speaks the protocol, sans-I/O; this file moves the bytes in callbacks. It is the only file that
knows that a link travels over a WebSocket: a faster codec replaces it without touching a link.

What it demands of the peer, beside RFC 6455 (SPEC.md, carrier): subprotocol ``sallyport.v1``, no extensions
(ciphertext does not compress, and there is no decompression bomb without decompression), binary messages of
one fragment and of at most 128 KiB. The link has its own PING; the WebSocket's are answered, but only at a
rate at which nobody means harm, and never while the peer does not read the answers.
"""

import asyncio
from http import HTTPStatus
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from sallyport.tunnel.buckets import TokenBucket
from sallyport.tunnel.errors import LinkLost
from sallyport.tunnel.limits import MESSAGE_MAX, limit
from sallyport.tunnel.net.link import Link

SUBPROTOCOL = Subprotocol("sallyport.v1")
PATH = "/link"

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
        codec: The WebSocket's protocol, client's or server's.
    """

    def __init__(self, link: Link, codec: ClientProtocol | ServerProtocol) -> None:
        self._link = link
        self._codec = codec
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._error: LinkLost | None = None
        now = link.loop.time()
        self._pings = TokenBucket(_PING_BURST, _PINGS_PER_SECOND, now)

    @classmethod
    def server(cls, link: Link) -> "WebSocketCarrier":
        """Return the relay's end."""
        return cls(link, ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=MESSAGE_MAX))

    @classmethod
    def client(cls, link: Link, host: str) -> "WebSocketCarrier":
        """
        Return the gateway's end.

        Args:
            link: The link to carry.
            host: The relay's name for this tunnel's links, as sent in SNI.
        """
        uri = parse_uri(f"wss://{host}{PATH}")
        return cls(link, ClientProtocol(uri, subprotocols=[SUBPROTOCOL], max_size=MESSAGE_MAX))

    # The carrier, as the link sees it

    @property
    def is_writable(self) -> bool:
        return self._writable and self._codec.state is OPEN

    def send(self, message: bytes) -> None:
        self._codec.send_binary(message)
        self._write()

    def close(self) -> None:
        if self._transport is None:
            return
        if self._codec.state is OPEN:
            self._codec.send_close(CloseCode.NORMAL_CLOSURE)
            self._write()
        self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # The protocol, as the transport sees it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._link.carrier_connected(self)
        if self._transport.is_closing():
            return
        if isinstance(self._codec, ClientProtocol):
            self._codec.send_request(self._codec.connect())
            self._write()

    def data_received(self, data: bytes) -> None:
        self._codec.receive_data(data)
        for event in self._codec.events_received():
            if isinstance(event, Frame):
                self._frame_received(event)
            elif isinstance(event, Request):
                self._upgrade_requested(event)
            else:
                self._upgrade_answered(event)
            if self._error is not None:
                self.abort()
                return
        self._write()
        self._check_codec()

    def eof_received(self) -> bool:
        self._codec.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._codec.close_rcvd is not None:
            exc = None  # The peer has closed in order; that it did not wait for our answer is no error.
        self._link.carrier_lost(self._error or exc)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._link.carrier_writable()

    # Inside

    def _upgrade_requested(self, request: Request) -> None:
        codec = cast(ServerProtocol, self._codec)
        response = codec.accept(request)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            if request.path != PATH:
                response = codec.reject(HTTPStatus.NOT_FOUND, f"links are at {PATH}\n")
            elif codec.subprotocol != SUBPROTOCOL:
                response = codec.reject(HTTPStatus.BAD_REQUEST, f"the subprotocol is {SUBPROTOCOL}\n")
        codec.send_response(response)
        self._write()
        if codec.state is OPEN:
            self._link.carrier_opened()

    def _upgrade_answered(self, response: Response) -> None:
        if self._codec.handshake_exc is not None:
            self._error = LinkLost(f"the relay answered the WebSocket upgrade with {response.status_code}")
            self._error.__cause__ = self._codec.handshake_exc
        elif self._codec.subprotocol != SUBPROTOCOL:
            self._error = LinkLost(f"the relay does not speak {SUBPROTOCOL}")
        else:
            self._link.carrier_opened()

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY and frame.fin:
            self._link.message_received(frame.data)
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._error = LinkLost("the peer sent a text message or a fragment, which a link never carries")
        elif frame.opcode is Opcode.PING:
            unread = 0 if self._transport is None else self._transport.get_write_buffer_size()
            if unread > _UNREAD_MAX or not self._pings.take(self._link.loop.time()):
                self._error = LinkLost("the peer floods the link with WebSocket pings")

    def _check_codec(self) -> None:
        """Take note of what the codec found wrong: it has answered with a close frame where there is one."""
        wrong = self._codec.parser_exc or self._codec.handshake_exc
        if wrong is not None and self._error is None:
            self._error = LinkLost(f"the WebSocket broke: {wrong}")
            if self._transport is not None:
                self._transport.close()

    def _write(self) -> None:
        transport = self._transport
        if transport is None:
            return
        chunks = self._codec.data_to_send()
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if data:
            transport.write(data)
        if b"" in chunks:  # The codec asks for the end of the connection by an empty chunk.
            transport.close()
