"""
PEM text, strictly: what OpenSSL skips over, this file names.

A PEM file is text blocks (RFC 7468) with free text between them. OpenSSL takes the first block of the kind
that it looks for and is silent about the rest, so a half-copied file, a second key or the wrong file
altogether shows up much later as a failed handshake. Here the file is read whole: every block is complete
and of a known kind, and every complaint says which file and what to do. CRLF line ends are fine.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from sallyport.certs.errors import FileRefused, Rule
from sallyport.certs.facts import read_facts

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_CERTIFICATE: Final = "CERTIFICATE"
_KEYS: Final = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
# `openssl ecparam -genkey` writes the curve's name in front of the key; it says nothing that the key does
# not.
_IGNORED: Final = ("EC PARAMETERS",)

_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s*", re.ASCII)
_END = re.compile(r"-----END ([A-Z0-9 ]+)-----\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PemFile:
    """
    The content of one PEM file.

    ``header`` is the text in front of the first block, ``certificates`` and ``keys`` the blocks in their
    order.
    """

    path: Path
    header: str
    certificates: tuple[x509.Certificate, ...]
    keys: tuple[PrivateKey, ...]

    def one_key(self) -> PrivateKey:
        """
        Give the file's key.

        Raises:
            FileRefused: if it has none, or more than one.
        """
        if len(self.keys) != 1:
            count = "no private key" if not self.keys else f"{len(self.keys)} private keys; it must hold one"
            raise FileRefused(self.path, f"holds {count}")
        return self.keys[0]

    def some_certificates(self) -> tuple[x509.Certificate, ...]:
        """
        Give the file's certificates.

        Raises:
            FileRefused: if it has none.
        """
        if not self.certificates:
            raise FileRefused(self.path, "holds no certificate")
        return self.certificates


def parse_pem(path: Path, data: bytes) -> PemFile:
    """
    Read the content of a PEM file.

    Args:
        path: where it came from, for the error text.
        data: the whole file.

    Raises:
        FileRefused: if it is not text, a block is cut off, of an unknown kind or not what it says, a key is
        encrypted, or that of a certificate is damaged.
    """
    text = _text(path, data)
    header: list[str] = []
    certificates: list[x509.Certificate] = []
    keys: list[PrivateKey] = []
    kind, block = "", list[str]()
    for line in text.splitlines():
        begin, end = _BEGIN.fullmatch(line), _END.fullmatch(line)
        if not kind and begin:
            kind, block = begin[1], [line.rstrip()]
        elif not kind and end:
            raise FileRefused(
                path, f"has an END {end[1]} line without its beginning: the file is incomplete", _COPY
            )
        elif kind and (begin or (end and end[1] != kind)):
            raise FileRefused(path, f"has a {kind} block that is cut off in the middle", _COPY)
        elif kind and end:
            pem = "\n".join([*block, line.rstrip(), ""]).encode("ascii")
            if kind == _CERTIFICATE:
                certificates.append(_certificate(path, pem))
            elif kind not in _IGNORED:
                keys.append(_key(path, kind, pem))
            kind = ""
        elif kind:
            block.append(line.strip())
        elif not certificates and not keys:
            header.append(line)
    if kind:
        raise FileRefused(path, f"ends in the middle of a {kind} block", _COPY)
    if not certificates and not keys:
        raise FileRefused(path, "is not PEM: it holds no -----BEGIN …----- block")
    return PemFile(path, "\n".join(header), tuple(certificates), tuple(keys))


def encode_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """
    Write certificates as PEM, one after the other.
    """
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def encode_key(key: PrivateKey) -> bytes:
    """
    Write a private key as unencrypted PKCS #8 PEM.
    """
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_der(key: PrivateKey | PublicKey | x509.Certificate) -> bytes:
    """
    Give the SubjectPublicKeyInfo of a key, or of the key in a certificate.
    """
    public = key if isinstance(key, PublicKey) else key.public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def as_public_key(certificate: x509.Certificate) -> PublicKey:
    """
    Give the key in a certificate, of a kind that the profile knows.

    Raises:
        CertificateRefused: with the rule KEY_STRENGTH, if it is of another kind.
    """
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise read_facts(certificate).refusal(Rule.KEY_STRENGTH, "has a key that is neither ECDSA nor RSA")
    return key


def require_matching_key(key: PrivateKey, certificate: x509.Certificate, *, path: Path) -> None:
    """
    Demand that a key is the certificate's.

    Raises:
        CertificateRefused: with the rule KEY_MISMATCH, naming the key's file.
    """
    if public_der(key) != public_der(certificate):
        raise read_facts(certificate).refusal(
            Rule.KEY_MISMATCH,
            f"does not belong to the key in {path}",
            hint="put back the key that was made with it, or issue both again with --replace",
        )


_COPY: Final = "copy the file again, whole"


def _text(path: Path, data: bytes) -> str:
    if not data.strip():
        raise FileRefused(path, "is empty", _COPY)
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise FileRefused(path, "begins with a byte order mark", "save it as plain ASCII text, without one")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        hint = "convert it: openssl x509 -inform DER -in FILE" if data[:1] == b"\x30" else ""
        raise FileRefused(path, "is not PEM text", hint) from error


def _certificate(path: Path, pem: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise FileRefused(path, "holds a CERTIFICATE block that is no certificate", _COPY) from error
    try:
        # The library reads the key when it is asked for, which would be in the middle of something else.
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FileRefused(path, "holds a certificate whose key cannot be read", _COPY) from error
    return certificate


def _key(path: Path, kind: str, pem: bytes) -> PrivateKey:
    if kind not in _KEYS:
        raise FileRefused(path, f"holds a {kind} block, which is neither a certificate nor a private key")
    if kind == "ENCRYPTED PRIVATE KEY" or b"\nProc-Type: 4,ENCRYPTED" in pem:
        raise FileRefused(
            path,
            "holds an encrypted private key",
            "decrypt it: openssl pkey -in FILE -out NEW, then chmod 600 NEW",
        )
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's text may quote the input: the cause is kept for debuggers, not for the message.
        raise FileRefused(path, f"holds a {kind} block that is no private key", _COPY) from error
    if not isinstance(key, PrivateKey):
        raise FileRefused(path, "holds a private key that is neither ECDSA nor RSA", "make a new one")
    return key
