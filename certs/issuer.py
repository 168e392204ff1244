"""
The issuing side: what ``certs init`` and ``certs issue`` do to an identity directory.

The builders in ``authority.py`` decide what a certificate says; this file finds the keys, asks them, and
writes. A new directory appears whole, by one rename. Nothing that exists is overwritten, but root and
issuing certificates by ones for the same keys with more domains, and a leaf where ``replace`` says so. What
is issued is judged by the strict verifier before it is written: a directory that cannot make a good
certificate makes none.

One process at a time is the issuer for a CA (identity §2); there is no lock.
"""

import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from cryptography import x509

from sallyport.certs.authority import Authority, make_issuing, make_leaf, make_root, new_key
from sallyport.certs.bundle import encode_bundle
from sallyport.certs.chain import build_chain
from sallyport.certs.errors import FileRefused, IssuingRefused
from sallyport.certs.files import IdentityDirectory, LeafFiles, load_certificates, load_key
from sallyport.certs.names import Identity, Role
from sallyport.certs.pem import (
    PrivateKey,
    as_public_key,
    encode_certificates,
    encode_key,
    require_matching_key,
)
from sallyport.certs.profile import ISSUED_BY, Issuing
from sallyport.certs.storage import is_present, make_private_directory, write_private, write_public
from sallyport.certs.verify import verify_identity


def create_identity(
    path: Path, *, domains: Sequence[str], relay: str, name: str, now: datetime
) -> IdentityDirectory:
    """
    Make a new identity: a root, two issuing CAs, and the leaves of one gateway.

    Args:
        path: the directory to make; it may exist when it is empty.
        domains: the tunnel domains, checked.
        relay: the relay's address, "host:port".
        name: of the first gateway and its link.
        now: the time, with a zone.

    Raises:
        IssuingRefused: if there is something at ``path`` already.
        FileRefused: if a file cannot be written.
    """
    if is_present(path) and not _is_empty_directory(path):
        raise IssuingRefused(f"{path} exists already and is not empty", "name another directory with --dir")
    # A directory that is there may be the mount point of a volume, which no rename can replace: it is
    # filled in place.
    place = path if is_present(path) else path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        make_private_directory(place)
        _fill(IdentityDirectory(place), domains, relay, name, now)
        if place != path:
            place.replace(path)
    except OSError as error:
        _empty(place)
        raise FileRefused(path, f"cannot be made: {error.strerror or error}") from error
    except BaseException:
        _empty(place)
        raise
    return IdentityDirectory(path)


def add_domains(directory: IdentityDirectory, domains: Sequence[str], *, now: datetime) -> None:
    """
    Let a tunnel have names under more domains: new certificates for the same root and issuing keys, so the
    same ID.

    The leaves keep their old names until they are issued again, and callers' bundles their old root, whose
    name constraints refuse a gateway's leaf with names under the new domains. So bundles come first: one with
    the new root accepts the old leaves as well.

    Raises:
        FileRefused: if the root key is not there, or a file cannot be read or written.
        CertificateRefused: if the root key is another one's.
    """
    if not is_present(directory.root_key_path):
        raise FileRefused(
            directory.root_key_path,
            "is not there",
            "bring the root key back for this command; take it away after",
        )
    root_key = load_key(directory.root_key_path)
    require_matching_key(root_key, directory.root_certificate(), path=directory.root_key_path)
    root = make_root(root_key, [*directory.domains(), *domains], now=now)
    for issuing in Issuing:
        file = directory.issuing(issuing).certificate
        key = as_public_key(load_certificates(file)[0])
        certificate = make_issuing(issuing, key, root=Authority(root, root_key), now=now)
        write_public(file, encode_certificates([certificate]))
    # Last: until it is written, the same command can be given again.
    write_public(directory.root_path, encode_certificates([root]))


def write_settings(directory: IdentityDirectory, relay: str) -> None:
    """
    Write down what no certificate says: the relay's address.
    """
    write_public(directory.settings_path, yaml.safe_dump({"relay": relay}).encode("utf-8"))


