"""
The relay's address in an attacker's hands.

Whoever holds the DNS of the tunnel domain, or the relay's machine, decides what answers there. A switchboard
listens at the address that clients were given and does with each connection what it is told to do now:
forward it, answer it with a TLS server of the attacker's own, or play recorded bytes again. Every
conversation is recorded. Threads and blocking sockets, because Python's blocking ``ssl`` is the one that
says which alert it received.
"""

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
_PATIENCE = 10  # seconds that a silent peer is waited for

# Where a ServerHello has its legacy session id (RFC 8446 §4.1.3): record header 5, message header 4,
# version 2, random 32; a ClientHello has it at the same place.
_SESSION_ID = slice(43, 43 + 1 + 32)

# TLS 1.3 record types are hidden: everything encrypted is application data; an alert is two bytes, its real
# type one, the tag sixteen.
_APPLICATION_DATA = 23
_ALERT_RECORD = 19

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Conversation:
    """
    What was said on one connection.

    ``request`` is what came after a completed handshake, decrypted: a byte of it is a defeat. ``alert`` is
    what the client said when it broke off, in OpenSSL's words.
    """

    from_client: bytearray = field(default_factory=bytearray)
    to_client: bytearray = field(default_factory=bytearray)
    handshake_done: bool = False
    request: bytes = b""
    alert: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def request_bytes(self) -> int:
        """
        How much of a request left the client: decrypted, or as encrypted records too long for an alert.

        Before the server has proven itself a TLS 1.3 client sends nothing encrypted but alerts (RFC 8446 §2).
        """
        return len(self.request) or sum(size for size in self._encrypted_records() if size > _ALERT_RECORD)

    def _encrypted_records(self) -> Iterator[int]:
        at = 0
        while at + 5 <= len(self.from_client):
            size = int.from_bytes(self.from_client[at + 3 : at + 5], "big")
            if self.from_client[at] == _APPLICATION_DATA:
                yield size
            at += 5 + size


Behaviour = Callable[[socket.socket, Conversation], None]


class Switchboard:
    """Listens on a port of its own until it is left; ``behaviour`` may be exchanged at any time."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._behaviour: Behaviour = _hang_up
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.conversations: list[Conversation] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.behave(_hang_up)
        self._listener.close()

    @property
    def address(self) -> str:
        """What clients are told to dial."""
        return f"{LOOPBACK}:{self.port}"

    def behave(self, behaviour: Behaviour) -> None:
        """Do this with new connections, drop the live ones and forget what was said."""
        with self._lock:
            self._behaviour = behaviour
            self.conversations = []
            live, self._live = self._live, set()
        for connection in live:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def heard(self) -> list[Conversation]:
        """Return the conversations since ``behave``, once all of them are over."""
        with self._lock:
            conversations = list(self.conversations)
        for conversation in conversations:
            conversation.over.wait(2 * _PATIENCE)
        return conversations

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        conversation = Conversation()
        with self._lock:
            behaviour = self._behaviour
            self.conversations.append(conversation)
            self._live.add(connection)
        connection.settimeout(_PATIENCE)
        try:
            behaviour(connection, conversation)
        except OSError as error:
            # The client hung up; what it said before is what counts.
            conversation.alert = conversation.alert or str(error)
        finally:
            with self._lock:
                self._live.discard(connection)
            connection.close()
            conversation.over.set()


def _hang_up(connection: socket.socket, conversation: Conversation) -> None:
    pass


def forward(port: int) -> Behaviour:
    """Carry bytes to and from a port of this machine, as an honest network does."""

    def behaviour(connection: socket.socket, conversation: Conversation) -> None:
        with socket.create_connection((LOOPBACK, port)) as onward, selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ, (onward, conversation.from_client))
            selector.register(onward, selectors.EVENT_READ, (connection, conversation.to_client))
            while selector.get_map():
                for key, _ in selector.select():
                    source, (target, recorded) = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 16)
                    recorded += data
                    if data:
                        target.sendall(data)
                    else:
                        selector.unregister(source)
                        target.shutdown(socket.SHUT_WR)

    return behaviour


def impersonate(context: ssl.SSLContext) -> Behaviour:
    """Answer as a TLS server with these certificates, and read what the client then says."""

    def behaviour(connection: socket.socket, conversation: Conversation) -> None:
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
                conversation.handshake_done = True
                conversation.request = tls.recv(1 << 16)
                if conversation.request:
                    tls.sendall(_ANSWER)
            except ssl.SSLError as error:
                conversation.alert = error.reason or str(error)

    return behaviour


def replay(recorded: bytes) -> Behaviour:
    """
    Answer with what a genuine gateway said to the same client before.

    The session id that a ServerHello repeats is put right, as it travels in the clear: the recording then
    fails for the reason that counts, the keys.
    """

    def behaviour(connection: socket.socket, conversation: Conversation) -> None:
        hello = connection.recv(1 << 14)
        conversation.from_client += hello
        answer = bytearray(recorded)
        answer[_SESSION_ID] = hello[_SESSION_ID]
        connection.sendall(answer)
        while data := connection.recv(1 << 14):
            conversation.from_client += data

    return behaviour


def impostor_context(pem: str) -> ssl.SSLContext:
    """Return a server's context for a PEM file with chain and key; it asks for no client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["sallyport/1", "http/1.1"])
    context.num_tickets = 0
    return context
