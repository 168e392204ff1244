"""
A gateway's connection to the relay with certificates that a real gateway would not even dial with.

The product's own gateway judges its leaf before it dials. Here nothing is judged, so that it is the relay
that has to refuse.
"""

import socket
import ssl
from pathlib import Path

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from sallyport.tunnel.hello import Hello
from sallyport.tunnel.mux import Mux, Side
from sallyport.tunnel.net.websocket_upgrade import PATH, SUBPROTOCOL
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
        What the relay said: the events of the link protocol, or the error of the outer TLS.
    """
    label, _, domain = tunnel.host().partition(".")
    name = f"{label}.link.{domain}"
    context = ssl.create_default_context(cafile=str(tunnel.relay_ca))
    context.load_cert_chain(pem)
    mux = Mux(Side.GATEWAY, now=0.0, budget=MemoryBudget(1 << 20))
    mux.send_hello(Hello(max_streams=1, boot_id="0" * 16, software="drill"))
    try:
        with (
            socket.create_connection((LOOPBACK, tunnel.product.relay_port), timeout=_PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            answer = _ask(tls, name, mux.message_to_send() or b"")
    except OSError as error:
        # A TLS 1.3 client that is refused learns of it when it first reads.
        return str(error)
    return "; ".join(map(str, mux.receive(answer, 0.0)))


def _ask(tls: ssl.SSLSocket, name: str, hello: bytes) -> bytes:
    """Upgrade, send the HELLO, and return the first message of the answer."""
    websocket = ClientProtocol(parse_uri(f"wss://{name}{PATH}"), subprotocols=[Subprotocol(SUBPROTOCOL)])
    websocket.send_request(websocket.connect())
    tls.sendall(b"".join(websocket.data_to_send()))
    while data := tls.recv(1 << 16):
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame):
                assert event.opcode is Opcode.BINARY, f"the link protocol is binary, this is {event}"
                return bytes(event.data)
            websocket.send_binary(hello)
            tls.sendall(b"".join(websocket.data_to_send()))
    raise ConnectionResetError("the relay closed the connection without a word")
