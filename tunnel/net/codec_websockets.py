"""
The frames of a WebSocket by ``websockets``, sans-I/O: works everywhere, and is the other codec's oracle.

Each frame is an object and each message is copied, in and out; that is what the compiled one saves.
"""

from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode as WireOpcode
from websockets.protocol import OPEN, Protocol, Side

from sallyport.tunnel.errors import LinkLost
from sallyport.tunnel.limits import MESSAGE_MAX
from sallyport.tunnel.net.websocket_codec import FrameCodec, FrameReceiver, Opcode


def make(side: Side, receiver: FrameReceiver) -> FrameCodec:
    """Make a codec for one WebSocket whose upgrade is over."""
    return _WebsocketsCodec(side, receiver)


class _WebsocketsCodec:
    def __init__(self, side: Side, receiver: FrameReceiver) -> None:
        self._protocol = Protocol(side, max_size=MESSAGE_MAX)
        self._receiver = receiver

    @property
    def is_open(self) -> bool:
        return self._protocol.state is OPEN

    def receive(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        closed = False
        for frame in protocol.events_received():
            # The events of a WebSocket that is open are its frames.
            if isinstance(frame, Frame):
                closed = frame.opcode is WireOpcode.CLOSE
                self._received(frame)
        self._write()
        if protocol.parser_exc is not None:
            raise LinkLost(f"the WebSocket broke: {_told(protocol.parser_exc)}") from protocol.parser_exc
        if closed:
            self._receiver.peer_closed()

    def send(self, message: bytes) -> None:
        self._protocol.send_binary(message)
        self._write()

    def close(self) -> None:
        self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        self._write()

    # Inside

    def _received(self, frame: Frame) -> None:
        if frame.opcode is WireOpcode.BINARY and frame.fin:
            self._receiver.message_received(frame.data)
        elif frame.opcode is not WireOpcode.CLOSE:
            self._receiver.frame_received(Opcode(frame.opcode))

    def _write(self) -> None:
        # An empty chunk asks for the end of the connection, which is the carrier's to decide.
        chunks = self._protocol.data_to_send()
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if data:
            self._receiver.write(data)


def _told(error: Exception) -> str:
    if isinstance(error, PayloadTooBig):
        return f"a message of more than {MESSAGE_MAX} bytes"
    return str(error)
