"""
Where identities lie: the directory that issues, and the two files of a leaf.

    identity/                     made by `certs init`; 0700, keys 0600
      identity.yaml               the relay's address
      root.pem  root.key          root.key may be taken away
      gateways.pem  gateways.key  callers.pem  callers.key
      gateway/NAME.pem .key   link/NAME.pem .key   callers/NAME.bundle.pem

A leaf is two files and cannot be replaced by one rename, so a new pair takes three steps: the new key goes to
``NAME.key.next``, the new certificate replaces the old one, the new key replaces the old one. The key that
goes with a certificate is the one of ``NAME.key`` and ``NAME.key.next`` that fits it. Hence a reader finds a
whole pair between any two steps, and so does the next start after a crash there: before the second step it
is the old pair, after it the new one.

A leaf's .pem holds what its holder presents: the leaf, the issuing CA, and the cross certificate where the
root has a successor; never the root. Bundles are in ``bundle.py``, the modes of files in ``storage.py``;
what other packages need of both is exported from here. Identity §6.

Nothing here looks at a clock or judges what a certificate says: `verify.py` does.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509

from sallyport.certs.bundle import Bundle
from sallyport.certs.errors import CertificateError, FileRefused, NameRefused
from sallyport.certs.facts import read_facts
from sallyport.certs.names import Identity, Role, TunnelId, relay_address
from sallyport.certs.pem import (
    PrivateKey,
    encode_certificates,
    encode_key,
    parse_pem,
    public_der,
    require_matching_key,
)
from sallyport.certs.profile import Scope
from sallyport.certs.storage import (
    Stamp,
    is_present,
    read_private,
    read_public,
    stamp,
    take_place,
    write_private,
    write_public,
)

__all__ = [
    "Bundle",
    "IdentityDirectory",
    "LeafFiles",
    "LoadedLeaf",
    "Stamp",
    "load_certificate",
    "load_certificates",
    "load_key",
    "read_private",
    "stamp",
    "write_private",
    "write_public",
]


def load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """
    Read the certificates of a file, at least one.

    Raises:
        FileRefused: if the file cannot be read or holds none.
    """
    return parse_pem(path, read_public(path)).some_certificates()


def load_certificate(path: Path) -> x509.Certificate:
    """
    Read the first certificate of a file.

    Raises:
        FileRefused: if the file cannot be read or holds none.
    """
    return load_certificates(path)[0]


def load_key(path: Path) -> PrivateKey:
    """
    Read the one private key of a file that nobody else can read.

    Raises:
        FileRefused: if the file is wider than 0600, or does not hold exactly one usable key.
    """
    return parse_pem(path, read_private(path)).one_key()


_BUNDLE = ".bundle.pem"


def _stem(file: Path) -> str:
    return file.name.removesuffix(_BUNDLE).removesuffix(".pem")


# A replacement may fall between the reads of certificate and key; the second look then finds the new pair.
_LOOKS = 2


@dataclass(frozen=True, slots=True)
class LoadedLeaf:
    """
    A certificate and the key that fits it, as they were found together.

    ``presented`` is what the holder presents, the leaf first; ``key_path`` the file that ``key`` stands in.
    """

    presented: tuple[x509.Certificate, ...]
    key: PrivateKey
    key_path: Path


@dataclass(frozen=True, slots=True)
class LeafFiles:
    """
    The two files of a gateway's or link's identity.

    ``certificate`` holds the leaf, its issuing CA and, where there is one, the cross certificate; ``key``
    the key. ``next_key`` is there while a new pair is on its way.
    """

    certificate: Path
    key: Path

    @property
    def next_key(self) -> Path:
        """
        Where a new key waits for its certificate; no holder's own file, since those end in .pem or .key.
        """
        return self.key.with_name(f"{self.key.name}.next")

    def stamp(self) -> Stamp:
        """
        Tell the version of the files without reading them.
        """
        return stamp((self.certificate, self.key, self.next_key))

    def load(self) -> LoadedLeaf:
        """
        Read the certificate and the key that fits it, also in the middle of a replacement.

        Raises:
            FileRefused: if a file cannot be read, or a key is readable by others.
            CertificateRefused: with the rule KEY_MISMATCH, if no key is the leaf's.
        """
        for _ in range(_LOOKS):
            presented = self.load_presented()
            for path in (self.key, self.next_key):
                key = _key_at(path)
                if key is not None and public_der(key) == public_der(presented[0]):
                    return LoadedLeaf(presented, key, path)
        presented = self.load_presented()
        key = load_key(self.key)
        require_matching_key(key, presented[0], path=self.key)
        return LoadedLeaf(presented, key, self.key)

    def load_presented(self) -> tuple[x509.Certificate, ...]:
        """
        Read the certificates that the holder presents: the leaf first, no self-signed root.

        Raises:
            FileRefused: if the file cannot be read or holds no certificate.
        """
        leaf, *above = load_certificates(self.certificate)
        return leaf, *(certificate for certificate in above if not read_facts(certificate).self_issued)

    def load_key(self) -> PrivateKey:
        """
        Read the key.

        Raises:
            CertificateError: as ``load``.
        """
        return self.load().key

    def replace(self, key: PrivateKey, presented: Sequence[x509.Certificate]) -> None:
        """
        Put a new pair in the place of the old one; the mirror of ``load``.

        Args:
            key: the new key.
            presented: the certificates to present, the leaf first.

        Raises:
            FileRefused: if a file cannot be written; there is a whole pair all the same, if there was one.
        """
        self._finish_replacement()
        write_private(self.next_key, encode_key(key))
        write_public(self.certificate, encode_certificates(presented))
        take_place(self.next_key, self.key)

    def _finish_replacement(self) -> None:
        """
        Take the last step of a replacement that was cut short: the key in use must not be written over.
        """
        if not is_present(self.next_key):
            return
        try:
            in_use = self.load().key_path
        except CertificateError:
            return  # there is no usable pair that could be harmed
        if in_use == self.next_key:
            take_place(self.next_key, self.key)


def _key_at(path: Path) -> PrivateKey | None:
    """
    Read a key, or give None where no file is.
    """
    try:
        return load_key(path)
    except FileRefused as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


class IdentityDirectory:
    """
    The directory that ``certs init`` makes.

    Only the root certificate is needed for reading; a gateway's host may hold no more than that and its
    leaves.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"IdentityDirectory({str(self.path)!r})"

    @property
    def root_path(self) -> Path:
        """
        The root certificate: what callers trust and the relay registers.
        """
        return self.path / "root.pem"

    @property
    def root_key_path(self) -> Path:
        """
        The root key, which may have been taken away.
        """
        return self.path / "root.key"

    @property
    def settings_path(self) -> Path:
        """
        The file with what no certificate says: the relay's address.
        """
        return self.path / "identity.yaml"

    def issuing(self, name: str) -> LeafFiles:
        """
        The files of an issuing CA, "gateways" or "callers".
        """
        return LeafFiles(self.path / f"{name}.pem", self.path / f"{name}.key")

    def gateway(self, name: str) -> LeafFiles:
        """
        The files of a gateway leaf.
        """
        return self.leaf(Role.GATEWAY, name)

    def link(self, name: str) -> LeafFiles:
        """
        The files of a link leaf.
        """
        return self.leaf(Role.LINK, name)

    def leaf(self, role: Role, name: str) -> LeafFiles:
        """
        The files of a leaf with a role: of a gateway or a link.
        """
        # A name that is no identity could also be a path that leads out of the directory.
        Identity(self.tunnel_id().label, role, name)
        folder = self.path / role
        return LeafFiles(folder / f"{name}.pem", folder / f"{name}.key")

    def leaf_names(self, role: Role) -> list[str]:
        """
        List whose leaves with a role are here: of gateways or links.
        """
        return self._names(role, (file.stem for file in (self.path / role).glob("*.pem")))

    def caller_names(self) -> list[str]:
        """
        List whose bundles are here.
        """
        bundles = (self.path / "callers").glob(f"*{_BUNDLE}")
        return self._names(Role.CALLER, (file.name.removesuffix(_BUNDLE) for file in bundles))

    def strays(self) -> list[Path]:
        """
        List the certificates that are nobody's, since what they are called is no name: a copy, mostly.
        """
        found: list[Path] = []
        for role, folder in ((Role.GATEWAY, "gateway"), (Role.LINK, "link"), (Role.CALLER, "callers")):
            files = sorted((self.path / folder).glob("*.pem"))
            names = self._names(role, (_stem(file) for file in files))
            found += [file for file in files if _stem(file) not in names]
        return found

    def _names(self, role: Role, texts: Iterable[str]) -> list[str]:
        """
        List what of some texts is a holder's name, in order.
        """
        label = self.tunnel_id().label
        names = []
        for text in texts:
            with suppress(NameRefused):
                names.append(Identity(label, role, text).name)
        return sorted(names)

    def caller_bundle(self, name: str) -> Path:
        """
        The bundle of a caller.
        """
        Identity(self.tunnel_id().label, Role.CALLER, name)  # as above
        return self.path / "callers" / f"{name}.bundle.pem"

    def root_certificate(self) -> x509.Certificate:
        """
        Read the root certificate.

        Raises:
            FileRefused: if it is not there, with the command that makes one.
        """
        try:
            return load_certificate(self.root_path)
        except FileRefused as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise FileRefused(
                self.path,
                "holds no root.pem",
                "make an identity: sallyport certs init --domain D --relay HOST",
            ) from error

    def tunnel_id(self) -> TunnelId:
        """
        Compute the tunnel's ID from the root certificate.
        """
        return TunnelId.of_root(self.root_certificate())

    def domains(self) -> tuple[str, ...]:
        """
        Read the tunnel's domains from the root's name constraints, in their order there.
        """
        try:
            return Scope.of(self.root_certificate()).domains
        except (ValueError, x509.ExtensionNotFound) as error:
            raise FileRefused(
                self.root_path,
                "is not a tunnel's root: it has no name constraints of one",
                "restore it from your backup",
            ) from error

    def relay(self) -> str | None:
        """
        Read the relay's address, "host:port", as ``certs init`` was told it; None where nothing is written
        down.

        Raises:
            FileRefused: if identity.yaml is there and not what ``certs init`` writes.
        """
        if not is_present(self.settings_path):
            return None
        try:
            settings = yaml.safe_load(read_public(self.settings_path))
        except yaml.YAMLError as error:
            raise FileRefused(self.settings_path, "is not YAML") from error
        address = settings.get("relay") if isinstance(settings, dict) else None
        if not isinstance(address, str):
            raise FileRefused(
                self.settings_path, "has no `relay:` with an address", "write `relay: HOST:443` into it"
            )
        try:
            return relay_address(address)
        except NameRefused as error:
            raise FileRefused(self.settings_path, f"is wrong: {error}", error.hint) from error
