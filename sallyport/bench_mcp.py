"""
What may be asked of a stranger's MCP server without changing anything there.

Both eras have one request that every server answers, that takes no arguments and runs nothing of the user's:
``server/discover`` where every request stands alone (2026-07-28), ``ping`` inside a session (2025-11-25 and
before). The former is tried first. A session must be opened for the latter, with ``initialize``, and is
ended with DELETE behind the last call: that is all that a server notices.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sallyport.bench_probe import NUMBER_WIDTH, Reply, Request
from sallyport.errors import MeasurementFailed
from sallyport.tunnel.http1 import Body, BodyKind, Headers, RequestHead, encode_request

MODERN: Final = b"2026-07-28"
LEGACY: Final = b"2025-11-25"
_META: Final = "io.modelcontextprotocol/"

_NUMBER: Final = "#" * NUMBER_WIDTH  # where the number goes
_PATH: Final = "name the path of its endpoint with --path, if that is not /mcp"
_ALONE: Final = "measure without the server: `sallyport bench TUNNEL_ID` shows the tunnel's own share"


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where requests are addressed to.

    Attributes:
        host: The Host field.
        path: Of the MCP endpoint, or of the gateway's own answer.
        fields: What each head carries besides, such as an API key.
    """

    host: bytes
    path: bytes
    fields: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)

    def get(self, query: bytes = b"") -> Request:
        """Make a GET without a body."""
        return Request(b"GET", self._head(b"GET", [(b"Accept", b"*/*")], Body(BodyKind.NONE), query))

    def upload(self, size: int) -> Request:
        """Make a POST with ``size`` bytes of filler."""
        fields = [(b"Content-Type", b"application/octet-stream")]
        head = self._head(b"POST", fields, Body(BodyKind.LENGTH, size))
        return Request(b"POST", head, filler=size)

    def delete(self, fields: Headers) -> Request:
        """Make a DELETE without a body."""
        return Request(b"DELETE", self._head(b"DELETE", fields, Body(BodyKind.NONE)))

    def message(self, message: Mapping[str, object], fields: Headers) -> Request:
        """Make a POST of one JSON-RPC message; ``_NUMBER`` as its id stands for a new one each time."""
        body = json.dumps(message, separators=(",", ":")).encode("ascii")
        before, mark, after = body.partition(f'"{_NUMBER}"'.encode())
        # The quotes go with the mark: a number has none.
        length = len(before) + NUMBER_WIDTH + len(after) if mark else len(body)
        kinds = [
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json, text/event-stream"),
        ]
        head = self._head(b"POST", [*kinds, *fields], Body(BodyKind.LENGTH, length))
        return Request(b"POST", head + before, after)

    def _head(self, method: bytes, fields: Headers, body: Body, query: bytes = b"") -> bytes:
        return encode_request(
            RequestHead(
                method=method,
                target=self.path + query,
                version=b"1.1",
                headers=[(b"Host", self.host), *fields, *self.fields],
                body=body,
                keep_alive=True,
                expect_continue=False,
                host=self.host,
            )
        )


def discover(place: Place) -> Request:
    """Make the modern era's harmless request."""
    meta = {
        f"{_META}protocolVersion": MODERN.decode(),
        f"{_META}clientCapabilities": {},
        f"{_META}clientInfo": _client(),
    }
    fields = [(b"MCP-Protocol-Version", MODERN), (b"Mcp-Method", b"server/discover")]
    return place.message(_request("server/discover", {"_meta": meta}), fields)


def initialize(place: Place) -> Request:
    """Make the request that opens a session of the legacy era."""
    params = {"protocolVersion": LEGACY.decode(), "capabilities": {}, "clientInfo": _client()}
    return place.message(_request("initialize", params), [])


@dataclass(frozen=True, slots=True)
class Session:
    """A session of the legacy era: the header fields that belong to it."""

    fields: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def opened_by(cls, reply: Reply) -> "Session":
        """Read the answer to ``initialize``, which ``result_of`` has accepted."""
        result = result_of(reply)
        version = str(result.get("protocolVersion", LEGACY.decode())).encode("ascii", "replace")
        ids = [value for name, value in reply.headers if name.lower() == b"mcp-session-id"]
        session = [(b"Mcp-Session-Id", ids[0])] if ids else []
        return cls(((b"MCP-Protocol-Version", version), *session))

    @property
    def is_kept(self) -> bool:
        """Whether the server keeps something for it, that is to be given back."""
        return len(self.fields) > 1

    def initialized(self, place: Place) -> Request:
        """Make the notification that follows ``initialize``."""
        return place.message({"jsonrpc": "2.0", "method": "notifications/initialized"}, [*self.fields])

    def ping(self, place: Place) -> Request:
        """Make the legacy era's harmless request."""
        return place.message(_request("ping", None), [*self.fields])

    def end(self, place: Place) -> Request:
        """Make the request that ends the session."""
        return place.delete([*self.fields])


def is_of_another_era(reply: Reply) -> bool:
    """Whether a server that does not know ``server/discover`` answers so, and not one that cannot be used."""
    return (reply.status == 200 and "error" in _message(reply)) or reply.status in (400, 404, 405, 406, 415)


def result_of(reply: Reply) -> Mapping[str, object]:
    """
    Return the result in an answer.

    Raises:
        ValueError: There is none; the text says what there is instead, in one clause.
    """
    message = _message(reply)
    result = message.get("result")
    if reply.status == 200 and isinstance(result, dict):
        return result
    error = message.get("error")
    text = error.get("message") if isinstance(error, dict) else None
    if isinstance(text, str):
        raise ValueError(f"{reply.status}, {_printable(text)}")
    raise ValueError(f"{reply.status}, and no MCP message" if reply.status == 200 else f"{reply.status}")


def unusable(what: str, reply: Reply, found: ValueError) -> MeasurementFailed:
    """Say that an end does not answer a harmless request: what it said, and what helps."""
    error = _message(reply).get("error")
    facts = error.get("data") if isinstance(error, dict) else None
    is_ours = isinstance(facts, dict) and facts.get("where") == "gateway"
    if reply.status in (401, 403) and not is_ours:
        hint = _ALONE
    else:
        hint = _PATH if reply.status < 421 else ""
    return MeasurementFailed(f"{what} answered {found}", hint=hint)


def _request(method: str, params: Mapping[str, object] | None) -> dict[str, object]:
    message: dict[str, object] = {"jsonrpc": "2.0", "id": _NUMBER, "method": method}
    return message if params is None else {**message, "params": params}


def _client() -> dict[str, str]:
    return {"name": "sallyport-bench", "version": "1"}


def _message(reply: Reply) -> Mapping[str, object]:
    """Return the JSON-RPC answer in a body, be it the body itself or an event of a stream; empty if none."""
    lines = [reply.body]
    if any(n.lower() == b"content-type" and v.startswith(b"text/event-stream") for n, v in reply.headers):
        lines = [line.removeprefix(b"data:") for line in reply.body.splitlines() if line.startswith(b"data:")]
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # an event without data primes a stream
        if isinstance(message, dict) and ("result" in message or "error" in message):
            return message
    return {}


def _printable(text: str) -> str:
    """Return a stranger's text fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])
