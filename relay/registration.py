"""
Which root certificates become tunnels.

The relay keeps one root certificate per tunnel and trusts it for that tunnel's links only. What it takes is
judged once, here, when an operator registers it: by the strict verifier's rules for roots, and by the one
thing that only this relay knows, its own tunnel domain.

Pure: a certificate and the time in, a tunnel ID or ``TunnelRefused`` out.
"""

from datetime import datetime

from cryptography import x509

from sallyport.certs.errors import CertificateRefused
from sallyport.certs.names import TunnelId, tunnel_host
from sallyport.certs.verify import verify_root
from sallyport.relay.errors import TunnelRefused


def judge_root(certificate: x509.Certificate, *, domain: str, now: datetime) -> TunnelId:
    """
    Decide whether a root certificate may be registered.

    Args:
        certificate: what the tunnel's owner has sent.
        domain: the relay's tunnel domain.
        now: the time to judge validity by, with a zone.

    Returns:
        The tunnel that it is the root of.

    Raises:
        TunnelRefused: it breaks a rule of the profile (identity §2), or is not for this relay's domain.
    """
    try:
        tunnel = verify_root(certificate, now=now)
    except CertificateRefused as refused:
        raise TunnelRefused(refused.certificate, refused.detail, refused.hint) from refused
    host = tunnel_host(tunnel.label, domain)
    permitted = _permitted_names(certificate)
    if host not in permitted:
        domains = ", ".join(name.removeprefix(f"{tunnel.label}.") for name in permitted)
        raise TunnelRefused(
            str(tunnel),
            f"its root may vouch for names under {domains} only, and this relay serves {domain}",
            hint=f"the tunnel's owner adds the domain: sallyport certs init --domain {domain}",
        )
    return tunnel


def _permitted_names(root: x509.Certificate) -> list[str]:
    # verify_root has refused a root without critical name constraints on DNS names.
    constraints = root.extensions.get_extension_for_class(x509.NameConstraints).value
    return [
        subtree.value for subtree in constraints.permitted_subtrees or () if isinstance(subtree, x509.DNSName)
    ]
