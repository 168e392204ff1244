"""
``make blind``: what the relay never has, searched for wherever it could have it.

Random canaries travel in the arguments, results and headers of 1,000 calls, through the connector and by TLS
straight to the relay; bodies with a length, chunked ones and event streams. While the calls run and after
them the relay's memory is searched, afterwards its files, its debug log and a capture of everything that
went over its public port, which is both legs: callers and gateway dial the same one. No canary may be
there, in any encoding. The same search finds every kind in the gateway's memory and in a capture of the
MCP server's port, or it would prove nothing.

    python -m bench.blind [--calls N]        needs root
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread

from bench.report import finish, say
from tests.harness.canaries import CanaryKind
from tests.harness.capture import PortCapture
from tests.harness.child_process import ChildProcess
from tests.harness.mcp_wire import (
    ACCEPT_BOTH,
    JSON_BODY,
    META,
    MODERN,
    Json,
    LegacySession,
    ModernClient,
    request,
    result_text,
    tool_call,
)
from tests.harness.plain_socket import open_and_send
from tests.harness.process_memory import read_memory
from tests.harness.product import Product, is_root
from tests.harness.raw_http import Endpoint, Header
from tests.harness.stage import start_fixture

_WORKERS = 8
_SEARCHES_DURING = 3
_LIMIT = 600  # seconds for all calls


class Kinds(NamedTuple):
    """The three places in a call where a canary travels."""

    arguments: CanaryKind
    results: CanaryKind
    headers: CanaryKind

    def count_in(self, data: bytes) -> Counter[str]:
        """Count the canaries of each kind in any form."""
        return Counter({kind.name: kind.count_in(data) for kind in self})


@dataclass
class Findings:
    """How often each kind was found, by the place that was searched."""

    calls: int
    relay: dict[str, Counter[str]] = field(default_factory=dict)
    controls: dict[str, Counter[str]] = field(default_factory=dict)
    searched: Counter[str] = field(default_factory=Counter)
    missed_packets: int = 0

    @property
    def hits(self) -> int:
        """Canaries found where none may be."""
        return sum(counts.total() for counts in self.relay.values())

    @property
    def blind_spots(self) -> list[str]:
        """Controls that did not find a kind: with any, the search proves nothing."""
        return [
            f"{kind} in {place}"
            for place, counts in self.controls.items()
            for kind in Kinds._fields
            if counts[kind] == 0
        ]

    @property
    def ok(self) -> bool:
        """Whether the relay was blind and the search was not."""
        return self.hits == 0 and not self.blind_spots and self.missed_packets == 0


def main() -> int:
    """Run the calls and the searches, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description="search the relay for what it must not see")
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    if not is_root():
        say("error: reading the relay's memory needs root")
        return 1
    with tempfile.TemporaryDirectory(prefix="sallyport-blind-") as folder:
        findings = search_for_canaries(Path(folder), arguments.calls)
    for place, counts in findings.relay.items():
        say(f"{place}: {counts.total()} hits")
    for place, counts in findings.controls.items():
        say(f"control, {place}: " + ", ".join(f"{counts[kind]} {kind}" for kind in Kinds._fields))
    for spot in findings.blind_spots:
        say(f"BLIND SPOT: no {spot}, so the search proves nothing")
    return _finish(findings)


def search_for_canaries(folder: Path, calls: int) -> Findings:
    """
    Run a product of its own, make the calls, and search.

    Args:
        folder: an empty folder.
        calls: how many.
    """
    kinds = Kinds(*(CanaryKind.draw(name) for name in Kinds._fields))
    findings = Findings(calls)
    with ExitStack() as stack:
        fixture = start_fixture(folder, environment={"FIXTURE_SECRET_PREFIX": kinds.results.prefix})
        stack.enter_context(fixture.process)
        product = stack.enter_context(Product(folder / "product", log_level="debug"))
        public = stack.enter_context(PortCapture(product.relay_port))
        inside = stack.enter_context(PortCapture(fixture.port))
        relay = product.start_relay()
        _provoke_debug_log(relay, product.relay_port)
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        gateway = tunnel.start_gateway()
        endpoints = [tunnel.start_connector().endpoint(), tunnel.tls_endpoint()]
        anyio.run(_call_and_search, endpoints, kinds, findings, (relay, gateway))
        findings.relay["the relay's memory, after the calls"] = _search_memory(relay, kinds, findings)
    files = [path for path in product.relay_folder.rglob("*") if path.is_file()]
    findings.relay["the relay's files and debug log"] = _search_files(files, kinds, findings)
    findings.relay["the capture of both legs"] = kinds.count_in(public.data)
    findings.controls["a capture of the MCP server's port"] = kinds.count_in(inside.data)
    findings.searched["captured bytes"] = len(public.data)
    findings.missed_packets = public.missed + inside.missed
    return findings


