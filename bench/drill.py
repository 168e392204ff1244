"""
``make drill``: everything that the relay has, and the DNS of the tunnel domain, in an attacker's hands.

Each attack answers at the address that callers dial: a switchboard on loopback, which is what somebody does
who holds the DNS or the machine. Each caller trusts only the tunnel's root: the connector, Python's ``ssl``,
curl and Node as the documentation sets them up. An attack is repelled when the caller gives the asserted
reason and not one byte of a request has left it. A positive control goes through the same switchboard to the
real relay and is answered, before the attacks and after them. One further line shows the caller who also
trusts a public CA, and whom nothing here can protect (identity §1).

    python -m bench.drill        reading the relay's memory needs root
"""

import socket
import ssl
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import anyio
import trustme
import yaml
from rich.console import Console
from rich.table import Table

from bench.attacks import Attack, crossing, impersonations, public_server_file, replaying
from bench.loot import plunder
from bench.report import finish, say
from sallyport.processes import free_port
from tests.harness.child_process import CHECKOUT, ChildProcess
from tests.harness.mcp_wire import ModernClient
from tests.harness.outside_clients import OutsideClient, Target, call_python, clients_of
from tests.harness.product import LOOPBACK, Product, Tunnel, is_root
from tests.harness.raw_link import knock_as_link
from tests.harness.rough_upstream import RoughUpstream
from tests.harness.stage import Fixture, start_fixture
from tests.harness.switchboard import Switchboard, forward, impersonate, impostor_context

_CONTROL = "control: the real relay"


@dataclass(frozen=True)
class Result:
    """How one attack on one client ended."""

    attack: str
    client: str
    as_expected: bool
    said: str
    alerts: list[str]
    request_bytes: int


