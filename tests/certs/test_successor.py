"""A root with a cross-signed successor: both layers take it, in every mixture of old and new."""

from pathlib import Path

import pytest

from sallyport.certs.authority import make_relay_authority
from sallyport.certs.contexts import (
    Pin,
    caller_context,
    door_context,
    link_client_context,
    link_server_context,
)
from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.names import Role, TunnelId, link_host
from sallyport.certs.verify import (
    verified_chain,
    verify_bundle,
    verify_identity,
    verify_leaf_file,
    verify_root,
)
from tests.certs.certificate_kit import DOMAIN, NOW, Tunnel, shake_hands, write_leaf

BEFORE = Tunnel.make()
AFTER = BEFORE.succeeded()
MIXTURES = [
    pytest.param(a, b, id=f"{(a is AFTER and 'new') or 'old'}-{(b is AFTER and 'new') or 'old'}")
    for a in (BEFORE, AFTER)
    for b in (BEFORE, AFTER)
]


def members(tunnel: Tunnel) -> int:
    """Count the certificates of a verified chain: one more below a successor."""
    return 4 if tunnel is AFTER else 3


@pytest.mark.parametrize(("gateway", "caller"), MIXTURES)
def test_caller_and_gateway_meet(tmp_path: Path, gateway: Tunnel, caller: Tunnel) -> None:
    """Who holds only the first root accepts peers from before and after the succession, both ways."""
    root = BEFORE.root.certificate
    door = door_context(gateway.leaf_files(tmp_path, Role.GATEWAY), root)

    done = shake_hands(door, caller_context(caller.bundle(tmp_path)), BEFORE.host).require()

    seen_by_caller, seen_by_gateway = verified_chain(done.client), verified_chain(done.server)
    assert (len(seen_by_caller), len(seen_by_gateway)) == (members(gateway), members(caller))
    assert seen_by_caller[-1] == seen_by_gateway[-1] == root
    assert verify_identity(seen_by_caller, role=Role.GATEWAY, label=BEFORE.label, now=NOW).name == "gw1"
    assert verify_identity(seen_by_gateway, role=Role.CALLER, label=BEFORE.label, now=NOW).name == "alice"


@pytest.mark.parametrize("tunnel", [BEFORE, AFTER], ids=["old", "new"])
def test_gateway_and_relay_meet(tmp_path: Path, tunnel: Tunnel) -> None:
    """The relay has registered the first root, and keeps to it."""
    made = make_relay_authority([f"*.link.{DOMAIN}"], NOW)
    relay = write_leaf(tmp_path, (made.certificate,), made.key)
    server = link_server_context(relay.certificate, relay.key, BEFORE.root.certificate)
    client = link_client_context(tunnel.leaf_files(tmp_path, Role.LINK), Pin.of(made.certificate))

    done = shake_hands(server, client, link_host(BEFORE.label, DOMAIN)).require()

    chain = verified_chain(done.server)
    assert len(chain) == members(tunnel)
    assert verify_identity(chain, role=Role.LINK, label=BEFORE.label, now=NOW).name == "gw1"


def test_ones_own_files_are_good_through_the_successor(tmp_path: Path) -> None:
    """What is checked before dialling agrees with what the peer will say."""
    files = AFTER.leaf_files(tmp_path, Role.LINK)

    identity = verify_leaf_file(
        files, root=BEFORE.root.certificate, role=Role.LINK, label=BEFORE.label, now=NOW
    )

    assert identity.name == "gw1"
    assert verify_bundle(AFTER.bundle(tmp_path), now=NOW).name == "alice"


def test_the_label_stays_that_of_the_first_root() -> None:
    """The successor's own key would give another ID; no certificate below it mentions that one."""
    cross = AFTER.above[0]
    leaf = AFTER.leaf(Role.GATEWAY, "gw1")[0][0]

    chain = (leaf, AFTER.gateways.certificate, cross, BEFORE.root.certificate)
    successor = TunnelId.of_root(cross).label

    assert successor != BEFORE.label
    with pytest.raises(CertificateRefused) as refused:
        verify_identity(chain, role=Role.GATEWAY, label=successor, now=NOW)
    assert refused.value.rule is Rule.ANCHOR


def test_the_successor_is_no_anchor_and_no_tunnel_of_its_own() -> None:
    """A chain that ends in the cross, or a cross that is registered as a root, is refused."""
    cross = AFTER.above[0]
    chain = (AFTER.leaf(Role.GATEWAY, "gw1")[0][0], AFTER.gateways.certificate, cross)

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(chain, role=Role.GATEWAY, label=BEFORE.label, now=NOW)
    assert refused.value.rule is Rule.ANCHOR
    with pytest.raises(CertificateRefused):
        verify_root(cross, now=NOW)
