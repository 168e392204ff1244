"""
``make drill``: everything that the relay has, and the DNS of the tunnel domain, in an attacker's hands.

Each attack answers at the address that callers dial: a switchboard on loopback, which is what somebody does who
holds the DNS or the machine. Each caller trusts only the tunnel's root: the connector, Python's ``ssl``, curl
and Node as the documentation sets them up. An attack is repelled when the caller gives the asserted reason
and not one byte of a request has left it. A positive control goes through the same switchboard to the real
relay and is answered, before the attacks and after them. One further line shows the caller who also trusts
a public CA, and whom nothing here can protect (identity §1).

    python -m bench.drill        reading the relay's memory needs root
"""

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trustme
import yaml
from rich.console import Console
from rich.table import Table

from bench.attacks import Attack, crossing, impersonations, public_server_file, replaying
from bench.loot import plunder
from bench.report import finish, say
from tests.harness.child_process import CHECKOUT, ChildProcess
from tests.harness.outside_clients import OutsideClient, Target, call_python, clients_of, default_context
from tests.harness.product import Product, Tunnel, free_port, is_root, start_fixture
from tests.harness.raw_link import knock_as_link
from tests.harness.rough_upstream import RoughUpstream
from tests.harness.switchboard import Switchboard, forward, impersonate, impostor_context

_CONTROL = "control: the real relay"


@dataclass(frozen=True)
class Result:
    """How one attack on one client ended."""

    attack: str
    client: str
    repelled: bool
    said: str
    request_bytes: int


@dataclass
class Drill:
    """Everything that was tried, and what went wrong."""

    clients: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def expect(self, holds: bool, fact: str) -> None:
        """Note a fact, and that it is a failure where it does not hold."""
        self.facts.append(fact)
        if not holds:
            self.failures.append(fact)


def main() -> int:
    """Run the drill, print the matrix and return the exit code."""
    if not is_root():
        say("error: reading the relay's memory needs root")
        return 1
    with tempfile.TemporaryDirectory(prefix="sallyport-drill-") as folder:
        drill = run_drill(Path(folder))
    _print_matrix(drill)
    for fact in drill.facts:
        say(f"{'FAILED  ' if fact in drill.failures else ''}{fact}")
    attacks = [result for result in drill.results if result.attack != _CONTROL]
    repelled = sum(result.repelled for result in attacks)
    figures = (
        f"{repelled} of {len(attacks)} attacks repelled on {len(drill.clients)} clients, "
        f"{sum(result.request_bytes for result in attacks)} request bytes lost, {len(drill.failures)} failures"
    )
    facts = {"results": [asdict(result) for result in drill.results], "facts": drill.facts}
    return finish("drill", figures, {**facts, "failures": drill.failures}, ok=not drill.failures)


def run_drill(folder: Path, *, only_clients: frozenset[str] | None = None) -> Drill:
    """
    Set everything up, attack, and say how it went.

    Args:
        folder: an empty folder.
        only_clients: names of the clients to try; all that are installed when None.
    """
    drill = Drill()
    with ExitStack() as stack:
        fixture = start_fixture(folder)
        stack.enter_context(fixture.process)
        elsewhere = stack.enter_context(RoughUpstream("elsewhere"))
        product = stack.enter_context(Product(folder / "product"))
        product.start_relay()
        victim = product.make_tunnel("victim", {"tickets": fixture.url})
        victim.start_gateway()
        other = product.make_tunnel("other", {"tickets": elsewhere.url})
        crossed_port = _start_crossed_relay(product, victim, other)
        switchboard = stack.enter_context(Switchboard())
        connector = victim.start_connector(relay=switchboard.address)
        clients = [
            client
            for client in clients_of(victim, connector, switchboard.port)
            if only_clients is None or client.name in only_clients
        ]
        drill.clients = [client.name for client in clients]
        genuine = {client.name: _control(drill, client, switchboard, product) for client in clients}
        attacks = [*impersonations(victim, folder / "kit"), replaying(), crossing(crossed_port)]
        for attack in attacks:
            for client in clients:
                drill.results.append(_attack(drill, attack, client, switchboard, genuine[client.name]))
        for client in clients:
            _control(drill, client, switchboard, product)
        drill.expect(not elsewhere.requests, "the other tunnel's server heard nothing")
        _replay_to_gateway(drill, victim, folder)
        _knock_as_links(drill, victim, folder / "links")
        _search_the_relay(drill, product, victim)
        _show_the_public_caller(drill, victim, switchboard, folder / "public")
    return drill
