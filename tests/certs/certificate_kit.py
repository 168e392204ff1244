"""
Certificates for tests: good ones drawn up by hand, to be spoilt one property at a time, and handshakes with
them.

``drafts`` gives the three certificates of a good chain as mutable drafts that owe nothing to
``authority.py``; a test changes what it is about and calls ``Drafts.chain``. ``Peer`` contexts know no
rules at all, as an attacker's would.
"""

import base64
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from sallyport.certs.authority import (
    Authority,
    label_of,
    make_cross,
    make_issuing,
    make_leaf,
    make_root,
    make_successor,
    new_key,
)
from sallyport.certs.bundle import Bundle, encode_bundle
from sallyport.certs.files import LeafFiles
from sallyport.certs.names import Identity, Role
from sallyport.certs.pem import PrivateKey, encode_certificates, encode_key
from sallyport.certs.profile import ISSUED_BY, Issuing
from sallyport.certs.storage import write_private

# OpenSSL looks at the real clock in a handshake, so the certificates of all tests live around it.
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
DOMAIN = "tunnel.test"

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH

Chain = tuple[x509.Certificate, ...]


def cn(text: str) -> x509.Name:
    """Make a name of one common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_usage(*, sign: bool = False, certify: bool = False) -> x509.KeyUsage:
    """Make a key usage with these two bits."""
    return x509.KeyUsage(sign, False, False, False, False, certify, certify, False, False)


@dataclass
class Draft:
    """One certificate before it is signed."""

    key: PrivateKey
    subject: x509.Name
    begins: datetime = NOW - timedelta(hours=1)
    ends: datetime = NOW + 30 * DAY
    basic: x509.BasicConstraints | None = None
    usage: x509.KeyUsage | None = None
    extended: list[ObjectIdentifier] | None = None
    names: list[x509.GeneralName] = field(default_factory=list)
    names_critical: bool = True
    constraints: x509.NameConstraints | None = None
    constraints_critical: bool = True
    identifier: x509.SubjectKeyIdentifier | None = None
    others: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)

    def sign(self, issuer: "Draft") -> x509.Certificate:
        """Sign as ``issuer``, which is this draft itself for a root."""
        builder = x509.CertificateBuilder().subject_name(self.subject).issuer_name(issuer.subject)
        builder = builder.public_key(self.key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(self.begins).not_valid_after(self.ends)
        for extension, critical in self._extensions(issuer):
            builder = builder.add_extension(extension, critical)
        return builder.sign(issuer.key, hashes.SHA256())

    def _extensions(self, issuer: "Draft") -> Iterable[tuple[x509.ExtensionType, bool]]:
        if self.basic:
            yield self.basic, True
        if self.usage:
            yield self.usage, True
        if self.extended:
            yield x509.ExtendedKeyUsage(self.extended), False
        if self.names:
            yield x509.SubjectAlternativeName(self.names), self.names_critical
        if self.constraints:
            yield self.constraints, self.constraints_critical
        if self.basic and self.basic.ca:
            yield self.key_identifier, False
        if issuer is not self:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.key_identifier)
            yield identifier, False
        yield from self.others

    @property
    def key_identifier(self) -> x509.SubjectKeyIdentifier:
        """The subject key identifier, true unless ``identifier`` says otherwise."""
        return self.identifier or x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())


@dataclass
class Drafts:
    """The drafts of one chain, from the leaf up to the root."""

    leaf: Draft
    issuing: Draft
    root: Draft
    # Between the issuing CA and the root, the lower one first.
    between: list[Draft] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The label of the root's key."""
        return label_of(self.root.key)

    def chain(self) -> Chain:
        """Sign everything, leaf first, root last."""
        line = [self.leaf, self.issuing, *self.between, self.root]
        return tuple(draft.sign(issuer) for draft, issuer in zip(line, [*line[1:], self.root], strict=True))


def uri(text: str) -> x509.UniformResourceIdentifier:
    """Make a URI name."""
    return x509.UniformResourceIdentifier(text)


