"""
What a caller needs to connect, and the call that it makes: the same bytes for every system.

The call is an MCP ``tools/call`` of about 1 KB with the headers of a legacy session and a bearer. Where a
system needs no authorization, a bearer of the same length is sent all the same: nobody's heads are shorter.
"""

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.speed.system import Entrance

LOOPBACK = "127.0.0.1"
_LIMIT = 30.0  # seconds for a whole call
_BEARER = "Bearer " + "b" * 46
_ARGUMENTS = {
    "query": "status:open assignee:me updated:>2026-01-01 " + "latency tunnel gateway relay " * 18,
    "fields": ["id", "title", "state", "assignee", "updated"],
    "limit": 25,
    "cursor": "c" * 64,
}
BODY = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "search_tickets", "arguments": _ARGUMENTS, "_meta": {"progressToken": 7}},
    }
).encode()


class LoadFailed(Exception):
    """A load could not be made, or an answer was not what it should be; the reason is the text."""


def call_headers(entrance: Entrance) -> dict[str, str]:
    """Return the headers of every call, Host and Content-Length aside."""
    return {
        "Authorization": entrance.authorization or _BEARER,
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Mcp-Session-Id": "3f0f6d0e6b7c4c1f9a52c1d0e8b7a6f5",
        "MCP-Protocol-Version": "2025-06-18",
        "User-Agent": "sallyport-bench",
    }


def request_bytes(
    entrance: Entrance,
    *,
    method: str = "POST",
    path: str = "/mcp",
    keep: bool = True,
    mutual: bool = False,
) -> bytes:
    """Return a whole request; a POST carries the call. ``mutual``: for the port with certificates."""
    body = BODY if method == "POST" else b""
    server_name = entrance.mutual[1] if mutual else entrance.server_name
    headers = {"Host": server_name, **call_headers(entrance)}
    if mutual:
        headers["Authorization"] = _BEARER  # The certificate names the caller; a key would do it twice.
    if method == "POST":
        headers["Content-Length"] = str(len(body))
    if not keep:
        headers["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def caller_context(entrance: Entrance, *, mutual: bool = False) -> ssl.SSLContext:
    """Return a context that trusts the system's one root; ``mutual`` adds the client certificate."""
    context = ssl.create_default_context(cafile=str(entrance.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if mutual:
        context.load_cert_chain(entrance.certificate, entrance.key)
    return context


def connect(
    entrance: Entrance, context: ssl.SSLContext, *, mutual: bool = False, source: str = LOOPBACK
) -> ssl.SSLSocket:
    """
    Connect and make a full handshake; nothing is resumed, since no session is handed in.

    Args:
        entrance: Where.
        context: From ``caller_context``.
        mutual: Whether to go to the port that demands a client certificate.
        source: The address on loopback to come from; each has its own range of ports.

    Raises:
        OSError: It failed.
    """
    port, server_name = entrance.mutual if mutual else (entrance.port, entrance.server_name)
    # Not create_connection, which would look the address up anew each time.
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        plain.settimeout(_LIMIT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source != LOOPBACK:
            plain.bind((source, 0))
        plain.connect((LOOPBACK, port))
        return context.wrap_socket(plain, server_hostname=server_name)
    except BaseException:
        plain.close()
        raise


class Caller:
    """
    One who makes the call on a new connection each time, and waits for the answer.

    Args:
        entrance: Where.
        mutual: Whether to go to the port that demands a client certificate, with one.
        keep: Whether the connection stays open behind the answer.
    """

    def __init__(self, entrance: Entrance, *, mutual: bool = False, keep: bool = True) -> None:
        self._entrance = entrance
        self._mutual = mutual
        self._context = caller_context(entrance, mutual=mutual)
        self._request = request_bytes(entrance, keep=keep, mutual=mutual)

    def call(self, *, source: str = LOOPBACK) -> ssl.SSLSocket:
        """
        Connect, call, and return the connection; ``source`` as for ``connect``.

        Raises:
            LoadFailed: The answer was cut short, or was no 200 with a length.
            OSError: The connection failed.
        """
        connection = connect(self._entrance, self._context, mutual=self._mutual, source=source)
        try:
            connection.sendall(self._request)
            _read_answer(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _read_answer(connection: ssl.SSLSocket) -> None:
    """Read one whole answer of a call."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(16384)
        if not piece:
            raise LoadFailed(f"closed in the head of an answer, after {len(answer)} bytes")
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise LoadFailed(f"answered {head.split(chr(13).encode())[0].decode(errors='replace')!r}")
    length = _content_length(head)
    while len(body) < length:
        piece = connection.recv(16384)
        if not piece:
            raise LoadFailed("closed in the body of an answer")
        body += piece


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadFailed("an answer without Content-Length")


def entrance_to_json(entrance: Entrance) -> dict[str, Any]:
    """Return an entrance as JSON can carry it."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(entrance).items()
    }


def entrance_from_json(fields: Mapping[str, Any]) -> Entrance:
    """Return the entrance that ``entrance_to_json`` wrote."""
    paths = {name: Path(fields[name]) for name in ("authority", "certificate", "key")}
    return Entrance(**{**fields, **paths})
