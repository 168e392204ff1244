"""
The load's HTTP/1.1 client: POSTs on connections that are kept, and answers read whole.

It is one protocol class and a compiled parser, because whatever it costs is added to every path and makes
the ratios look better than they are. There are no redirects, no decoding and no deadlines: the caller
brings those.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import cast

import httptools


class ConnectionLost(ConnectionError):
    """
    The other side closed the connection before its answer was whole.

    Attributes:
        had_begun: Whether a part of the answer had come.
    """

    def __init__(self, *, had_begun: bool) -> None:
        where = "within its answer" if had_begun else "without an answer"
        super().__init__(f"closed the connection {where}")
        self.had_begun = had_begun


@dataclass(frozen=True)
class Answer:
    """A whole answer: header names are in lower case, the body is without its transfer coding."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class HttpClient:
    """
    A pool of connections to one door.

    Args:
        host: An address.
        port: TCP.
        tls: How to dial, None for plain TCP.
        server_name: For SNI, where there is TLS.
    """

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, server_name: str = ""
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._server_name = server_name if tls else None
        self._idle: list[_Connection] = []

    async def exchange(self, request: bytes) -> Answer:
        """
        Send one request, whole, and return its answer.

        Raises:
            OSError: It cannot connect.
            ConnectionLost: The connection ended first.
            httptools.HttpParserError: The answer is not HTTP.
        """
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange_on(connection, request)
            except ConnectionLost as error:
                # A server may close a connection that it found idle, at the very moment of the next request.
                if error.had_begun:
                    raise
        return await self._exchange_on(await self._connect(), request)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _Connection, *self._address, ssl=self._tls, server_hostname=self._server_name
        )
        return connection

    async def _exchange_on(self, connection: "_Connection", request: bytes) -> Answer:
        try:
            answer = await connection.ask(request)
        except BaseException:
            # A caller that gave up leaves an answer behind that belongs to nobody.
            connection.close()
            raise
        if connection.can_be_kept:
            self._idle.append(connection)
        else:
            connection.close()
        return answer


class _Connection(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._has_begun = False
        self.can_be_kept = False

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        """Send a request and return what will be its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._has_begun = self.can_be_kept = False
        if self._transport is None or self._transport.is_closing():
            self._fail(ConnectionLost(had_begun=False))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and no check: uvloop's transport for TLS does not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionLost(had_begun=self._has_begun))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # What the parser says

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answer is None or self._answer.done():
            return
        self.can_be_kept = self._parser.should_keep_alive()
        self._answer.set_result(Answer(self._parser.get_status_code(), self._headers, b"".join(self._body)))
