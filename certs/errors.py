"""
Everything that the identity package refuses, as one tree.

    CertificateError            root of the package: carries a ``hint``, the remedy, which may be ""
    ├── NameRefused             a tunnel ID, domain, host, server or pin that is not written as it must be
    ├── FileRefused             a file that cannot be read, written, trusted or understood
    ├── IssuingRefused          something that ``certs init`` or ``certs issue`` will not do
    └── CertificateRefused      a certificate, or the chain above it, that breaks a rule of the profile

All of them are verdicts: trying again with the same input gives the same answer. The fields come first and
are what a program decides by; the text is for people. Text has no capital and no full stop, names the thing
and says why; the hint says what to do. This file imports nothing of ours.
"""

from enum import StrEnum
from pathlib import Path


class CertificateError(Exception):
    """
    Root of the package's errors.

    ``hint`` is the remedy in one line, or "" where the text already is one.
    """

    hint: str = ""


class NameRefused(CertificateError):
    """
    Says that a name is not written as it must be.

    ``kind`` is what the text was meant to be ("tunnel domain"), ``text`` what was given, ``reason`` the rule.
    """

    def __init__(self, kind: str, text: str, reason: str, hint: str = "") -> None:
        super().__init__(kind, text, reason, hint)
        self.kind = kind
        self.text = text
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        # A hostile name must fill neither a log line nor a terminal, nor speak to it in escape sequences.
        shown = ascii(self.text) if len(self.text) <= 80 else f"{self.text[:80]!a}…"
        return f"{self.kind} {shown} {self.reason}"


class FileRefused(CertificateError):
    """
    Says that a file cannot be read, written, trusted or understood.

    ``path`` is the file, ``reason`` the sentence after its name.
    """

    def __init__(self, path: Path, reason: str, hint: str = "") -> None:
        super().__init__(path, reason, hint)
        self.path = path
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class IssuingRefused(CertificateError):
    """
    Says that a certificate will not be made, and why.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return self.reason


class Rule(StrEnum):
    """
    The rules of the strict verifier, one name each: what logs and tests read.
    """

    MISSING = "certificate-missing"  # the peer presented none
    MALFORMED = "malformed"  # not X.509 v3 as RFC 5280 writes it
    ANCHOR = "anchor"  # the chain ends in another root than this tunnel's
    ROOT_SUBJECT = "root-subject"  # the root's Subject is not CN=<label>
    URI = "uri"  # not exactly one URI SAN of the form sallyport://<label>/<role>/<name>
    LABEL = "label"  # the URI names another tunnel than the one whose root vouches for it
    ROLE = "role"  # a good certificate, in the wrong place
    CHAIN = "chain"  # not leaf, issuing CA, (cross,) root; or a signature that does not hold
    ISSUER = "issuer"  # the issuing CA's Subject is not the one that vouches for this role
    CA = "ca"  # an issuer that is no CA, or a leaf that is one
    PATH_LENGTH = "path-length"  # a CA with more CAs below it than it allows
    KEY_USAGE = "key-usage"  # the key is not for what it was used for
    EXTENDED_KEY_USAGE = "extended-key-usage"  # EKU absent, or not exactly the profile's
    NAME_CONSTRAINTS = "name-constraints"  # a CA without them, or a name outside them
    DNS_NAMES = "dns-names"  # SAN entries other than the profile's
    CRITICAL_EXTENSION = "critical-extension"  # one that this verifier does not know
    KEY_STRENGTH = "key-strength"  # below P-256 or RSA 2048
    SIGNATURE = "signature"  # below SHA-256
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    KEY_MISMATCH = "key-mismatch"  # a key file that does not belong to its certificate
    PIN = "pin"  # the relay's key is not the pinned one


class CertificateRefused(CertificateError):
    """
    Says which rule failed, for which certificate, and what to do.

    ``rule`` is the rule, ``certificate`` the kind and name ("caller certificate alice"), ``detail`` what is
    wrong with it, ``serial`` the first digits of its serial number in hex, or "" where there is no
    certificate to speak of.
    """

    def __init__(
        self, rule: Rule, certificate: str, detail: str, *, serial: str = "", hint: str = ""
    ) -> None:
        super().__init__(rule, certificate, detail)
        self.rule = rule
        self.certificate = certificate
        self.detail = detail
        self.serial = serial
        self.hint = hint

    def __str__(self) -> str:
        serial = f" (serial {self.serial})" if self.serial else ""
        return f"{self.certificate} {self.detail}{serial}"
