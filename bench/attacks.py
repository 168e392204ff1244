"""
The attacks of the root drill: what answers at the relay's address, and why it must not work.

The attacker has everything that the relay has, and the DNS of the tunnel domain. Some attacks are given
even more, a stolen leaf or a careless issuer, to show that a rule holds by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import trustme
from cryptography import x509

from tests.harness.forgery import Authority, copy_certificate, new_key, write_server_files
from tests.harness.product import Tunnel
from tests.harness.switchboard import Behaviour, forward, impersonate, impostor_context, replay

OUTSIDE_NAME = "payroll.example.com"


class Reason(Enum):
    """Why a caller refuses, and how OpenSSL, curl, Node and the connector each say it."""

    UNKNOWN_ISSUER = (
        "no chain to the root",
        # Node's second word is for a leaf whose own issuer is not there.
        (
            "unable to get local issuer certificate",
            "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
            "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
        ),
    )
    BAD_SIGNATURE = (
        "bad signature",
        # curl shows the first of OpenSSL's errors, which for a signature is where ASN1_item_verify failed.
        ("certificate signature failure", "CERT_SIGNATURE_FAILURE", "asn1 encoding routines::EVP lib"),
    )
    WRONG_PURPOSE = ("not for servers", ("unsuitable certificate purpose", "INVALID_PURPOSE"))
    OUTSIDE_CONSTRAINTS = ("outside the constraints", ("permitted subtree violation",))
    STALE_KEYS = ("keys of another talk", ("bad record mac",))
    OTHER_NAME = ("the gateway knows no such name", ("unrecognized name", "does not know tunnel"))

    def __init__(self, text: str, marks: tuple[str, ...]) -> None:
        self.text = text
        self._marks = marks

    def is_in(self, said: str) -> bool:
        """Tell whether a program's own words give this reason."""
        words = said.lower().replace("_", " ")
        return any(mark.lower().replace("_", " ") in words for mark in self._marks)


@dataclass(frozen=True)
class Attack:
    """
    One attack.

    Attributes:
        name: what is tried.
        reason: why every client must refuse.
        answer: makes what answers, from a recording of the genuine gateway's answer to the same client.
    """

    name: str
    reason: Reason
    answer: Callable[[bytes], Behaviour]


def impersonations(tunnel: Tunnel, folder: Path) -> list[Attack]:
    """
    Make every attack that is a TLS server with the wrong certificates.

    Args:
        tunnel: the victim.
        folder: where the attacker keeps his files.
    """
    makers: list[tuple[str, Reason, Callable[[Tunnel, Path], Path]]] = [
        ("a fresh CA with the same names", Reason.UNKNOWN_ISSUER, _fresh_authority),
        ("the root certificate without its key", Reason.BAD_SIGNATURE, _root_without_key),
        ("another tenant's root, same Subject and key identifier", Reason.BAD_SIGNATURE, _shadow_root),
        ("a certificate of a CA that public clients trust", Reason.UNKNOWN_ISSUER, _public_authority),
        ("a link's key used as a gateway", Reason.WRONG_PURPOSE, _stolen_link),
        ("a caller's key used as a gateway", Reason.WRONG_PURPOSE, _stolen_caller),
        ("root-signed, with a name outside the constraints", Reason.OUTSIDE_CONSTRAINTS, _outside_name),
    ]
    return [
        _impersonation(name, reason, make(tunnel, folder / str(number)))
        for number, (name, reason, make) in enumerate(makers)
    ]


def replaying() -> Attack:
    """Answer with the genuine gateway's own bytes of another connection."""
    return Attack("replayed bytes of the genuine gateway", Reason.STALE_KEYS, replay)


def crossing(port: int) -> Attack:
    """Let a relay answer that leads the victim's callers to another tunnel's gateway."""
    return Attack("the tunnel wired to another's gateway", Reason.OTHER_NAME, lambda genuine: forward(port))


def _impersonation(name: str, reason: Reason, pem: Path) -> Attack:
    behaviour = impersonate(impostor_context(str(pem)))
    return Attack(name, reason, lambda genuine: behaviour)


def public_server_file(authority: trustme.CA, tunnel: Tunnel, folder: Path) -> Path:
    """
    Have a CA that public clients trust certify the tunnel's names, which whoever holds the DNS can.

    Args:
        authority: the stand-in for that CA.
        tunnel: the victim.
        folder: where the file goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pem = folder / "server.pem"
    names = (tunnel.host("tickets"), tunnel.host())
    authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(pem))
    return pem


@dataclass(frozen=True)
class _Genuine:
    """The tunnel's own certificates: the relay has the root, and whoever can call is shown the others."""

    root: x509.Certificate
    issuing: x509.Certificate
    leaf: x509.Certificate


def _genuine(tunnel: Tunnel) -> _Genuine:
    presented = x509.load_pem_x509_certificates(tunnel.identity.gateway("gw1").certificate.read_bytes())
    return _Genuine(tunnel.identity.root_certificate(), presented[1], presented[0])


def _fresh_authority(tunnel: Tunnel, folder: Path) -> Path:
    genuine = _genuine(tunnel)
    root = copy_certificate(genuine.root, new_key(), None)
    issuing = copy_certificate(genuine.issuing, new_key(), root)
    leaf = copy_certificate(genuine.leaf, new_key(), issuing)
    return write_server_files(folder, leaf, issuing.certificate)


def _root_without_key(tunnel: Tunnel, folder: Path) -> Path:
    genuine = _genuine(tunnel)
    pretended = Authority(genuine.root, new_key())
    issuing = copy_certificate(genuine.issuing, new_key(), pretended)
    leaf = copy_certificate(genuine.leaf, new_key(), issuing)
    return write_server_files(folder, leaf, issuing.certificate, genuine.root)


def _shadow_root(tunnel: Tunnel, folder: Path) -> Path:
    genuine = _genuine(tunnel)
    root = copy_certificate(genuine.root, new_key(), None, keep_identifier=True)
    issuing = copy_certificate(genuine.issuing, new_key(), root)
    leaf = copy_certificate(genuine.leaf, new_key(), issuing)
    return write_server_files(folder, leaf, issuing.certificate, root.certificate)


def _public_authority(tunnel: Tunnel, folder: Path) -> Path:
    return public_server_file(trustme.CA(), tunnel, folder)


def _stolen_link(tunnel: Tunnel, folder: Path) -> Path:
    files = tunnel.identity.link("gw1")
    folder.mkdir(parents=True, exist_ok=True)
    pem = folder / "server.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return pem


def _stolen_caller(tunnel: Tunnel, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pem = folder / "server.pem"
    pem.write_bytes(tunnel.bundle().read_bytes())
    return pem


def _outside_name(tunnel: Tunnel, folder: Path) -> Path:
    genuine = _genuine(tunnel)
    issuing = Authority.load(tunnel.identity.path / "gateways.pem", tunnel.identity.path / "gateways.key")
    leaf = copy_certificate(genuine.leaf, new_key(), issuing, extra_names=[OUTSIDE_NAME])
    return write_server_files(folder, leaf, issuing.certificate)
