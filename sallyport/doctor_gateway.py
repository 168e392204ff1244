"""
The five hops as a gateway sees them, with its configuration.

The relay and the link are tried by making a link, unless this host's gateway runs and says on its health
listener how its own stands: a second link of the same gateway could be given callers whom it does not serve.
The canary call needs a caller's bundle; one that lies in the identity folder is used.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread
from cryptography import x509

from sallyport.certs.bundle import Bundle
from sallyport.certs.contexts import link_client_context
from sallyport.certs.errors import CertificateError
from sallyport.certs.names import link_host
from sallyport.certs.relay_trust import Pin, spki_pin
from sallyport.config.gateway import GatewayConfig
from sallyport.doctor_caller import call_through
from sallyport.gateway.errors import GatewayError, RelayRefused
from sallyport.gateway.identity import GatewayIdentity, load_identity, uplink_settings
from sallyport.gateway.uplink import UplinkSettings, probe_link
from sallyport.hops import Hop, Verdict, failed, judge_clock, passed, skipped
from sallyport.tunnel.errors import LinkRefused, TlsFailed
from sallyport.tunnel.limits import MEMORY_BUDGET
from sallyport.tunnel.net.health_client import HealthSilent, ask_status
from sallyport.tunnel.net.tcp import connect_tcp
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget

_LOOK_LIMIT = 10.0  # seconds


async def examine_as_gateway(config: GatewayConfig) -> AsyncIterator[Verdict]:
    """
    Test every hop from here with a gateway's configuration; ends after the first that fails.

    Args:
        config: what the operator wrote.
    """
    now = datetime.now(UTC)
    try:
        identity = load_identity(config, now=now)
        ages = list(identity.certificate_ages(now))
    except (GatewayError, CertificateError) as error:
        yield failed(Hop.FILES, error)
        return
    first_to_end = min(ages, key=lambda age: age.days_left)
    name = config.tunnel.name
    yield passed(Hop.FILES, f"gateway {name} of {identity.tunnel}, {first_to_end.days_left} days left")
    running = await anyio.to_thread.run_sync(_status_of_running, config)
    link = _told_by(running, config) if running else await _try_link(config, identity)
    for verdict in link:
        yield verdict
    if any(verdict.state == "failed" for verdict in link):
        return
    async for verdict in _canary(config):
        yield verdict


# The link: by asking the gateway that runs here, else by making one.


def _status_of_running(config: GatewayConfig) -> Mapping[str, object] | None:
    """Return what /status of this very gateway says, or None where it does not run or does not tell."""
    if config.health is None:
        return None
    try:
        status = ask_status(*config.health)
    except HealthSilent:
        return None  # nobody there, or somebody else: then a link is tried
    if not isinstance(status, dict) or not isinstance(status.get("relay"), dict):
        return None
    is_this_one = (status.get("gateway"), status.get("tunnel")) == (config.tunnel.name, config.tunnel.id)
    return status["relay"] if is_this_one else None


def _told_by(running: Mapping[str, object], config: GatewayConfig) -> list[Verdict]:
    if running.get("link") != "up":
        what = f"the running gateway has no link: {running.get('last_error') or 'it is only starting'}"
        return [Verdict(Hop.LINK, "failed", what, "its log says more; `sallyport gateway status` follows it")]
    offset = running.get("clock_offset_seconds")
    return [
        passed(Hop.RELAY, f"{config.relay.address} proves itself by {_proof(config)}"),
        passed(Hop.LINK, f"up since {running.get('since')}, says the running gateway"),
        judge_clock(offset, "the relay's")
        if isinstance(offset, int | float)
        else skipped(Hop.CLOCK, "the relay did not say what time it has"),
    ]


async def _try_link(config: GatewayConfig, identity: GatewayIdentity) -> list[Verdict]:
    address, settings = config.relay.address, uplink_settings(config, identity)
    try:
        ack = await probe_link(settings, budget=MemoryBudget(MEMORY_BUDGET))
    except (GatewayError, CertificateError) as error:
        if _is_answer_of_relay(error):
            return [passed(Hop.RELAY, f"{address} answers"), failed(Hop.LINK, error)]
        return [await _name_impostor(failed(Hop.RELAY, error), settings)]
    return [
        passed(Hop.RELAY, f"{address} proves itself by {_proof(config)}"),
        passed(Hop.LINK, f"the relay ({ack.software}) accepts a link"),
        judge_clock(ack.time - time.time(), "the relay's"),
    ]


def _is_answer_of_relay(error: Exception) -> bool:
    """Whether the relay was reached and says no: by REFUSED, or by an alert."""
    cause = error.__cause__
    return isinstance(error, RelayRefused) and (
        isinstance(cause, LinkRefused) or (isinstance(cause, TlsFailed) and cause.alert is not None)
    )


async def _name_impostor(verdict: Verdict, settings: UplinkSettings) -> Verdict:
    """Add which certificate was shown, if one was: that tells a proxy that opens TLS from a wrong address."""
    shown = await _certificate_shown(settings)
    if shown is None:
        return verdict
    subject, issuer = (_printable(name.rfc4514_string()) for name in (shown.subject, shown.issuer))
    what = f"{verdict.what}; it shows a certificate for {subject}, from {issuer}, pin {spki_pin(shown)}"
    return replace(verdict, what=what)


def _printable(text: str) -> str:
    """Return a stranger's text fit for a terminal: no escape sequences, and not a page of it."""
    return "".join(c if c.isprintable() else "?" for c in text[:100]) or "no name"


