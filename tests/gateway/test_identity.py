"""A gateway's own files, judged before it dials: real files, and what is said of each that is wrong."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from sallyport.certs.contexts import CaFile, Pin, RelayTrust, SystemStore
from sallyport.certs.errors import CertificateError, CertificateRefused, FileRefused, Rule
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.issuer import create_identity
from sallyport.certs.names import Role, TunnelId
from sallyport.config.fields import Address
from sallyport.config.gateway import GatewayConfig, RelaySection, ServerConfig, TunnelSection
from sallyport.gateway.errors import TunnelMismatch
from sallyport.gateway.identity import GatewayIdentity, load_identity, relay_trust, uplink_settings
from tests.certs.certificate_kit import NOW as ISSUED, Tunnel, write_leaf

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PIN = "sha256/" + "A" * 43 + "="


def make(folder: Path, *, domains: tuple[str, ...] = ("tunnel.test", "mcp.test")) -> IdentityDirectory:
    """Make the identity of a tunnel with a gateway gw1."""
    return create_identity(folder, domains=domains, relay="relay.test:443", name="gw1", now=NOW)


@pytest.fixture
def directory(tmp_path: Path) -> IdentityDirectory:
    """Make an identity."""
    return make(tmp_path / "identity")


def config_for(directory: IdentityDirectory, *, tunnel: str = "", name: str = "gw1") -> GatewayConfig:
    """Make the config of a gateway that has this identity."""
    return GatewayConfig(
        tunnel=TunnelSection(id=tunnel or str(directory.tunnel_id()), identity=directory.path, name=name),
        relay=RelaySection(address=Address("relay.test", 8443), pin=PIN),
        servers={"tickets": ServerConfig(url="http://127.0.0.1:9000/mcp")},
        path=directory.path / "gateway.yaml",
    )


def test_a_good_identity(directory: IdentityDirectory) -> None:
    """Tunnel and domains come from the root, and the link goes under the first domain."""
    config = config_for(directory)

    identity = load_identity(config, now=NOW)

    assert identity.tunnel == directory.tunnel_id()
    assert identity.domains == ("tunnel.test", "mcp.test")
    settings = uplink_settings(config, identity)
    assert settings.address == "relay.test:8443"
    assert settings.domain == "tunnel.test"
    assert settings.leaf == directory.link("gw1")


def test_days_left_of_each_certificate(directory: IdentityDirectory) -> None:
    """Counted from now, and read again from the files."""
    identity = load_identity(config_for(directory), now=NOW)

    ages = {age.name: age for age in identity.certificate_ages(NOW + timedelta(days=50))}

    assert set(ages) == {"root", "issuing", "gateway", "link"}
    assert ages["gateway"].days_left in (39, 40)
    assert ages["issuing"].days_left > 300
    assert datetime.fromisoformat(ages["link"].not_after) > NOW


def test_the_issuing_cas_days_under_a_successor_root(tmp_path: Path) -> None:
    """The year of the issuing CA is what runs out, not the cross certificate's ten."""
    tunnel = Tunnel.make().succeeded()
    gateway, link = (tunnel.leaf_files(tmp_path, role) for role in (Role.GATEWAY, Role.LINK))
    root = tunnel.root.certificate
    identity = GatewayIdentity(TunnelId(tunnel.label), ("tunnel.test",), root, gateway, link)

    ages = {age.name: age for age in identity.certificate_ages(ISSUED)}

    assert ages["issuing"].days_left == 365
    assert ages["root"].days_left > 3600


def test_a_leaf_without_its_issuing_ca_has_no_age_for_it(tmp_path: Path) -> None:
    """A file that was spoilt while the gateway runs does not break its health listener."""
    tunnel = Tunnel.make()
    chain, key = tunnel.leaf(Role.GATEWAY, "gw1")
    gateway, link = write_leaf(tmp_path, chain[:1], key), tunnel.leaf_files(tmp_path, Role.LINK)
    root = tunnel.root.certificate
    identity = GatewayIdentity(TunnelId(tunnel.label), ("tunnel.test",), root, gateway, link)

    assert {age.name for age in identity.certificate_ages(ISSUED)} == {"root", "gateway", "link"}


def test_the_identity_of_another_tunnel(directory: IdentityDirectory, tmp_path: Path) -> None:
    """Both IDs are named, and which key to change."""
    other = make(tmp_path / "other")

    with pytest.raises(TunnelMismatch) as refusal:
        load_identity(config_for(directory, tunnel=str(other.tunnel_id())), now=NOW)

    assert str(other.tunnel_id()) in str(refusal.value)
    assert str(directory.tunnel_id()) in str(refusal.value)
    assert "tunnel.id" in refusal.value.hint


