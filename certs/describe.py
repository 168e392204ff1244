"""
A certificate in words: what ``certs show`` prints.

One ordered mapping serves people and programs: the keys are the names in JSON, the table writes them with
spaces. It describes any certificate, also those that the verifier would refuse.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sallyport.certs.facts import Facts, read_facts
from sallyport.certs.profile import Scope, usage_names
from sallyport.certs.relay_trust import spki_pin

Value = str | int | list[str]
Description = dict[str, Value]


def describe(certificate: x509.Certificate, *, now: datetime) -> Description:
    """
    Say what a certificate is, whom it names, how long it is good, and what is needed to recognise it.

    Args:
        certificate: any certificate.
        now: the time to count the days left from.

    Returns:
        The facts in the order to show them; what a certificate does not have is left out.

    Raises:
        CertificateRefused: with the rule MALFORMED, if it cannot be read.
    """
    facts = read_facts(certificate)
    description: Description = {"certificate": facts.title}
    description |= _identity(facts)
    description |= _validity(facts, now)
    description |= _names(facts)
    description |= _powers(facts)
    description |= {
        "serial": f"{certificate.serial_number:x}",
        "key": _key(certificate),
        "pin": spki_pin(certificate),
        "fingerprint": f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}",
        "subject": _printable(certificate.subject.rfc4514_string()) or "(empty)",
        "issuer": _printable(certificate.issuer.rfc4514_string()) or "(empty)",
    }
    return {name: value for name, value in description.items() if value not in ("", [])}


def as_table(description: Mapping[str, Value]) -> Iterable[str]:
    """
    Write a description as lines: the name, then each value on a line of its own.
    """
    for name, value in description.items():
        values = value if isinstance(value, list) else [value]
        for number, line in enumerate(values):
            yield f"{name.replace('_', ' ') if number == 0 else '':<16}{line}"


def days_left(not_after: datetime, now: datetime) -> int:
    """
    Count whole days until a certificate expires; negative once it has.
    """
    return (not_after - now).days


def dns_records(domain: str) -> list[str]:
    """
    List the DNS records that must lead to the relay, for callers and for links.

    Two, because a DNS wildcard does not reach below a name that exists (RFC 4592 §4.3), and ``*.link.D``
    makes ``link.D`` one.
    """
    return [f"*.{domain}", f"*.link.{domain}"]


def _identity(facts: Facts) -> Description:
    if facts.identity is not None:
        tunnel, role, name = f"tnl_{facts.identity.label}", str(facts.identity.role), facts.identity.name
        return {"tunnel_id": tunnel, "role": role, "name": name}
    if facts.issuing is not None:
        return {"tunnel_id": f"tnl_{facts.issuing[0]}", "role": f"issues {facts.issuing[1]}"}
    if facts.is_root:
        domains = _domains(facts)
        records = [record for domain in domains for record in dns_records(domain)]
        return {"tunnel_id": str(facts.key_id), "domains": domains, "dns_records": records}
    return {}


def _validity(facts: Facts, now: datetime) -> Description:
    status = "valid"
    if now < facts.not_before:
        status = "not yet valid: check this host's clock"
    elif now > facts.not_after:
        status = "expired"
    return {
        "status": status,
        "not_before": _moment(facts.not_before),
        "not_after": _moment(facts.not_after),
        "days_left": days_left(facts.not_after, now),
    }


def _names(facts: Facts) -> Description:
    return {
        "dns_names": [_printable(name) for name in facts.dns_names],
        "uris": [_printable(name) for name in facts.uris],
        "other_names": [_printable(name) for name in facts.other_names],
    }


def _powers(facts: Facts) -> Description:
    powers: Description = {}
    if facts.is_ca:
        length = "any" if facts.path_length is None else facts.path_length
        powers["authority"] = f"CA, path length {length}"
    if facts.extended_key_usage is not None:
        powers["usage"] = usage_names(facts.extended_key_usage)
    if facts.constraints is not None:
        powers["permitted"] = [_subtree(subtree) for subtree in facts.constraints.permitted_subtrees or ()]
        powers["excluded"] = [_subtree(subtree) for subtree in facts.constraints.excluded_subtrees or ()]
    return powers


def _domains(facts: Facts) -> list[str]:
    try:
        return list(Scope.of(facts.certificate).domains)
    except (ValueError, x509.ExtensionNotFound):
        return []


def _key(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case ec.EllipticCurvePublicKey() as key:
            return f"ECDSA {key.curve.name}"
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case other:
            return type(other).__name__


def _subtree(subtree: x509.GeneralName) -> str:
    kind = (
        "IP"
        if isinstance(subtree, x509.IPAddress)
        else "DNS"
        if isinstance(subtree, x509.DNSName)
        else "other"
    )
    return f"{kind} {_printable(str(subtree.value))}"


def _printable(text: str) -> str:
    # Anybody can write a certificate: nothing in it may speak to the terminal.
    return ascii(text)[1:-1]


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
