"""
A gateway's connection to the relay with certificates that a real gateway would not even dial with.

The product's own gateway judges its leaf before it dials. Here nothing is judged, so that it is the relay
that has to refuse.
"""

import socket
import ssl
from pathlib import Path

from websockets.sync.client import connect

from sallyport.tunnel.hello import Hello
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.net.websocket import PATH, SUBPROTOCOL
from sallyport.tunnel.windows import MemoryBudget
from tests.harness.product import LOOPBACK, Tunnel

_PATIENCE = 10  # seconds


def knock_as_link(tunnel: Tunnel, pem: Path) -> str:
    """
    Ask the relay for a link of a tunnel, with any certificate and key.

    Args:
        tunnel: whose link it would be.
        pem: chain and key in one file.

    Returns:
        What the relay said: the event of the link protocol, or the error of the outer TLS.
    """
    name = f"{tunnel.label}.link.{tunnel.host().partition('.')[2]}"
    context = ssl.create_default_context(cafile=str(tunnel.relay_ca))
    context.load_cert_chain(pem)
    mux = Mux(Side.GATEWAY, now=0.0, budget=MemoryBudget(1 << 20))
    mux.send_hello(Hello(max_streams=1, boot_id="0" * 16, software="drill"))
    hello = mux.message_to_send()
    assert hello is not None, "a HELLO was queued"
    plain = socket.create_connection((LOOPBACK, tunnel.product.relay_port), timeout=_PATIENCE)
    try:
        with connect(
            f"wss://{name}{PATH}",
            sock=plain,
            ssl=context,
            server_hostname=name,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
            compression=None,
        ) as websocket:
            websocket.send(hello)
            answer = websocket.recv(_PATIENCE)
            assert isinstance(answer, bytes), "the link protocol has binary messages only"
            return "; ".join(map(str, mux.receive(answer, 0.0)))
    except OSError as error:
        return str(error)