def _expire(directory: IdentityDirectory) -> None:
    """Change nothing: the clock is moved by the test."""


def _swap_leaves(directory: IdentityDirectory) -> None:
    """Put the link's files where the gateway's belong."""
    for suffix in (".pem", ".key"):
        shutil.copy2(directory.path / "link" / f"gw1{suffix}", directory.path / "gateway" / f"gw1{suffix}")


def _swap_key(directory: IdentityDirectory) -> None:
    """Put another key beside the link's certificate."""
    shutil.copy2(directory.gateway("gw1").key, directory.link("gw1").key)


def _foreign_leaf(directory: IdentityDirectory) -> None:
    """Bring the gateway's files from another tunnel."""
    other = make(directory.path.parent / "foreign")
    for suffix in (".pem", ".key"):
        shutil.copy2(other.path / "gateway" / f"gw1{suffix}", directory.path / "gateway" / f"gw1{suffix}")


@pytest.mark.parametrize(
    ("spoil", "later", "rules"),
    [
        (_expire, timedelta(days=91), {Rule.EXPIRED}),
        (_expire, timedelta(days=-2), {Rule.NOT_YET_VALID}),
        (_swap_leaves, timedelta(), {Rule.ROLE}),
        (_swap_key, timedelta(), {Rule.KEY_MISMATCH}),
        (_foreign_leaf, timedelta(), {Rule.ANCHOR, Rule.CHAIN, Rule.LABEL}),
    ],
)
def test_a_certificate_that_breaks_a_rule(
    directory: IdentityDirectory,
    spoil: Callable[[IdentityDirectory], None],
    later: timedelta,
    rules: set[Rule],
) -> None:
    """The same verifier as the peers', with the rule and a remedy."""
    config = config_for(directory)
    spoil(directory)

    with pytest.raises(CertificateRefused) as refusal:
        load_identity(config, now=NOW + later)

    assert refusal.value.rule in rules


@pytest.mark.parametrize(
    "spoil",
    [
        lambda directory: directory.root_path.unlink(),
        lambda directory: directory.gateway("gw1").certificate.unlink(),
        lambda directory: directory.link("gw1").key.unlink(),
        lambda directory: directory.gateway("gw1").key.chmod(0o644),
        lambda directory: directory.link("gw1").certificate.write_text("half a certificate"),
    ],
    ids=["no root", "no gateway certificate", "no link key", "key readable by others", "no PEM"],
)
def test_a_file_that_cannot_be_used(
    directory: IdentityDirectory, spoil: Callable[[IdentityDirectory], object]
) -> None:
    """The file is named."""
    config = config_for(directory)
    spoil(directory)

    with pytest.raises(FileRefused) as refusal:
        load_identity(config, now=NOW)

    assert str(directory.path) in str(refusal.value)


@pytest.mark.parametrize("name", ["../gw1", "GW1", "gw1/../../x", ""])
def test_a_name_that_is_none(directory: IdentityDirectory, name: str) -> None:
    """It never becomes a path."""
    tunnel = TunnelSection.model_construct(id=str(directory.tunnel_id()), identity=directory.path, name=name)
    config = config_for(directory).model_copy(update={"tunnel": tunnel})

    with pytest.raises(CertificateError):
        load_identity(config, now=NOW)


@pytest.mark.parametrize(
    ("section", "trust"),
    [
        ({"ca": "system"}, SystemStore()),
        ({"ca": Path("/etc/relay-ca.pem")}, CaFile(Path("/etc/relay-ca.pem"))),
        ({"pin": PIN}, Pin(b"\0" * 32)),
    ],
)
def test_what_the_relay_must_prove(section: dict[str, object], trust: RelayTrust) -> None:
    """Exactly what the config says; the system's store only when it says so."""
    relay = RelaySection.model_validate({"address": Address("relay.test", 443), **section})

    assert relay_trust(relay) == trust


def test_a_foreign_ca_is_no_root(directory: IdentityDirectory) -> None:
    """A company's CA in the place of root.pem is another tunnel, whatever it signs."""
    config = config_for(directory)
    trustme.CA().cert_pem.write_to_path(directory.root_path)

    with pytest.raises(TunnelMismatch):
        load_identity(config, now=NOW)
