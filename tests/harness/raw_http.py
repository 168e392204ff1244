"""
A small HTTP/1.1 client that shows what was on the wire.

One request per connection, no redirects, no decoding, repeated headers kept in order. The head of a
response is handed out as soon as it is there and the body piece by piece, so that a test can tell a path
that streams from one that buffers. The caller brings the deadline (``anyio.fail_after``).
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

# A result of 10 MB comes as one SSE event, and its reader wants all of it in one piece.
_READ_LIMIT = 1 << 26
_NO_BODY = frozenset({202, 204, 304})

Header = tuple[str, str]


@dataclass(frozen=True)
class Endpoint:
    """
    Where a server is and how it is named.

    ``host`` and ``port`` are dialled, from the address ``source`` where it is given; ``authority`` goes into
    Host; ``tls`` and ``server_name`` wrap the connection where they are given; ``path`` is the MCP endpoint's
    own.
    """

    host: str
    port: int
    path: str
    authority: str
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    source: str | None = None

    async def start(
        self,
        method: str,
        headers: Iterable[Header] = (),
        body: bytes = b"",
        *,
        path: str | None = None,
        chunked: bool = False,
    ) -> "Reply":
        """
        Send a request and return without waiting for any answer.

        Args:
            method: GET, POST, …
            headers: sent after Host, in this order.
            body: sent with its length, or in chunks of 1,000 bytes.
            path: the endpoint's own when None.
            chunked: how the body goes.
        """
        reader, writer = await asyncio.open_connection(
            self.host,
            self.port,
            ssl=self.tls,
            server_hostname=self.server_name,
            limit=_READ_LIMIT,
            local_addr=(self.source, 0) if self.source else None,
        )
        head = [f"{method} {path or self.path} HTTP/1.1", f"Host: {self.authority}"]
        head += [f"{name}: {value}" for name, value in headers]
        if chunked:
            head.append("Transfer-Encoding: chunked")
            body = _in_chunks(body)
        elif body or method == "POST":
            head.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n")
        writer.write(body)
        try:
            await writer.drain()
        except ConnectionError:
            # A server may answer early and stop reading; its answer still counts.
            pass
        return Reply(reader, writer)

    async def send(
        self,
        method: str,
        headers: Iterable[Header] = (),
        body: bytes = b"",
        *,
        path: str | None = None,
        chunked: bool = False,
    ) -> "Reply":
        """Send a request, as ``start``, and return when the head of the answer is there."""
        reply = await self.start(method, headers, body, path=path, chunked=chunked)
        await reply.read_head()
        return reply


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream: when it came (``time.monotonic``) and its fields; comments are ``comment``."""

    at: float
    fields: dict[str, str]

    @property
    def message(self) -> dict[str, object]:
        """The JSON-RPC message in it; empty where there is none."""
        data = self.fields.get("data")
        return json.loads(data) if data else {}


@dataclass
class Reply:
    """One response, read as it comes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: list[Header] = field(default_factory=list)
    is_whole: bool = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def header(self, name: str) -> str | None:
        """Return a header's value, the first one where it is repeated; names ignore case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    async def read_head(self) -> None:
        """
        Read status and headers.

        Raises:
            asyncio.IncompleteReadError: the connection ended before.
        """
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = [(name.strip(), value.strip()) for name, _, value in (x.partition(":") for x in lines)]

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        Yield the body as it arrives.

        Raises:
            ConnectionError: the body was cut off.
        """
        length = self.header("Content-Length")
        if (self.header("Transfer-Encoding") or "").lower() == "chunked":
            source = self._chunked()
        elif length is not None:
            source = self._counted(int(length))
        elif self.status in _NO_BODY:
            source = self._counted(0)
        else:
            source = self._until_close()
        async for data in source:
            yield data
        self.is_whole = True

    async def body(self) -> bytes:
        """Return the whole body."""
        return b"".join([data async for data in self.chunks()])

    async def json(self) -> dict[str, object]:
        """Return the body as one JSON object; empty where there is no body."""
        data = await self.body()
        return json.loads(data) if data else {}

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Yield the events of an SSE body, each as soon as its blank line is there."""
        text = b""
        async for data in self.chunks():
            text += data.replace(b"\r\n", b"\n")
            while b"\n\n" in text:
                one, _, text = text.partition(b"\n\n")
                yield ServerSentEvent(time.monotonic(), _fields(one.decode()))

    async def close(self) -> None:
        """Close in order: over TLS a close_notify goes first, which has to count as a disconnect."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            # The peer was faster; closed is closed.
            pass

    def abort(self) -> None:
        """Drop the TCP connection without a word."""
        self.writer.transport.abort()

    async def _chunked(self) -> AsyncIterator[bytes]:
        while True:
            line = await self.reader.readline()
            if not line:
                raise ConnectionError("the body was cut off between two chunks")
            size = int(line.partition(b";")[0], 16)
            try:
                data = await self.reader.readexactly(size + 2)
            except asyncio.IncompleteReadError as error:
                raise ConnectionError("the body was cut off within a chunk") from error
            if size == 0:
                return
            yield data[:size]

    async def _counted(self, left: int) -> AsyncIterator[bytes]:
        while left:
            data = await self.reader.read(min(left, 1 << 16))
            if not data:
                raise ConnectionError(f"the body was cut off, {left} bytes before its end")
            left -= len(data)
            yield data

    async def _until_close(self) -> AsyncIterator[bytes]:
        while data := await self.reader.read(1 << 16):
            yield data


def _in_chunks(body: bytes, size: int = 1000) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def _fields(event: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in event.split("\n"):
        name, _, value = line.partition(":")
        key = name or "comment"
        fields[key] = fields.get(key, "") + value.removeprefix(" ")
    return fields
