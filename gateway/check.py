"""
What ``gateway check`` looks at: everything that can be tried without the relay's help.

Each look gives one finding, good or bad, and a bad one comes with its remedy; one that fails does not hide
the next. The relay is looked up and not dialled: ``sallyport doctor`` goes the whole path.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import anyio

from sallyport.certs.contexts import door_context, link_client_context
from sallyport.certs.errors import CertificateError
from sallyport.config.gateway import GatewayConfig
from sallyport.gateway.errors import GatewayError, KeysMissing, KeysUnusable
from sallyport.gateway.identity import GatewayIdentity, load_identity, relay_trust
from sallyport.gateway.keyring import load_keys
from sallyport.gateway.keys import PUBLIC_CA_WARNING
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import upstreams_of
from sallyport.gateway.upstream import Upstream
from sallyport.tunnel.limits import limit

_FAREWELL: Final = limit(
    1.0, "seconds",
    "for a connection that was made only to see whether it can be, to be gone",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    what: str
    """The thing looked at, such as ``server tickets``."""
    detail: str
    """What was seen; of a failure, why."""
    is_good: bool = True
    hint: str = ""
    """What to do about a failure, or what comes next; may be empty."""


async def examine(config: GatewayConfig, *, now: datetime) -> AsyncIterator[Finding]:
    """
    Look at everything, and yield one finding each.

    Args:
        config: The gateway's config.
        now: The time to judge certificates by.
    """
    yield Finding("config", str(config.path))
    try:
        identity = load_identity(config, now=now)
    except (GatewayError, CertificateError) as error:
        yield _failure("identity", error)
    else:
        for finding in _certificates(config, identity, now):
            yield finding
    if config.keys is not None:
        # Identity §1, said to whoever turns them on.
        yield Finding("keys", f"on: {PUBLIC_CA_WARNING}")
        yield _keys_file(config.keys.file)
    yield await _relay_name(config)
    try:
        upstreams = upstreams_of(config.servers)
    except (GatewayError, CertificateError) as error:
        yield _failure("servers", error)
        return
    for finding in await _dial_all(list(upstreams.values())):
        yield finding


def _certificates(config: GatewayConfig, identity: GatewayIdentity, now: datetime) -> list[Finding]:
    """Look at what a run would make of the identity before it dials."""
    findings = [Finding("identity", f"{identity.tunnel}, {', '.join(identity.domains)}")]
    try:
        ages = list(identity.certificate_ages(now))
        door_context(identity.gateway, identity.root)
        link_client_context(identity.link, relay_trust(config.relay))
        configs = dict(zip(upstreams_of(config.servers), config.servers.values(), strict=True))
        Routes.of(configs, label=identity.tunnel.label, domains=identity.domains)
    except (GatewayError, CertificateError) as error:
        return [*findings, _failure("certificates", error)]
    days = ", ".join(f"{age.name} {age.days_left}" for age in ages)
    return [*findings, Finding("certificates", f"days left: {days}")]


def _keys_file(path: Path) -> Finding:
    try:
        table = load_keys(path)
    except KeysMissing as error:
        # No fault: keys are turned on before the first one is made, and a gateway starts without any.
        return Finding("keys file", f"no key yet: {path} {error.reason}", hint=error.hint)
    except KeysUnusable as error:
        return _failure("keys file", error)
    count = "1 key" if len(table.keys) == 1 else f"{len(table.keys)} keys"
    return Finding("keys file", f"{count} in {path}")


async def _relay_name(config: GatewayConfig) -> Finding:
    """Look the relay's name up; whether something answers there is for the doctor to say."""
    address = config.relay.address
    what = f"relay {address}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        return Finding(
            what,
            f"the name does not resolve ({error.strerror})",
            is_good=False,
            hint="check relay.address and this machine's DNS",
        )
    return Finding(what, "resolves to " + ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found)))


async def _dial_all(upstreams: list[Upstream]) -> list[Finding]:
    """Connect to all servers at once, and give the findings in the config's order."""
    findings: dict[str, Finding] = {}

    async def look(upstream: Upstream) -> None:
        findings[upstream.server] = await _dial(upstream)

    async with anyio.create_task_group() as tasks:
        for upstream in upstreams:
            tasks.start_soon(look, upstream)
    return [findings[upstream.server] for upstream in upstreams]


async def _dial(upstream: Upstream) -> Finding:
    what = f"server {upstream.server}"
    visit = _Visit()
    try:
        await upstream.dial(lambda: visit)
    except GatewayError as error:
        return _failure(what, error)
    with anyio.move_on_after(_FAREWELL):
        await visit.over.wait()
    how = "connects, and its certificate is good" if upstream.url.is_tls else "connects"
    return Finding(what, f"{upstream.url.address} {how}")


class _Visit(asyncio.Protocol):
    """A connection that is closed as soon as it is made."""

    def __init__(self) -> None:
        self.over = anyio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()


def _failure(what: str, error: GatewayError | CertificateError) -> Finding:
    return Finding(what, str(error), is_good=False, hint=error.hint)