def dns(*names: str) -> list[x509.GeneralName]:
    """Make DNS names."""
    return [x509.DNSName(name) for name in names]


def any_ip() -> list[x509.GeneralName]:
    """Make the subtrees of all addresses."""
    return [x509.IPAddress(ip_network("0.0.0.0/0")), x509.IPAddress(ip_network("::/0"))]


_P256 = bytes.fromhex("06082a8648ce3d030107")  # the curve's name in DER


def with_damaged_key(certificate: x509.Certificate, *, curve: bool = False) -> bytes:
    """
    Write a certificate with one bit of its key flipped, as PEM: whole in every other way.

    The point is no longer on the curve, or the curve is none, which is found out when somebody asks for the
    key.
    """
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    at = key.index(_P256) + len(_P256) - 1 if curve else len(key) - 1
    damaged = key[:at] + bytes([key[at] ^ 0x40]) + key[at + 1 :]
    der = certificate.public_bytes(Encoding.DER).replace(key, damaged)
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def damage_key(path: Path) -> None:
    """Damage so the key of the first certificate in a file, and leave everything else as it is."""
    data = path.read_bytes()
    certificate = x509.load_pem_x509_certificate(data[data.index(b"-----BEGIN CERTIFICATE") :])
    good = certificate.public_bytes(Encoding.PEM)
    assert good in data
    path.write_bytes(data.replace(good, with_damaged_key(certificate)))


def drafts(role: Role, *, name: str = "alice") -> Drafts:
    """Draw up a good chain for a role, by identity §2 and without the product's builders."""
    root_key = new_key()
    label = label_of(root_key)
    host = f"{label}.{DOMAIN}"
    callers = role is Role.CALLER
    permitted = dns(host)
    root = Draft(
        root_key,
        cn(label),
        basic=x509.BasicConstraints(True, 3),
        constraints=x509.NameConstraints(permitted, any_ip()),
        usage=key_usage(certify=True),
        ends=NOW + 3000 * DAY,
    )
    issuing = Draft(
        new_key(),
        cn(f"{label} callers" if callers else f"{label} gateways"),
        basic=x509.BasicConstraints(True, 0),
        extended=[CLIENT] if callers else [SERVER, CLIENT],
        constraints=x509.NameConstraints(permitted, [*(permitted if callers else []), *any_ip()]),
        usage=key_usage(certify=True),
        ends=NOW + 300 * DAY,
    )
    leaf = Draft(
        new_key(),
        x509.Name([]),
        basic=x509.BasicConstraints(False, None),
        usage=key_usage(sign=True),
        extended=[SERVER] if role is Role.GATEWAY else [CLIENT],
        names=[uri(f"sallyport://{label}/{role}/{name}")],
    )
    if role is Role.GATEWAY:
        leaf.names += dns(f"*.{host}", host)
    return Drafts(leaf, issuing, root)


