"""
The one place that makes TLS contexts. Every flag is set here, explicitly, whatever Python's defaults are
this year.

    context               side    trusts                 presents       host checked  ALPN
    door_context          server  the tunnel's root      gateway leaf   -             sallyport/1, http/1.1
    root_giving_context   server  nobody                 leaf and root  -             sallyport-root/1
    caller_context        client  the tunnel's root      caller leaf    yes           sallyport/1
    keyed_caller_context  client  the tunnel's root      -              yes           sallyport/1
    root_asking_context   client  nobody                 -              -             sallyport-root/1
    link_server_context   server  one label's root       relay's files  -             http/1.1
    link_client_context   client  CA file, system, pin   link leaf      but for pins  http/1.1
    upstream_context      client  CA file or system      -              yes           http/1.1

The last one is of another kind: the internal servers behind a gateway are somebody else's, so it makes no
demands but a good certificate. What the others let through is not yet an identity: after each handshake
``verify.verify_identity`` judges the chain of a tunnel's peer, and ``check_pin`` the relay.

The two for ``sallyport-root/1`` verify nothing, and nothing is trusted to what they carry: a caller who
knows the tunnel's ID asks for its root, checks that against the ID (``verify.find_root``), and dials again.

* TLS 1.3 only, no tickets, hence no resumption and no early data, which would skip revocation.
* A trust store of ours holds one root. Issuing CAs are never in one: a store vouches for what is in it. Nor
  is a second tunnel's root: one with the victim's Subject and key identifier makes OpenSSL try the wrong
  key and fail the victim.
* VERIFY_X509_STRICT on, VERIFY_X509_PARTIAL_CHAIN off (Python 3.13's default context turns it on), names
  from the SAN only, security level 2 (112 bits, no SHA-1), SSLKEYLOGFILE not honoured.
* A peer that ends the connection without close_notify is an error, never a quiet end.
* Groups are not pinned: hybrids with ML-KEM may be chosen where OpenSSL has them.

Identity §4, §5 and §7.
"""

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509

from sallyport.certs.bundle import Bundle
from sallyport.certs.errors import FileRefused
from sallyport.certs.files import LeafFiles
from sallyport.certs.pem import encode_certificates, parse_pem, require_matching_key
from sallyport.certs.relay_trust import CaFile, Pin, RelayTrust, SystemStore, check_pin, spki_pin
from sallyport.certs.storage import read_private, read_public

__all__ = [
    "CaFile",
    "Pin",
    "RelayTrust",
    "SystemStore",
    "caller_context",
    "check_pin",
    "door_context",
    "keyed_caller_context",
    "link_client_context",
    "link_server_context",
    "root_asking_context",
    "root_giving_context",
    "spki_pin",
    "upstream_context",
]

INNER_ALPN: Final = "sallyport/1"
ROOT_ALPN: Final = "sallyport-root/1"
HTTP_ALPN: Final = "http/1.1"

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, which ``ssl`` does not name.
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)


def door_context(
    leaf: LeafFiles, root: x509.Certificate, *, certificate_required: bool = True
) -> ssl.SSLContext:
    """
    Make the gateway's end of the inner TLS.

    Where certificates are not required they are invited all the same, and one that is presented and fails
    ends the handshake. Who presented none has an empty verified chain; the context's own ``verify_mode`` says
    nothing about a peer.

    Args:
        leaf: the gateway's own files.
        root: the tunnel's root, the only one that is trusted.
        certificate_required: whether a caller without a certificate is refused here. It is one for the whole
            gateway, never by the name that is asked for (identity §5).

    Raises:
        FileRefused: if a file cannot be read or its key is readable by others.
        CertificateRefused: if key and certificate do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, alpn=[INNER_ALPN, HTTP_ALPN])
    context.verify_mode = ssl.CERT_REQUIRED if certificate_required else ssl.CERT_OPTIONAL
    _trust_only(context, root)
    own = leaf.load()
    _present(context, own.presented, key=own.key_path)
    return context


def root_giving_context(leaf: LeafFiles, root: x509.Certificate) -> ssl.SSLContext:
    """
    Make the gateway's end of a connection that only shows the root, for callers who hold no more than the ID.

    It asks for no certificate and must carry no request: close after the handshake (identity §6).

    Args:
        leaf: the gateway's own files.
        root: the tunnel's first root, the one whose hash is the ID.

    Raises:
        FileRefused, CertificateRefused: as ``door_context``.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, alpn=[ROOT_ALPN])
    context.verify_mode = ssl.CERT_NONE
    own = leaf.load()
    _present(context, [*own.presented, root], key=own.key_path)
    return context


def root_asking_context() -> ssl.SSLContext:
    """
    Make the caller's end of a connection that only shows the root.

    Nothing is verified, for there is nothing yet to verify by. What comes is worth what ``verify.find_root``
    says of it, and nothing may be sent.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn=[ROOT_ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def keyed_caller_context(root: x509.Certificate) -> ssl.SSLContext:
    """
    Make the connector's end of the inner TLS for a caller with an API key: no certificate is presented.

    Args:
        root: the tunnel's root as ``verify.find_root`` has found it, the only one that is trusted.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn=[INNER_ALPN])
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    _trust_only(context, root)
    return context


