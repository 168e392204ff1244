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

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from sallyport.config.fields import (
    CountField,
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
    SizeField,
    TunnelIdField,
    WorkersField,
    kind_of,
)
from sallyport.config.sections import LogConfig, Section

MIB = 1024 * 1024


def _host_name() -> str:
    """
    Return this machine's name up to the first dot, with what a name may not hold turned into dashes.

    As ``sallyport.certs.names.holder_name``, by which ``certs init`` names the files that this name picks.
    """
    first = socket.gethostname().partition(".")[0]
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in first.lower()).strip("-")
    return name[:63].strip("-") or "gateway"


class TunnelSection(Section):
    """Which tunnel, and as whom."""

    id: TunnelIdField
    """The tunnel's ID. It is compared with the root in `identity`, so a wrong folder is noticed at start."""
    identity: PathField = Field(default=Path("identity"), validate_default=True)
    """The folder of `certs init`. Only `root.pem` and this gateway's leaves have to be in it."""
    name: NameField = Field(default_factory=_host_name)
    """Whose leaves to use, `gateway/NAME.pem` and `link/NAME.pem`: this host's name by default."""


class RelaySection(Section):
    """Where the relay is, and the one way in which it proves who it is: there is no trust on first use."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["ca"]}, {"required": ["pin"]}]})

    address: RelayAddressField
    """Where the relay listens; the port is 443 by default."""
    ca: RelayCaField = None
    """A file with the CA of the relay's certificate, or `system` for a certificate of a public CA."""
    pin: PinField | None = None
    """Instead of `ca`: the hash of the relay's public key, as `relay init` prints it."""

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
    """How long a server may take."""

    connect: DurationField = 5.0
    """For name, connection and TLS together."""
    first_byte: DurationField = 60.0
    """From the request to the answer's head. A slow silent tool sends none while it works: raise this one."""
    idle: DurationField = 600.0
    """Between two pieces of an answer."""


class ServerConfig(Section):
    """One internal MCP server, under the name that callers use."""

    url: ServerUrlField
    """The MCP endpoint itself. Its path stays the same for callers."""
    ca: PathField | None = None
    """For `https://`: the CA that may vouch for the server; the system's store by default."""
    timeouts: Timeouts = Timeouts()
    """How long it may take."""
    paths: list[ExposedPathField] = Field(default_factory=list)
    """More paths to expose besides the endpoint, each with what is below it."""
    origins: list[OriginField] = Field(default_factory=list)
    """Browser origins that may call; a request with any other `Origin` is refused."""
    passthrough: bool = True
    """Whether a caller's own `Authorization` reaches the server."""

    @model_validator(mode="after")
    def _ca_has_a_use(self) -> Self:
        if self.ca is not None and not self.url.lower().startswith("https:"):
            raise FieldRefused("ca is of no use with a plain http URL", "write https://, or remove ca")
        return self


def _server_key(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise FieldRefused("a server's name must be 1 to 200 printable characters")
    return value


class KeysSection(Section):
    """API keys are on."""

    file: PathField = Field(default=Path("keys.json"), validate_default=True)
    """Where their hashes are kept; `gateway keys` writes it."""


def _keys(value: object) -> object:
    if value is False or value == "off":
        return None
    if value is True or value == "on":
        return {}
    if isinstance(value, (dict, KeysSection)):
        return value
    raise FieldRefused(f"wanted off, on or a mapping, found {kind_of(value)}")


class GatewayLimits(Section):
    """How much of the gateway its callers may use. What is not here is fixed: see [limits](limits.md)."""

    request_body: SizeField = 128 * MIB
    """
    Of one request, answered 413 beyond it: what a caller may pour into a server. The body is streamed, so
    this costs the gateway no memory; MCP's SDK servers take 4 MiB, one that takes files as base64 much more.
    """
    streams_per_link: CountField = 10_000
    """Caller connections at once on a link; the relay gives a link no more, and tells the caller so."""
    streams_per_caller: CountField = 1_000
    """
    Connections of one caller at once, answered 503 beyond it: a tenth of a link, so that an agent in a loop
    or a stolen bundle cannot take them all. All workers count together.
    """
    memory: SizeField = 64 * MIB
    """
    What all streams together may make the gateway hold beyond 64 KiB each, shared out evenly among its
    workers; while it is short, streams whose readers have stopped are ended, the longest-stalled first.
    """


_WrittenKeys = Literal["off", "on"] | KeysSection


class GatewayConfig(Section):
    """The whole of ``gateway.yaml``; ``path`` is the file itself and no key of it."""

    tunnel: TunnelSection
    """Which tunnel, and as whom."""
    relay: RelaySection
    """Where the relay is, and how it proves who it is."""
    servers: Annotated[dict[Annotated[str, BeforeValidator(_server_key)], ServerConfig], Field(min_length=1)]
    """
    The internal MCP servers by name. Names become DNS labels: `My Wiki` is called `my-wiki`, and two keys
    with one label are refused.
    """
    keys: Annotated[KeysSection | None, BeforeValidator(_keys, json_schema_input_type=_WrittenKeys)] = None
    """
    Whether API keys are taken beside caller certificates: `off`, `on`, or `{file: ./keys.json}`. Read
    [clients](clients.md) before you turn them on.
    """
    limits: GatewayLimits = GatewayLimits()
    """How much of the gateway its callers may use."""
    workers: WorkersField = "auto"
    """
    How many processes serve callers, each with a link of its own: `auto` is as many as the gateway may use
    CPUs, at most 4, and 1 on other systems than Linux.
    """
    health: LoopbackField = None
    """A loopback address for `/healthz`, `/readyz` and `/status`."""
    log: LogConfig = LogConfig()
    """How much is logged, and in which form."""
    path: Path
