"""Dialling a gateway through the relay: what is checked, and how each failure is called."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import anyio
import pytest

from sallyport.certs.bundle import Bundle
from sallyport.certs.errors import Rule
from sallyport.certs.issuer import create_identity, issue_caller, issue_leaf
from sallyport.certs.names import Role
from sallyport.config.fields import Address
from sallyport.connector import dial as dial_module
from sallyport.connector.dial import Dialler
from sallyport.connector.errors import (
    CallerRefused,
    GatewayRefused,
    HandshakeFailed,
    HopFailed,
    NoGatewayConnected,
    OwnCertificateRefused,
    RelayAtLimit,
    RelayUnreachable,
    TunnelUnknown,
)
from sallyport.tunnel.alerts import Alert
from tests.connector.far_side import FarSide
from tests.harness.identity import DOMAIN, RELAY, TestIdentity

pytestmark = pytest.mark.anyio


def now() -> datetime:
    """Return the real time."""
    return datetime.now(UTC)


class Upper(asyncio.Protocol):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.ended = anyio.Event()
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.ended.set()


class IdentityOf(TestIdentity):
    """An identity that was made at another time."""

    def __init__(self, made: datetime, folder: Path) -> None:
        self.directory = create_identity(folder, domains=[DOMAIN], relay=RELAY, name="gw", now=made)
        issue_caller(self.directory, "alice", domain=None, now=made)
        self.label = self.directory.tunnel_id().label
        self.bundle = Bundle.load(self.directory.caller_bundle("alice"))
        self.root = self.directory.root_certificate()


def never() -> asyncio.Protocol:
    """Stand for the protocol that must not be made."""
    raise AssertionError("a peer that was not accepted has been introduced")


async def fail_to_dial(tunnel: TestIdentity, far: FarSide, clock: Callable[[], datetime] = now) -> HopFailed:
    """Dial what must not be accepted, and return the error."""
    dialler = Dialler(tunnel.bundle, relay=far.address, clock=clock)
    with anyio.fail_after(10), pytest.raises(HopFailed) as failed:
        await dialler.dial(never)
    return failed.value


async def test_an_accepted_gateway_is_introduced(tunnel: TestIdentity, far: FarSide) -> None:
    """The name is the tunnel's bare one, the protocol ours, and both ends have the same reference."""
    upper = Upper()
    transport = await Dialler(tunnel.bundle, relay=far.address, clock=now).dial(lambda: upper)
    try:
        assert upper.transport is transport
        assert far.references == [transport.reference]
        assert len(transport.reference) == 16
        assert far.hellos[0].server_name == f"{tunnel.label}.{DOMAIN}"
        assert far.hellos[0].alpn == (b"sallyport/1",)
    finally:
        transport.abort()


@pytest.mark.parametrize(
    ("alert", "kind"),
    [
        (Alert.UNRECOGNIZED_NAME, TunnelUnknown),
        (Alert.INTERNAL_ERROR, NoGatewayConnected),
        (Alert.HANDSHAKE_FAILURE, RelayAtLimit),
        (Alert.DECODE_ERROR, HandshakeFailed),
    ],
)
async def test_the_relays_alerts_arrive_as_errors(
    tunnel: TestIdentity, alert: Alert, kind: type[HopFailed]
) -> None:
    """The bytes of an alert become its error, with the reference that the relay logged."""
    async with FarSide.alerting(alert) as far:
        error = await fail_to_dial(tunnel, far)
        assert type(error) is kind
        assert [error.reference] == far.references


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\xff\xff"])
async def test_what_does_not_speak_tls_is_no_gateway(tunnel: TestIdentity, words: bytes) -> None:
    """A web server, a closed door and rubbish end the handshake with a reason."""
    async with FarSide.saying(words) as far:
        assert isinstance(await fail_to_dial(tunnel, far), HandshakeFailed)


