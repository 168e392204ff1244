"""
Where the chains come from that ``verify.py`` judges.

A chain is a tuple of certificates, the leaf first and the trust anchor last, each signed by the next:
*verified* means that those signatures hold. There are two sources. A TLS handshake leaves the chain that
OpenSSL built and checked; ``ssl`` made it public in Python 3.13 only, and ``verified_chain`` is the one
place that knows. For files that have not been in a handshake yet, ``build_chain`` finds the path itself.
Whether the chain is good *for* something is not decided here.
"""

import ssl
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.facts import read_facts

# Leaf, issuing CA, cross, root. One more than any good chain has, so that a longer one is told as such.
_MOST_MEMBERS: Final = 5


def verified_chain(tls: ssl.SSLObject) -> tuple[x509.Certificate, ...]:
    """
    Give the chain of the peer's certificate as OpenSSL verified it in this handshake.

    Args:
        tls: the finished handshake, on a context that requires or invites certificates.

    Returns:
        The leaf first, the trust anchor last; () when the peer presented none.

    Raises:
        CertificateRefused: with the rule MALFORMED, if a member cannot be read.
    """
    if tls.context.verify_mode is ssl.CERT_NONE:
        # OpenSSL keeps a chain here, too, with any number of broken signatures in it.
        raise AssertionError("a context that verifies nothing has no verified chain")
    return _read_all(_verified_der(tls))


def unverified_chain(tls: ssl.SSLObject) -> tuple[x509.Certificate, ...]:
    """
    Give what the peer presented, which proves nothing at all.

    Raises:
        CertificateRefused: with the rule MALFORMED, if a member cannot be read.
    """
    return _read_all(_presented_der(tls))


def _read_all(members: list[bytes]) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(_read(der) for der in members)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused(
            Rule.MALFORMED, "the peer's certificate", f"cannot be read: {str(error)[:200]!a}"
        ) from error


# As for ``read_facts``: the same few CAs come with every handshake, and the same callers come again.
@lru_cache(maxsize=256)
def _read(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


if sys.version_info >= (3, 13):

    def _presented_der(tls: ssl.SSLObject) -> list[bytes]:
        return tls.get_unverified_chain()

    def _verified_der(tls: ssl.SSLObject) -> list[bytes]:
        return tls.get_verified_chain()

else:
    import _ssl

    def _presented_der(tls: ssl.SSLObject) -> list[bytes]:
        # As below: there since 3.10, one layer down.
        chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        return [member.public_bytes(_ssl.ENCODING_DER) for member in chain or ()]

    def _verified_der(tls: ssl.SSLObject) -> list[bytes]:
        # The same call of OpenSSL's (SSL_get0_verified_chain) is there since 3.10, one layer below
        # ssl.SSLObject.
        chain = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]
        return [member.public_bytes(_ssl.ENCODING_DER) for member in chain or ()]


def build_chain(
    presented: Sequence[x509.Certificate], root: x509.Certificate
) -> tuple[x509.Certificate, ...]:
    """
    Find the path from a leaf to the root, checking each signature on it.

    Args:
        presented: the leaf, then the certificates above it, as a peer or a file presents them.
        root: the one trust anchor.

    Returns:
        The verified chain: the leaf first, ``root`` last.

    Raises:
        CertificateRefused: with the rule CHAIN, at the first certificate that nothing at hand has signed.
    """
    leaf, *above = presented
    chain = [leaf]
    candidates = [root, *(certificate for certificate in above if certificate != root)]
    while chain[-1] != root:
        if len(chain) == _MOST_MEMBERS:
            raise read_facts(leaf).refusal(Rule.CHAIN, "stands under more CAs than a tunnel has")
        issuer = next(
            (other for other in candidates if other not in chain and _signed(chain[-1], other)), None
        )
        if issuer is None:
            raise read_facts(chain[-1]).refusal(
                Rule.CHAIN,
                f"was signed neither by the root {read_facts(root).key_id} nor by what stands with it",
                hint="the file must hold the leaf, then its issuing CA, of this tunnel: issue it again",
            )
        chain.append(issuer)
    return tuple(chain)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
