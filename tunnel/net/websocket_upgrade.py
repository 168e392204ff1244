"""
The HTTP upgrade that opens a WebSocket (RFC 6455 §4), judged alike for every codec.

``websockets`` reads the heads, checks the keys and words the answers. On top: the path and the subprotocol
(SPEC.md, carrier), a bound for the whole head, and the line between the head and what follows it, because
what follows is frames and another codec's.
"""

from http import HTTPStatus
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.http11 import Request, Response
from websockets.protocol import Side
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from sallyport.tunnel.errors import LinkLost
from sallyport.tunnel.limits import limit

SUBPROTOCOL: Final = Subprotocol("sallyport.v1")
PATH: Final = "/link"

_HEAD_MAX: Final = limit(
    16 * 1024, "bytes",
    "of the head that opens a WebSocket: a gateway's has 300",
)  # fmt: skip
_ANSWER_MAX: Final = limit(
    64 * 1024, "bytes",
    "of an answer that is no upgrade, with its body: a proxy's error page that nobody reads",
)  # fmt: skip
_END: Final = b"\r\n\r\n"


class Upgrade:
    """
    One end of an upgrade; make it with ``server`` or ``client``.

    After each call write ``data_to_send``, also when the call has raised.

    Args:
        protocol: The client's or server's handshake.
    """

    def __init__(self, protocol: ClientProtocol | ServerProtocol) -> None:
        self._protocol = protocol
        self._last = b""  # the end of what came, where the end of the head may have begun
        self._size = 0
        self._head_ended = False

    @classmethod
    def server(cls) -> "Upgrade":
        """Return the relay's end."""
        return cls(ServerProtocol(subprotocols=[SUBPROTOCOL]))

    @classmethod
    def client(cls, host: str) -> "Upgrade":
        """
        Return the gateway's end.

        Args:
            host: The relay's name for this tunnel's links, as sent in SNI.
        """
        return cls(ClientProtocol(parse_uri(f"wss://{host}{PATH}"), subprotocols=[SUBPROTOCOL]))

    @property
    def side(self) -> Side:
        """Return which end this is."""
        return self._protocol.side

    def start(self) -> None:
        """Begin; the client's end writes its request."""
        if isinstance(self._protocol, ClientProtocol):
            self._protocol.send_request(self._protocol.connect())

    def receive(self, data: bytes) -> bytes | None:
        """
        Take bytes.

        Returns:
            What came behind the upgrade, once it is done; None before.

        Raises:
            LinkLost: There is no upgrade, and why.
        """
        head, rest = self._split(data)
        self._protocol.receive_data(head)
        if self._proceed():
            return rest
        if rest:  # The body of an answer that is no upgrade, without which it is not complete.
            self._protocol.receive_data(rest)
            self._proceed()
        return None

    def receive_eof(self) -> None:
        """
        Take note that the peer sends no more, which ends an answer without a length.

        Raises:
            LinkLost: There is no upgrade, and why.
        """
        self._protocol.receive_eof()
        self._proceed()

    def data_to_send(self) -> bytes:
        """Return what must be written now, which may be empty."""
        return b"".join(self._protocol.data_to_send())

    # Inside

    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        """Divide what came at the end of the head; behind that of a refusal, all is its body."""
        if self._head_ended:
            self._count(len(data), _ANSWER_MAX)
            return data, b""
        seen = self._last + data
        end = seen.find(_END)
        if end < 0:
            self._count(len(data), _HEAD_MAX)
            self._last = seen[1 - len(_END) :]
            return data, b""
        cut = end + len(_END) - len(self._last)
        self._count(cut, _HEAD_MAX)
        self._head_ended = True
        return data[:cut], data[cut:]

    def _count(self, size: int, most: int) -> None:
        self._size += size
        if self._size > most:
            raise LinkLost(f"the WebSocket broke: more than {most} bytes and no upgrade")

    def _proceed(self) -> bool:
        """Act on the head, if it is complete: True when this is a WebSocket now."""
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._requested(cast(ServerProtocol, self._protocol), event)
            elif isinstance(event, Response):
                self._answered(event)
            return True
        wrong = self._protocol.handshake_exc
        if wrong is not None:
            raise LinkLost(f"the WebSocket broke: {wrong}") from wrong
        return False

    def _requested(self, protocol: ServerProtocol, request: Request) -> None:
        response = protocol.accept(request)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            if request.path != PATH:
                response = protocol.reject(HTTPStatus.NOT_FOUND, f"links are at {PATH}\n")
            elif protocol.subprotocol != SUBPROTOCOL:
                response = protocol.reject(HTTPStatus.BAD_REQUEST, f"the subprotocol is {SUBPROTOCOL}\n")
        protocol.send_response(response)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            raise LinkLost(f"the WebSocket upgrade was refused with {response.status_code}")

    def _answered(self, response: Response) -> None:
        wrong = self._protocol.handshake_exc
        if wrong is not None:
            raise LinkLost(f"the relay answered the WebSocket upgrade with {response.status_code}") from wrong
        if self._protocol.subprotocol != SUBPROTOCOL:
            raise LinkLost(f"the relay does not speak {SUBPROTOCOL}")
