"""
The answer of a gateway's ``/status``, read for a person (pure).

What listens at the health address may be another program, or a gateway of another version, so nothing is
taken for granted: a key that is not there is shown as a dash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sallyport.gateway.errors import StatusUnavailable

_UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What ``gateway status`` prints."""

    facts: list[tuple[str, str]]
    """Name and value, in the order to show them."""
    servers: list[tuple[str, str, str, str, str]]
    """Name, address, calls, failed calls, last failure."""


def parse_status(answer: object, address: str) -> GatewayStatus:
    """
    Read what ``/status`` answered.

    Args:
        answer: The JSON, parsed.
        address: Where it came from, for the error.

    Raises:
        StatusUnavailable: It is not a gateway that answered.
    """
    if not isinstance(answer, Mapping) or "gateway" not in answer:
        raise StatusUnavailable(
            address, "what listens there is no gateway", hint="compare `health:` with that of the relay"
        )
    relay = _mapping(answer.get("relay"))
    facts = [
        ("gateway", _text(answer.get("gateway"))),
        ("tunnel", _text(answer.get("tunnel"))),
        ("software", _text(answer.get("software"))),
        ("relay", _text(relay.get("address"))),
        ("link", f"{_text(relay.get('link'))} since {_text(relay.get('since'))}"),
    ]
    if relay.get("last_error"):
        facts.append(("last error", _text(relay.get("last_error"))))
    if relay.get("rtt_ms") is not None:
        facts.append(("round trip", f"{_text(relay.get('rtt_ms'))} ms"))
    workers = _mappings(answer.get("workers"))
    if len(workers) > 1:
        facts.append(("workers", _workers(workers)))
    facts.append(("streams", _text(answer.get("streams"))))
    for certificate in _mappings(answer.get("certificates")):
        facts.append((f"{_text(certificate.get('name'))} ends", _ends(certificate)))
    for name, reason in _mapping(answer.get("certificates_not_taken")).items():
        facts.append((f"new {name} files", f"not taken: {_text(reason)}"))
    return GatewayStatus(facts, [_server(each) for each in _mappings(answer.get("servers"))])


def _workers(rows: Sequence[Mapping[str, object]]) -> str:
    """Say how many there are, and which of them have no link, and why."""
    down = []
    for row in rows:
        if row.get("link") != "up":
            why = f" ({_text(row.get('last_error'))})" if row.get("last_error") else ""
            down.append(f"{_text(row.get('worker'))} is {_text(row.get('link'))}{why}")
    return ", ".join([str(len(rows)), *down]) if down else f"{len(rows)}, each with a link"


def _ends(certificate: Mapping[str, object]) -> str:
    return f"{_text(certificate.get('not_after'))} ({_text(certificate.get('days_left'))} days)"


def _server(server: Mapping[str, object]) -> tuple[str, str, str, str, str]:
    failure = server.get("last_dial_error") or server.get("last_failure") or ""
    return (
        _text(server.get("server")),
        _text(server.get("address")),
        _text(server.get("calls")),
        _text(server.get("failed")),
        str(failure),
    )


def _text(value: object) -> str:
    return _UNKNOWN if value is None else str(value)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