def caller_context(bundle: Bundle) -> ssl.SSLContext:
    """
    Make the connector's end of the inner TLS: the gateway must have the host's name, from the bundle's root.

    Raises:
        FileRefused: if the bundle's key has become readable by others since it was loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn=[INNER_ALPN])
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    _trust_only(context, bundle.root)
    read_private(bundle.path)
    _present(context, bundle.presented, key=bundle.path)
    return context


def link_server_context(certificate: Path, key: Path, root: x509.Certificate) -> ssl.SSLContext:
    """
    Make the relay's end of the outer TLS, for the links of one label.

    It checks the chain and that the gateway has the key; not the time, which ``verify_identity`` judges
    right after, so that the relay can say in words what a TLS alert cannot (identity §4).

    Args:
        certificate: the relay's certificate and what stands between it and its CA.
        key: the relay's key.
        root: the label's root, the only one that is trusted.

    Raises:
        FileRefused: if a file cannot be read or the key is readable by others.
        CertificateRefused: if key and certificate do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, alpn=[HTTP_ALPN])
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= _NO_CHECK_TIME
    _trust_only(context, root)
    presented = parse_pem(certificate, read_public(certificate)).some_certificates()
    require_matching_key(parse_pem(key, read_private(key)).one_key(), presented[0], path=key)
    _present(context, presented, key=key)
    return context


def link_client_context(leaf: LeafFiles, trust: RelayTrust) -> ssl.SSLContext:
    """
    Make the gateway's end of the outer TLS.

    After the handshake call ``check_pin`` with the same ``trust``: under a pin, it alone authenticates the
    relay.

    Args:
        leaf: the link's own files.
        trust: what proves the relay.

    Raises:
        FileRefused: if a file cannot be read or the key is readable by others.
        CertificateRefused: if key and certificate do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn=[HTTP_ALPN])
    match trust:
        case Pin():
            # The pin is of the very key that TLS proves possession of. A name or a CA would add nothing to
            # that.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        case CaFile(path):
            context.check_hostname = True
            context.verify_mode = ssl.CERT_REQUIRED
            _trust_what_others_issue(context, path)
        case SystemStore():
            context.check_hostname = True
            context.verify_mode = ssl.CERT_REQUIRED
            _trust_what_others_issue(context, None)
    own = leaf.load()
    _present(context, own.presented, key=own.key_path)
    return context


def upstream_context(ca: Path | None) -> ssl.SSLContext:
    """
    Make the gateway's end of TLS to an internal server.

    Args:
        ca: the CA certificates to trust, and nothing else; None for what the system trusts.

    Raises:
        FileRefused: if the file cannot be read or holds no certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn=[HTTP_ALPN])
    # Private CAs and appliances are rarely new enough for more, and it is their owner who chose them.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    _trust_what_others_issue(context, ca)
    return context


def _context(protocol: int, *, alpn: list[str]) -> ssl.SSLContext:
    """
    Make a context with everything set that all of them share.
    """
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    # Sets the security level; the TLS 1.3 suites are OpenSSL's own and all good.
    context.set_ciphers("DEFAULT@SECLEVEL=2")
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.post_handshake_auth = False
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # OP_NO_TICKET alone leaves TLS 1.3 with stateful ones
    context.set_alpn_protocols(alpn)
    return context


def _trust_only(context: ssl.SSLContext, *roots: x509.Certificate) -> None:
    context.load_verify_locations(cadata=encode_certificates(roots).decode("ascii"))


def _trust_what_others_issue(context: ssl.SSLContext, ca: Path | None) -> None:
    """
    Trust the CAs in a file, or the system's, by the rules that public and company CAs live by.

    Those still issue under roots without the extensions that VERIFY_X509_STRICT demands.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust_only(context, *parse_pem(ca, read_public(ca)).some_certificates())


def _present(context: ssl.SSLContext, certificates: Sequence[x509.Certificate], *, key: Path) -> None:
    """
    Load exactly these certificates, and the key from its own file.

    ``ssl`` takes paths only, and would present every certificate that it finds in a bundle, the root
    included. So the certificates, which are public, go through a file of their own; a key is never copied.
    """
    try:
        with _as_file(encode_certificates(certificates)) as path:
            # A password that is never asked for: without one, OpenSSL would stop and ask the terminal.
            context.load_cert_chain(path, key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise FileRefused(
            key, "cannot be loaded as the key of its certificate", "issue both again"
        ) from error


@contextmanager
def _as_file(data: bytes) -> Iterator[Path]:
    """
    Give bytes a path for the time of the context: in memory where the system can, so no disk need be
    writable.
    """
    if sys.platform == "linux":
        with open(os.memfd_create("sallyport"), "wb") as file:
            file.write(data)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.TemporaryDirectory(prefix="sallyport-") as directory:
            path = Path(directory) / "presented.pem"
            path.write_bytes(data)
            yield path
