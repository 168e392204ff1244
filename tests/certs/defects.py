"""
The corpus of bad certificates: each is a good chain with one thing wrong.

A defect names the rule that must refuse it and the roles that it makes sense for. ``openssl`` are the roles
in whose real handshake OpenSSL, as ``contexts.py`` sets it up, refuses by itself; in all others the
handshake goes through and only our verifier stands in the way, so a change on either side shows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from sallyport.certs.authority import label_of, new_key
from sallyport.certs.errors import Rule
from sallyport.certs.names import Role
from tests.certs.certificate_kit import (
    CLIENT,
    DAY,
    DOMAIN,
    NOW,
    SERVER,
    Draft,
    Drafts,
    any_ip,
    cn,
    dns,
    drafts,
    key_usage,
    uri,
)

GATEWAY, LINK, CALLER = Role.GATEWAY, Role.LINK, Role.CALLER
ALL = (GATEWAY, LINK, CALLER)
CLIENTS = (LINK, CALLER)
HOUR = timedelta(hours=1)

Spoil = Callable[[Drafts, Role], None]


@dataclass(frozen=True)
class Defect:
    """One thing wrong, the rule that finds it, and the handshakes in which OpenSSL does too."""

    name: str
    rule: Rule
    spoil: Spoil
    roles: tuple[Role, ...]
    openssl: tuple[Role, ...]

    def drafts(self, role: Role) -> Drafts:
        """Draw up the spoilt chain."""
        drawn = drafts(role)
        self.spoil(drawn, role)
        return drawn


DEFECTS: list[Defect] = []


def defect(
    rule: Rule, *, roles: tuple[Role, ...] = ALL, openssl: tuple[Role, ...] = ()
) -> Callable[[Spoil], Spoil]:
    """Add a function that spoils a chain to the corpus."""

    def add(spoil: Spoil) -> Spoil:
        DEFECTS.append(Defect(spoil.__name__, rule, spoil, roles, openssl))
        return spoil

    return add


# The leaf's time, key and signature


@defect(Rule.EXPIRED, openssl=(GATEWAY, CALLER))
def expired(chain: Drafts, role: Role) -> None:
    """The link's handshake lets it through on purpose: identity §4."""
    chain.leaf.begins, chain.leaf.ends = NOW - 2 * DAY, NOW - HOUR


@defect(Rule.NOT_YET_VALID, openssl=(GATEWAY, CALLER))
def not_yet_valid(chain: Drafts, role: Role) -> None:
    chain.leaf.begins = NOW + HOUR


@defect(Rule.KEY_STRENGTH, openssl=ALL)
def p224_key(chain: Drafts, role: Role) -> None:
    chain.leaf.key = ec.generate_private_key(ec.SECP224R1())


@defect(Rule.KEY_STRENGTH, openssl=ALL)
def rsa_1024_key(chain: Drafts, role: Role) -> None:
    chain.leaf.key = rsa.generate_private_key(65537, 1024)


# The leaf's name


@defect(Rule.URI)
def two_uris(chain: Drafts, role: Role) -> None:
    chain.leaf.names.append(uri(f"sallyport://{chain.label}/{role}/bob"))


@defect(Rule.URI)
def no_uri(chain: Drafts, role: Role) -> None:
    chain.leaf.names = (
        dns(f"{chain.label}.{DOMAIN}") if role is GATEWAY else [x509.RFC822Name("a@example.com")]
    )


@defect(Rule.URI)
def common_name_only(chain: Drafts, role: Role) -> None:
    """A gateway keeps its DNS name here, so that only the missing URI is wrong."""
    chain.leaf.subject = cn(f"sallyport://{chain.label}/{role}/alice")
    chain.leaf.names = dns(f"{chain.label}.{DOMAIN}") if role is GATEWAY else []


@defect(Rule.URI)
def upper_case_uri_host(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label.upper()}/{role}/alice")


@defect(Rule.URI)
def uri_of_another_scheme(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"spiffe://{chain.label}/{role}/alice")


@defect(Rule.URI)
def uri_with_port(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}:443/{role}/alice")


