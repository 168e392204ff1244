"""
An HTTP server that pours and never drains: any number of large answers and of uploads that it does not read,
in the memory of one.

    GET  /mcp/pour/N    an answer of N bytes, as fast as it is taken
    POST /mcp/plug      its body is never read
    else                the body is read; a few bytes are answered, and the connection stays open

It runs on the loop of whoever asks. What it sends is one piece of memory, again and again, and its kernel
buffers are small, so that what is not taken stands in the product or is not sent at all.
"""

import asyncio
import socket
from types import TracebackType
from typing import Final, Self, cast

from tests.harness.product import LOOPBACK

_PIECE: Final = bytes(range(256)) * 256  # 64 KiB
_KERNEL_BUFFER: Final = 1 << 16
ANSWER: Final = b'{"jsonrpc":"2.0","id":1,"result":{}}'


class Reservoir:
    """
    Listens until it is left.

    Attributes:
        poured: Bytes of large answers that were handed to the kernel.
        plugged: Uploads that wait to be read.
    """

    def __init__(self) -> None:
        self.poured = 0
        self.plugged = 0
        self._listener = socket.create_server((LOOPBACK, 0), backlog=4096)
        # Connections inherit it.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._listener.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BUFFER)
        self.port: int = self._listener.getsockname()[1]
        self._live: set[_Tap] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """What a gateway's configuration says."""
        return f"http://{LOOPBACK}:{self.port}/mcp"

    @property
    def open_count(self) -> int:
        """How many connections the gateway has here."""
        return len(self._live)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Tap(self), sock=self._listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Drop every connection, those with a body that was not read among them."""
        for tap in list(self._live):
            tap.close()

    def opened(self, tap: "_Tap") -> None:
        """Take note of a connection."""
        self._live.add(tap)

    def closed(self, tap: "_Tap") -> None:
        """Take note that one has ended."""
        self._live.discard(tap)


class _Tap(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, reservoir: Reservoir) -> None:
        self._reservoir = reservoir
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._unread = 0  # of a request's body
        self._left = 0  # of a large answer
        self._is_held_back = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._reservoir.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reservoir.closed(self)

    def close(self) -> None:
        """End the connection at once."""
        self._open.abort()

    def data_received(self, data: bytes) -> None:
        if self._unread:
            self._take_body(len(data))
            return
        self._received += data
        head, mark, rest = bytes(self._received).partition(b"\r\n\r\n")
        if mark:
            self._received.clear()
            self._begin(head, len(rest))

    def pause_writing(self) -> None:
        self._is_held_back = True

    def resume_writing(self) -> None:
        self._is_held_back = False
        # Not from inside: asyncio calls this in the middle of a write, and a second one that fails there ends
        # the connection twice.
        asyncio.get_running_loop().call_soon(self._pour)

    @property
    def _open(self) -> asyncio.Transport:
        assert self._transport is not None, "asyncio calls connection_made first"
        return self._transport

    def _begin(self, head: bytes, came: int) -> None:
        first, *lines = head.split(b"\r\n")
        target = first.split(b" ")[1]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if target.endswith(b"/plug"):
            self._reservoir.plugged += 1
            self._open.pause_reading()
        elif b"/pour/" in target:
            self._left = int(target.rpartition(b"/")[2])
            self._open.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._left)
            self._pour()
        else:
            self._unread = int(fields.get(b"content-length", b"0"))
            self._take_body(came)

    def _take_body(self, count: int) -> None:
        self._unread -= count
        if not self._unread:
            self._open.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER))

    def _pour(self) -> None:
        while self._left and not self._is_held_back and not self._open.is_closing():
            piece = _PIECE[: self._left]
            self._left -= len(piece)
            self._reservoir.poured += len(piece)
            self._open.write(piece)
