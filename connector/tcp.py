"""
A TCP connection to a name that may have several addresses, of which some may be dead ends.

Happy eyeballs, the short form (RFC 8305, section 5): addresses of both families take turns, each has a head
start before the next one is tried beside it, and the first connection wins. Neither uvloop nor asyncio's
proactor offers it, and a laptop whose IPv6 leads nowhere would otherwise wait out the whole limit.
"""

import asyncio
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest

import anyio

from sallyport.config.fields import Address

Candidate = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]

_HEAD_START = 0.25  # seconds; RFC 8305, section 8, recommends it


async def open_tcp(address: Address) -> socket.socket:
    """
    Connect to ``address`` and return a non-blocking socket; the caller sets the time limit.

    Raises:
        OSError: The name has no address (``socket.gaierror``), or what the first of its addresses answered.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    race = _Race()
    try:
        async with anyio.create_task_group() as group:
            for candidate in taking_turns([(family, where) for family, _, _, _, where in found]):
                failed = anyio.Event()
                group.start_soon(race.run, candidate, failed, group.cancel_scope)
                with anyio.move_on_after(_HEAD_START):
                    await failed.wait()
    except BaseException:
        race.forfeit()
        raise
    if race.winner is None:
        raise race.errors[0]
    return race.winner


class _Race:
    """The connections under way to one name's addresses."""

    def __init__(self) -> None:
        self.winner: socket.socket | None = None
        self.errors: list[OSError] = []

    async def run(self, candidate: Candidate, failed: anyio.Event, others: anyio.CancelScope) -> None:
        try:
            sock = await _connect(candidate)
        except OSError as error:
            self.errors.append(error)
            failed.set()
            return
        if self.winner is not None:
            sock.close()
            return
        self.winner = sock
        others.cancel()

    def forfeit(self) -> None:
        if self.winner is not None:
            self.winner.close()


async def _connect(candidate: Candidate) -> socket.socket:
    family, where = candidate
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Nobody pings on an idle answer stream but this: it finds out that the relay has vanished.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def taking_turns(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Let the families alternate, beginning with the one that the resolver put first (RFC 8305 §4)."""
    first = [each for each in candidates if each[0] == candidates[0][0]]
    others = [each for each in candidates if each[0] != candidates[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]
