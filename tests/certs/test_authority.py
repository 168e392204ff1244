"""The builders: the profile of identity §2, property by property, and what outsiders say of it."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from sallyport.certs.authority import (
    Authority,
    label_of,
    make_issuing,
    make_leaf,
    make_relay_authority,
    make_root,
    new_key,
)
from sallyport.certs.chain import build_chain
from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.facts import Facts, read_facts
from sallyport.certs.names import Identity, Role, TunnelId
from sallyport.certs.profile import Issuing
from tests.certs.certificate_kit import CLIENT, DAY, DOMAIN, NOW, SERVER, Chain, Tunnel

TUNNEL = Tunnel.make("a.test", "b.test")
SUCCEEDED = TUNNEL.succeeded()
HOSTS = [f"{TUNNEL.label}.a.test", f"{TUNNEL.label}.b.test"]
NO_ADDRESSES = ["0.0.0.0/0", "::/0"]


def subtrees(names: list[x509.GeneralName] | None) -> list[str]:
    """Write subtrees as text."""
    return [str(name.value) for name in names or []]


def authorities() -> dict[str, tuple[Facts, str, int, set[x509.ObjectIdentifier] | None]]:
    """List all CAs with their Subject, path length and extended key usage by the profile."""
    label, cross = TUNNEL.label, SUCCEEDED.above[0]
    successor = label_of(cross.public_key())  # type: ignore[arg-type]
    listed = {
        "root": (TUNNEL.root.certificate, label, 3, None),
        "gateways": (TUNNEL.gateways.certificate, f"{label} gateways", 0, {SERVER, CLIENT}),
        "callers": (TUNNEL.callers.certificate, f"{label} callers", 0, {CLIENT}),
        "cross": (cross, successor, 2, None),
        "gateways under the successor": (
            SUCCEEDED.gateways.certificate,
            f"{label} gateways",
            0,
            {SERVER, CLIENT},
        ),
        "callers under the successor": (SUCCEEDED.callers.certificate, f"{label} callers", 0, {CLIENT}),
    }
    return {name: (read_facts(certificate), *rest) for name, (certificate, *rest) in listed.items()}  # type: ignore[misc]


CONSTRAINTS = {
    "root": (HOSTS, NO_ADDRESSES),
    "gateways": (HOSTS, NO_ADDRESSES),
    "callers": (HOSTS, [*HOSTS, *NO_ADDRESSES]),
    "cross": (HOSTS, []),
    "gateways under the successor": (HOSTS, NO_ADDRESSES),
    "callers under the successor": (HOSTS, [*HOSTS, *NO_ADDRESSES]),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_ca_is_as_the_profile_says(name: str) -> None:
    """Subject, path length, key usage, extended key usage, key and signature of each CA are the profile's."""
    facts, subject, path_length, usage = authorities()[name]
    extensions = facts.certificate.extensions

    assert facts.subject == subject
    assert (facts.is_ca, facts.path_length) == (True, path_length)
    assert extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert extensions.get_extension_for_class(x509.KeyUsage).critical
    assert facts.key_usage is not None
    assert facts.key_usage.key_cert_sign
    assert facts.key_usage.crl_sign
    assert not facts.key_usage.digital_signature
    assert facts.extended_key_usage == usage
    assert isinstance(facts.certificate.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(facts.signature_hash, hashes.SHA256)
    assert not facts.dns_names + facts.uris + facts.other_names


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_ca_carries_its_name_constraints(name: str) -> None:
    """Constraints are critical on every CA, the root included, and say nothing of URIs."""
    facts, *_ = authorities()[name]
    permitted, excluded = CONSTRAINTS[name]

    assert facts.constraints_critical
    assert facts.constraints is not None
    assert subtrees(facts.constraints.permitted_subtrees) == permitted
    assert subtrees(facts.constraints.excluded_subtrees) == excluded


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_key_identifiers_lead_up_the_chain(name: str) -> None:
    """Each CA has a subject key identifier; all but the self-signed root an authority key identifier."""
    extensions = authorities()[name][0].certificate.extensions

    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    authority = [e.value for e in extensions if isinstance(e.value, x509.AuthorityKeyIdentifier)]
    assert bool(authority) == (name != "root")
    assert all(a.key_identifier and a.authority_cert_issuer is None for a in authority)


def test_the_cross_has_the_successors_subject_and_key_identifier() -> None:
    """A chain built under the successor finds the cross in its place."""
    cross = SUCCEEDED.above[0]
    identifier = cross.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    assert SUCCEEDED.gateways.certificate.issuer == cross.subject
    assert cross.issuer == TUNNEL.root.certificate.subject
    below = SUCCEEDED.gateways.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert below.value.key_identifier == identifier.digest


@pytest.mark.parametrize(
    ("role", "usage"), [(Role.GATEWAY, SERVER), (Role.LINK, CLIENT), (Role.CALLER, CLIENT)]
)
def test_every_leaf_is_as_the_profile_says(role: Role, usage: x509.ObjectIdentifier) -> None:
    """A leaf has an empty Subject, a critical SAN with one URI, one usage; DNS names only as a gateway."""
    facts = read_facts(TUNNEL.leaf(role, "it")[0][0])
    extensions = facts.certificate.extensions

    assert facts.subject == ""
    assert facts.uris == (f"sallyport://{TUNNEL.label}/{role}/it",)
    assert facts.extended_key_usage == {usage}
    assert facts.is_ca is False
    assert facts.key_usage is not None
    assert facts.key_usage.digital_signature
    assert not facts.key_usage.key_cert_sign
    assert extensions.get_extension_for_class(x509.KeyUsage).critical
    assert extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    names = [name for host in HOSTS for name in (f"*.{host}", host)] if role is Role.GATEWAY else []
    assert list(facts.dns_names) == names
    assert not facts.other_names


def test_lives_are_the_profiles() -> None:
    """Ten years, one year, ninety days; all begin an hour early."""
    lives = {
        TUNNEL.root.certificate: 3652 * DAY,
        TUNNEL.gateways.certificate: 365 * DAY,
        TUNNEL.callers.certificate: 365 * DAY,
        **{TUNNEL.leaf(role, "it")[0][0]: 90 * DAY for role in Role},
    }

    for certificate, life in lives.items():
        assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
        assert certificate.not_valid_after_utc == NOW + life


@pytest.mark.parametrize("role", Role)
def test_nothing_outlives_its_issuer(role: Role) -> None:
    """A leaf that is issued late ends with its issuing CA."""
    issuer = TUNNEL.callers if role is Role.CALLER else TUNNEL.gateways
    end = issuer.certificate.not_valid_after_utc

    leaf = make_leaf(Identity(TUNNEL.label, role, "it"), new_key().public_key(), issuer=issuer, now=end - DAY)

    assert leaf.not_valid_after_utc == end


def test_an_issuing_ca_and_a_cross_end_with_the_root() -> None:
    """What the root signs in its last year ends with it."""
    end = TUNNEL.root.certificate.not_valid_after_utc
    key = new_key().public_key()

    issuing = make_issuing(Issuing.CALLERS, key, root=TUNNEL.root, now=end - DAY)

    assert issuing.not_valid_after_utc == end
    assert SUCCEEDED.above[0].not_valid_after_utc == end


def test_an_expired_ca_signs_no_more() -> None:
    """Issuing from a CA that is over is refused, by its name."""
    end = TUNNEL.callers.certificate.not_valid_after_utc
    identity = Identity(TUNNEL.label, Role.CALLER, "it")

    with pytest.raises(
        CertificateRefused, match=r"issuing CA callers expired on .* can sign no more"
    ) as refused:
        make_leaf(identity, new_key().public_key(), issuer=TUNNEL.callers, now=end)

    assert refused.value.rule is Rule.EXPIRED


def test_another_root_certificate_for_the_same_key_keeps_the_id() -> None:
    """A domain may be added: the ID is the key's, and old leaves stand under the new certificate as well."""
    key = new_key()
    before, after = (make_root(key, domains, now=NOW) for domains in (["a.test"], ["a.test", "b.test"]))
    issuing_key = new_key()
    issuing = make_issuing(Issuing.GATEWAYS, issuing_key.public_key(), root=Authority(before, key), now=NOW)

    assert TunnelId.of_root(before) == TunnelId.of_root(after)
    assert build_chain([issuing], after) == (issuing, after)


@pytest.mark.parametrize("tunnel", [TUNNEL, SUCCEEDED], ids=["direct", "through the successor"])
class TestAnIndependentVerifier:
    """``cryptography``'s own path validation, which shares no code with ours, accepts the profile."""

    def test_accepts_a_gateway(self, tunnel: Tunnel) -> None:
        """A server's chain is good for each kind of name that callers ask for."""
        presented = tunnel.leaf(Role.GATEWAY, "gw1")[0]

        for host in (HOSTS[0], f"tickets.{HOSTS[1]}"):
            verifier = self._policy().build_server_verifier(x509.DNSName(host))
            assert self._root_of(verifier.verify(presented[0], list(presented[1:])))

    def test_accepts_a_caller(self, tunnel: Tunnel) -> None:
        """A client's chain is good."""
        presented = tunnel.leaf(Role.CALLER, "alice")[0]

        verified = self._policy().build_client_verifier().verify(presented[0], list(presented[1:]))

        assert self._root_of(verified.chain)

    def _policy(self) -> PolicyBuilder:
        return PolicyBuilder().store(Store([TUNNEL.root.certificate])).time(NOW)

    def _root_of(self, chain: list[x509.Certificate]) -> bool:
        return chain[-1] == TUNNEL.root.certificate


# The relay's own


def test_a_relay_gets_a_ca_and_a_certificate_for_its_names() -> None:
    """Names and addresses are of the right kinds, and the chain is good for each of them."""
    made = make_relay_authority(["*.link.tunnel.test", "relay.test", "192.0.2.1", "2001:db8::1"], NOW)
    facts = read_facts(made.certificate)

    assert facts.dns_names == ("*.link.tunnel.test", "relay.test")
    assert facts.other_names == ("192.0.2.1", "2001:db8::1")
    assert facts.extended_key_usage == {SERVER}
    chain: Chain = build_chain([made.certificate], made.authority.certificate)
    assert len(chain) == 2
    policy = PolicyBuilder().store(Store([made.authority.certificate])).time(NOW)
    policy.build_server_verifier(x509.DNSName(f"{TUNNEL.label}.link.{DOMAIN}")).verify(made.certificate, [])


def test_two_relays_have_two_cas_with_two_names() -> None:
    """A gateway that trusts two relays' CAs in one file keeps them apart."""
    one, other = (make_relay_authority(["relay.test"], NOW).authority.certificate for _ in range(2))

    assert one.subject != other.subject
