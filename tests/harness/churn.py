"""
Streams opened and closed by thousands, in every way in which callers come and go: what ``make leaks`` does at
length and a short end-to-end test repeats.

Most make a call and leave in order. The others hang up in the middle of a request or of an answer,
half-close, half-say their hello, ask for names that nobody has, bring no certificate, or say nothing at all.
What each of them is told is another test's affair; here it counts that every one comes to its end.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import cycle, islice
from typing import Final

from tests.harness.product import Tunnel
from tests.harness.raw_http import Endpoint
from tests.harness.reservoir import ANSWER

_AT_ONCE: Final = 24
_PATIENCE: Final = 30.0  # seconds, for one visit on a busy machine
_BODY: Final = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
_POURED: Final = 1 << 20  # bytes of an answer that is hung up on
_ELSEWHERE: Final = "a" * 52  # a label that no tunnel has

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Churn:
    """
    Visits to one tunnel.

    Args:
        tunnel: Whose gateway has a ``Reservoir`` behind it.

    Attributes:
        done: Visits that came to their end, by kind.
        failed: What went wrong with those of which an answer was due.
    """

    def __init__(self, tunnel: Tunnel) -> None:
        self._endpoint = tunnel.tls_endpoint()
        self._stranger = tunnel.tls_endpoint(caller=None)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def run(self, visits: int) -> None:
        """
        Make so many visits, a bounded number at once.

        Args:
            visits: How many; the mix is the same for any number.
        """
        kinds = self._kinds()
        waiting = iter(list(islice(cycle(kinds), visits)))

        async def work() -> None:
            for kind, visit in waiting:
                await self._visit(kind, visit)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_AT_ONCE, visits)):
                tasks.create_task(work())

    async def _visit(self, kind: str, visit: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await visit()
        except TimeoutError:
            self.failed[f"{kind}: no end within {_PATIENCE:.0f} s"] += 1
        except _Unanswered as error:
            self.failed[f"{kind}: {error}"] += 1
        else:
            self.done[kind] += 1

    def _kinds(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return twenty visits, mixed so that neighbours differ."""
        call, calls = ("call", self._call), ("two calls", self._two_calls)
        return [
            call,
            ("hung up in the request", self._hang_up_in_request),
            call,
            ("half-closed", self._half_close),
            call,
            ("no certificate", self._come_without_certificate),
            calls,
            ("hung up in the answer", self._hang_up_in_answer),
            call,
            ("unknown tunnel", self._ask_for_unknown_tunnel),
            call,
            ("half a hello", self._say_half_a_hello),
            call,
            ("hung up in the request", self._hang_up_in_request),
            calls,
            ("unknown server", self._ask_for_unknown_server),
            call,
            ("half-closed", self._half_close),
            call,
            ("silence", self._say_nothing),
        ]

    # Visits with an answer

    async def _call(self) -> None:
        reader, writer = await _connect(self._endpoint)
        await _ask(self._endpoint, reader, writer)
        await _close(writer)

    async def _two_calls(self) -> None:
        reader, writer = await _connect(self._endpoint)
        for _ in range(2):
            await _ask(self._endpoint, reader, writer)
        await _close(writer)

    # Visits that end early

    async def _hang_up_in_request(self) -> None:
        _reader, writer = await _connect(self._endpoint)
        writer.write(_head(self._endpoint, "POST", "/mcp", length=1 << 16) + bytes(1000))
        await writer.drain()
        writer.transport.abort()

    async def _hang_up_in_answer(self) -> None:
        reader, writer = await _connect(self._endpoint)
        writer.write(_head(self._endpoint, "GET", f"/mcp/pour/{_POURED}"))
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async def _half_close(self) -> None:
        """End the TCP direction without close_notify: the gateway may not take that for an end in order."""
        await asyncio.to_thread(_call_and_half_close, self._endpoint)

    async def _say_half_a_hello(self) -> None:
        await self._say(_hello(self._endpoint)[:60])

    async def _say_nothing(self) -> None:
        await self._say(b"")

    async def _say(self, what: bytes) -> None:
        reader, writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
        writer.write(what)
        with contextlib.suppress(OSError):
            writer.write_eof()
        await _read_out(reader)
        writer.transport.abort()

    # Visits that are turned away

    async def _ask_for_unknown_tunnel(self) -> None:
        host = ".".join(["tickets", _ELSEWHERE, *str(self._endpoint.server_name).split(".")[2:]])
        await _be_refused(replace(self._endpoint, server_name=host))

    async def _ask_for_unknown_server(self) -> None:
        host = ".".join(["nobody", *str(self._endpoint.server_name).split(".")[1:]])
        await _be_refused(replace(self._endpoint, server_name=host, authority=host))

    async def _come_without_certificate(self) -> None:
        await _be_refused(self._stranger)


class _Unanswered(Exception):
    """A call to which an answer was due got none, or another one."""


async def _connect(endpoint: Endpoint) -> tuple[Reader, Writer]:
    try:
        return await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=endpoint.tls, server_hostname=endpoint.server_name
        )
    except OSError as error:
        raise _Unanswered(f"no connection, {error}") from error


async def _ask(endpoint: Endpoint, reader: Reader, writer: Writer) -> None:
    writer.write(_head(endpoint, "POST", "/mcp", length=len(_BODY)) + _BODY)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(ANSWER))
    except (OSError, asyncio.IncompleteReadError) as error:
        raise _Unanswered(f"no answer, {error}") from error
    if not head.startswith(b"HTTP/1.1 200 ") or body != ANSWER:
        raise _Unanswered(f"another answer, {head[:40]!r}")


def _call_and_half_close(endpoint: Endpoint) -> None:
    """Do it on a blocking socket, since asyncio knows no half of a TLS connection."""
    assert endpoint.tls is not None, "churn goes by TLS"
    try:
        plain = socket.create_connection((endpoint.host, endpoint.port), timeout=_PATIENCE)
        with endpoint.tls.wrap_socket(plain, server_hostname=endpoint.server_name) as connection:
            connection.sendall(_head(endpoint, "POST", "/mcp", length=len(_BODY)) + _BODY)
            if not connection.recv(1 << 12).startswith(b"HTTP/1.1 200 "):
                raise _Unanswered("no answer before the half-close")
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 12):
                    pass
    except OSError as error:
        raise _Unanswered(f"no answer before the half-close, {error}") from error


async def _be_refused(endpoint: Endpoint) -> None:
    """Make the attempt of somebody who has no right, or no name, to call; being let in is the failure."""
    try:
        reader, writer = await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=endpoint.tls, server_hostname=endpoint.server_name
        )
    except (OSError, ssl.SSLError):
        return
    # A TLS 1.3 client finishes first, and may write before it hears that it is refused.
    writer.write(_head(endpoint, "POST", "/mcp", length=0))
    answer = await _read_out(reader, most=200)
    writer.transport.abort()
    if answer.startswith(b"HTTP/1.1 200 "):
        raise _Unanswered("was served")


async def _close(writer: Writer) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def _read_out(reader: Reader, most: int = -1) -> bytes:
    """Read to the end, or up to a bound; an end by reset or alert is one too."""
    try:
        return await reader.read(most)
    except (OSError, ssl.SSLError):
        return b""


def _head(endpoint: Endpoint, method: str, path: str, *, length: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {endpoint.authority}", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _hello(endpoint: Endpoint) -> bytes:
    """Return a ClientHello as the endpoint's callers send it."""
    assert endpoint.tls is not None, "churn goes by TLS"
    outgoing = ssl.MemoryBIO()
    tls = endpoint.tls.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=endpoint.server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