# -- the calls ----------------------------------------------------------------------------------------


async def _call_and_search(
    endpoints: list[Endpoint], kinds: Kinds, findings: Findings, processes: tuple[ChildProcess, ChildProcess]
) -> None:
    numbers = iter(range(findings.calls))
    done = count(1)
    relay, gateway = processes
    due = {findings.calls * part // (_SEARCHES_DURING + 1): part for part in range(1, _SEARCHES_DURING + 1)}

    async def work(endpoint: Endpoint) -> None:
        session = await LegacySession.open(endpoint)
        for number in numbers:
            await _call(endpoint, session, kinds, number)
            part = due.get(next(done))
            if part is not None:
                # The other workers go on calling meanwhile.
                await anyio.to_thread.run_sync(search, part)

    def search(part: int) -> None:
        findings.relay[f"the relay's memory, search {part} during"] = _search_memory(relay, kinds, findings)
        place = "the gateway's memory during the calls"
        found = findings.controls.setdefault(place, Counter())
        found.update(_search_memory(gateway, kinds, Findings(0)))

    with anyio.fail_after(_LIMIT):
        async with anyio.create_task_group() as tasks:
            for worker in range(_WORKERS):
                tasks.start_soon(work, endpoints[worker % len(endpoints)])


async def _call(endpoint: Endpoint, session: LegacySession, kinds: Kinds, number: int) -> None:
    """Make one call with a canary in arguments and headers; the server puts its own into the result."""
    header = ("X-Canary", kinds.headers.new())
    params = tool_call("probe_secret", {"note": kinds.arguments.new()})
    shape = number % 3
    if shape == 0:
        client = ModernClient(endpoint)
        async with await client.post("tools/call", params, header) as reply:
            answer = await reply.json()
    elif shape == 1:
        answer = await _call_legacy(session, params, header)
    else:
        answer = await _call_chunked(endpoint, params, header)
    assert result_text(answer).startswith(kinds.results.prefix), "the result is not the server's own"


async def _call_legacy(session: LegacySession, params: Json, header: Header) -> Json:
    headers = [JSON_BODY, ACCEPT_BOTH, *session.headers, header]
    body = json.dumps(request("tools/call", params)).encode()
    async with await session.endpoint.send("POST", headers, body) as reply:
        return [event.message async for event in reply.events()][-1]


async def _call_chunked(endpoint: Endpoint, params: Json, header: Header) -> Json:
    params["_meta"] = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    routing = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "probe_secret")]
    body = json.dumps(request("tools/call", params)).encode()
    headers = [JSON_BODY, ACCEPT_BOTH, *routing, header]
    async with await endpoint.send("POST", headers, body, chunked=True) as reply:
        return await reply.json()


# -- the searches -------------------------------------------------------------------------------------


def _search_memory(process: ChildProcess, kinds: Kinds, findings: Findings) -> Counter[str]:
    pieces = chain.from_iterable(map(read_memory, process.tree()))
    return _search(pieces, kinds, findings, "bytes of memory")


def _search_files(files: list[Path], kinds: Kinds, findings: Findings) -> Counter[str]:
    return _search((path.read_bytes() for path in files), kinds, findings, "bytes of files")


def _search(pieces: Iterator[bytes], kinds: Kinds, findings: Findings, what: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for piece in pieces:
        found.update(kinds.count_in(piece))
        findings.searched[what] += len(piece)
    return found


def _provoke_debug_log(relay: ChildProcess, port: int) -> None:
    """Make the relay log something that it says at level debug only, or the search of its log says little."""
    open_and_send(port, b"this is no TLS").close()
    relay.wait_for("hello refused", level="debug")


def _finish(findings: Findings) -> int:
    gateway = findings.controls["the gateway's memory during the calls"]
    figures = (
        f"{findings.calls} calls, {findings.hits} hits in "
        f"{sum(findings.searched.values()) / 1e6:.0f} MB of the relay, "
        f"{findings.missed_packets} packets missed; the gateway: "
        + ", ".join(f"{gateway[kind]} {kind}" for kind in Kinds._fields)
    )
    facts = {
        "calls": findings.calls,
        "hits": {place: dict(counts) for place, counts in findings.relay.items()},
        "controls": {place: dict(counts) for place, counts in findings.controls.items()},
        "searched": dict(findings.searched),
        "blind_spots": findings.blind_spots,
    }
    return finish("blind", figures, facts, ok=findings.ok)


if __name__ == "__main__":
    sys.exit(main())
