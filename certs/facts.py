"""
One certificate, read once into plain facts.

The verifier, ``certs show`` and every error text work on these facts, so that reading X.509 (and all the
ways in which somebody else's bytes can fail to be X.509) is in this file alone. Nothing here judges.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from sallyport.certs.errors import CertificateRefused, NameRefused, Rule
from sallyport.certs.names import Identity, TunnelId
from sallyport.certs.profile import Issuing


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What one certificate says.
    """

    certificate: x509.Certificate
    # The common name, where the Subject is exactly that one attribute; "" where it is empty; else None.
    subject: str | None
    # The ID that a tunnel with this key as its root would have.
    key_id: TunnelId
    self_issued: bool
    not_before: datetime
    not_after: datetime
    # BasicConstraints; both None where the extension is absent.
    is_ca: bool | None
    path_length: int | None
    key_usage: x509.KeyUsage | None
    extended_key_usage: frozenset[ObjectIdentifier] | None
    # The SAN by type; other_names are those that are neither URI nor DNS, written for people.
    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    other_names: tuple[str, ...]
    constraints: x509.NameConstraints | None
    constraints_critical: bool
    # None where it is signed with no hash of its own (Ed25519), or none that is known.
    signature_hash: hashes.HashAlgorithm | None
    # Dotted OIDs of critical extensions that are none of the above.
    unknown_critical: tuple[str, ...]

    @property
    def serial(self) -> str:
        """
        The first eight hex digits of the serial number, enough to find it again.
        """
        return self.full_serial[:8]

    @property
    def full_serial(self) -> str:
        """
        The serial number in hex, as OpenSSL and `certs show` write it.
        """
        return f"{self.certificate.serial_number:x}"

    @property
    def identity(self) -> Identity | None:
        """
        Whom the one URI names; None where there is not exactly one, or it has another shape.
        """
        if len(self.uris) != 1:
            return None
        try:
            return Identity.parse_uri(self.uris[0])
        except NameRefused:
            return None

    @property
    def is_root(self) -> bool:
        """
        Whether this is, by its names, a tunnel's root: self-issued, its Subject the hash of its key.
        """
        return self.self_issued and self.subject == self.key_id.label

    @property
    def is_cross(self) -> bool:
        """
        Whether this is, by its names, a successor root as signed by another one.
        """
        return not self.self_issued and self.subject == self.key_id.label

    @property
    def issuing(self) -> tuple[str, Issuing] | None:
        """
        The label and the word in the Subject of an issuing CA; None for any other Subject.
        """
        label, _, word = (self.subject or "").partition(" ")
        try:
            return TunnelId(label).label, Issuing(word)
        except (NameRefused, ValueError):
            return None

    @property
    def title(self) -> str:
        """
        The kind and name of the certificate, as error texts begin with it.
        """
        if self.identity is not None:
            return f"{self.identity.role} certificate {self.identity.name}"
        if self.is_root:
            return f"root certificate {self.key_id}"
        if self.is_cross:
            return f"cross certificate of the successor root {self.key_id}"
        if self.issuing is not None:
            return f"issuing CA {self.issuing[1]}"
        kind = "CA certificate" if self.is_ca else "certificate"
        name = self.subject or next(iter(self.dns_names + self.uris), "")
        # The name is the peer's text.
        return f"{kind} {name[:80]!a}" if name else f"{kind} without a name"

    def refusal(self, rule: Rule, detail: str, hint: str = "") -> CertificateRefused:
        """
        Make the refusal of this certificate by a rule.
        """
        return CertificateRefused(rule, self.title, detail, serial=self.serial, hint=hint)


# A busy relay or gateway sees the same CAs in every handshake. Facts are immutable and equal bytes give equal
# facts, so they may be shared; the size bounds what strangers can make us keep.
@lru_cache(maxsize=256)
def read_facts(certificate: x509.Certificate) -> Facts:
    """
    Read a certificate.

    Raises:
        CertificateRefused: with the rule MALFORMED, if any part of it is not what RFC 5280 allows there.
    """
    try:
        return _read(certificate)
    except (
        ValueError,
        TypeError,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as error:
        raise CertificateRefused(
            Rule.MALFORMED,
            "certificate",
            f"is malformed: {str(error)[:200]!a}",
            hint="issue it again with `sallyport certs issue`",
        ) from error


def _read(certificate: x509.Certificate) -> Facts:
    basic = usage = extended = names = constraints = None
    constraints_critical = False
    unknown: list[str] = []
    for extension in certificate.extensions:
        match extension.value:
            case x509.BasicConstraints():
                basic = extension.value
            case x509.KeyUsage():
                usage = extension.value
            case x509.ExtendedKeyUsage():
                extended = extension.value
            case x509.SubjectAlternativeName():
                names = extension.value
            case x509.NameConstraints():
                constraints, constraints_critical = extension.value, extension.critical
            case _ if extension.critical:
                unknown.append(extension.oid.dotted_string)
            case _:
                pass  # neither the profile nor RFC 5280 §4.2 asks anyone to understand it
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Facts(
        certificate=certificate,
        subject=_common_name(certificate.subject),
        key_id=TunnelId.of_public_key(key),
        self_issued=certificate.subject == certificate.issuer and len(certificate.subject.rdns) > 0,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=basic.ca if basic else None,
        path_length=basic.path_length if basic else None,
        key_usage=usage,
        extended_key_usage=frozenset(extended) if extended else None,
        uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
        dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
        other_names=_other_names(names),
        constraints=constraints,
        constraints_critical=constraints_critical,
        signature_hash=_signature_hash(certificate),
        unknown_critical=tuple(unknown),
    )


def _common_name(name: x509.Name) -> str | None:
    attributes = list(name)
    if not attributes:
        return ""
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        return None
    value = attributes[0].value
    return value if isinstance(value, str) else None


def _signature_hash(certificate: x509.Certificate) -> hashes.HashAlgorithm | None:
    try:
        return certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None


def _other_names(names: x509.SubjectAlternativeName | None) -> tuple[str, ...]:
    plain = (x509.UniformResourceIdentifier, x509.DNSName)
    return tuple(str(name.value) for name in names or () if not isinstance(name, plain))