def issue_leaf(
    directory: IdentityDirectory, role: Role, name: str, *, now: datetime, replace: bool = False
) -> Path:
    """
    Issue the certificate of a gateway or of its link, with a new key.

    Returns:
        The certificate's file; the key is beside it.

    Raises:
        NameRefused: if ``name`` cannot be one.
        IssuingRefused: if there is one already and ``replace`` is false.
        FileRefused: if the issuing CA's files cannot be used, or the new ones not be written.
        CertificateRefused: if what would be issued is not good; say, because the issuing CA has expired.
    """
    files = directory.leaf(role, name)
    for path in (files.certificate, files.key):
        _require_absent(path, role, name, replace=replace)
    issued = _issue(directory, role, name, now)
    make_private_directory(files.certificate.parent)
    files.replace(issued.key, issued.presented)
    return files.certificate


def issue_caller(
    directory: IdentityDirectory, name: str, *, domain: str | None, now: datetime, replace: bool = False
) -> Path:
    """
    Issue a caller's bundle, with a new key.

    Args:
        directory: the issuing directory.
        name: the caller's name.
        domain: the tunnel domain to call under; the tunnel's first one when None.
        now: the time, with a zone.
        replace: whether a bundle that is there already may be replaced.

    Returns:
        The bundle's file.

    Raises:
        CertificateError: as ``issue_leaf``; or if the tunnel has no such domain, or no relay is written down.
    """
    path = directory.caller_bundle(name)
    _require_absent(path, Role.CALLER, name, replace=replace)
    domains = directory.domains()
    if domain is not None and domain not in domains:
        raise IssuingRefused(
            f"the tunnel has no domain {domain}, only {', '.join(domains)}",
            f"add it: sallyport certs init --domain {domain} --dir {directory.path}",
        )
    relay = directory.relay()
    if relay is None:
        raise IssuingRefused(
            f"{directory.settings_path} does not say where the relay is", "write `relay: HOST:443` into it"
        )
    issued = _issue(directory, Role.CALLER, name, now)
    make_private_directory(path.parent)
    bundle = encode_bundle(
        issued.key,
        issued.presented,
        directory.root_certificate(),
        domain=domain or domains[0],
        relay=relay,
    )
    write_private(path, bundle)
    return path


@dataclass(frozen=True, slots=True)
class _Issued:
    presented: tuple[x509.Certificate, ...]
    key: PrivateKey


def _is_empty_directory(path: Path) -> bool:
    try:
        return not any(path.iterdir())
    except OSError:
        return False


def _fill(directory: IdentityDirectory, domains: Sequence[str], relay: str, name: str, now: datetime) -> None:
    root_key = new_key()
    root = Authority(make_root(root_key, domains, now=now), root_key)
    write_private(directory.root_key_path, encode_key(root.key))
    write_public(directory.root_path, encode_certificates([root.certificate]))
    write_settings(directory, relay)
    for issuing in Issuing:
        key = new_key()
        files = directory.issuing(issuing)
        write_private(files.key, encode_key(key))
        certificate = make_issuing(issuing, key.public_key(), root=root, now=now)
        write_public(files.certificate, encode_certificates([certificate]))
    for role in (Role.GATEWAY, Role.LINK):
        issue_leaf(directory, role, name, now=now)
    make_private_directory(directory.path / "callers")


def _empty(directory: Path) -> None:
    """
    Leave no half-made identity behind: the next try would be refused because of it.
    """
    for child in list(directory.glob("*")):
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)
    with suppress(OSError):  # an empty directory that cannot be removed does no harm
        directory.rmdir()


def _issue(directory: IdentityDirectory, role: Role, name: str, now: datetime) -> _Issued:
    files = directory.issuing(ISSUED_BY[role])
    _require_issuing_here(files)
    root = directory.root_certificate()
    above = files.load_presented()
    identity = Identity(directory.tunnel_id().label, role, name)
    key = new_key()
    issuer = Authority(above[0], files.load_key())
    presented = (make_leaf(identity, key.public_key(), issuer=issuer, now=now), *above)
    verify_identity(build_chain(presented, root), role=role, label=identity.label, now=now)
    return _Issued(presented, key)


def _require_issuing_here(files: LeafFiles) -> None:
    for path in (files.certificate, files.key):
        if not is_present(path):
            raise FileRefused(
                path,
                "is not there, so nothing can be issued here",
                "run this where `sallyport certs init` was run",
            )


def _require_absent(path: Path, role: Role, name: str, *, replace: bool) -> None:
    if is_present(path) and not replace:
        raise IssuingRefused(
            f"{path} exists already",
            f"to replace it: sallyport certs issue {role} {name} --replace",
        )
