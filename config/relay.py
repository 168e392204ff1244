"""The model of ``relay.yaml``."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from sallyport.config.fields import (
    AddressField,
    DatabaseField,
    DomainField,
    FieldRefused,
    LoopbackField,
    PathField,
    kind_of,
)
from sallyport.config.sections import LogConfig, Section


class TlsFiles(Section):
    """The relay's own certificate and key, from `relay init` or from any CA; read again when they change."""

    certificate: PathField
    key: PathField


def _no_balancers(value: object) -> object:
    if not isinstance(value, list):
        raise FieldRefused(f"wanted a list, found {kind_of(value)}", "write []")
    if value:
        raise FieldRefused("the PROXY protocol is not available in this version", "write []")
    return value


class RelayConfig(Section):
    """The whole of ``relay.yaml``; ``path`` is the file itself and no key of it."""

    listen: AddressField
    domain: DomainField
    tls: TlsFiles
    database: DatabaseField = Field(default="sqlite:///relay.db", validate_default=True)
    health: LoopbackField = None
    proxy_protocol_from: Annotated[list[str], BeforeValidator(_no_balancers)] = Field(default_factory=list)
    log: LogConfig = LogConfig()
    path: Path
