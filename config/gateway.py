"""
The model of ``gateway.yaml``.

A tunnel's domains are not here: they stand in its root certificate, which cannot be mistyped. Server names
are judged where they are routed (``sallyport.gateway.routes``); here only what can be no name at all is
refused.
"""

import socket
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sallyport.config.fields import (
    DurationField,
    ExposedPathField,
    FieldRefused,
    LoopbackField,
    NameField,
    OriginField,
    PathField,
    PinField,
    RelayAddressField,
    RelayCaField,
    ServerUrlField,
    TunnelIdField,
    kind_of,
)
from sallyport.config.sections import LogConfig, Section


def _host_name() -> str:
    """
    Return this machine's name up to the first dot, with what a name may not hold turned into dashes.

    As ``sallyport.certs.names.holder_name``, by which ``certs init`` names the files that this name picks.
    """
    first = socket.gethostname().partition(".")[0]
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in first.lower()).strip("-")
    return name[:63].strip("-") or "gateway"


class TunnelSection(Section):
    """
    Which tunnel, and as whom.

    ``id`` is checked against the root certificate in ``identity``; ``name`` picks the leaves in it.
    """

    id: TunnelIdField
    identity: PathField = Field(default=Path("identity"), validate_default=True)
    name: NameField = Field(default_factory=_host_name)


class RelaySection(Section):
    """Where the relay is, and the one way in which it proves who it is: there is no trust on first use."""

    address: RelayAddressField
    ca: RelayCaField = None
    pin: PinField | None = None

    @property
    def pin_digest(self) -> bytes | None:
        """The pin's 32 bytes: SHA-256 of the relay's SubjectPublicKeyInfo."""
        return b64decode(self.pin.removeprefix("sha256/")) if self.pin else None

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        if (self.ca is None) == (self.pin is None):
            found = "neither ca nor pin is given" if self.ca is None else "both ca and pin are given"
            raise FieldRefused(
                f"{found}, wanted one", "`sallyport relay init` makes relay-ca.pem and prints the pin"
            )
        return self


class Timeouts(Section):
    """
    How long a server may take, in seconds.

    ``connect`` to accept a connection, ``first_byte`` to begin its answer, ``idle`` between two bytes of it.
    A slow silent tool sends no head for as long as it works, so ``first_byte`` is the one to raise.
    """

    connect: DurationField = 5.0
    first_byte: DurationField = 60.0
    idle: DurationField = 600.0


class ServerConfig(Section):
    """
    One internal MCP server.

    ``paths`` are exposed besides the endpoint's own; ``origins`` may call although a browser sends them;
    ``passthrough`` lets a caller's own ``Authorization`` through.
    """

    url: ServerUrlField
    ca: PathField | None = None
    timeouts: Timeouts = Timeouts()
    paths: list[ExposedPathField] = Field(default_factory=list)
    origins: list[OriginField] = Field(default_factory=list)
    passthrough: bool = True

    @model_validator(mode="after")
    def _ca_has_a_use(self) -> Self:
        if self.ca is not None and not self.url.lower().startswith("https:"):
            raise FieldRefused("ca is of no use with a plain http URL", "write https://, or remove ca")
        return self


def _server_key(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise FieldRefused("a server's name must be 1 to 200 printable characters")
    return value


def _keys(value: object) -> object:
    if value is False or value == "off":
        return "off"
    if value is True or value == "on":
        raise FieldRefused("API keys are not available in this version", "write `keys: off`")
    raise FieldRefused(f"wanted off, found {kind_of(value)}")


class GatewayConfig(Section):
    """The whole of ``gateway.yaml``; ``path`` is the file itself and no key of it."""

    tunnel: TunnelSection
    relay: RelaySection
    servers: Annotated[dict[Annotated[str, BeforeValidator(_server_key)], ServerConfig], Field(min_length=1)]
    keys: Annotated[Literal["off"], BeforeValidator(_keys)] = "off"
    health: LoopbackField = None
    log: LogConfig = LogConfig()
    path: Path
