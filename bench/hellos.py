"""
``make hellos``: 200 peers that never finish their ClientHello cost the relay less than 5 % of a core.

Three crowds, one after the other: *stalled* send half a hello and are silent; *trickled* send one byte a
second more; *half-closed* send half a hello and close their half. The relay's CPU time is taken over a few
seconds while they are all there, as its kernel accounts it. Afterwards a call still goes through the relay.

    python -m bench.hellos
"""

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil  # type: ignore[import-untyped]  # no stubs among the tools

from bench.report import finish, say
from tests.harness.mcp_wire import ModernClient, result_text
from tests.harness.plain_socket import open_and_send
from tests.harness.product import Product
from tests.harness.stage import start_fixture
from tests.hostile.hellos import client_hello

PEERS = 200
_GATE = 5.0  # per cent of one core
# The relay ends a hello after five seconds, so what is measured has to lie within them.
_SECONDS = 4.0


@dataclass(frozen=True)
class Crowd:
    """Peers that misbehave alike: what they do once connected, and what they do every second."""

    name: str
    begin: Callable[[socket.socket], None]
    each_second: Callable[[socket.socket, bytes], None]


def main() -> int:
    """Measure the three crowds, make a call, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="sallyport-hellos-") as name:
        folder = Path(name)
        fixture = start_fixture(folder)
        with fixture.process, Product(folder / "product") as product:
            relay = product.start_relay()
            tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
            tunnel.start_gateway()
            hello = client_hello(tunnel.host())
            loads = {crowd.name: _measure(crowd, hello, product.relay_port, relay.pid) for crowd in CROWDS}
            served = anyio.run(_is_served, ModernClient(tunnel.start_connector().endpoint()))
    for crowd_name, load in loads.items():
        say(f"{PEERS} {crowd_name}: {load:.2f} % of a core")
    worst = max(loads.values())
    figures = f"worst {worst:.2f} % of a core with {PEERS} peers (gate {_GATE:g} %), " + (
        "served afterwards" if served else "NOT SERVED afterwards"
    )
    facts = {"peers": PEERS, "per_cent_of_a_core": loads, "served_afterwards": served}
    return finish("hellos", figures, facts, ok=worst < _GATE and served)


def _measure(crowd: Crowd, hello: bytes, port: int, pid: int) -> float:
    half = len(hello) // 2
    peers = [open_and_send(port, hello[:half]) for _ in range(PEERS)]
    for peer in peers:
        crowd.begin(peer)
    process = psutil.Process(pid)
    began, before = time.monotonic(), _cpu_seconds(process)
    for second in range(1, int(_SECONDS) + 1):
        for peer in peers:
            crowd.each_second(peer, hello[half + second - 1 : half + second])
        time.sleep(max(0.0, began + second - time.monotonic()))
    load = (_cpu_seconds(process) - before) / (time.monotonic() - began) * 100
    for peer in peers:
        peer.close()
    return load


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _is_served(client: ModernClient) -> bool:
    with anyio.fail_after(20):
        return result_text(await client.call("probe_echo", text="still here")) == "still here"


def _nothing(peer: socket.socket, byte: bytes = b"") -> None:
    pass


def _send(peer: socket.socket, byte: bytes) -> None:
    peer.sendall(byte)


def _half_close(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


CROWDS = (
    Crowd("stalled", _nothing, _nothing),
    Crowd("trickled", _nothing, _send),
    Crowd("half-closed", _half_close, _nothing),
)


if __name__ == "__main__":
    sys.exit(main())
