"""
The five hops as a gateway sees them, with its configuration.

The link is tried by making one, unless this host's gateway runs and says on its health listener how its own
link stands: a second link of the same gateway could be given callers that it does not serve. The canary call
needs a caller's bundle; one that lies in the identity folder is used.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
from cryptography import x509

from sallyport.certs.bundle import Bundle
from sallyport.certs.contexts import check_pin, link_client_context
from sallyport.certs.errors import CertificateError
from sallyport.certs.names import link_host
from sallyport.config.gateway import GatewayConfig
from sallyport.doctor_caller import call_through
from sallyport.gateway.errors import GatewayError, RelayRefused, RelayUnreachable
from sallyport.gateway.identity import GatewayIdentity, load_identity, uplink_settings
from sallyport.gateway.uplink import UplinkSettings, probe_link
from sallyport.hops import Hop, Verdict, failed, judge_clock, passed, skipped
from sallyport.tunnel.errors import TlsFailed, TunnelError
from sallyport.tunnel.limits import MEMORY_BUDGET
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget

_DIAL_LIMIT = 15.0  # seconds
