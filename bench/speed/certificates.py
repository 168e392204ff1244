"""
Certificates for everything in the benchmark that is not ours: the upstream, its callers, the peers' links.

One root for each place, an issuing authority under it, and leaves under that, all ECDSA P-256: the product's
own shape. So a handshake costs the same key operations everywhere, and each end checks as many signatures.
Made anew for every run, and good for a week.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from sallyport.certs.profile import common_name, key_usage

_LIFE: Final = timedelta(days=7)
_CLOCKS_DISAGREE: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Leaf:
    """The files (PEM) of one certificate; the issuing authority's own stands behind it."""

    certificate: Path
    key: Path


class Authority:
    """
    An issuing authority under a root; made by ``make``.

    Attributes:
        root: The file with the root's certificate.
    """

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.root = folder / "root.pem"
        self._folder = folder
        self._certificate = certificate
        self._key = key

    @classmethod
    def make(cls, folder: Path, name: str) -> Self:
        """
        Make a root of that name and its authority, and the folder for them and the leaves.
        """
        folder.mkdir(mode=0o700)
        root_key = ec.generate_private_key(ec.SECP256R1())
        root = _authority(name, common_name(name), root_key, root_key, below=1)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _authority(f"{name} issuing", root.subject, key, root_key, below=0)
        made = cls(folder, certificate, key)
        made.root.write_bytes(root.public_bytes(Encoding.PEM))
        return made

    def issue_server(self, file: str, *, names: Sequence[str]) -> Leaf:
        """
        Make a server's certificate, which is also good for 127.0.0.1.

        Args:
            file: The stem of its two files.
            names: DNS names.
        """
        addresses = [x509.IPAddress(IPv4Address("127.0.0.1"))]
        subjects: list[x509.GeneralName] = [*map(x509.DNSName, names), *addresses]
        return self._issue(file, ExtendedKeyUsageOID.SERVER_AUTH, subjects)

    def issue_client(self, file: str) -> Leaf:
        """Make a client's certificate."""
        return self._issue(file, ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName(f"{file}.invalid")])

    def write_pkcs12(self, leaf: Leaf, password: str) -> Path:
        """Write a leaf, its key and its issuing authority as PKCS#12 beside its files."""
        certificate = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())  # the first in the file
        key = _load_key(leaf.key)
        path = leaf.certificate.with_suffix(".p12")
        sealed = BestAvailableEncryption(password.encode())
        _write_private(
            path, pkcs12.serialize_key_and_certificates(None, key, certificate, [self._certificate], sealed)
        )
        return path

    def _issue(self, file: str, purpose: x509.ObjectIdentifier, subjects: Sequence[x509.GeneralName]) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(
            common_name(f"bench {file}"), self._certificate.subject, key.public_key(), self._key.public_key()
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        leaf = Leaf(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        chain = (certificate, self._certificate)
        leaf.certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        _write_private(leaf.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return leaf


def _authority(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    below: int,
) -> x509.Certificate:
    """Make the certificate of an authority that may have so many others below it."""
    builder = _builder(common_name(name), issuer, key.public_key(), issuer_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
    builder = builder.add_extension(key_usage(signs_certificates=True), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DISAGREE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds another kind of key than was written")
    return key


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