@dataclass(frozen=True)
class Tunnel:
    """A tunnel made by the product's own builders."""

    root: Authority
    gateways: Authority
    callers: Authority
    above: Chain = ()

    @classmethod
    def make(cls, *domains: str) -> Self:
        """Make a tunnel of its own, under the test domain when none is named."""
        key = new_key()
        root = Authority(make_root(key, domains or (DOMAIN,), now=NOW), key)
        return cls(root, _issuing(Issuing.GATEWAYS, root), _issuing(Issuing.CALLERS, root))

    def succeeded(self) -> "Tunnel":
        """Give the same tunnel with its issuing CAs under a cross-signed successor root."""
        key = new_key()
        successor = Authority(make_successor(key, first=self.root, now=NOW), key)
        cross = make_cross(key.public_key(), first=self.root, now=NOW)
        return replace(
            self,
            gateways=_issuing(Issuing.GATEWAYS, successor),
            callers=_issuing(Issuing.CALLERS, successor),
            above=(cross,),
        )

    @property
    def label(self) -> str:
        """The tunnel's label."""
        return label_of(self.root.key)

    @property
    def host(self) -> str:
        """The name that the connector asks for."""
        return f"{self.label}.{DOMAIN}"

    def leaf(self, role: Role, name: str) -> tuple[Chain, PrivateKey]:
        """Issue a leaf; return what its holder presents, and the key."""
        issuer = self.callers if ISSUED_BY[role] is Issuing.CALLERS else self.gateways
        key = new_key()
        leaf = make_leaf(Identity(self.label, role, name), key.public_key(), issuer=issuer, now=NOW)
        return (leaf, issuer.certificate, *self.above), key

    def leaf_files(self, folder: Path, role: Role, name: str = "gw1") -> LeafFiles:
        """Issue a leaf into files."""
        return write_leaf(folder, *self.leaf(role, name))

    def bundle(self, folder: Path, name: str = "alice") -> Bundle:
        """Issue a caller's bundle into a file and load it."""
        presented, key = self.leaf(Role.CALLER, name)
        path = folder / f"{name}.bundle.pem"
        relay = "relay.test:443"
        write_private(path, encode_bundle(key, presented, self.root.certificate, domain=DOMAIN, relay=relay))
        return Bundle.load(path)


def _issuing(issuing: Issuing, root: Authority) -> Authority:
    key = new_key()
    return Authority(make_issuing(issuing, key.public_key(), root=root, now=NOW), key)


def write_leaf(folder: Path, presented: Sequence[x509.Certificate], key: PrivateKey) -> LeafFiles:
    """Write a leaf's two files, under a name of their own."""
    stem = f"{presented[0].serial_number:x}"
    files = LeafFiles(folder / f"{stem}.pem", folder / f"{stem}.key")
    write_private(files.certificate, encode_certificates(presented))
    write_private(files.key, encode_key(key))
    return files


def lawless_context(
    protocol: int, folder: Path, presented: Sequence[x509.Certificate] = (), key: PrivateKey | None = None
) -> ssl.SSLContext:
    """Make a context that checks nothing and presents whatever it is given."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    if presented and key:
        files = write_leaf(folder, presented, key)
        context.load_cert_chain(files.certificate, files.key)
    return context


@dataclass
class Handshake:
    """Both ends after a handshake, and what each died of, if it did."""

    client: ssl.SSLObject
    server: ssl.SSLObject
    client_error: ssl.SSLError | None = None
    server_error: ssl.SSLError | None = None

    @property
    def error(self) -> ssl.SSLError | None:
        """What the end that refused says."""
        errors = [error for error in (self.client_error, self.server_error) if error is not None]
        # The other end merely reports the alert.
        return next(
            (error for error in errors if "ALERT" not in (error.reason or "")), errors[0] if errors else None
        )

    def require(self) -> Self:
        """Demand that both ends are through."""
        assert self.error is None, self.error
        return self


@dataclass
class Wire:
    """Two TLS ends joined by memory buffers."""

    to_server: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    to_client: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str | None, *, wire: Wire | None = None
) -> Handshake:
    """Run a whole handshake, and one byte after it: TLS 1.3 clients learn of a refusal only then."""
    wire = wire or Wire()
    ends = Handshake(
        client.wrap_bio(wire.to_client, wire.to_server, server_hostname=host),
        server.wrap_bio(wire.to_server, wire.to_client, server_side=True),
    )
    ends.client_error = _advance(ends.client)
    ends.server_error = _advance(ends.server)
    ends.client_error = ends.client_error or _advance(ends.client)
    ends.server_error = ends.server_error or _advance(ends.server)
    if ends.server_error is None and ends.client_error is None:
        ends.server.write(b"!")
    if ends.client_error is None:
        try:
            ends.client.read(1)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            ends.client_error = error
    return ends


def _advance(end: ssl.SSLObject) -> ssl.SSLError | None:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as error:
        return error
    return None
