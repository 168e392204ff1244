"""
The rules of the profile, one function each.

Every function takes ``Facts`` and returns, or raises ``CertificateRefused`` with its rule, the certificate
and the remedy. ``verify.py`` says which rules apply to what, and in which order; the numbers are in
``profile.py``.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sallyport.certs.errors import Rule
from sallyport.certs.facts import Facts
from sallyport.certs.names import Identity, Role
from sallyport.certs.profile import ANY_IP, ISSUED_BY, ISSUING_USAGE, LEAF_USAGE, Issuing, usage_names

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_LEAST_RSA_BITS: Final = 2048
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

_MADE_BY_INIT: Final = "use the CAs that `sallyport certs init` made for this tunnel"
_MADE_BY_ISSUE: Final = "use a certificate that `sallyport certs issue` made"


# Whose chain, and who


def require_anchor(anchor: Facts, label: str) -> None:
    """
    Demand that the chain ends in the tunnel's own root: its key gives the ID, its Subject says so.
    """
    if anchor.key_id.label != label:
        raise anchor.refusal(
            Rule.ANCHOR,
            f"is not the root of tnl_{label}: its key gives {anchor.key_id}",
            hint="the certificate belongs to another tunnel",
        )
    if not anchor.is_root:
        raise anchor.refusal(
            Rule.ROOT_SUBJECT,
            f"is not self-issued with the Subject CN={label}",
            hint="use the root.pem that `sallyport certs init` wrote",
        )


def require_identity(leaf: Facts, *, role: Role, label: str) -> Identity:
    """
    Demand exactly one URI, of this tunnel and this role, and return whom it names.
    """
    if leaf.identity is None:
        count = len(leaf.uris)
        wrong = (
            f"carries {count} URI names instead of exactly one"
            if count != 1
            else f"carries the URI {leaf.uris[0][:120]!a}, which is not sallyport://<label>/<role>/<name>"
        )
        raise leaf.refusal(Rule.URI, wrong, hint=f"issue it with `sallyport certs issue {role} NAME`")
    if leaf.identity.label != label:
        raise leaf.refusal(
            Rule.LABEL,
            f"says it is of tnl_{leaf.identity.label}, but its root is that of tnl_{label}",
            hint="a tunnel's CAs vouch for their own tunnel only: issue it in the right identity directory",
        )
    if leaf.identity.role is not role:
        raise leaf.refusal(
            Rule.ROLE,
            f"is presented where a {role} certificate is required",
            hint=_issue(role, leaf.identity.name),
        )
    return leaf.identity


# How it is built


def require_shape(members: Sequence[Facts]) -> None:
    """
    Demand leaf, issuing CA and root, with at most a successor root's cross certificate above the issuing CA.
    """
    leaf = members[0]
    if len(members) not in (3, 4):
        raise leaf.refusal(
            Rule.CHAIN,
            f"stands in a chain of {len(members)} certificates; it must be leaf, issuing CA, (cross,) root",
            hint="issue it with `sallyport certs issue`",
        )
    if len(members) == 4 and not members[2].is_cross:
        raise members[2].refusal(
            Rule.CHAIN,
            "stands between the issuing CA and the root, where only a successor root's cross certificate may",
            hint="issue the leaf with `sallyport certs issue`",
        )


def require_issuer(issuer: Facts, *, role: Role, label: str) -> None:
    """
    Demand that a leaf of this role stands under the issuing CA for it. TLS alone accepts either.
    """
    wanted = ISSUED_BY[role]
    if issuer.subject != wanted.subject(label):
        raise issuer.refusal(
            Rule.ISSUER,
            f"signed a {role} certificate, which only the CA with the Subject CN={wanted.subject(label)} may",
            hint=f"issue it with `sallyport certs issue {role} NAME`",
        )


def require_issuing(authority: Facts, *, issuing: Issuing, label: str) -> None:
    """
    Demand one of the tunnel's issuing CAs, by its Subject.
    """
    if authority.subject != issuing.subject(label):
        raise authority.refusal(
            Rule.ISSUER, f"is not the issuing CA with the Subject CN={issuing.subject(label)}", _MADE_BY_INIT
        )


def require_authority(authority: Facts, *, below: int, label: str) -> None:
    """
    Judge a CA with ``below`` other CAs under it in this chain; of ``callers`` demand as well that it can
    vouch for no server name at all.
    """
    if not authority.is_ca:
        raise authority.refusal(Rule.CA, "signs certificates but is no CA", _MADE_BY_INIT)
    if authority.path_length is None or authority.path_length < below:
        allowed = "no limit on" if authority.path_length is None else f"at most {authority.path_length} of"
        raise authority.refusal(
            Rule.PATH_LENGTH, f"states {allowed} the CAs below it, and has {below}", _MADE_BY_INIT
        )
    if authority.key_usage is None or not authority.key_usage.key_cert_sign:
        raise authority.refusal(
            Rule.KEY_USAGE, "has no key usage keyCertSign, yet signs certificates", _MADE_BY_INIT
        )
    _, issuing = authority.issuing or (None, None)
    if issuing is not None:
        _require_usage(authority, ISSUING_USAGE[issuing])
    _require_constraints(authority, label, issuing=issuing)
    _require_known_extensions(authority)


def _require_constraints(authority: Facts, label: str, *, issuing: Issuing | None) -> None:
    if authority.constraints is None or not authority.constraints_critical:
        raise authority.refusal(Rule.NAME_CONSTRAINTS, "carries no critical name constraints", _MADE_BY_INIT)
    permitted = _dns(authority.constraints.permitted_subtrees)
    outside = [name for name in permitted if not name.startswith(f"{label}.")]
    if outside or not permitted:
        raise authority.refusal(
            Rule.NAME_CONSTRAINTS,
            f"may vouch for {ascii(outside[0]) if outside else 'any DNS name'}, beyond {label}.<domain>",
            _MADE_BY_INIT,
        )
    if issuing is not Issuing.CALLERS:
        return
    excluded = _dns(authority.constraints.excluded_subtrees)
    for name in permitted:
        if not any(_is_within(name, subtree) for subtree in excluded):
            raise authority.refusal(
                Rule.NAME_CONSTRAINTS, f"does not exclude the server name {name!a}", _MADE_BY_INIT
            )


def require_no_address(authority: Facts) -> None:
    """
    Demand that a CA may vouch for no IP address, of either family.
    """
    excluded = (authority.constraints.excluded_subtrees if authority.constraints else None) or ()
    networks = [subtree.value for subtree in excluded if isinstance(subtree, x509.IPAddress)]
    if any(network not in networks for network in ANY_IP):
        raise authority.refusal(Rule.NAME_CONSTRAINTS, "may vouch for IP addresses", _MADE_BY_INIT)


def require_leaf(leaf: Facts, *, role: Role, label: str) -> None:
    """
    Demand a leaf that can do what its role does, under the names that the profile gives it, and nothing else.
    """
    if leaf.is_ca is not False:
        raise leaf.refusal(Rule.CA, "does not say CA:FALSE, as a leaf must", _MADE_BY_ISSUE)
    if leaf.key_usage is None or not leaf.key_usage.digital_signature or leaf.key_usage.key_cert_sign:
        raise leaf.refusal(
            Rule.KEY_USAGE, "has no key usage digitalSignature, or may sign certificates", _MADE_BY_ISSUE
        )
    _require_usage(leaf, LEAF_USAGE[role])
    if leaf.other_names:
        raise leaf.refusal(
            Rule.DNS_NAMES,
            f"carries the name {leaf.other_names[0][:80]!a}: neither DNS nor URI",
            _MADE_BY_ISSUE,
        )
    strange = [
        name for name in leaf.dns_names if not (role is Role.GATEWAY and _is_gateway_name(name, label))
    ]
    if strange:
        wanted = f"*.{label}.<domain> and {label}.<domain> only" if role is Role.GATEWAY else "none"
        raise leaf.refusal(
            Rule.DNS_NAMES, f"carries the DNS name {strange[0][:120]!a}; allowed: {wanted}", _MADE_BY_ISSUE
        )
    if role is Role.GATEWAY and not leaf.dns_names:
        raise leaf.refusal(Rule.DNS_NAMES, "carries no DNS name for callers to check", _MADE_BY_ISSUE)
    _require_known_extensions(leaf)


def _is_gateway_name(name: str, label: str) -> bool:
    return name.removeprefix("*.").startswith(f"{label}.")


def _require_usage(member: Facts, wanted: Iterable[x509.ObjectIdentifier]) -> None:
    wanted = frozenset(wanted)
    found = member.extended_key_usage
    if found != wanted:
        has = "no extended key usage" if found is None else f"the extended key usage {usage_names(found)}"
        raise member.refusal(
            Rule.EXTENDED_KEY_USAGE,
            f"has {has}; it must have exactly: {usage_names(wanted)}",
            _MADE_BY_INIT if member.is_ca else _MADE_BY_ISSUE,
        )


def _require_known_extensions(member: Facts) -> None:
    if member.unknown_critical:
        raise member.refusal(
            Rule.CRITICAL_EXTENSION,
            f"carries the critical extension {member.unknown_critical[0]}, which is unknown",
            _MADE_BY_INIT if member.is_ca else _MADE_BY_ISSUE,
        )


def require_within_constraints(leaf: Facts, authority: Facts) -> None:
    """
    Apply RFC 5280 §4.2.1.10 to the leaf's DNS names; it has no other kind that constraints are about.
    """
    if authority.constraints is None:
        raise AssertionError("require_authority has refused a CA without constraints")
    permitted = _dns(authority.constraints.permitted_subtrees)
    excluded = _dns(authority.constraints.excluded_subtrees)
    for name in leaf.dns_names:
        if not any(_is_within(name, subtree) for subtree in permitted) or any(
            _is_within(name, subtree) for subtree in excluded
        ):
            raise leaf.refusal(
                Rule.NAME_CONSTRAINTS,
                f"carries the DNS name {name[:120]!a}, which {authority.title} may not vouch for",
                hint="after a new domain was added with `sallyport certs init`, issue the certificate again",
            )


def _dns(subtrees: Iterable[x509.GeneralName] | None) -> list[str]:
    return [subtree.value for subtree in subtrees or () if isinstance(subtree, x509.DNSName)]


def _is_within(name: str, subtree: str) -> bool:
    return name == subtree or name.endswith(f".{subtree}")


# Strong enough, and in time


def require_strength(member: Facts) -> None:
    """
    Demand a key and a signature that nobody forges: NIST curves from P-256, RSA from 2048 bits, SHA-256 and
    up.
    """
    key = member.certificate.public_key()
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            pass
        case rsa.RSAPublicKey() if key.key_size >= _LEAST_RSA_BITS:
            pass
        case _:
            raise member.refusal(
                Rule.KEY_STRENGTH,
                "has a key below P-256 or RSA 2048, or of another kind",
                hint="issue it again",
            )
    if not isinstance(member.signature_hash, _HASHES):
        raise member.refusal(Rule.SIGNATURE, "is signed with a hash below SHA-256", hint="issue it again")


def require_valid(member: Facts, now: datetime) -> None:
    """
    Demand that now is within the certificate's validity, both ends included (RFC 5280 §4.1.2.5).
    """
    if now < member.not_before:
        raise member.refusal(
            Rule.NOT_YET_VALID,
            f"is not valid before {_utc(member.not_before)}",
            hint=f"check this host's clock, which says {_utc(now)}",
        )
    if now > member.not_after:
        raise member.refusal(Rule.EXPIRED, f"expired on {_utc(member.not_after)}", hint=_renew(member))


def _renew(member: Facts) -> str:
    if member.identity is not None:
        return _issue(member.identity.role, f"{member.identity.name} --replace")
    return "the identity directory needs a new one of these before it can issue again"


def _issue(role: Role, name: str) -> str:
    return f"issue a new one: sallyport certs issue {role} {name}"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
