"""The model of ``relay.yaml``."""

from pathlib import Path

from pydantic import Field

from sallyport.config.fields import (
    AddressField,
    DatabaseField,
    DomainField,
    LoopbackField,
    PathField,
    SizeField,
)
from sallyport.config.networks import BalancerField
from sallyport.config.sections import LogConfig, Section


class TlsFiles(Section):
    """The relay's own certificate and key, from `relay init` or from any CA; read again when they change."""

    certificate: PathField
    """The certificate, with the issuing CAs behind it."""
    key: PathField
    """Its private key, readable by the relay's user alone."""


class RelayLimits(Section):
    """How much of the relay its callers may use. What is not here is fixed: see [limits](limits.md)."""

    memory: SizeField = 64 * 1024 * 1024
    """
    What all streams together may make the process hold beyond 64 KiB each; while it is short, streams
    whose readers have stopped are ended, the longest-stalled first.
    """


class RelayConfig(Section):
    """The whole of ``relay.yaml``; ``path`` is the file itself and no key of it."""

    listen: AddressField
    """The one public port, for gateways and callers."""
    domain: DomainField
    """The tunnel domain: tunnels are `<label>.<domain>`, their servers `<server>.<label>.<domain>`."""
    tls: TlsFiles
    """The relay's own certificate and key."""
    database: DatabaseField = Field(default="sqlite:///relay.db", validate_default=True)
    """Where tunnels are registered: `sqlite:///FILE`, which `relay tunnel add` writes too."""
    limits: RelayLimits = RelayLimits()
    """How much of the relay its callers may use."""
    health: LoopbackField = None
    """A loopback address for `/healthz`, `/readyz` and `/status`."""
    proxy_protocol_from: list[BalancerField] = Field(default_factory=list)
    """Balancers in front, addresses or networks, that say who calls by the PROXY protocol, version 2."""
    log: LogConfig = LogConfig()
    """How much is logged, and in which form."""
    path: Path
