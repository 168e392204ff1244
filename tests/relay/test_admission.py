"""The decision about a connection, as a table."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from sallyport.relay.admission import Refuse, ToCaller, ToLink, decide
from sallyport.relay.registry import LiveLink, Registry, Tunnel, TunnelState
from sallyport.tunnel.alerts import Alert, Situation
from sallyport.tunnel.sni import ClientHello

DOMAIN = "tunnel.example.com"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACTIVE, DISABLED, ARCHIVED = "a" * 32, "d" * 32, "z" * 32
LABELS = {TunnelState.ACTIVE: ACTIVE, TunnelState.DISABLED: DISABLED, TunnelState.ARCHIVED: ARCHIVED}
LONELY = "l" * 32
UNKNOWN = "u" * 32


@dataclass(eq=False)
class FakeLink:
    """A link that only says whether it takes streams."""

    is_ready: bool = True


@pytest.fixture
def registry() -> Registry[FakeLink]:
    """One tunnel of each state, each with a link; and an active one without any."""
    made = Registry[FakeLink]()
    labels = [*LABELS.items(), (TunnelState.ACTIVE, LONELY)]
    made.replace_tunnels(Tunnel(label, "", "PEM", state, NOW, NOW) for state, label in labels)
    for label in LABELS.values():
        made.add(LiveLink(label, "gw1", "boot", 0, FakeLink()))
    return made


def hello(name: str) -> ClientHello:
    """Make a hello for a name."""
    return ClientHello(server_name=name, alpn=None, random=bytes(32), length=200)


def decided(name: str, registry: Registry[FakeLink]) -> ToLink | ToCaller | Refuse:
    """Decide about a hello for a name."""
    return decide(hello(name), registry, domain=DOMAIN)


@pytest.mark.parametrize(
    "name", [f"{ACTIVE}.{DOMAIN}", f"tickets.{ACTIVE}.{DOMAIN}", f"_canary.{ACTIVE}.{DOMAIN}"]
)
def test_a_caller_gets_to_its_tunnel(name: str, registry: Registry[FakeLink]) -> None:
    """The tunnel is named by the label, whatever server stands before it."""
    decision = decided(name, registry)
    assert isinstance(decision, ToCaller)
    assert decision.tunnel.label == ACTIVE


@pytest.mark.parametrize("label", [*LABELS.values(), LONELY])
def test_a_gateway_gets_to_its_handshake(label: str, registry: Registry[FakeLink]) -> None:
    """In whatever state the tunnel is: after the handshake it can be told in words."""
    decision = decided(f"{label}.link.{DOMAIN}", registry)
    assert isinstance(decision, ToLink)
    assert decision.tunnel.label == label


@pytest.mark.parametrize(
    ("name", "situation", "alert"),
    [
        (f"{UNKNOWN}.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"tickets.{UNKNOWN}.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"{UNKNOWN}.link.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"{ARCHIVED}.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"tickets.{ARCHIVED}.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"{DISABLED}.{DOMAIN}", Situation.NO_GATEWAY, Alert.INTERNAL_ERROR),
        (f"{LONELY}.{DOMAIN}", Situation.NO_GATEWAY, Alert.INTERNAL_ERROR),
        (DOMAIN, Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"link.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"short.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"a.b.{ACTIVE}.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"a.{ACTIVE}.link.{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"{ACTIVE}.{DOMAIN}.evil.example", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"{ACTIVE}x{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        (f"{ACTIVE}.evil{DOMAIN}", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
        ("localhost", Situation.UNKNOWN_TUNNEL, Alert.UNRECOGNIZED_NAME),
    ],
)
def test_everybody_else_gets_an_alert(
    name: str, situation: Situation, alert: Alert, registry: Registry[FakeLink]
) -> None:
    """Names that are not ours, tunnels that are not there, and tunnels without a gateway."""
    decision = decided(name, registry)
    assert isinstance(decision, Refuse)
    assert decision.situation is situation
    assert decision.alert is alert
    assert decision.why


def test_a_link_that_takes_no_streams_is_no_gateway(registry: Registry[FakeLink]) -> None:
    """A tunnel whose only link is leaving has no gateway connected."""
    for live in registry.links(ACTIVE):
        live.link.is_ready = False
    decision = decided(f"{ACTIVE}.{DOMAIN}", registry)
    assert isinstance(decision, Refuse)
    assert decision.situation is Situation.NO_GATEWAY
