"""
What proves the relay to a gateway: a CA file, a pin of the relay's key, or the system's trust store.

A pin is of the relay's own key (SubjectPublicKeyInfo), not of a CA's: TLS proves possession of just that
key, so nothing else about the certificate matters, and a new certificate for the same key keeps the pin.
There is no trust on first use. Identity §4.
"""

import binascii
import hashlib
import hmac
import ssl
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509

from sallyport.certs.errors import CertificateRefused, NameRefused, Rule
from sallyport.certs.pem import public_der


@dataclass(frozen=True, slots=True)
class CaFile:
    """
    Trust the CA certificates in one file, and nothing else.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class SystemStore:
    """
    Trust the public CAs that this system trusts.
    """


@dataclass(frozen=True, slots=True)
class Pin:
    """
    Trust one key.

    ``sha256`` is the SHA-256 of its SubjectPublicKeyInfo, 32 bytes.
    """

    sha256: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read the written form, ``sha256/<base64>``.

        Raises:
            NameRefused: if ``text`` is anything else.
        """
        algorithm, _, encoded = text.partition("/")
        try:
            digest = b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if algorithm != "sha256" or len(digest) != hashlib.sha256().digest_size:
            raise NameRefused(
                "pin",
                text,
                "is not sha256/ and 44 characters of base64",
                hint="copy it from what `relay init` printed",
            )
        return cls(digest)

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """
        Compute the pin of a certificate's key.
        """
        return cls(hashlib.sha256(public_der(certificate)).digest())

    def __str__(self) -> str:
        return f"sha256/{b64encode(self.sha256).decode('ascii')}"


RelayTrust = CaFile | Pin | SystemStore


def spki_pin(certificate: x509.Certificate) -> str:
    """
    Write the pin of a certificate's key, ``sha256/<base64>``.
    """
    return str(Pin.of(certificate))


def check_pin(tls: ssl.SSLObject, trust: RelayTrust) -> None:
    """
    Demand the pinned key, where the relay is trusted by a pin; elsewhere the handshake has said it all.

    Args:
        tls: the finished handshake, on a context of ``contexts.link_client_context`` with the same ``trust``.

    Raises:
        CertificateRefused: with the rule PIN, if the relay's key is another one.
    """
    if not isinstance(trust, Pin):
        if tls.context.verify_mode is not ssl.CERT_REQUIRED:
            raise AssertionError("this context was made for a pin")
        return
    der = tls.getpeercert(binary_form=True)
    if der is None:
        raise CertificateRefused(Rule.MISSING, "the relay", "presented no certificate")
    try:
        found = Pin.of(x509.load_der_x509_certificate(der))
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused(
            Rule.MALFORMED, "the relay's certificate", f"cannot be read: {str(error)[:200]!a}"
        ) from error
    if not hmac.compare_digest(found.sha256, trust.sha256):
        raise CertificateRefused(
            Rule.PIN,
            "the relay's certificate",
            f"has the key {found}, not the pinned {trust}",
            hint="ask the relay's operator for its pin; if that has not changed, somebody stands in between",
        )