@defect(Rule.URI)
def uri_with_query(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}/{role}/alice?admin")


@defect(Rule.URI)
def uri_with_a_step_up(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}/{role}/../alice")


@defect(Rule.URI)
def uri_without_a_name(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}/{role}/")


@defect(Rule.URI)
def uri_of_an_unknown_role(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}/admin/alice")


@defect(Rule.URI)
def uri_with_upper_case_name(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}/{role}/Alice")


@defect(Rule.LABEL)
def foreign_label(chain: Drafts, role: Role) -> None:
    chain.leaf.names[0] = uri(f"sallyport://{label_of(new_key())}/{role}/alice")


@defect(Rule.ROLE)
def another_role(chain: Drafts, role: Role) -> None:
    other = CALLER if role is not CALLER else GATEWAY
    chain.leaf.names[0] = uri(f"sallyport://{chain.label}/{other}/alice")


@defect(Rule.DNS_NAMES, roles=(CALLER,), openssl=(CALLER,))
def caller_with_a_server_name(chain: Drafts, role: Role) -> None:
    """OpenSSL enforces the DNS name that ``callers`` excludes."""
    chain.leaf.names += dns(f"{chain.label}.{DOMAIN}")


@defect(Rule.DNS_NAMES, roles=(LINK,))
def link_with_a_server_name(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"{chain.label}.{DOMAIN}")


@defect(Rule.DNS_NAMES, openssl=ALL)
def address_name(chain: Drafts, role: Role) -> None:
    chain.leaf.names.append(x509.IPAddress(ip_address("192.0.2.1")))


@defect(Rule.DNS_NAMES)
def mail_name(chain: Drafts, role: Role) -> None:
    chain.leaf.names.append(x509.RFC822Name("alice@example.com"))


@defect(Rule.DNS_NAMES, roles=(GATEWAY,), openssl=(GATEWAY,))
def gateway_without_dns_names(chain: Drafts, role: Role) -> None:
    del chain.leaf.names[1:]


@defect(Rule.NAME_CONSTRAINTS, roles=(GATEWAY,), openssl=(GATEWAY,))
def name_under_a_domain_outside_the_constraints(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"{chain.label}.elsewhere.test")


@defect(Rule.DNS_NAMES, roles=(GATEWAY,), openssl=(GATEWAY,))
def another_tunnels_name(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"{label_of(new_key())}.{DOMAIN}")


@defect(Rule.DNS_NAMES, roles=(GATEWAY,), openssl=(GATEWAY,))
def wildcard_of_the_domain(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"*.{DOMAIN}")


@defect(Rule.DNS_NAMES, roles=(GATEWAY,))
def wildcard_within_a_label(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"t*.{chain.label}.{DOMAIN}")


@defect(Rule.DNS_NAMES, roles=(GATEWAY,))
def wildcard_of_two_labels(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"*.*.{chain.label}.{DOMAIN}")


