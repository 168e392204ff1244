"""TLS contexts and their files: no bad key is loaded, and internal servers have rules of their own."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from sallyport.certs.authority import new_key
from sallyport.certs.contexts import (
    SystemStore,
    caller_context,
    door_context,
    link_client_context,
    link_server_context,
    upstream_context,
)
from sallyport.certs.errors import CertificateRefused, FileRefused
from sallyport.certs.files import LeafFiles
from sallyport.certs.names import Role
from sallyport.certs.pem import encode_key
from sallyport.certs.storage import write_private
from tests.certs.certificate_kit import Tunnel, shake_hands


def _link_server(files: LeafFiles, root: x509.Certificate) -> ssl.SSLContext:
    return link_server_context(files.certificate, files.key, root)


def _link_client(files: LeafFiles, _: x509.Certificate) -> ssl.SSLContext:
    return link_client_context(files, SystemStore())


def _wide_key(files: LeafFiles) -> None:
    files.key.chmod(0o644)


def _other_key(files: LeafFiles) -> None:
    write_private(files.key, encode_key(new_key()))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(_wide_key, FileRefused), (_other_key, CertificateRefused)],
    ids=["wide", "another's"],
)
@pytest.mark.parametrize("make", [door_context, _link_server, _link_client], ids=["door", "relay", "link"])
def test_no_context_is_made_with_a_bad_key(
    tmp_path: Path,
    make: Callable[[LeafFiles, x509.Certificate], ssl.SSLContext],
    spoil: Callable[[LeafFiles], None],
    error: type[Exception],
) -> None:
    """A key that others can read, or that is another certificate's, is loaded nowhere."""
    tunnel = Tunnel.make()
    files = tunnel.leaf_files(tmp_path, Role.LINK)
    spoil(files)

    with pytest.raises(error):
        make(files, tunnel.root.certificate)


def test_a_bundle_that_was_opened_to_others_is_not_used(tmp_path: Path) -> None:
    """The mode is judged again when the key is loaded."""
    bundle = Tunnel.make().bundle(tmp_path)
    bundle.path.chmod(0o604)

    with pytest.raises(FileRefused, match="mode 0604"):
        caller_context(bundle)


def test_a_bundle_that_was_replaced_in_between_is_not_used(tmp_path: Path) -> None:
    """A key that no longer fits the certificates is an error of ours, not of OpenSSL's."""
    tunnel = Tunnel.make()
    bundle = tunnel.bundle(tmp_path)
    tunnel.bundle(tmp_path)

    with pytest.raises(FileRefused, match="cannot be loaded as the key of its certificate"):
        caller_context(bundle)


# Internal servers


def test_an_internal_server_is_checked_by_its_own_ca(tmp_path: Path) -> None:
    """A gateway checks name and CA of the servers behind it."""
    company = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    company.issue_cert("wiki.internal").configure_cert(server)
    path = tmp_path / "internal-ca.pem"
    company.cert_pem.write_to_path(str(path))

    shake_hands(server, upstream_context(path), "wiki.internal").require()

    for context, host in (
        (upstream_context(path), "other.internal"),
        (upstream_context(None), "wiki.internal"),
    ):
        assert isinstance(shake_hands(server, context, host).client_error, ssl.SSLCertVerificationError)


def test_an_internal_server_may_be_old_but_not_ancient(tmp_path: Path) -> None:
    """TLS 1.2 is enough for a server that is somebody else's; nothing below it."""
    assert upstream_context(None).minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(FileRefused, match="does not exist"):
        upstream_context(tmp_path / "missing.pem")