async def test_silence_has_an_end(tunnel: TestIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that accepts and says nothing is given up."""
    monkeypatch.setattr(dial_module, "HANDSHAKE_TIMEOUT", 0.05)
    async with FarSide.silent() as far:
        error = await fail_to_dial(tunnel, far)
        assert isinstance(error, HandshakeFailed)
        assert "too long" in str(error)


async def test_a_cancelled_dial_hangs_up(tunnel: TestIdentity) -> None:
    """Whoever stops waiting leaves no connection behind."""
    dialler = Dialler(tunnel.bundle, relay=None, clock=now)
    async with FarSide.silent() as far:
        dialler.relay = far.address
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(dialler.dial, never)
                await far.connected.wait()
                group.cancel_scope.cancel()
            await far.lost.wait()


async def test_a_closed_port_is_an_unreachable_relay(tunnel: TestIdentity) -> None:
    """The error names the address and the system's reason."""
    async with FarSide.silent() as far:
        closed = far.address
    dialler = Dialler(tunnel.bundle, relay=closed, clock=now)
    with pytest.raises(RelayUnreachable) as failed:
        await dialler.dial(never)
    assert str(closed) in str(failed.value)
    assert failed.value.hop == "relay"
    assert failed.value.hint


async def test_a_name_without_an_address_is_an_unreachable_relay(tunnel: TestIdentity) -> None:
    """DNS is the relay's part of the way, too."""
    dialler = Dialler(tunnel.bundle, relay=Address("relay.invalid", 443), clock=now)
    with anyio.fail_after(30), pytest.raises(RelayUnreachable, match=r"relay\.invalid:443"):
        await dialler.dial(never)


async def test_a_gateway_of_another_tunnel_is_refused(
    tunnel: TestIdentity, other_tunnel: TestIdentity
) -> None:
    """Another root cannot answer in the tunnel's name, whatever names it signs."""
    async with FarSide.of(other_tunnel, trusting=tunnel) as far:
        error = await fail_to_dial(tunnel, far)
        assert isinstance(error, GatewayRefused)
        assert error.rule == Rule.CHAIN
        assert far.requests == []


async def test_the_strict_verifier_has_the_last_word(tunnel: TestIdentity, far: FarSide) -> None:
    """A chain that TLS accepts and a rule does not is refused by that rule."""
    later = iter([now(), now() + timedelta(days=100)])
    error = await fail_to_dial(tunnel, far, clock=lambda: next(later))
    assert isinstance(error, GatewayRefused)
    assert error.rule == Rule.EXPIRED
    assert f"gateway of {tunnel.bundle.tunnel}" in str(error).replace("tunnel ", "")


async def test_a_gateway_that_refuses_us_says_so_after_the_handshake(
    tunnel: TestIdentity, other_tunnel: TestIdentity
) -> None:
    """In TLS 1.3 the caller finishes first, so the refusal ends an accepted connection."""
    async with FarSide.of(tunnel, trusting=other_tunnel) as far:
        dialler = Dialler(tunnel.bundle, relay=far.address, clock=now)
        upper = Upper()
        transport = await dialler.dial(lambda: upper)
        with anyio.fail_after(10):
            await upper.ended.wait()
        error = dialler.explain_loss(transport, upper.error)
        assert isinstance(error, CallerRefused)
        assert "unknown_ca" in str(error)
        assert [error.reference] == far.references


def test_an_expired_certificate_is_named_before_dialling(tunnel: TestIdentity) -> None:
    """Our own verifier says who expired and when, which no alert could."""
    with pytest.raises(OwnCertificateRefused) as refused:
        Dialler(tunnel.bundle, relay=None, clock=lambda: now() + timedelta(days=100))
    assert str(refused.value).startswith("caller certificate alice expired on ")
    assert "certs issue caller alice" in refused.value.hint
    assert refused.value.hop == "connector"


async def test_a_certificate_that_expires_while_we_run_is_named_too(tmp_path: Path) -> None:
    """When the gateway refuses us our own verifier is asked again, and knows more than the alert."""
    long_ago = now() - timedelta(days=120)
    expired = IdentityOf(long_ago, tmp_path / "identity")
    issue_leaf(expired.directory, Role.GATEWAY, "fresh", now=now())
    times = iter([long_ago, now(), now()])
    async with FarSide.of(expired, leaf="fresh") as far:
        dialler = Dialler(expired.bundle, relay=far.address, clock=lambda: next(times))
        upper = Upper()
        transport = await dialler.dial(lambda: upper)
        with anyio.fail_after(10):
            await upper.ended.wait()
        error = dialler.explain_loss(transport, upper.error)
        assert isinstance(error, OwnCertificateRefused)
        assert str(error).startswith("caller certificate alice expired on ")
        assert [error.reference] == far.references
