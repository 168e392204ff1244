"""
A TCP connection to a host that may have several addresses: the first that answers (RFC 8305).

asyncio can do this in ``create_connection``, uvloop cannot, and the gateway runs on both. So addresses are
resolved and tried here, IPv6 and IPv4 by turns, each a quarter of a second after the one before or as soon
as that one failed; the first connected socket wins and the others are closed.

``OSError`` passes through as it is: what it means for a call is said in ``upstream``.
"""

import asyncio
import ipaddress
import socket
from itertools import chain, zip_longest

import anyio

# RFC 8305 §8 recommends 250 ms between attempts.
ATTEMPT_DELAY_SECONDS = 0.25

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Candidate = tuple[socket.AddressFamily, SocketAddress]


async def connect_tcp(host: str, port: int) -> socket.socket:
    """
    Connect to the first address of ``host`` that answers.

    There is no time limit here; run it under one, and cancelling it closes what it had opened.

    Args:
        host: A DNS name or an IP address without brackets.
        port: The TCP port.

    Returns:
        A connected, non-blocking socket.

    Raises:
        socket.gaierror: The name does not resolve.
        OSError: No address could be connected to; the error is that of the last attempt.
    """
    loop = asyncio.get_running_loop()
    if _is_literal(host):
        # Python asks a thread to resolve, also what needs no resolving.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    else:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    candidates = interleaved([(family, address) for family, _, _, _, address in found])
    if len(candidates) == 1:
        return await _connect(loop, candidates[0])
    return await _Race(loop).run(candidates)


def interleaved(candidates: list[Candidate]) -> list[Candidate]:
    """Put addresses of both families in turns, keeping the resolver's order within each (RFC 8305 §4)."""
    first_family = candidates[0][0]
    first = [each for each in candidates if each[0] == first_family]
    second = [each for each in candidates if each[0] != first_family]
    return [each for each in chain.from_iterable(zip_longest(first, second)) if each is not None]


class _Race:
    """Staggered attempts; the first to succeed cancels the rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._winner: socket.socket | None = None
        self._last_error: OSError | None = None

    async def run(self, candidates: list[Candidate]) -> socket.socket:
        try:
            async with anyio.create_task_group() as group:
                for candidate in candidates:
                    over = anyio.Event()
                    group.start_soon(self._attempt, candidate, over, group.cancel_scope)
                    with anyio.move_on_after(ATTEMPT_DELAY_SECONDS):
                        await over.wait()
        except BaseException:
            # Cancelled from outside after an attempt had won: nobody would ever close that socket.
            if self._winner is not None:
                self._winner.close()
            raise
        if self._winner is not None:
            return self._winner
        if self._last_error is None:
            raise AssertionError("every attempt ends with a socket or an error, and there was at least one")
        raise self._last_error

    async def _attempt(self, candidate: Candidate, over: anyio.Event, scope: anyio.CancelScope) -> None:
        try:
            connected = await _connect(self._loop, candidate)
        except OSError as error:
            self._last_error = error
            over.set()
            return
        if self._winner is not None:
            # Two attempts may succeed in one turn of the loop, before the cancellation arrives.
            connected.close()
            return
        self._winner = connected
        scope.cancel()


async def _connect(loop: asyncio.AbstractEventLoop, candidate: Candidate) -> socket.socket:
    family, address = candidate
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
