"""
The names of a tunnel: its ID, its DNS names, and the identities in its certificates.

Each written form is parsed once, here, into a type; past this file nobody looks at a string to learn what
it means.

* A *label* is the tunnel in DNS: lower-case base32 of the first 20 bytes of SHA-256(root
  SubjectPublicKeyInfo), 32 characters. The tunnel ID is ``tnl_`` and the label, so whoever knows the ID can
  check the root.
* Under a tunnel domain D, callers ask for ``<server>.<label>.<D>`` or ``<label>.<D>``, links for
  ``<label>.link.<D>``. ``link`` has four characters and a label 32, so the two forms never collide.
* A certificate says who holds it in one URI, ``sallyport://<label>/<role>/<name>``.

Pure: text in, values or ``NameRefused`` out. Identity §2 and §3.
"""

import hashlib
import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sallyport.certs.errors import NameRefused

LABEL_LENGTH: Final = 32
MAX_HOST: Final = 253  # RFC 1035 §2.3.4, as text and without the trailing dot
MAX_DNS_LABEL: Final = 63
LINK: Final = "link"
HTTPS_PORT: Final = 443

# <label>.link.<D> must fit into a host name, whatever the servers are called.
MAX_DOMAIN: Final = MAX_HOST - LABEL_LENGTH - len(f".{LINK}.")

_LABEL = re.compile(r"[a-z2-7]{32}", re.ASCII)
_LDH = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HOLDER = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]\s]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_NOT_LDH = re.compile(r"[^a-z0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TunnelId:
    """
    A tunnel's ID, which is also the pin of its root key.

    ``label`` is its DNS form, without the ``tnl_``.
    """

    label: str

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.label):
            raise NameRefused("tunnel label", self.label, "is not 32 characters of a-z and 2-7")

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read the written form, ``tnl_<label>``.

        Raises:
            NameRefused: if ``text`` is anything else.
        """
        prefix, separator, label = text.partition("_")
        if prefix != "tnl" or not separator or not _LABEL.fullmatch(label):
            raise NameRefused(
                "tunnel ID",
                text,
                "is not tnl_ and 32 characters of a-z and 2-7",
                hint="copy it from `sallyport certs show root.pem`",
            )
        return cls(label)

    @classmethod
    def of_public_key(cls, spki_der: bytes) -> Self:
        """
        Compute the ID of a root key.

        Args:
            spki_der: the key's SubjectPublicKeyInfo, DER (RFC 5280 §4.1.2.7).
        """
        return cls(b32encode(hashlib.sha256(spki_der).digest()[:20]).decode("ascii").lower())

    @classmethod
    def of_root(cls, certificate: x509.Certificate) -> Self:
        """
        Compute the ID of the tunnel whose root certificate this is.
        """
        key = certificate.public_key()
        return cls.of_public_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def __str__(self) -> str:
        return f"tnl_{self.label}"


class Role(StrEnum):
    """
    What the holder of a leaf may be.
    """

    GATEWAY = "gateway"  # serves callers, inside the inner TLS
    LINK = "link"  # opens links to the relay
    CALLER = "caller"  # calls through the tunnel


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who a leaf says its holder is: the only thing that is ever read out of one.

    ``label`` is the tunnel's, ``role`` what the holder may be, ``name`` which of them it is.
    """

    label: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        TunnelId(self.label)
        if not _HOLDER.fullmatch(self.name):
            raise NameRefused(
                f"{self.role} name",
                self.name,
                "is not 1 to 63 of a-z, 0-9, '.', '_' and '-' with a letter or digit at both ends",
            )

    @property
    def uri(self) -> str:
        """
        The URI SAN of this identity's certificates.
        """
        return f"sallyport://{self.label}/{self.role}/{self.name}"

    @classmethod
    def parse_uri(cls, text: str) -> Self:
        """
        Read ``sallyport://<label>/<role>/<name>``, exactly: no other case, port, query, fragment or escape.

        Raises:
            NameRefused: if ``text`` is anything else.
        """
        scheme, separator, rest = text.partition("://")
        parts = rest.split("/")
        if scheme != "sallyport" or not separator or len(parts) != 3 or parts[1] not in tuple(Role):
            raise NameRefused("URI", text, "is not sallyport://<label>/<gateway, link or caller>/<name>")
        label, role, name = parts
        return cls(label, Role(role), name)

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


def holder_name(host_name: str) -> str:
    """
    Make the name of a gateway of the name of the host that it runs on: its first label, as an identity's
    name.
    """
    first = host_name.partition(".")[0].lower()
    made = "".join(character if _LDH.fullmatch(character) else "-" for character in first)
    return made.strip("-")[:MAX_DNS_LABEL].strip("-") or "gateway"


def domain(text: str) -> str:
    """
    Check a tunnel domain and return it in lower case.

    Raises:
        NameRefused: if it is no domain of LDH labels, too long for the names below it, or begins with
            ``link.``, under which one domain's tunnels would be another one's links.
    """
    folded = text.lower()
    labels = folded.split(".")
    if not folded.isascii():
        raise NameRefused("tunnel domain", text, "is not ASCII", hint="write it in its xn-- form")
    if not all(_LDH.fullmatch(label) for label in labels):
        raise NameRefused(
            "tunnel domain",
            text,
            "is not a DNS name: labels of letters, digits and inner hyphens, joined by dots",
            hint="write it as in tunnel.example.com: no scheme, port, wildcard or trailing dot",
        )
    if labels[-1].isdigit():
        raise NameRefused("tunnel domain", text, "looks like an IP address", hint="a tunnel needs a DNS name")
    if labels[0] == LINK:
        raise NameRefused("tunnel domain", text, "begins with link., which is kept for the gateways' links")
    if len(folded) > MAX_DOMAIN:
        raise NameRefused("tunnel domain", text, f"is longer than {MAX_DOMAIN} characters")
    return folded


