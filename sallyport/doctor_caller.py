"""
The five hops as a caller sees them, with the caller's bundle.

One connection tells the last three apart: each error of the connector says which hop it is about. To callers
the relay does not say who it is, and need not: what counts is that the gateway at the end of the inner TLS is
the tunnel's own.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from sallyport.certs.bundle import Bundle
from sallyport.certs.errors import CertificateError
from sallyport.certs.verify import verify_bundle
from sallyport.config.fields import Address
from sallyport.connector.client import Canary, call_canary
from sallyport.connector.errors import (
    HandshakeFailed,
    HopFailed,
    NoGatewayConnected,
    OwnCertificateRefused,
    RelayAtLimit,
    RelayUnreachable,
    TunnelUnknown,
)
from sallyport.hops import Hop, Verdict, failed, judge_clock, passed, skipped

# Which hop an error of the connector is about; all others are about the call itself.
_HOP_OF: dict[type[HopFailed], Hop] = {
    OwnCertificateRefused: Hop.FILES,
    RelayUnreachable: Hop.RELAY,
    RelayAtLimit: Hop.RELAY,
    HandshakeFailed: Hop.RELAY,
    TunnelUnknown: Hop.LINK,
    NoGatewayConnected: Hop.LINK,
}


async def examine_as_caller(path: Path, relay: Address | None = None) -> AsyncIterator[Verdict]:
    """
    Test every hop from here with a bundle; ends after the first that fails.

    Args:
        path: the bundle.
        relay: where to dial; the bundle's relay when None.
    """
    try:
        bundle = Bundle.load(path)
        identity = verify_bundle(bundle, now=datetime.now(UTC))
    except CertificateError as error:
        yield failed(Hop.FILES, error)
        return
    days = (bundle.leaf.not_valid_after_utc - datetime.now(UTC)).days
    yield passed(Hop.FILES, f"caller {identity.name} of {bundle.tunnel}, {days} days left")
    async for verdict in call_through(bundle, relay):
        yield verdict


async def call_through(bundle: Bundle, relay: Address | None = None) -> AsyncIterator[Verdict]:
    """Make one canary call, and say of each hop on the way what it proves; see :func:`examine_as_caller`."""
    address = relay or bundle.relay
    try:
        canary = await call_canary(bundle, relay=relay)
    except HopFailed as error:
        culprit = _HOP_OF.get(type(error), Hop.CANARY)
        if culprit in (Hop.LINK, Hop.CANARY):
            yield passed(Hop.RELAY, f"{address} answers")
        if culprit is Hop.CANARY:
            yield passed(Hop.LINK, "a gateway took the connection")
        yield failed(culprit, error)
        return
    yield passed(Hop.RELAY, f"{address} answers")
    yield passed(Hop.LINK, "a gateway of the tunnel is connected")
    yield _clock_of(canary)
    yield _judge_answer(canary)


def _clock_of(canary: Canary) -> Verdict:
    if canary.date is None:
        return skipped(Hop.CLOCK, "the gateway did not say what time it has")
    # Date has whole seconds, cut off: half of one is the best guess of the rest.
    offset = (canary.date - datetime.now(UTC)).total_seconds() + 0.5
    return judge_clock(offset, "the gateway's")


def _judge_answer(canary: Canary) -> Verdict:
    if canary.status != 200:
        hint = f"look for call {canary.reference} in the gateway's log"
        return Verdict(Hop.CANARY, "failed", f"the gateway answered with status {canary.status}", hint)
    return passed(Hop.CANARY, f"there and back in {canary.seconds * 1000:.0f} ms, call {canary.reference}")
