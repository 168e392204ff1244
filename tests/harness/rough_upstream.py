"""
An HTTP server that behaves as badly as it is told to, by the segment of the path after ``/mcp``.

Told nothing, it answers with its name.

Each connection has a thread and a blocking socket, and serves one request. Where a test has to know how far
the bytes came (``stalled``, ``requests``), the server says so, so that nothing has to be timed.
"""

import contextlib
import hashlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
_PATIENCE = 50  # seconds
_LOOK_INTERVAL = 0.05  # seconds
_RECEIVE = 1 << 16


def pattern(size: int) -> bytes:
    """Return that many bytes in which no two places look alike: a slip of one byte shows."""
    return hashlib.shake_128(b"sallyport").digest(size)


@dataclass
class Request:
    """What a behaviour has to work with: the rest of the path, and the socket behind the head."""

    argument: str
    connection: socket.socket
    rest: bytes
    length: int

    def body(self) -> Iterator[bytes]:
        """Yield the body as it comes; only bodies with a length are read."""
        left = self.length
        data = self.rest
        while left:
            if not data:
                data = self.connection.recv(_RECEIVE)
            if not data:
                return
            left -= len(data)
            yield data
            data = b""


class RoughUpstream:
    """
    Listens until it is left.

    Args:
        name: what it answers when the path asks for nothing else.

    Attributes:
        requests: targets of all requests so far, as they arrived.
        stalled: set when the server could not send because nobody took the bytes.
        may_read: until it is set, ``sink`` reads nothing and ``die-in-…`` does not die yet.
    """

    def __init__(self, name: str = "rough") -> None:
        self.name = name
        self._listener = socket.create_server((LOOPBACK, 0))
        # Connections inherit it: what this server does not read, or nobody takes from it, must not fit into
        # its kernel's buffers.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self.arrived = threading.Condition()
        self.stalled = threading.Event()
        self.may_read = threading.Event()
        self._closing = threading.Event()
        self._behaviours: dict[str, Callable[[Request], None]] = {
            "hang": self._hang,
            "garbage": self._garbage,
            "die-at-once": self._die_at_once,
            "die-in-head": self._die_in_head,
            "die-in-body": self._die_in_body,
            "die-in-events": self._die_in_events,
            "bytes": self._bytes,
            "sink": self._sink,
        }
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self.may_read.set()
        self._listener.close()

    @property
    def url(self) -> str:
        """What a gateway's configuration says; behaviours are below it, as ``/mcp/hang``."""
        return f"http://{LOOPBACK}:{self.port}/mcp"

    def wait_for_request(self, target: str, within: float = 20) -> None:
        """Return when a request for this target has arrived."""
        with self.arrived:
            found = self.arrived.wait_for(lambda: target in self.requests, within)
        assert found, f"no request for {target}; there were {self.requests}"

    # -- serving --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        # A peer that went away is what many of these tests are about.
        with connection, contextlib.suppress(OSError):
            request, target = _read_head(connection)
            with self.arrived:
                self.requests.append(target)
                self.arrived.notify_all()
            name, _, argument = target.removeprefix("/mcp/").partition("/")
            request.argument = argument
            self._behaviours.get(name, self._name_itself)(request)

    # -- behaviours -----------------------------------------------------------------------------------

    def _name_itself(self, request: Request) -> None:
        for _ in request.body():
            pass
        name = self.name.encode()
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))

    def _hang(self, request: Request) -> None:
        self._closing.wait(_PATIENCE)

    def _garbage(self, request: Request) -> None:
        for _ in request.body():  # so that the gateway has sent all, and is waiting for a head
            pass
        request.connection.sendall(b"\x00\x01\x02 this is no HTTP at all\r\n\r\n")

    def _die_at_once(self, request: Request) -> None:
        _reset(request.connection)

    def _die_in_head(self, request: Request) -> None:
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Ty")
        _reset(request.connection)

    def _die_in_body(self, request: Request) -> None:
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")
        self._hang_up_when_taken(request)

    def _die_in_events(self, request: Request) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        event = b"data: one\n\n"
        request.connection.sendall(head + b"%x\r\n%s\r\n" % (len(event), event))
        self._hang_up_when_taken(request)

    def _bytes(self, request: Request) -> None:
        data = memoryview(pattern(int(request.argument)))
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
        request.connection.setblocking(False)
        while data:
            try:
                data = data[request.connection.send(data[: 1 << 18]) :]
            except BlockingIOError:
                deadline = time.monotonic() + _PATIENCE
                while not select.select([], [request.connection], [], _LOOK_INTERVAL)[1]:
                    # Again and again: who cleared it meanwhile waits for it.
                    self.stalled.set()
                    if time.monotonic() > deadline:
                        break

    def _sink(self, request: Request) -> None:
        self.may_read.wait(_PATIENCE)
        digest, size = hashlib.sha256(), 0
        for data in request.body():
            digest.update(data)
            size += len(data)
        answer = f"{size} {digest.hexdigest()}".encode()
        request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    def _hang_up_when_taken(self, request: Request) -> None:
        """Reset the connection once a test has seen the beginning of the answer."""
        self.may_read.wait(_PATIENCE)
        _reset(request.connection)


def _read_head(connection: socket.socket) -> tuple[Request, str]:
    raw = b""
    while b"\r\n\r\n" not in raw:
        data = connection.recv(_RECEIVE)
        if not data:
            raise ConnectionResetError("no request came")
        raw += data
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    target = first.split(" ")[1]
    return Request("", connection, rest, int(headers.get("content-length", "0"))), target


def _reset(connection: socket.socket) -> None:
    # Linger of zero seconds: close() sends RST instead of FIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