def server_name(text: str) -> str:
    """
    Check the name of a server behind a gateway and return it in lower case.

    Raises:
        NameRefused: if it is no LDH label of at most 63 characters, or is reserved.
    """
    folded = text.lower()
    if folded == LINK or folded.startswith("_"):
        raise NameRefused(
            "server name", text, "is reserved", hint="`link` and names that begin with _ are ours"
        )
    if not _LDH.fullmatch(folded):
        raise NameRefused(
            "server name", text, "is not 1 to 63 letters, digits and inner hyphens, as a DNS label must be"
        )
    return folded


def slug(key: str) -> str:
    """
    Make a server name of a free-form config key: ``My Server_1`` becomes ``my-server-1``.

    Raises:
        NameRefused: if nothing usable is left, or what is left is reserved.
    """
    if key.startswith("_"):
        return server_name(key)  # never quietly turned into a name that is not reserved
    made = _NOT_LDH.sub("-", key.lower()).strip("-")[:MAX_DNS_LABEL].strip("-")
    if not made:
        raise NameRefused("server name", key, "has no letter a-z or digit to make a DNS label of")
    return server_name(made)


def server_names(keys: Iterable[str]) -> dict[str, str]:
    """
    Give each config key its server name.

    Returns:
        The server name by key, in the order of the keys.

    Raises:
        NameRefused: if a key gives no name, or two keys give the same one.
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for key in keys:
        name = slug(key)
        if name in taken:
            raise NameRefused(
                "server name", key, f"becomes {name!r} in DNS, and so does {taken[name]!r}", hint="rename one"
            )
        taken[name] = key
        names[key] = name
    return names


def tunnel_host(label: str, domain: str) -> str:
    """
    Name the tunnel as a whole: what the connector asks for.
    """
    return f"{label}.{domain}"


def link_host(label: str, domain: str) -> str:
    """
    Name the tunnel's links: what a gateway asks the relay for.
    """
    return f"{label}.{LINK}.{domain}"


def server_host(server: str, label: str, domain: str) -> str:
    """
    Name one server of a tunnel.

    Raises:
        NameRefused: if the whole is longer than DNS allows.
    """
    host = f"{server}.{label}.{domain}"
    if len(host) > MAX_HOST:
        raise NameRefused("host name", host, f"is longer than the {MAX_HOST} characters of DNS")
    return host


def relay_address(text: str) -> str:
    """
    Check a relay's address, HOST or HOST:PORT, and return it with its port; 443 when none is given.

    An IPv6 address stands in brackets: [2001:db8::1]:443.

    Raises:
        NameRefused: if it is neither, or the port is not 1 to 65535.
    """
    match = _ADDRESS.fullmatch(text.lower())
    if not match or not _is_host(match["host"]):
        raise NameRefused(
            "relay address",
            text,
            "is not HOST or HOST:PORT",
            hint="write it as in relay.example.com:443, without https://",
        )
    port = int(match["port"] or HTTPS_PORT)
    if not 1 <= port <= 65535:
        raise NameRefused("relay address", text, "has a port outside 1 to 65535")
    return f"{match['host']}:{port}"


def _is_host(text: str) -> bool:
    try:
        return ip_address(text.strip("[]")).version == (6 if text.startswith("[") else 4)
    except ValueError:
        return len(text) <= MAX_HOST and all(_LDH.fullmatch(label) for label in text.split("."))


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """
    A host name that asks for a tunnel's link.
    """

    label: str


@dataclass(frozen=True, slots=True)
class CallerTarget:
    """
    A host name that asks for a tunnel, or for one server of it.

    ``server`` is the server's DNS label, or None for the tunnel as a whole. Whether there is such a server
    is for the gateway to say: the reserved names come through, too.
    """

    label: str
    server: str | None


def parse_host(host: str, domain: str) -> LinkTarget | CallerTarget:
    """
    Read a host name, from SNI or a Host header without its port, as seen under one tunnel domain.

    Args:
        host: the name, already in lower case.
        domain: the tunnel domain.

    Raises:
        NameRefused: if it is not one of the three forms, which tells nothing about whether the tunnel exists.
    """
    if len(host) > MAX_HOST:
        raise NameRefused("host name", host, f"is longer than the {MAX_HOST} characters of DNS")
    above, dot, rest = host.removesuffix(f".{domain}").rpartition(".")
    if not host.endswith(f".{domain}"):
        raise NameRefused("host name", host, f"is not under {domain}")
    if rest == LINK and _LABEL.fullmatch(above):
        return LinkTarget(above)
    if not _LABEL.fullmatch(rest):
        raise NameRefused("host name", host, f"has no tunnel's label in front of {domain}")
    if not dot:
        return CallerTarget(rest, None)
    if not _LDH.fullmatch(above.removeprefix("_")) or len(above) > MAX_DNS_LABEL:
        raise NameRefused("host name", host, "has more than a server's label in front of the tunnel's")
    return CallerTarget(rest, above)