async def _certificate_shown(settings: UplinkSettings) -> x509.Certificate | None:
    """Return the certificate of whoever answers, believing nothing of it; None where there is none."""
    loop = asyncio.get_running_loop()
    visitor = _Visitor(loop)
    believing_nothing = link_client_context(settings.leaf, Pin(bytes(32)))
    host = link_host(settings.tunnel.label, settings.domain)
    tls = TlsTransport(
        TlsEngine(believing_nothing, server_side=False, server_hostname=host),
        visitor,
        loop=loop,
        verify=visitor.look,
        handshake_timeout=_LOOK_LIMIT,
    )
    with anyio.move_on_after(_LOOK_LIMIT), contextlib.suppress(OSError):
        await connect_tcp(settings.host, settings.port, lambda: tls)
        return await visitor.seen
    return None


class _Visitor(asyncio.Protocol):
    """Looks at the peer's certificate and leaves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seen: asyncio.Future[x509.Certificate | None] = loop.create_future()

    def look(self, tls: ssl.SSLObject) -> None:
        certificate = tls.getpeercert(binary_form=True)
        self.seen.set_result(x509.load_der_x509_certificate(certificate) if certificate else None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.seen.done():
            self.seen.set_result(None)


def _proof(config: GatewayConfig) -> str:
    if config.relay.pin is not None:
        return "the pinned key"
    return "this system's CAs" if config.relay.ca == "system" else Path(config.relay.ca or "").name


# The canary call, as a caller of whom this host has the bundle.


async def _canary(config: GatewayConfig) -> AsyncIterator[Verdict]:
    path = next(iter(sorted((config.tunnel.identity / "callers").glob("*.bundle.pem"))), None)
    if path is None:
        hint = "run `sallyport doctor --bundle FILE` at a caller, or `certs issue caller doctor` here"
        yield skipped(Hop.CANARY, "no caller's bundle on this host", hint)
        return
    try:
        bundle = Bundle.load(path)
    except CertificateError as error:
        yield failed(Hop.CANARY, error)
        return
    async for verdict in call_through(bundle, config.relay.address):
        if verdict.hop is Hop.CANARY:
            yield verdict
        elif verdict.state == "failed":
            # The earlier hops work from here: what fails on a caller's way is the canary call's matter.
            yield Verdict(Hop.CANARY, "failed", verdict.what, verdict.hint)
