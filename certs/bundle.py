"""
A caller's bundle: all that it needs to call, in one PEM file.

    sallyport-bundle: 1                    text header: version, tunnel ID, tunnel domain, relay
    tunnel: tnl_…
    domain: tunnel.example.com
    relay: relay.example.com:443

    -----BEGIN PRIVATE KEY-----            the caller's key
    -----BEGIN CERTIFICATE----- …          what it presents: leaf, issuing CA, (cross certificate)
    -----BEGIN CERTIFICATE-----            the tunnel's root: the only certificate it trusts

In that order, so that `curl --cert B --cacert B` works; OpenSSL skips the header. Identity §6.

A bundle that loads is whole and fits together. Whether its certificates are still good is for
``verify.verify_bundle``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from sallyport.certs.errors import FileRefused, NameRefused, Rule
from sallyport.certs.facts import read_facts
from sallyport.certs.names import TunnelId, domain as checked_domain, relay_address
from sallyport.certs.pem import PrivateKey, encode_certificates, encode_key, parse_pem, require_matching_key
from sallyport.certs.storage import read_private

BUNDLE_VERSION: Final = "1"

_REISSUE: Final = "copy it again, whole, or issue a new one: sallyport certs issue caller NAME --replace"


@dataclass(frozen=True, slots=True)
class Bundle:
    """
    All that a caller needs, out of one file.

    ``tunnel`` and ``domain`` say whom it calls, ``relay`` is the relay's "host:port"; ``presented`` is the
    leaf, the issuing CA and the cross certificate where there is one; ``root`` is the only certificate to
    trust.
    """

    path: Path
    tunnel: TunnelId
    domain: str
    relay: str
    presented: tuple[x509.Certificate, ...]
    root: x509.Certificate

    @property
    def leaf(self) -> x509.Certificate:
        """
        The caller's own certificate.
        """
        return self.presented[0]

    @classmethod
    def load(cls, path: Path) -> Self:
        """
        Read a bundle; its content is whole and fits together, whether it is still valid is for
        ``verify_bundle``.

        Raises:
            FileRefused: if others can read it, or it is cut off, mixed up or no bundle.
            CertificateRefused: if its key or its root is another one's.
        """
        pem = parse_pem(path, read_private(path))
        header = _bundle_header(path, pem.header)
        try:
            tunnel, name = TunnelId.parse(header["tunnel"]), checked_domain(header["domain"])
            relay = relay_address(header["relay"])
        except NameRefused as error:
            raise FileRefused(path, f"is no good bundle: {error}", _REISSUE) from error
        leaf, *above = pem.some_certificates()
        if not above or not read_facts(above[-1]).self_issued:
            raise FileRefused(
                path, "does not end with the tunnel's root certificate: it is incomplete", _REISSUE
            )
        require_matching_key(pem.one_key(), leaf, path=path)
        root = above.pop()
        if TunnelId.of_root(root) != tunnel:
            raise read_facts(root).refusal(
                Rule.ANCHOR, f"is not the root of {tunnel}, which {path} is for", _REISSUE
            )
        presented = (leaf, *(certificate for certificate in above if not read_facts(certificate).self_issued))
        if len(presented) < 2:
            raise FileRefused(path, "does not hold the issuing CA's certificate: it is incomplete", _REISSUE)
        return cls(path, tunnel, name, relay, presented, root)


def encode_bundle(
    key: PrivateKey,
    presented: tuple[x509.Certificate, ...],
    root: x509.Certificate,
    *,
    domain: str,
    relay: str,
) -> bytes:
    """
    Write a caller's bundle: the mirror of ``Bundle.load``.
    """
    header = (
        f"sallyport-bundle: {BUNDLE_VERSION}\n"
        f"tunnel: {TunnelId.of_root(root)}\n"
        f"domain: {domain}\n"
        f"relay: {relay}\n"
        "\n"
    )
    return header.encode("ascii") + encode_key(key) + encode_certificates([*presented, root])


def _bundle_header(path: Path, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon or name in fields:
            raise FileRefused(path, "has a header that is no bundle's", _REISSUE)
        fields[name] = value.strip()
    if "sallyport-bundle" not in fields:
        raise FileRefused(path, "is no bundle: its first line is not `sallyport-bundle: 1`", _REISSUE)
    if fields["sallyport-bundle"] != BUNDLE_VERSION:
        raise FileRefused(
            path,
            f"is a bundle of version {fields['sallyport-bundle']!r}",
            "use the sallyport that made it, or a newer one",
        )
    missing = [name for name in ("tunnel", "domain", "relay") if not fields.get(name)]
    if missing:
        raise FileRefused(path, f"has no `{missing[0]}:` in its header: it is incomplete", _REISSUE)
    return fields
