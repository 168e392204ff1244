"""
Who this gateway is: the files of its identity folder, judged before anything is dialled.

A certificate that the relay or a caller would refuse is found here, by the same strict verifier, and named
with its remedy; the process then ends with exit status 1 instead of dialling for ever (identity.md §4).
The files are read again whenever they are used, so that renewed ones are picked up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from sallyport import __version__
from sallyport.certs.contexts import CaFile, Pin, RelayTrust, SystemStore
from sallyport.certs.describe import days_left
from sallyport.certs.files import IdentityDirectory, LeafFiles
from sallyport.certs.names import Role, TunnelId
from sallyport.certs.verify import verify_leaf_file, verify_root
from sallyport.config.gateway import GatewayConfig, RelaySection
from sallyport.gateway.errors import TunnelMismatch
from sallyport.gateway.uplink import UplinkSettings
from sallyport.tunnel.net.health import CertificateAge


@dataclass(frozen=True, slots=True)
class GatewayIdentity:
    """What a gateway holds: its tunnel, the root that everybody is judged by, and its two leaves."""

    tunnel: TunnelId
    """The tunnel, by its root key."""
    domains: tuple[str, ...]
    """The tunnel domains, in the order of the root's name constraints."""
    root: x509.Certificate
    """The tunnel's root certificate."""
    gateway: LeafFiles
    """What callers are shown."""
    link: LeafFiles
    """What the relay is shown."""

    def certificate_ages(self, now: datetime) -> Iterator[CertificateAge]:
        """
        Tell how long each certificate is still good, reading the files again.

        Args:
            now: The time to count from.

        Raises:
            FileRefused: A file cannot be read.
        """
        yield from ages_of(self.root, self.gateway.load_presented(), self.link.load_presented(), now=now)


def ages_of(
    root: x509.Certificate,
    gateway: Sequence[x509.Certificate],
    link: Sequence[x509.Certificate],
    *,
    now: datetime,
) -> Iterator[CertificateAge]:
    """
    Tell how long certificates are still good.

    Args:
        root: The tunnel's root.
        gateway: What callers are shown, the leaf first.
        link: What the relay is shown, the leaf first.
        now: The time to count from.
    """
    named = {"gateway": gateway[0], "link": link[0], "root": root}
    # Both leaves present the same issuing CA, right behind the leaf; what lies above it, the cross
    # certificate of a successor root, has the root's life.
    if len(gateway) > 1:
        named["issuing"] = gateway[1]
    for name, certificate in named.items():
        end = certificate.not_valid_after_utc
        yield CertificateAge(name, end.astimezone(UTC).isoformat(), days_left(end, now))


def load_identity(config: GatewayConfig, *, now: datetime) -> GatewayIdentity:
    """
    Read the identity that the config names and hold it to every rule that its peers will.

    Args:
        config: The gateway's config.
        now: The time to judge validity by.

    Raises:
        TunnelMismatch: The folder is that of another tunnel than ``tunnel.id``.
        CertificateError: A file or a certificate is not usable, and why.
    """
    directory = IdentityDirectory(config.tunnel.identity)
    root = directory.root_certificate()
    found = TunnelId.of_root(root)
    configured = TunnelId.parse(config.tunnel.id)
    if found != configured:
        raise TunnelMismatch(str(configured), str(found), directory.path)
    verify_root(root, now=now)
    name = config.tunnel.name
    identity = GatewayIdentity(
        found, directory.domains(), root, directory.gateway(name), directory.link(name)
    )
    for role, leaf in ((Role.GATEWAY, identity.gateway), (Role.LINK, identity.link)):
        verify_leaf_file(leaf, root=root, role=role, label=found.label, now=now)
    return identity


def uplink_settings(config: GatewayConfig, identity: GatewayIdentity) -> UplinkSettings:
    """Say where the link of this gateway goes, as whom, and what the relay must prove."""
    return UplinkSettings(
        host=config.relay.address.host,
        port=config.relay.address.port,
        trust=relay_trust(config.relay),
        tunnel=identity.tunnel,
        domain=identity.domains[0],
        leaf=identity.link,
        root=identity.root,
        software=f"sallyport {__version__}",
        max_streams=config.limits.streams_per_link,
    )


def relay_trust(relay: RelaySection) -> RelayTrust:
    """Translate the ``ca`` or ``pin`` of the config; the config has checked that there is exactly one."""
    if relay.pin_digest is not None:
        return Pin(relay.pin_digest)
    if relay.ca is None or relay.ca == "system":
        return SystemStore()
    return CaFile(relay.ca)
