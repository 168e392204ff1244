"""
Making certificates: one short builder for each line of the profile.

Pure but for the randomness of keys and serial numbers: the time is an argument, nothing is read or written.
A builder takes the public key to certify and the ``Authority`` that signs; validity begins an hour early,
because clocks disagree, and never outlives the issuer. ``profile.py`` has the numbers, identity §2 the
reasons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ObjectIdentifier

from sallyport.certs import profile
from sallyport.certs.errors import Rule
from sallyport.certs.facts import read_facts
from sallyport.certs.names import Identity, Role, TunnelId
from sallyport.certs.pem import PrivateKey, PublicKey, public_der
from sallyport.certs.profile import Issuing, Scope


@dataclass(frozen=True, slots=True)
class Authority:
    """
    A CA that can sign: its certificate and its key.
    """

    certificate: x509.Certificate
    key: PrivateKey


@dataclass(frozen=True, slots=True)
class RelayAuthority:
    """
    What `relay init` makes: a CA of its own and one certificate under it.

    Gateways trust ``authority.certificate`` (as a file) or the pin of ``certificate``. ``key`` is that of
    ``certificate``.
    """

    authority: Authority
    certificate: x509.Certificate
    key: PrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """
    Make a key of the profile's kind: ECDSA P-256.
    """
    return ec.generate_private_key(ec.SECP256R1())


def label_of(key: PrivateKey | PublicKey) -> str:
    """
    Compute the label of the tunnel whose root key this is.
    """
    return TunnelId.of_public_key(public_der(key)).label


def make_root(key: PrivateKey, domains: Sequence[str], *, now: datetime) -> x509.Certificate:
    """
    Make a tunnel's root certificate. The same key again, with other domains, keeps the tunnel's ID.

    Args:
        key: the root key, whose hash is the tunnel's ID.
        domains: the tunnel domains, checked by ``names.domain``; at least one.
        now: the time, with a zone.
    """
    return _self_signed_root(key, Scope(label_of(key), tuple(domains)), now)


def make_successor(key: PrivateKey, *, first: Authority, now: datetime) -> x509.Certificate:
    """
    Make the root certificate that is to follow the first one, confined to the first label's names.
    """
    return _self_signed_root(key, Scope.of(first.certificate), now)


def make_cross(key: PublicKey, *, first: Authority, now: datetime) -> x509.Certificate:
    """
    Let the first root vouch for its successor, so that whoever holds only the tunnel ID accepts both.

    Args:
        key: the successor's public key.
        first: the first root.
        now: the time, with a zone.
    """
    builder = _builder(_root_name(key), key, issuer=first, life=profile.ROOT_LIFE, now=now)
    builder = _as_authority(builder, path_length=profile.CROSS_PATH_LENGTH, key=key)
    builder = builder.add_extension(Scope.of(first.certificate).cross_constraints(), critical=True)
    return _signed(builder, first)


def make_issuing(issuing: Issuing, key: PublicKey, *, root: Authority, now: datetime) -> x509.Certificate:
    """
    Make the certificate of an issuing CA, under the first root or its successor.

    Args:
        issuing: which of the two.
        key: the issuing CA's public key.
        root: who signs; its name constraints are handed on.
        now: the time, with a zone.
    """
    scope = Scope.of(root.certificate)
    subject = profile.common_name(issuing.subject(scope.label))
    callers = issuing is Issuing.CALLERS
    builder = _builder(subject, key, issuer=root, life=profile.ISSUING_LIFE, now=now)
    builder = _as_authority(builder, path_length=profile.ISSUING_PATH_LENGTH, key=key)
    builder = builder.add_extension(_usage(profile.ISSUING_USAGE[issuing]), critical=False)
    builder = builder.add_extension(
        scope.callers_constraints() if callers else scope.root_constraints(), critical=True
    )
    return _signed(builder, root)


def make_leaf(identity: Identity, key: PublicKey, *, issuer: Authority, now: datetime) -> x509.Certificate:
    """
    Make the certificate of a gateway, link or caller.

    Args:
        identity: who holds it.
        key: the holder's public key.
        issuer: the issuing CA for this role: ``profile.ISSUED_BY``.
        now: the time, with a zone.
    """
    builder = _builder(x509.Name([]), key, issuer=issuer, life=profile.LEAF_LIFE[identity.role], now=now)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    if identity.role is Role.GATEWAY:
        names += [x509.DNSName(name) for name in Scope.of(issuer.certificate).gateway_names()]
    return _signed(_as_leaf(builder, names, profile.LEAF_USAGE[identity.role]), issuer)


def make_relay_authority(hosts: Sequence[str], now: datetime) -> RelayAuthority:
    """
    Make a CA for one relay, and the relay's certificate under it.

    Args:
        hosts: the DNS names and IP addresses of the relay; ``*.link.<domain>`` must be among them for
            gateways.
        now: the time, with a zone.
    """
    root_key, key = new_key(), new_key()
    # The key's hash in the name keeps the CAs of two relays apart in a list.
    name = profile.common_name(f"sallyport relay CA {label_of(root_key)[:8]}")
    builder = _validity(_named(name, root_key.public_key(), issuer=name), now, now + profile.ROOT_LIFE)
    builder = _as_authority(builder, path_length=0, key=root_key.public_key())
    authority = Authority(builder.sign(root_key, hashes.SHA256()), root_key)

    builder = _builder(x509.Name([]), key.public_key(), issuer=authority, life=profile.RELAY_LIFE, now=now)
    builder = _as_leaf(builder, [_host(host) for host in hosts], frozenset({profile.SERVER_AUTH}))
    return RelayAuthority(authority, _signed(builder, authority), key)


def _self_signed_root(key: PrivateKey, scope: Scope, now: datetime) -> x509.Certificate:
    public = key.public_key()
    subject = _root_name(public)
    builder = _validity(_named(subject, public, issuer=subject), now, now + profile.ROOT_LIFE)
    builder = _as_authority(builder, path_length=profile.ROOT_PATH_LENGTH, key=public)
    builder = builder.add_extension(scope.root_constraints(), critical=True)
    return builder.sign(key, hashes.SHA256())


def _root_name(key: PublicKey) -> x509.Name:
    return profile.common_name(label_of(key))


def _builder(
    subject: x509.Name, key: PublicKey, *, issuer: Authority, life: timedelta, now: datetime
) -> x509.CertificateBuilder:
    """
    Begin a certificate that ``issuer`` signs: names, key, serial number, validity and key identifiers.
    """
    ends = issuer.certificate.not_valid_after_utc
    if now >= ends:
        raise read_facts(issuer.certificate).refusal(
            Rule.EXPIRED,
            f"expired on {ends:%Y-%m-%d %H:%M} UTC and can sign no more",
            hint="check this host's clock",
        )
    builder = _validity(_named(subject, key, issuer=issuer.certificate.subject), now, min(now + life, ends))
    identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )


def _named(subject: x509.Name, key: PublicKey, *, issuer: x509.Name) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    return builder.public_key(key).serial_number(x509.random_serial_number())


def _validity(builder: x509.CertificateBuilder, now: datetime, ends: datetime) -> x509.CertificateBuilder:
    return builder.not_valid_before(now - profile.BACKDATED).not_valid_after(ends)


def _as_authority(
    builder: x509.CertificateBuilder, *, path_length: int, key: PublicKey
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(profile.key_usage(signs_certificates=True), critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _as_leaf(
    builder: x509.CertificateBuilder, names: Iterable[x509.GeneralName], usage: frozenset[ObjectIdentifier]
) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(profile.key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(_usage(usage), critical=False)
    # Critical because the Subject is empty: RFC 5280 §4.2.1.6.
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=True)


def _usage(usage: frozenset[ObjectIdentifier]) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(sorted(usage, key=lambda oid: oid.dotted_string))


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _signed(builder: x509.CertificateBuilder, authority: Authority) -> x509.Certificate:
    return builder.sign(authority.key, hashes.SHA256())
