"""
The certificate profile as data: what ``authority.py`` builds by and ``verify.py`` judges by.

    root                      signed by itself   10 years   CN=<label>            CA, path length 3
    └── cross                 (only with a successor root)  CN=<hash of its key>  CA, path length 2
        ├── issuing gateways  1 year                        CN=<label> gateways   CA, path length 0
        │   ├── gateway leaf  90 days                       empty                 serverAuth, DNS names, URI
        │   └── link leaf     90 days                       empty                 clientAuth, URI
        └── issuing callers   1 year                        CN=<label> callers    CA, path length 0
            └── caller leaf   90 days                       empty                 clientAuth, URI

Name constraints stand on every CA, the root included, and are always critical. There are none on URIs:
rustls and ``cryptography`` refuse every leaf with a URI under them, so URIs are the verifier's business.
Identity §2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from sallyport.certs.names import Role, tunnel_host

ROOT_PATH_LENGTH: Final = 3
CROSS_PATH_LENGTH: Final = 2
ISSUING_PATH_LENGTH: Final = 0

ROOT_LIFE: Final = timedelta(days=3652)  # ten years
ISSUING_LIFE: Final = timedelta(days=365)
# 90 days for gateway and link leaves, too, until automatic renewal exists; then 7. Identity §2.
LEAF_LIFE: Final = {
    Role.GATEWAY: timedelta(days=90),
    Role.LINK: timedelta(days=90),
    Role.CALLER: timedelta(days=90),
}
RELAY_LIFE: Final = timedelta(days=825)

# Clocks disagree: a certificate made now must be good on a machine that is a little slow.
BACKDATED: Final = timedelta(hours=1)

SERVER_AUTH: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH: Final = ExtendedKeyUsageOID.CLIENT_AUTH

LEAF_USAGE: Final = {
    Role.GATEWAY: frozenset({SERVER_AUTH}),
    Role.LINK: frozenset({CLIENT_AUTH}),
    Role.CALLER: frozenset({CLIENT_AUTH}),
}


class Issuing(StrEnum):
    """
    The two issuing CAs of a tunnel, by the word in their Subject.
    """

    GATEWAYS = "gateways"
    CALLERS = "callers"

    def subject(self, label: str) -> str:
        """
        The common name of this CA, which only the root can sign: it is the CA's role.
        """
        return f"{label} {self}"


ISSUING_USAGE: Final = {
    Issuing.GATEWAYS: frozenset({SERVER_AUTH, CLIENT_AUTH}),
    Issuing.CALLERS: frozenset({CLIENT_AUTH}),
}

ISSUED_BY: Final = {Role.GATEWAY: Issuing.GATEWAYS, Role.LINK: Issuing.GATEWAYS, Role.CALLER: Issuing.CALLERS}

ANY_IP: Final[tuple[IPv4Network | IPv6Network, ...]] = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def common_name(text: str) -> x509.Name:
    """
    Make a Subject that is one common name.
    """
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """
    Say what a key is for: that of a CA signs certificates, any other signs handshakes.
    """
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The names that a tunnel may have: what its name constraints say.

    ``label`` is the tunnel's, also below a successor root; ``domains`` are its tunnel domains, at least one.
    """

    label: str
    domains: tuple[str, ...]

    @classmethod
    def of(cls, authority: x509.Certificate) -> Self:
        """
        Read the scope out of the name constraints of a root or issuing CA.

        Raises:
            ValueError: if they are not those of one tunnel.
        """
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
        names = [
            subtree.value
            for subtree in constraints.permitted_subtrees or ()
            if isinstance(subtree, x509.DNSName)
        ]
        labels = {name.partition(".")[0] for name in names}
        if len(labels) != 1:
            raise ValueError("the permitted names are not those of one tunnel")
        return cls(labels.pop(), tuple(name.partition(".")[2] for name in names))

    def gateway_names(self) -> tuple[str, ...]:
        """
        List the DNS names of a gateway leaf: all servers, and the tunnel as a whole, under each domain.
        """
        return tuple(name for host in self._hosts() for name in (f"*.{host}", host))

    def root_constraints(self) -> x509.NameConstraints:
        """
        Confine the root and ``gateways`` to the tunnel's own names, and to no IP address at all.
        """
        return x509.NameConstraints(self._permitted(), [x509.IPAddress(network) for network in ANY_IP])

    def callers_constraints(self) -> x509.NameConstraints:
        """
        Confine ``callers`` to no server name at all.

        Java, NSS and mbedTLS do not enforce a CA's extended key usage; the excluded DNS names hold there as
        well.
        """
        addresses = [x509.IPAddress(network) for network in ANY_IP]
        return x509.NameConstraints(self._permitted(), [*self._permitted(), *addresses])

    def cross_constraints(self) -> x509.NameConstraints:
        """
        Confine a successor root to the first label's names.

        No IP subtrees: Java crashes where two CAs below the anchor exclude both IP families.
        """
        return x509.NameConstraints(self._permitted(), None)

    def _hosts(self) -> list[str]:
        return [tunnel_host(self.label, domain) for domain in self.domains]

    def _permitted(self) -> list[x509.GeneralName]:
        return [x509.DNSName(host) for host in self._hosts()]


def usage_names(usage: Iterable[ObjectIdentifier]) -> str:
    """
    Write a set of extended key usages for people: "clientAuth, serverAuth".
    """
    known = {SERVER_AUTH: "serverAuth", CLIENT_AUTH: "clientAuth"}
    return ", ".join(sorted(known.get(oid, oid.dotted_string) for oid in usage)) or "none"
