"""
What an alert, a refusal or a broken connection means on the caller's side, in words (pure).

Two kinds of alert look alike and are not. Before our handshake is complete an alert is plain text from
whoever is on the way, in an honest world the relay, whose three alerts SPEC.md lists. Once it is complete
the peer has proven to be the gateway, and the alert came encrypted: in TLS 1.3 the client finishes first,
so that is also when a gateway refuses the client's certificate (RFC 8446, section 4.4.2.4). A request may be
on its way by then, but a server that has not accepted the certificate hands nothing to its application.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sallyport.certs.errors import CertificateRefused
from sallyport.connector.errors import (
    CallerRefused,
    GatewayLost,
    GatewayRefused,
    HandshakeFailed,
    HopFailed,
    NoGatewayConnected,
    RelayAtLimit,
    RelayRefused,
    TunnelUnknown,
)
from sallyport.tunnel.errors import BodyTruncated, HttpRefused, TlsFailed, TlsTruncated
from sallyport.tunnel.net.tcp import reason_of


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One connection, for the texts: the tunnel it was meant for, who dialled, and its id in the logs.
    """

    tunnel: str
    caller: str
    reference: str


def explain_handshake(error: Exception, attempt: Attempt) -> HopFailed | None:
    """
    Say why no TLS connection came about.

    Args:
        error: What ended the connection before the gateway was accepted.
        attempt: Which connection it was.

    Returns:
        The error that says it, or ``None`` when ``error`` is nothing that a network or a peer can cause.
    """
    if isinstance(error, CertificateRefused):
        return _gateway_refused(attempt, error.rule, str(error))
    if isinstance(error, TlsFailed):
        return _failed_handshake(error, attempt)
    if isinstance(error, TlsTruncated):
        return _no_handshake(attempt, "the connection was closed without a word")
    if isinstance(error, OSError):
        return _no_handshake(attempt, reason_of(error))
    return None


def explain_loss(error: Exception | None, attempt: Attempt) -> HopFailed | None:
    """
    Say why an accepted connection did not bring a whole answer.

    Args:
        error: What the connection, or the reading of the answer, ended with; ``None`` for an end of file.
        attempt: Which connection it was.

    Returns:
        As ``explain_handshake``.
    """
    alert = error.alert if isinstance(error, TlsFailed) else None
    if alert is not None and alert in _CERTIFICATE_ALERTS:
        why, hint = _CERTIFICATE_ALERTS[alert]
        return CallerRefused(
            attempt.tunnel,
            caller=attempt.caller,
            why=f"{why} (TLS alert {alert})",
            hint=hint,
            reference=attempt.reference,
        )
    reason = _why_lost(error)
    return (
        GatewayLost(attempt.tunnel, why=reason, reference=attempt.reference) if reason is not None else None
    )


def _why_lost(error: Exception | None) -> str | None:
    match error:
        case None | TlsTruncated() | BodyTruncated():
            return "it was closed before the answer was complete"
        case TlsFailed():
            return error.detail if error.alert is None else f"it ended with TLS alert {error.alert}"
        case HttpRefused():
            return f"what came is no HTTP answer ({error.rule})"
        case TimeoutError() if not error.errno:
            return "the answer took too long"
        case OSError():
            return reason_of(error)
        case _:
            return None


# What the relay says to callers (SPEC.md), by the alert's TLS name.
_RELAY_ALERTS: Final[Mapping[str, type[RelayRefused]]] = MappingProxyType(
    {
        "unrecognized_name": TunnelUnknown,
        "internal_error": NoGatewayConnected,
        "handshake_failure": RelayAtLimit,
    }
)

_ISSUE = "ask for a new bundle: `sallyport certs issue caller NAME` on the gateway's side makes one"
_GATEWAY_LOG = "the gateway's log names the rule"

# What a gateway says about a caller's certificate, by the alert's TLS name: why, and what to do.
_CERTIFICATE_ALERTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "certificate_expired": ("its certificate has expired, by the gateway's clock", _ISSUE),
        "certificate_revoked": ("its certificate was revoked", _ISSUE),
        "certificate_required": ("it presented no certificate", _ISSUE),
        "unknown_ca": (
            "its certificate does not lead to the root that the gateway trusts",
            f"was the tunnel's identity made anew? {_ISSUE}",
        ),
        "bad_certificate": ("its certificate breaks a rule", _GATEWAY_LOG),
        "unsupported_certificate": ("its certificate is of a kind that may not call", _GATEWAY_LOG),
        "certificate_unknown": ("its certificate was not accepted", _GATEWAY_LOG),
        "access_denied": ("it is not admitted", _GATEWAY_LOG),
        "decrypt_error": ("its signature does not fit its certificate", _ISSUE),
    }
)


def _failed_handshake(error: TlsFailed, attempt: Attempt) -> HopFailed:
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return _gateway_refused(attempt, "chain", error.detail)
    if error.alert is None:
        return _no_handshake(attempt, error.detail)
    if error.alert in _RELAY_ALERTS:
        return _RELAY_ALERTS[error.alert](attempt.tunnel, alert=error.alert, reference=attempt.reference)
    return _no_handshake(attempt, f"it was refused with TLS alert {error.alert}")


def _gateway_refused(attempt: Attempt, rule: str, detail: str) -> GatewayRefused:
    return GatewayRefused(attempt.tunnel, rule=rule, detail=detail, reference=attempt.reference)


def _no_handshake(attempt: Attempt, why: str) -> HandshakeFailed:
    return HandshakeFailed(attempt.tunnel, why=why, reference=attempt.reference)
