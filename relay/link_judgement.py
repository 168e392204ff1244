"""
Who may have a link: the decision that follows a gateway's HELLO.

TLS has shown by then that the gateway has the key to a certificate under its tunnel's root. Everything else
that speaks against the link is said here, as a ``Refusal`` in words with a code for programs: a TLS alert
would come too early to know it and too late to be understood (identity §4). Revocation will be one more
reason.

Pure: the tunnel's row, the verified chain and the time in, an identity or a refusal out.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, assert_never

from cryptography import x509

from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.names import Identity, Role
from sallyport.certs.verify import verify_identity
from sallyport.relay.registry import MAX_LINKS, Tunnel, TunnelState
from sallyport.tunnel.events import Refusal
from sallyport.tunnel.frames import RefusalCode
from sallyport.tunnel.limits import limit

_RETRY_SOON: Final = limit(
    5.0, "seconds",
    "a gateway is asked to wait by a relay that is about to stop: another one has its place by then",
)  # fmt: skip
_RETRY_LATER: Final = limit(
    60.0, "seconds",
    "a gateway is asked to wait after a refusal that somebody has to mend first",
)  # fmt: skip

_UNKNOWN: Final = Refusal(RefusalCode.TUNNEL_UNKNOWN, "this relay knows no such tunnel", _RETRY_LATER)

_CERTIFICATE_CODES: Final = {
    Rule.EXPIRED: RefusalCode.CERTIFICATE_EXPIRED,
    Rule.NOT_YET_VALID: RefusalCode.CERTIFICATE_NOT_YET_VALID,
}


def judge(
    tunnel: Tunnel | None,
    chain: Sequence[x509.Certificate],
    *,
    is_full: bool,
    is_leaving: bool,
    now: datetime,
) -> Identity | Refusal:
    """
    Decide whether a gateway may have its link.

    Args:
        tunnel: the tunnel of the SNI's label, as the database has it now; None when it has gone.
        chain: the verified chain of the link's TLS connection.
        is_full: whether the tunnel has as many links as it may.
        is_leaving: whether the relay is about to stop.
        now: the time to judge validity by, with a zone.

    Returns:
        Whose link it is, or why it may not be: what a gateway can do nothing about comes first.
    """
    if tunnel is None:
        return _UNKNOWN
    if (refusal := judge_tunnel(tunnel)) is not None:
        return refusal
    try:
        identity = verify_identity(chain, role=Role.LINK, label=tunnel.label, now=now)
    except CertificateRefused as refused:
        return _refusal(refused)
    if is_leaving:
        return Refusal(RefusalCode.LEAVING, "this relay is about to stop", _RETRY_SOON)
    if is_full:
        return Refusal(RefusalCode.TOO_MANY_LINKS, f"{tunnel.id} has {MAX_LINKS} links already", _RETRY_LATER)
    return identity


def judge_tunnel(tunnel: Tunnel | None) -> Refusal | None:
    """
    Decide whether a tunnel may have links at all: while it is served, None.

    Args:
        tunnel: the tunnel as the database has it now; None when it has gone.
    """
    if tunnel is None:
        return _UNKNOWN
    match tunnel.state:
        case TunnelState.ACTIVE:
            return None
        case TunnelState.DISABLED:
            text = f"{tunnel.id} is disabled by the relay's operator"
            return Refusal(RefusalCode.TUNNEL_DISABLED, text, _RETRY_LATER)
        case TunnelState.ARCHIVED:
            text = f"{tunnel.id} is archived for good: make a new tunnel"
            return Refusal(RefusalCode.TUNNEL_DISABLED, text)
        case _:
            assert_never(tunnel.state)


def _refusal(refused: CertificateRefused) -> Refusal:
    code = _CERTIFICATE_CODES.get(refused.rule, RefusalCode.CERTIFICATE_REFUSED)
    text = f"{refused}; {refused.hint}" if refused.hint else str(refused)
    # A clock that is wrong may be set right, and a new certificate is picked up when the gateway tries again.
    return Refusal(code, text, _RETRY_LATER)
