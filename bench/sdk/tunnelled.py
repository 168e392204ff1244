"""
The two paths of this product, with everything on: a relay, a gateway and a connector as real processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.sdk.paths import CONNECTOR, TLS, CallPath, plain_path
from tests.harness.product import Product

_SERVER = "bench"


@contextmanager
def running_tunnel(folder: Path, upstream: str) -> Iterator[tuple[CallPath, CallPath]]:
    """
    Run the product before a server.

    Args:
        folder: An empty folder of its own.
        upstream: The server's URL.

    Yields:
        The path through the connector, and that by TLS straight to the relay with a caller's certificate.
    """
    with Product(folder) as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {_SERVER: upstream})
        tunnel.start_gateway()
        connector = tunnel.start_connector(_SERVER)
        host = tunnel.host(_SERVER)
        yield (
            plain_path(CONNECTOR, "connector, relay, gateway", connector.port),
            CallPath(
                TLS,
                "relay, gateway; the load ends the TLS",
                product.relay_port,
                host,
                root=str(tunnel.identity.root_path),
                certificate=str(tunnel.bundle()),
                server_name=host,
            ),
        )
