"""
The frames of a WebSocket by ``picows``, compiled.

Its protocol class wants a socket and speaks its own upgrade. Neither is left to it. Below it is not our
transport but ``_Below``, which has no socket, so that every byte goes through our TLS and nothing that picows
schedules for itself can end a connection. The upgrade was made and judged before, for both codecs alike; what
picows is told of it is a fixed one, spoken to itself.

What picows leaves to its user is checked here: reserved bits and the codes of close frames (RFC 6455 §5.2,
§7.4). What it does of its own accord is to parse one frame ahead: where the next one is broken, the last
whole one is not delivered. The link is lost in either case.

**Two buffers are lent.** A message is a view into the buffer that the next bytes overwrite: whoever takes it
copies what he keeps before he returns, as the mux does. And the head of a large message is a view when it is
written: ``_Below`` joins it with the message at once. So the transport is given bytes that nobody changes.

Masks come from ``rand()``. A mask guards the plaintext that old proxies read, and inside TLS there is none.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from picows import WSAutoPingStrategy, WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in the stub
from websockets.exceptions import ProtocolError
from websockets.frames import Close
from websockets.protocol import Side
from websockets.utils import accept_key

from sallyport.tunnel.errors import LinkLost
from sallyport.tunnel.limits import MESSAGE_MAX, limit
from sallyport.tunnel.net.websocket_codec import FrameCodec, FrameReceiver, Opcode

_PIECE: Final = limit(
    64 * 1024, "bytes",
    "given to the codec at once: its buffer doubles when it is filled, and so stays below 512 KiB",
)  # fmt: skip

_UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_UPGRADED: Final = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)

_NORMAL: Final = b"\x03\xe8"  # 1000, normal closure
_BINARY: Final = WSMsgType.BINARY
_OPCODES: Final = {getattr(WSMsgType, opcode.name): opcode for opcode in Opcode}

# What is wrong with a peer is said once, by the link. picows would say it again, with addresses.
_SILENT = logging.Logger("picows")
_SILENT.disabled = True


def make(side: Side, receiver: FrameReceiver) -> FrameCodec:
    """Make a codec for one WebSocket whose upgrade is over."""
    return _PicowsCodec(side, receiver)


class _PicowsCodec:
    def __init__(self, side: Side, receiver: FrameReceiver) -> None:
        self._listener = _Listener(receiver)
        below = _Below()
        is_client = side is Side.CLIENT
        self._protocol = WSProtocol(
            "relay", "/", is_client, lambda *_: self._listener, logging.LoggerAdapter(_SILENT),
            True,  # What our callback raises would end it; ours keeps what it has to raise until later.
            None,  # no timer of its own for the upgrade
            False, 1.0, 1.0, WSAutoPingStrategy.PING_WHEN_IDLE,  # no pings of its own
            False,  # nor pongs: the carrier judges pings first
            MESSAGE_MAX, None, 0,
        )  # fmt: skip
        self._protocol.connection_made(below)
        self._transport: WSTransport = self._protocol.transport
        if is_client:
            key = self._transport.request.headers["Sec-WebSocket-Key"]
            self._receive_by_piece(memoryview(_UPGRADED.format(accept_key(key)).encode()))
        else:
            self._receive_by_piece(memoryview(_UPGRADE))
        if not self._listener.is_connected:
            raise AssertionError("picows does not take an upgrade that is right")
        below.write_through = receiver.write

    @property
    def is_open(self) -> bool:
        # Behind a close frame, in order or not, nothing is sent or looked at (RFC 6455 §1.4).
        return not (self._listener.is_closed or self._transport.is_close_frame_sent)

    def receive(self, data: bytes) -> None:
        protocol, size = self._protocol, len(data)
        buffer = protocol.get_buffer(-1)
        if size <= _PIECE and size <= len(buffer):
            # The usual case by itself: small messages come by the thousand, and each would pay for the loop.
            buffer[:size] = data
            protocol.buffer_updated(size)
        else:
            self._receive_by_piece(memoryview(data))
        if self._listener.failure is not None:
            raise self._listener.failure
        if self._transport.is_close_frame_sent:
            # A close in order does not go that way: this one is picows's verdict, or the listener's.
            sent = self._transport.close_handshake.sent
            raise LinkLost(f"the WebSocket broke: {sent.reason if sent else 'by an unnamed frame'}")

    def send(self, message: bytes) -> None:
        self._transport.send(_BINARY, message)

    def close(self) -> None:
        self._listener.is_closed = True
        self._transport.send(WSMsgType.CLOSE, _NORMAL)

    def _receive_by_piece(self, rest: memoryview) -> None:
        protocol = self._protocol
        while rest and self.is_open:
            buffer = protocol.get_buffer(-1)
            size = min(len(rest), len(buffer), _PIECE)
            buffer[:size] = rest[:size]
            protocol.buffer_updated(size)
            rest = rest[size:]


class _Listener(WSListener):
    """What picows calls, from inside ``buffer_updated``; it would log and drop what is raised here."""

    def __init__(self, receiver: FrameReceiver) -> None:
        self.is_connected = False
        self.is_closed = False  # a close frame was received, or sent in order
        self.failure: Exception | None = None
        self._receiver = receiver

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.is_connected = True

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.is_closed or transport.is_close_frame_sent:
            return
        try:
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                transport.send_close(WSCloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
            elif frame.msg_type == _BINARY and frame.fin:
                self._receiver.message_received(frame.get_payload_as_memoryview())
            else:
                self._other(transport, frame)
        except Exception as error:
            # Refused by the carrier, or a mistake of ours: ``receive`` raises it, and nothing more is heard.
            self.failure = error
            self.is_closed = True

    def _other(self, transport: WSTransport, frame: WSFrame) -> None:
        opcode = _OPCODES[frame.msg_type]
        payload = frame.get_payload_as_bytes()
        if opcode is not Opcode.CLOSE:
            self._receiver.frame_received(opcode)
            if opcode is Opcode.PING:
                transport.send_pong(payload)
            return
        try:
            Close.parse(payload)
        except ProtocolError as error:
            transport.send_close(WSCloseCode.PROTOCOL_ERROR, str(error))
            return
        self.is_closed = True
        transport.send(WSMsgType.CLOSE, payload)
        self._receiver.peer_closed()


class _Below:
    """What picows takes for its transport."""

    def __init__(self) -> None:
        # What it says of its upgrade to itself goes nowhere.
        self.write_through: Callable[[bytes], object] = len

    def write(self, data: bytes | bytearray) -> None:
        self.write_through(bytes(data))

    def writelines(self, parts: Sequence[bytes | memoryview]) -> None:
        self.write_through(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        # Because there is an "ssl_object", picows does not go past us to the socket; and it would find none.
        return {"socket": _NoSocket(), "ssl_object": self}.get(name, default)

    def close(self) -> None:
        """Leave the end of the connection to the carrier."""

    def abort(self) -> None:
        """Leave the end of the connection to the carrier."""


class _NoSocket:
    """Takes the options that picows sets; ``tune_link`` has set the real one's."""

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *_: int) -> None:
        pass

    def getsockopt(self, *_: int) -> int:
        return 0