@defect(Rule.DNS_NAMES, roles=(GATEWAY,), openssl=(GATEWAY,))
def bare_wildcard(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns("*")


@defect(Rule.DNS_NAMES, roles=(GATEWAY,))
def name_of_one_server(chain: Drafts, role: Role) -> None:
    chain.leaf.names += dns(f"tickets.{chain.label}.{DOMAIN}")


# The leaf's purpose


@defect(Rule.EXTENDED_KEY_USAGE, openssl=ALL)
def wrong_extended_key_usage(chain: Drafts, role: Role) -> None:
    chain.leaf.extended = [CLIENT] if role is GATEWAY else [SERVER]


@defect(Rule.EXTENDED_KEY_USAGE)
def no_extended_key_usage(chain: Drafts, role: Role) -> None:
    chain.leaf.extended = None


@defect(Rule.EXTENDED_KEY_USAGE)
def both_extended_key_usages(chain: Drafts, role: Role) -> None:
    chain.leaf.extended = [SERVER, CLIENT]


@defect(Rule.EXTENDED_KEY_USAGE, openssl=ALL)
def any_extended_key_usage(chain: Drafts, role: Role) -> None:
    chain.leaf.extended = [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]


@defect(Rule.KEY_USAGE)
def no_key_usage(chain: Drafts, role: Role) -> None:
    chain.leaf.usage = None


@defect(Rule.CA)
def no_basic_constraints(chain: Drafts, role: Role) -> None:
    chain.leaf.basic = None


@defect(Rule.CA, openssl=ALL)
def leaf_that_is_a_ca(chain: Drafts, role: Role) -> None:
    """OpenSSL counts it against the issuing CA's path length."""
    chain.leaf.basic = x509.BasicConstraints(True, 0)
    chain.leaf.usage = key_usage(sign=True, certify=True)


@defect(Rule.CRITICAL_EXTENSION, openssl=ALL)
def unknown_critical_extension(chain: Drafts, role: Role) -> None:
    chain.leaf.others.append(
        (x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
    )


# The issuing CA


@defect(Rule.ISSUER)
def wrong_issuing_subject(chain: Drafts, role: Role) -> None:
    chain.issuing.subject = cn(f"{chain.label} visitors")


@defect(Rule.ISSUER)
def issuing_subject_with_more_than_a_common_name(chain: Drafts, role: Role) -> None:
    more = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x")
    chain.issuing.subject = x509.Name([*chain.issuing.subject, more])


@defect(Rule.ISSUER)
def issuing_subject_of_another_tunnel(chain: Drafts, role: Role) -> None:
    word = "callers" if role is CALLER else "gateways"
    chain.issuing.subject = cn(f"{label_of(new_key())} {word}")


@defect(Rule.ISSUER, roles=(LINK,))
def link_leaf_minted_by_callers(chain: Drafts, role: Role) -> None:
    """Everything that TLS looks at is in order: only the CA's name says that it may not."""
    chain.issuing = drafts(CALLER).issuing
    chain.issuing.subject = cn(f"{chain.label} callers")
    host = dns(f"{chain.label}.{DOMAIN}")
    chain.issuing.constraints = x509.NameConstraints(host, [*host, *any_ip()])


@defect(Rule.ISSUER, roles=(GATEWAY,), openssl=(GATEWAY,))
def server_name_minted_by_callers(chain: Drafts, role: Role) -> None:
    link_leaf_minted_by_callers(chain, role)


@defect(Rule.ISSUER, roles=(CALLER,))
def caller_minted_by_gateways(chain: Drafts, role: Role) -> None:
    chain.issuing.subject = cn(f"{chain.label} gateways")
    chain.issuing.extended = [SERVER, CLIENT]


@defect(Rule.CA, openssl=ALL)
def issuer_that_is_no_ca(chain: Drafts, role: Role) -> None:
    chain.issuing.basic = x509.BasicConstraints(False, None)
    chain.issuing.others.append((chain.issuing.key_identifier, False))


@defect(Rule.KEY_USAGE, openssl=ALL)
def issuer_that_may_not_sign_certificates(chain: Drafts, role: Role) -> None:
    chain.issuing.usage = key_usage(sign=True)


@defect(Rule.EXTENDED_KEY_USAGE)
def issuer_without_extended_key_usage(chain: Drafts, role: Role) -> None:
    chain.issuing.extended = None


@defect(Rule.EXTENDED_KEY_USAGE, roles=(CALLER,))
def callers_with_server_auth(chain: Drafts, role: Role) -> None:
    chain.issuing.extended = [SERVER, CLIENT]


@defect(Rule.PATH_LENGTH)
def issuer_without_path_length(chain: Drafts, role: Role) -> None:
    chain.issuing.basic = x509.BasicConstraints(True, None)


@defect(Rule.NAME_CONSTRAINTS)
def issuer_without_constraints(chain: Drafts, role: Role) -> None:
    chain.issuing.constraints = None


@defect(Rule.NAME_CONSTRAINTS)
def issuer_with_constraints_that_may_be_ignored(chain: Drafts, role: Role) -> None:
    chain.issuing.constraints_critical = False


@defect(Rule.NAME_CONSTRAINTS)
def issuer_with_wider_constraints(chain: Drafts, role: Role) -> None:
    """RFC 5280 lets an issuing CA claim more than its issuer has; it must not look as if it might."""
    permitted = dns(f"{chain.label}.{DOMAIN}", "example.com")
    chain.issuing.constraints = x509.NameConstraints(permitted, None)


@defect(Rule.NAME_CONSTRAINTS, roles=(CALLER,))
def callers_that_exclude_no_server_name(chain: Drafts, role: Role) -> None:
    """Where a CA's extended key usage is not enforced, it could vouch for servers."""
    chain.issuing.constraints = chain.root.constraints


@defect(Rule.NAME_CONSTRAINTS, roles=(CALLER,))
def callers_that_exclude_no_server_name_under_a_successor(chain: Drafts, role: Role) -> None:
    callers_that_exclude_no_server_name(chain, role)
    cross = _authority(cn("a cross"), chain, 2)
    cross.subject = cn(label_of(cross.key))
    chain.between = [cross]


@defect(Rule.NAME_CONSTRAINTS, roles=(CALLER,))
def callers_that_exclude_the_names_of_one_domain_of_two(chain: Drafts, role: Role) -> None:
    hosts = dns(f"{chain.label}.{DOMAIN}", f"{chain.label}.two.test")
    chain.root.constraints = x509.NameConstraints(hosts, any_ip())
    chain.issuing.constraints = x509.NameConstraints(hosts, [*hosts[:1], *any_ip()])


@defect(Rule.EXPIRED, openssl=(GATEWAY, CALLER))
def expired_issuer(chain: Drafts, role: Role) -> None:
    chain.issuing.begins, chain.issuing.ends = NOW - 9 * DAY, NOW - HOUR


@defect(Rule.KEY_STRENGTH)
def issuer_with_p224_key(chain: Drafts, role: Role) -> None:
    """Security level 2 asks for 112 bits, which P-224 has."""
    chain.issuing.key = ec.generate_private_key(ec.SECP224R1())


@defect(Rule.CRITICAL_EXTENSION, openssl=ALL)
def issuer_with_unknown_critical_extension(chain: Drafts, role: Role) -> None:
    chain.issuing.others.append(
        (x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
    )


# The line of CAs, and the root


def _authority(subject: x509.Name, chain: Drafts, path_length: int) -> Draft:
    return Draft(
        new_key(),
        subject,
        basic=x509.BasicConstraints(True, path_length),
        usage=key_usage(certify=True),
        constraints=x509.NameConstraints(dns(f"{chain.label}.{DOMAIN}"), None),
    )


@defect(Rule.CHAIN)
def ca_in_between_that_is_no_cross(chain: Drafts, role: Role) -> None:
    chain.between = [_authority(cn("middle"), chain, 2)]


@defect(Rule.CHAIN)
def two_cas_in_between(chain: Drafts, role: Role) -> None:
    chain.between = [_authority(cn("lower"), chain, 1), _authority(cn("upper"), chain, 2)]


@defect(Rule.PATH_LENGTH, openssl=ALL)
def cross_whose_path_length_is_used_up(chain: Drafts, role: Role) -> None:
    cross = _authority(cn("a cross"), chain, 0)
    cross.subject = cn(label_of(cross.key))
    chain.between = [cross]


@defect(Rule.CHAIN, openssl=ALL)
def leaf_under_an_issuing_ca_under_an_issuing_ca(chain: Drafts, role: Role) -> None:
    """The upper one has path length 0."""
    word = "gateways" if role is CALLER else "callers"
    chain.between = [_authority(cn(f"{chain.label} {word}"), chain, 0)]


@defect(Rule.ROOT_SUBJECT)
def root_with_another_subject(chain: Drafts, role: Role) -> None:
    chain.root.subject = cn("tunnel root")


@defect(Rule.NAME_CONSTRAINTS)
def root_without_constraints(chain: Drafts, role: Role) -> None:
    chain.root.constraints = None


@defect(Rule.EXPIRED, openssl=(GATEWAY, CALLER))
def expired_root(chain: Drafts, role: Role) -> None:
    chain.root.begins, chain.root.ends = NOW - 9 * DAY, NOW - HOUR
