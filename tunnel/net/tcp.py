"""
A TCP connection to a host that may have several addresses: the first that answers (RFC 8305).

asyncio can do this in ``create_connection``, uvloop cannot, and this runs on both. So addresses are resolved
and tried here, IPv6 and IPv4 by turns, each a quarter of a second after the one before or as soon as that one
failed; the first connection wins and the others are closed. A laptop whose IPv6 leads nowhere would otherwise
wait out the whole limit.

No socket object of ours is handed to a loop. uvloop closes the descriptor of ``sock=`` behind the object's
back when a protocol closes in its ``connection_made``; the object then closes that number a second time, and
by then it may be somebody else's connection.

``OSError`` passes through as it is: what it means is said by whoever dials.
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Final, cast

import anyio

from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.sockets import tune_stream

ATTEMPT_DELAY_SECONDS: Final = limit(
    0.25, "seconds",
    "between attempts at two addresses of one name (RFC 8305 §8)",
)  # fmt: skip

ProtocolFactory = Callable[[], asyncio.Protocol]


async def connect_tcp(host: str, port: int, factory: ProtocolFactory) -> None:
    """
    Connect a protocol to the first address of ``host`` that answers.

    There is no time limit here; run it under one. Cancelling it closes what it had opened.

    Args:
        host: A DNS name or an IP address without brackets.
        port: The TCP port.
        factory: Makes the protocol, once there is a connection for it.

    Raises:
        socket.gaierror: The name does not resolve.
        OSError: No address could be connected to; the error is that of the last attempt.
    """
    addresses = [host] if _is_literal(host) else await _resolve(host, port)
    await _Race(port, factory).run(addresses)


async def _resolve(host: str, port: int) -> list[str]:
    """Resolve a name to addresses, both families by turns, in the resolver's order within each (§4)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return taking_turns([(family, _address(place)) for family, _, _, _, place in found])


def taking_turns(found: Sequence[tuple[int, str]]) -> list[str]:
    """Let the families alternate, beginning with the one that the resolver put first (RFC 8305 §4)."""
    first = [address for family, address in found if family == found[0][0]]
    second = [address for family, address in found if family != found[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, second)) if each is not None]


def reason_of(error: OSError) -> str:
    """Return the system's words for an error, lower-case, without numbers and addresses."""
    # An event loop may have put its own words, with the address, into strerror.
    known = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    text = known or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


class _Race:
    """Staggered attempts; the first to succeed gets the protocol and ends the rest."""

    def __init__(self, port: int, factory: ProtocolFactory) -> None:
        self._port = port
        self._factory = factory
        self._is_won = False
        self._last_error: OSError | None = None

    async def run(self, addresses: list[str]) -> None:
        async with anyio.create_task_group() as attempts:
            for address in addresses:
                over = anyio.Event()
                attempts.start_soon(self._attempt, address, over, attempts.cancel_scope)
                with anyio.move_on_after(ATTEMPT_DELAY_SECONDS):
                    await over.wait()
        if not self._is_won:
            raise self._last_error or OSError(f"{len(addresses)} addresses, and no attempt")

    async def _attempt(self, address: str, over: anyio.Event, others: anyio.CancelScope) -> None:
        entrant = _Entrant(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: entrant, address, self._port)
        except OSError as error:
            self._last_error = error
            over.set()
            return
        if entrant.has_won:
            others.cancel()

    def finish(self, transport: asyncio.Transport) -> bool:
        """Put the protocol on the first connection that is made; False for one that came too late."""
        if self._is_won:
            return False
        self._is_won = True
        tune_stream(transport.get_extra_info("socket"))
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return True


class _Entrant(asyncio.Protocol):
    """Stands on a connection until it is known whether it was the first."""

    def __init__(self, race: _Race) -> None:
        self._race = race
        self.has_won = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.Transport, transport)
        self.has_won = self._race.finish(connection)
        if not self.has_won:
            connection.abort()


def _address(place: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Write a resolved address as text, a link-local one with its zone (RFC 4007 §11)."""
    address = str(place[0])
    if len(place) == 4 and place[3]:
        return f"{address.partition('%')[0]}%{place[3]}"
    return address


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
