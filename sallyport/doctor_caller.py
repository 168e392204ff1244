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
from sallyport.hops import Hop, Verdict, failed, judge_clock, passed

# Which hop an error of the connector is about; all others are about the call itself.
_HOP_OF: dict[type[HopFailed], Hop] = {
    OwnCertificateRefused: Hop.FILES,
    RelayUnreachable: Hop.RELAY,
    RelayAtLimit: Hop.RELAY,
    HandshakeFailed: Hop.RELAY,
    TunnelUnknown: Hop.LINK,
    NoGatewayConnected: Hop.LINK,
}
