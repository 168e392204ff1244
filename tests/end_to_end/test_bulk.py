"""
64 MiB each way through the whole product, byte for byte, while the reader stops again and again.

This is where a buffer that was lent and not copied, or a window that was counted twice, shows.
"""

import hashlib
import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader

import pytest

from tests.harness.child_process import ChildProcess
from tests.harness.process_figures import Subject
from tests.harness.product import LOOPBACK, CarrierName, Connector, LoopName, Product
from tests.harness.rough_upstream import RoughUpstream, pattern

SIZE = 64 << 20
_PAUSES = 4
_PATIENCE = 50  # seconds
# A window grows to 4 MiB at most, in relay and gateway; the rest is room for the allocator.
_GROWTH = 24 << 20


@dataclass(frozen=True)
class Bulk:
    """A running product, and the server at its far end."""

    upstream: RoughUpstream
    connector: Connector
    gateway: ChildProcess
    processes: tuple[ChildProcess, ...]

    def resident_bytes(self) -> dict[str, int]:
        """Return how much memory each process has now."""
        return {each.name: Subject(each.name, each).resident() for each in self.processes}


@pytest.fixture(
    params=itertools.product(["asyncio", "uvloop"], ["picows", "websockets"]), ids="-".join, scope="module"
)
def bulk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bulk]:
    """Run everything on one of the loops, and links over one of the carriers."""
    loop: LoopName
    carrier: CarrierName
    loop, carrier = request.param
    folder = tmp_path_factory.mktemp(f"bulk-{loop}-{carrier}")
    with (
        RoughUpstream() as upstream,
        Product(folder / "product", loop=loop, carrier=carrier) as product,
    ):
        relay = product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": upstream.url})
        gateway = tunnel.start_gateway()
        connector = tunnel.start_connector()
        yield Bulk(upstream, connector, gateway, (relay, gateway, connector.process))


def test_a_download_with_a_slow_reader_arrives_byte_for_byte(bulk: Bulk) -> None:
    """The reader stops until the sender cannot send any more, goes on, and has every byte in its place."""
    expected = pattern(SIZE)
    with _connect(bulk) as connection, connection.makefile("rb") as stream:
        connection.sendall(_head("GET", f"/mcp/bytes/{SIZE}", bulk.connector.port))
        length = _read_head(stream, bulk)
        received = bytearray()
        for part in range(1, _PAUSES + 1):
            bulk.upstream.stalled.clear()
            assert bulk.upstream.stalled.wait(_PATIENCE), f"nobody holds the sender back in part {part}"
            # In the first quarter, because the kernel's buffers on the way may be tens of MiB and could take
            # the whole rest: then nothing is left to hold back.
            while len(received) < SIZE // 4 * part // _PAUSES:
                received += stream.read(1 << 16)
        received += stream.read(SIZE - len(received))
    assert length == SIZE
    assert received == expected


def test_an_upload_with_a_slow_reader_arrives_byte_for_byte(bulk: Bulk) -> None:
    """
    The server reads nothing until the sender is held back, and then has every byte in its place.

    The kernel's buffers on the way may take tens of MiB by themselves; what counts is that no process does.
    """
    data = memoryview(pattern(SIZE))
    bulk.upstream.may_read.clear()
    with _connect(bulk) as connection, connection.makefile("rb") as stream:
        connection.sendall(_head("POST", "/mcp/sink", bulk.connector.port, length=SIZE))
        before = bulk.resident_bytes()
        sent = _send_until_held_back(connection, data)
        growth = {name: size - before[name] for name, size in bulk.resident_bytes().items()}
        assert max(growth.values()) < _GROWTH, growth
        bulk.upstream.may_read.set()
        connection.settimeout(_PATIENCE)
        connection.sendall(data[sent:])
        answer = stream.read(_read_head(stream, bulk))
    assert answer == f"{SIZE} {hashlib.sha256(data).hexdigest()}".encode()


def _connect(bulk: Bulk) -> socket.socket:
    connection = socket.socket()
    # The kernel's buffers of four connections together may take half of all the bytes, and then the sender is
    # done before it is held back for the last time. This one can be kept small, before it connects.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    connection.settimeout(_PATIENCE)
    connection.connect((LOOPBACK, bulk.connector.port))
    return connection


def _send_until_held_back(connection: socket.socket, data: memoryview) -> int:
    """Send until nobody has taken a byte for a second, and return how many went."""
    connection.settimeout(1)
    sent = 0
    while sent < len(data):
        try:
            sent += connection.send(data[sent : sent + (1 << 16)])
        except TimeoutError:
            return sent
    return sent


def _head(method: str, path: str, port: int, *, length: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}:{port}", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _read_head(stream: BufferedReader, bulk: Bulk) -> int:
    """Read the head of an answer and return its Content-Length; of a failure, say what the gateway knows."""
    first = stream.readline()
    if not first.startswith(b"HTTP/1.1 200 "):
        # The gateway writes its lines a moment later, and its folder does not outlive a few more runs.
        failed = bulk.gateway.wait_for("call", outcome="failed", within=5)
        pytest.fail(f"{first + stream.read1()!r}, and the gateway knows: {failed}")
    length = 0
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return length
