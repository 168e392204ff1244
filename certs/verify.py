"""
The one strict verifier, for both TLS layers and for files.

It judges a *verified chain* (``chain.py``: the signatures hold, leaf first, anchor last) against the
profile (``profile.py``, identity §2) and returns who the holder is, or raises ``CertificateRefused`` with
the rule that failed. It never returns a boolean and reads a name from one place only: the URI SAN.

OpenSSL has judged most of this before, in the handshake. It is said again here because OpenSSL says it in
three words, because some of it OpenSSL does not know (which CA may vouch for which role, whose host a URI
may name), and because the relay switches OpenSSL's clock off so as to answer in words itself (identity §4).
The order of the rules is: whose chain is this, who is it, is it built right, is it strong enough, is it
time. Whatever needs the greater remedy is told first.

``now`` is an argument. Revocation will be one more rule at the end of ``verify_identity``, beside the time:
both change while a chain does not.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from sallyport.certs.bundle import Bundle
from sallyport.certs.chain import build_chain, unverified_chain, verified_chain
from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.facts import Facts, read_facts
from sallyport.certs.files import LeafFiles
from sallyport.certs.names import Identity, Role, TunnelId
from sallyport.certs.profile import Issuing
from sallyport.certs.rules import (
    require_anchor,
    require_authority,
    require_identity,
    require_issuer,
    require_issuing,
    require_leaf,
    require_no_address,
    require_shape,
    require_strength,
    require_valid,
    require_within_constraints,
)

__all__ = [
    "find_root",
    "unverified_chain",
    "verified_chain",
    "verify_bundle",
    "verify_identity",
    "verify_issuing",
    "verify_leaf_file",
    "verify_root",
]


def verify_identity(chain: Sequence[x509.Certificate], *, role: Role, label: str, now: datetime) -> Identity:
    """
    Judge the verified chain of a peer.

    Args:
        chain: what ``verified_chain`` gave: leaf first, anchor last; empty when the peer presented none.
        role: what the peer must be here.
        label: the tunnel's label; the chain must end in its root.
        now: the time to judge validity by, with a zone.

    Returns:
        Who the peer is: its ``role`` and ``label`` are those asked for.

    Raises:
        CertificateRefused: with the rule that failed, for which certificate, and what to do.
    """
    if not chain:
        raise CertificateRefused(
            Rule.MISSING,
            "the peer",
            f"presented no certificate where a {role} certificate is required",
            hint=f"present one made with `sallyport certs issue {role} NAME`",
        )
    identity, members = _judge(tuple(chain), role, label)
    for member in members:
        require_valid(member, now)
    return identity


# What does not depend on the time is true of the same bytes for ever, and callers come again and again with
# the same chain. Only good verdicts are kept, and no more of them than the size says.
@lru_cache(maxsize=256)
def _judge(chain: tuple[x509.Certificate, ...], role: Role, label: str) -> tuple[Identity, tuple[Facts, ...]]:
    """Apply every rule but the last, which asks for the time."""
    members = tuple(read_facts(certificate) for certificate in chain)
    leaf, *above = members
    require_anchor(members[-1], label)
    identity = require_identity(leaf, role=role, label=label)
    require_shape(members)
    require_issuer(above[0], role=role, label=label)
    for below, authority in enumerate(above):
        require_authority(authority, below=below, label=label)
    require_leaf(leaf, role=role, label=label)
    for authority in above:
        require_within_constraints(leaf, authority)
    for member in members:
        require_strength(member)
    return identity, members


def verify_root(certificate: x509.Certificate, *, now: datetime) -> TunnelId:
    """
    Judge a root certificate on its own, as registration with a relay must.

    Returns:
        The tunnel that it is the root of.

    Raises:
        CertificateRefused: if it is not a tunnel's root by the profile.
    """
    root = read_facts(certificate)
    label = root.key_id.label
    require_anchor(root, label)
    require_authority(root, below=2, label=label)  # a cross and an issuing CA, for when there is a successor
    require_no_address(root)
    require_strength(root)
    require_valid(root, now)
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise root.refusal(Rule.CHAIN, "is not signed by its own key") from error
    return root.key_id


def find_root(
    presented: Sequence[x509.Certificate], tunnel: TunnelId, *, now: datetime
) -> x509.Certificate:
    """
    Find a tunnel's root among certificates of which nothing is known: by its ID, the hash of the root's key.

    Args:
        presented: what ``unverified_chain`` gave.
        tunnel: the ID, from a source that is trusted.
        now: the time to judge validity by, with a zone.

    Returns:
        The root certificate, judged as ``verify_root`` does.

    Raises:
        CertificateRefused: with the rule ANCHOR if it is not there, or with the first rule that it fails.
    """
    for certificate in presented:
        # A cross certificate for the first root's own key would have the same hash: only the root is signed
        # by itself, which ``verify_root`` demands with the Subject and all else.
        facts = read_facts(certificate)
        if facts.key_id == tunnel and facts.self_issued:
            verify_root(certificate, now=now)
            return certificate
    raise CertificateRefused(
        Rule.ANCHOR,
        "what answered",
        f"did not show the root of {tunnel}",
        hint="compare the tunnel ID; if it is right, somebody answers in the gateway's place",
    )


def verify_issuing(
    presented: Sequence[x509.Certificate], *, root: x509.Certificate, issuing: Issuing, now: datetime
) -> None:
    """
    Judge the certificate of an issuing CA, and the cross certificate above it where there is one.

    Args:
        presented: the issuing CA's certificate first.
        root: the tunnel's root certificate.
        issuing: which of the two it must be.
        now: the time to judge validity by, with a zone.

    Raises:
        CertificateRefused: with the rule that failed.
    """
    label = TunnelId.of_root(root).label
    members = [read_facts(certificate) for certificate in build_chain(presented, root)]
    require_anchor(members[-1], label)
    require_issuing(members[0], issuing=issuing, label=label)
    for below, authority in enumerate(members):
        require_authority(authority, below=below, label=label)
    for member in members:
        require_strength(member)
        require_valid(member, now)


def verify_leaf_file(
    leaf: LeafFiles, *, root: x509.Certificate, role: Role, label: str, now: datetime
) -> Identity:
    """
    Judge one's own certificate and key files, as the peer will: before dialling.

    Args:
        leaf: the files.
        root: the tunnel's root certificate.
        role: what the files are for.
        label: the tunnel's label.
        now: the time to judge validity by, with a zone.

    Raises:
        FileRefused: if a file cannot be read, is readable by others, or is not PEM of the right kind.
        CertificateRefused: if the key is another one's, or with the first rule of ``verify_identity`` that
        fails.
    """
    return verify_identity(build_chain(leaf.load().presented, root), role=role, label=label, now=now)


def verify_bundle(bundle: Bundle, *, now: datetime) -> Identity:
    """
    Judge a caller's own bundle, as the gateway will: before dialling.

    Raises:
        CertificateRefused: with the first rule of ``verify_identity`` that fails.
    """
    chain = build_chain(bundle.presented, bundle.root)
    return verify_identity(chain, role=Role.CALLER, label=bundle.tunnel.label, now=now)
