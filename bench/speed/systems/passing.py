"""
What all systems share that pass the callers' TLS through to the upstream: the peers, and our bare tunnel.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final

from bench.speed.program import Program
from bench.speed.system import Entrance, Running
from bench.speed.upstream import Upstream
from tests.harness.product import LOOPBACK

# Of the certificates that servers of peers have; 127.0.0.1 is in them too.
LINK_NAME: Final = "tunnel.bench.test"

LinkThrough = Callable[[int], int] | None

_PATIENCE: Final = 20.0  # seconds to carry the first call
_CALL_LIMIT: Final = 5.0  # seconds for one call
_LOOK_INTERVAL: Final = 0.05  # seconds


def entrance(upstream: Upstream, port: int, mutual_port: int) -> Entrance:
    """
    Return the entrance of a system that carries two ports to the upstream's two with TLS.

    Args:
        upstream: Which ends the TLS.
        port: Leads to its ``tls``.
        mutual_port: Leads to its ``mutual``.
    """
    return Entrance(
        port=port,
        server_name=upstream.server_name,
        authority=upstream.authority,
        certificate=upstream.certificate,
        key=upstream.key,
        mutual_port=mutual_port,
    )


def dialled(port: int, link_through: LinkThrough) -> int:
    """Return the port that the private half dials: the public half's own, or a slow link's before it."""
    return port if link_through is None else link_through(port)


def ready(way: Entrance, programs: Sequence[Program]) -> Running:
    """
    Wait until a system carries calls both ways, and return it with all its processes.

    Args:
        way: Its entrance.
        programs: All of it; processes that they have started meanwhile are counted too.

    Raises:
        NotReached: One of the programs has ended, or time is over.
    """
    deadline = time.monotonic() + _PATIENCE
    for is_mutual in (False, True):
        while (problem := _problem(way, is_mutual=is_mutual)) is not None:
            for program in programs:
                program.require_alive(deadline, f"and carries no call: {problem}")
            time.sleep(_LOOK_INTERVAL)
    return Running(way, pids=[pid for program in programs for pid in program.tree()])


def call(way: Entrance, *, is_mutual: bool) -> float:
    """
    Make one connection and one small call, and return how many milliseconds both took.

    Args:
        way: Where.
        is_mutual: By the port that demands a client certificate, with one.

    Raises:
        OSError: No connection, or no handshake.
        http.client.HTTPException: No answer, or not 200.
    """
    port, name = way.mutual if is_mutual else (way.port, way.server_name)
    context = ssl.create_default_context(cafile=str(way.authority))
    if is_mutual:
        context.load_cert_chain(way.certificate, way.key)
    headers = {"Content-Type": "application/json", "Host": name}
    if way.authorization and not is_mutual:
        headers["Authorization"] = way.authorization
    began = time.monotonic()
    connection = http.client.HTTPConnection(LOOPBACK, port)
    with socket.create_connection((LOOPBACK, port), _CALL_LIMIT) as plain:
        # Head and body are two writes, and Nagle's algorithm would wait between them.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = context.wrap_socket(plain, server_hostname=name)
        with connection.sock:
            connection.request("POST", "/mcp", b'{"jsonrpc":"2.0","id":1,"method":"ping"}', headers)
            response = connection.getresponse()
            response.read()
    if response.status != http.client.OK:
        raise http.client.HTTPException(f"answered {response.status}")
    return (time.monotonic() - began) * 1000


def _problem(way: Entrance, *, is_mutual: bool) -> str | None:
    try:
        call(way, is_mutual=is_mutual)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None