@dataclass
class Drill:
    """Everything that was tried, and what went wrong."""

    clients: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
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
    repelled = sum(result.as_expected for result in attacks)
    figures = (
        f"{repelled} of {len(attacks)} attacks repelled on {len(drill.clients)} clients, "
        f"{sum(result.request_bytes for result in attacks)} request bytes lost, "
        f"{len(drill.failures)} failures"
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
        crossed_port = _start_crossed_relay(stack, product, victim, other)
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
        drill.reasons = {attack.name: attack.reason.text for attack in attacks}
        for attack in attacks:
            for client in clients:
                drill.results.append(_attack(drill, attack, client, switchboard, genuine[client.name]))
        for client in clients:
            _control(drill, client, switchboard, product)
        drill.expect(not elsewhere.requests, "the other tunnel's server heard nothing")
        _replay_to_gateway(drill, fixture, product, victim)
        _knock_as_links(drill, victim, folder / "links")
        _search_the_relay(drill, product, victim)
        _show_the_public_caller(drill, victim, switchboard, folder / "public")
    return drill


def _start_crossed_relay(stack: ExitStack, product: Product, victim: Tunnel, other: Tunnel) -> int:
    """Run a relay with the real one's files that leads the victim's callers to the other's gateway."""
    port = free_port()
    settings = yaml.safe_load((product.relay_folder / "relay.yaml").read_text())
    settings["listen"] = f"{LOOPBACK}:{port}"
    del settings["health"]
    (product.relay_folder / "crossed.yaml").write_text(yaml.safe_dump(settings))
    relay = ChildProcess(
        "crossed-relay",
        [sys.executable, "-m", "bench.crossed_relay", "crossed.yaml", victim.label, other.label],
        folder=product.relay_folder,
        environment={"PYTHONPATH": str(CHECKOUT)},
    )
    stack.enter_context(relay)
    relay.wait_for("listening")
    address = {"address": settings["listen"], "ca": str(other.relay_ca)}
    stack.enter_context(other.start_gateway(settings={"relay": address}))
    return port


# -- clients ------------------------------------------------------------------------------------------


def _control(drill: Drill, client: OutsideClient, switchboard: Switchboard, product: Product) -> bytes:
    """Call through the real relay and return the genuine gateway's bytes."""
    switchboard.behave(forward(product.relay_port))
    attempt = client.attempt()
    # Whoever keeps his connection alive would never be over.
    conversation = switchboard.conversations[0]
    recorded = bytes(conversation.to_client)
    drill.results.append(
        Result(_CONTROL, client.name, attempt.answered, attempt.said, [], conversation.request_bytes)
    )
    drill.expect(
        attempt.answered and conversation.request_bytes > 0,
        f"{client.name}: the real relay's answer arrives, and the measure sees the request",
    )
    return recorded


def _attack(
    drill: Drill, attack: Attack, client: OutsideClient, switchboard: Switchboard, genuine: bytes
) -> Result:
    switchboard.behave(attack.answer(genuine))
    attempt = client.attempt()
    heard = switchboard.heard()
    lost = sum(conversation.request_bytes for conversation in heard)
    repelled = bool(heard) and not attempt.answered and lost == 0 and attack.reason.is_in(attempt.said)
    if not repelled:
        what = f"{lost} request bytes lost, it said {attempt.said!r}"
        drill.expect(False, f"{attack.name}, on {client.name}: {what}")
    alerts = [conversation.alert for conversation in heard if conversation.alert]
    return Result(attack.name, client.name, repelled, attempt.said, alerts, lost)


# -- everybody else -----------------------------------------------------------------------------------


def _replay_to_gateway(drill: Drill, fixture: Fixture, product: Product, victim: Tunnel) -> None:
    """Record a caller's whole conversation and send his bytes to the gateway again."""
    with Switchboard() as switchboard:
        switchboard.behave(forward(product.relay_port))
        target = Target(victim.host("tickets"), switchboard.port, victim.identity.root_path, victim.bundle())
        assert call_python(target).answered, "the call that is recorded has to succeed"
        recorded = bytes(switchboard.heard()[0].from_client)
    before = anyio.run(ModernClient(fixture.endpoint()).stats)
    with socket.create_connection((LOOPBACK, product.relay_port), timeout=20) as connection:
        connection.sendall(recorded)
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
    after = anyio.run(ModernClient(fixture.endpoint()).stats)
    # The second question counts itself.
    is_unheard = after["started"] == before["started"] + 1
    drill.expect(is_unheard, "a caller's bytes sent to the gateway again reach no server")


def _knock_as_links(drill: Drill, victim: Tunnel, folder: Path) -> None:
    """Try to become a gateway's link with the keys of others."""
    folder.mkdir()
    gateway = victim.identity.gateway("gw1")
    as_gateway = folder / "gateway.pem"
    as_gateway.write_bytes(gateway.certificate.read_bytes() + gateway.key.read_bytes())
    for name, pem in (("a caller's", victim.bundle()), ("a gateway's", as_gateway)):
        said = knock_as_link(victim, pem)
        # A gateway's certificate is not for clients, so OpenSSL refuses it before our verifier is asked.
        refused = "CERTIFICATE_REFUSED" in said or "ALERT_UNSUPPORTED_CERTIFICATE" in said
        drill.expect(refused, f"{name} key used as a link: the relay says {said}")


def _search_the_relay(drill: Drill, product: Product, victim: Tunnel) -> None:
    loot = plunder(product, victim)
    found = ", ".join(loot.own) or "none"
    drill.expect(
        not loot.tunnels,
        f"keys of the tunnel in {loot.searched / 1e6:.0f} MB of the relay's files and memory: "
        + (", ".join(loot.tunnels) or "none"),
    )
    drill.expect(bool(loot.own), f"the relay's own keys there, which prove that the search sees: {found}")


def _show_the_public_caller(drill: Drill, victim: Tunnel, switchboard: Switchboard, folder: Path) -> None:
    """Show whom nothing protects: the caller who trusts public CAs beside the tunnel's root."""
    authority = trustme.CA()
    pem = public_server_file(authority, victim, folder)
    switchboard.behave(impersonate(impostor_context(str(pem))))
    context = ssl.create_default_context(cafile=str(victim.identity.root_path))
    authority.configure_trust(context)
    target = Target(victim.host("tickets"), switchboard.port, victim.identity.root_path, None)
    call_python(target, context)
    lost = sum(conversation.request_bytes for conversation in switchboard.heard())
    drill.expect(
        lost > 0,
        f"a caller who also trusts a public CA is fooled, as documented: the fake relay read {lost} bytes of "
        "his request, any API key in it included",
    )


# -- the report ---------------------------------------------------------------------------------------


def _print_matrix(drill: Drill) -> None:
    table = Table(title="attacks", show_lines=False)
    table.add_column("what answers at the relay's address")
    table.add_column("must fail for")
    for client in drill.clients:
        table.add_column(client)
    by_attack: dict[str, dict[str, Result]] = {}
    for result in drill.results:
        by_attack.setdefault(result.attack, {})[result.client] = result
    for attack, by_client in by_attack.items():
        cells = [_cell(attack, by_client[client]) for client in drill.clients]
        table.add_row(attack, drill.reasons.get(attack, "–"), *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(attack: str, result: Result) -> str:
    if attack == _CONTROL:
        return "answered" if result.as_expected else "NOT ANSWERED"
    return "repelled" if result.as_expected else f"FAILED, {result.request_bytes} bytes lost"


if __name__ == "__main__":
    sys.exit(main())
