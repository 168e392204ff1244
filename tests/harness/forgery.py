"""
Certificates as an attacker would make them: copies of genuine ones with something exchanged.

Everything that is not exchanged stays as the tunnel's own certificate has it, so that each forgery fails for
the one reason that it is about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Authority:
    """A certificate and the key that signs in its name, whether or not the key is really its own."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def load(cls, certificate: Path, key: Path) -> "Authority":
        """Read both from PEM files."""
        loaded = load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey), "the tunnel's keys are on P-256"
        return cls(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)

    @property
    def key_identifier(self) -> bytes:
        """What certificates below say that their signer is."""
        extension = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return extension.value.digest


def new_key() -> Key:
    """Make a key of the attacker's own."""
    return ec.generate_private_key(ec.SECP256R1())


def copy_certificate(
    genuine: x509.Certificate,
    key: Key,
    signer: Authority | None,
    *,
    keep_identifier: bool = False,
    extra_names: Sequence[str] = (),
    valid: tuple[datetime, datetime] | None = None,
) -> Authority:
    """
    Copy a certificate for another key.

    Args:
        genuine: what is copied: subject, validity and all extensions.
        key: the new subject's.
        signer: signs, and is named as the issuer; None is a self-signed copy.
        keep_identifier: keep the genuine subject key identifier, although the key is another one.
        extra_names: DNS names added to the genuine ones.
        valid: from when until when, where that should differ from the genuine one.
    """
    not_before, not_after = valid or (genuine.not_valid_before_utc, genuine.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(genuine.subject)
        .issuer_name(signer.certificate.subject if signer else genuine.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension in genuine.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier) and not keep_identifier:
            value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        elif isinstance(value, x509.AuthorityKeyIdentifier) and signer is not None:
            value = x509.AuthorityKeyIdentifier(signer.key_identifier, None, None)
        elif isinstance(value, x509.SubjectAlternativeName):
            value = x509.SubjectAlternativeName([*value, *map(x509.DNSName, extra_names)])
        builder = builder.add_extension(value, extension.critical)
    signing_key = signer.key if signer else key
    return Authority(builder.sign(signing_key, SHA256()), key)


def write_server_files(folder: Path, leaf: Authority, *above: x509.Certificate) -> Path:
    """Write a leaf, the certificates above it and the leaf's key into one PEM file, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "server.pem"
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in (leaf.certificate, *above))
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(chain + key)
    return path
