"""Which root certificates become tunnels."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sallyport.certs.authority import make_relay_authority, make_root, new_key
from sallyport.certs.names import TunnelId
from sallyport.certs.pem import PrivateKey, public_der
from sallyport.relay.errors import TunnelRefused
from sallyport.relay.registration import judge_root

DOMAIN = "tunnel.example.com"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def judged(certificate: x509.Certificate, *, now: datetime = NOW) -> TunnelId:
    """Judge a root for this relay."""
    return judge_root(certificate, domain=DOMAIN, now=now)


def forged(
    *,
    subject: str,
    key: PrivateKey | None = None,
    template: x509.Certificate | None = None,
    drop: type | None = None,
) -> x509.Certificate:
    """Sign something like a root, but with another Subject, key, or without an extension."""
    key = key or new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    template = template or make_root(new_key(), [DOMAIN], now=NOW)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    for extension in template.extensions:
        if not isinstance(extension.value, drop or ()):
            builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def label_of(key: PrivateKey) -> str:
    """The label of the tunnel whose root key this would be."""
    return TunnelId.of_public_key(public_der(key)).label


def test_a_good_root_is_taken() -> None:
    """What ``certs init`` makes is registered under the hash of its key."""
    key = new_key()
    assert judged(make_root(key, [DOMAIN], now=NOW)).label == label_of(key)


def test_a_root_for_several_domains_is_taken() -> None:
    """This relay's domain must be among them, and need not be the only one."""
    judged(make_root(new_key(), ["other.example", DOMAIN], now=NOW))


def test_a_root_for_another_domain_is_refused() -> None:
    """The owner learns which domains it has, which one is needed, and how to add it."""
    with pytest.raises(TunnelRefused, match=r"under other\.example only, and this relay serves") as caught:
        judged(make_root(new_key(), ["other.example"], now=NOW))
    assert f"certs init --domain {DOMAIN}" in caught.value.hint


def test_a_domain_below_or_above_is_another_domain() -> None:
    """Neither a parent nor a child of the relay's domain is the relay's domain."""
    for domain in ("example.com", f"sub.{DOMAIN}", f"x{DOMAIN}"):
        with pytest.raises(TunnelRefused):
            judged(make_root(new_key(), [domain], now=NOW))


def test_a_root_that_copies_a_victims_subject_is_refused() -> None:
    """
    The attack that breaks a shared trust store: another key under the victim's Subject and key identifier.

    The label is the hash of the key, so the copy is nobody's root, least of all the victim's.
    """
    victim_key = new_key()
    victim = make_root(victim_key, [DOMAIN], now=NOW)
    copy = forged(subject=label_of(victim_key), template=victim)
    with pytest.raises(TunnelRefused):
        judged(copy)


def test_a_subject_other_than_the_label_is_refused() -> None:
    """Whoever reads a root's Subject reads its tunnel."""
    key = new_key()
    template = make_root(key, [DOMAIN], now=NOW)
    with pytest.raises(TunnelRefused, match="Subject"):
        judged(forged(subject="Example CA", key=key, template=template))


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        (x509.BasicConstraints, "no CA"),
        (x509.NameConstraints, "name constraints"),
        (x509.KeyUsage, "keyCertSign"),
    ],
)
def test_a_root_without_what_makes_it_one_is_refused(extension: type, said: str) -> None:
    """A leaf, an unconstrained CA and a key for something else are no roots."""
    key = new_key()
    template = make_root(key, [DOMAIN], now=NOW)
    with pytest.raises(TunnelRefused, match=said):
        judged(forged(subject=label_of(key), key=key, template=template, drop=extension))


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP224R1()), rsa.generate_private_key(65537, 1024)],
    ids=["P-224", "RSA-1024"],
)
def test_a_weak_key_is_refused(key: PrivateKey) -> None:
    """Below P-256 and RSA 2048 nothing is registered."""
    with pytest.raises(TunnelRefused, match="below P-256 or RSA 2048"):
        judged(make_root(key, [DOMAIN], now=NOW))


def test_an_expired_root_is_refused() -> None:
    """Nothing could be vouched for by it any more."""
    with pytest.raises(TunnelRefused, match="expired on"):
        judged(make_root(new_key(), [DOMAIN], now=NOW), now=NOW + timedelta(days=5000))


def test_a_root_of_tomorrow_is_refused() -> None:
    """One of the two clocks is wrong, and the hint says so."""
    with pytest.raises(TunnelRefused, match="not valid before") as caught:
        judged(make_root(new_key(), [DOMAIN], now=NOW), now=NOW - timedelta(days=2))
    assert "clock" in caught.value.hint


def test_the_relays_own_certificates_are_no_roots() -> None:
    """The wrong file of the right program is refused, too."""
    made = make_relay_authority([f"*.link.{DOMAIN}"], NOW)
    for certificate in (made.authority.certificate, made.certificate):
        with pytest.raises(TunnelRefused):
            judged(certificate)
