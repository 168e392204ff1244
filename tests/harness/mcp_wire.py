"""
MCP over :mod:`tests.harness.raw_http`, both eras, with nothing hidden.

*Legacy* is the protocol up to 2025-11-25: ``initialize``, a session id, SSE answers. *Modern* is 2026-07-28:
single POSTs with mirrored routing headers. The tools are those of ``tests/fixture``.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.harness.raw_http import Endpoint, Header, Reply, ServerSentEvent

LEGACY, MODERN = "2025-11-25", "2026-07-28"
META = "io.modelcontextprotocol/"
ACCEPT_BOTH: Header = ("Accept", "application/json, text/event-stream")
ACCEPT_EVENTS: Header = ("Accept", "text/event-stream")
JSON_BODY: Header = ("Content-Type", "application/json")

Json = dict[str, object]
_ids = itertools.count(1)


def request(method: str, params: Mapping[str, object] | None = None, *, number: int | None = None) -> Json:
    """Return a JSON-RPC request with an id of its own."""
    return {
        "jsonrpc": "2.0",
        "id": next(_ids) if number is None else number,
        "method": method,
        "params": dict(params or {}),
    }


def tool_call(tool: str, arguments: Mapping[str, object], **meta: object) -> Json:
    """Return the params of a ``tools/call``."""
    params: Json = {"name": tool, "arguments": dict(arguments)}
    return {**params, "_meta": meta} if meta else params


def result_text(message: Mapping[str, object]) -> str:
    """
    Return the first text of a tool's result.

    Raises:
        AssertionError: the message is an error or has no text.
    """
    match message:
        case {"result": {"content": [{"text": str(text)}, *_]}}:
            return text
    raise AssertionError(f"not a result with a text: {str(message)[:500]}")


def error_code(message: Mapping[str, object]) -> int:
    """
    Return the code of a JSON-RPC error.

    Raises:
        AssertionError: the message is no error.
    """
    match message:
        case {"error": {"code": int(code)}}:
            return code
    raise AssertionError(f"not an error: {str(message)[:500]}")


async def expect_failure(reply: Reply) -> None:
    """
    See a call fail: with a gateway's status and a JSON-RPC error, or without an answer.

    Raises:
        AssertionError: it was answered.
    """
    async with reply:
        try:
            await reply.read_head()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        assert reply.status in (502, 503, 504)
        assert error_code(await reply.json()) == -32000


async def open_stream(endpoint: Endpoint) -> Reply:
    """Open an event stream of the modern era that goes on for longer than a test: twenty events a second."""
    call = tool_call("probe_stream", {"count": 10_000, "interval_ms": 50}, progressToken=1)
    reply = await ModernClient(endpoint).post("tools/call", call)
    assert reply.status == 200
    return reply


@dataclass
class ModernClient:
    """Calls of the modern era: each a POST that says everything."""

    endpoint: Endpoint
    extra: list[Header] = field(default_factory=list)

    async def post(
        self, method: str, params: Mapping[str, object] | None = None, *headers: Header,
        name: str | None = None, number: int | None = None, wait: bool = True,
    ) -> Reply:  # fmt: skip
        """
        Send one request.

        Args:
            headers: sent beside the usual ones, repeated where they repeat one.
            name: what ``Mcp-Name`` says, where that should differ from the body.
            number: the JSON-RPC id.
            wait: return when the head of the answer is there, else at once.
        """
        params = dict(params or {})
        meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        given = params.get("_meta")
        params["_meta"] = {**meta, **given} if isinstance(given, dict) else meta
        all_headers = [
            JSON_BODY,
            ACCEPT_BOTH,
            ("MCP-Protocol-Version", MODERN),
            ("Mcp-Method", method),
            *self.extra,
            *headers,
        ]
        if name or method == "tools/call":
            all_headers.append(("Mcp-Name", name or str(params["name"])))
        body = json.dumps(request(method, params, number=number)).encode()
        send = self.endpoint.send if wait else self.endpoint.start
        return await send("POST", all_headers, body)

    async def call(self, tool: str, /, *headers: Header, **arguments: object) -> Json:
        """Call a tool and return the JSON-RPC answer."""
        async with await self.post("tools/call", tool_call(tool, arguments), *headers) as reply:
            return await reply.json()

    async def stats(self) -> dict[str, int]:
        """Return the fixture's counters of calls; this call itself is among the started ones."""
        counts: dict[str, int] = json.loads(result_text(await self.call("probe_stats")))
        return counts

    async def wait_for(self, counter: str, at_least: int) -> None:
        """Return when the fixture has counted that many calls ``started``, ``finished`` or ``cancelled``."""
        result_text(await self.call("probe_wait_for", counter=counter, at_least=at_least))


@dataclass
class LegacySession:
    """One session of the legacy era."""

    endpoint: Endpoint
    session: str
    opening: list[ServerSentEvent]

    @classmethod
    async def open(
        cls, endpoint: Endpoint, capabilities: Mapping[str, object] | None = None
    ) -> "LegacySession":
        """Shake hands: ``initialize``, then ``notifications/initialized``."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": dict(capabilities or {}),
            "clientInfo": {"name": "tests", "version": "1"},
        }
        body = json.dumps(request("initialize", params)).encode()
        async with await endpoint.send("POST", [JSON_BODY, ACCEPT_BOTH], body) as reply:
            assert reply.status == 200, reply.status
            session = reply.header("Mcp-Session-Id")
            assert session, "the server minted no session id"
            opened = cls(endpoint, session, [event async for event in reply.events()])
        async with await opened.post({"jsonrpc": "2.0", "method": "notifications/initialized"}) as accepted:
            assert accepted.status == 202, accepted.status
        return opened

    @property
    def headers(self) -> list[Header]:
        """What every request of the session carries."""
        return [("Mcp-Session-Id", self.session), ("MCP-Protocol-Version", LEGACY)]

    async def post(self, message: Mapping[str, object]) -> Reply:
        """Send one JSON-RPC message and return when the head of the answer is there."""
        headers = [JSON_BODY, ACCEPT_BOTH, *self.headers]
        return await self.endpoint.send("POST", headers, json.dumps(message).encode())

    async def open_call(self, tool: str, arguments: Mapping[str, object], **meta: object) -> Reply:
        """Call a tool and return its stream of events, still open."""
        return await self.post(request("tools/call", tool_call(tool, arguments, **meta)))

    async def call(self, tool: str, /, **arguments: object) -> Json:
        """Call a tool and return the JSON-RPC answer."""
        async with await self.open_call(tool, arguments) as reply:
            async for event in reply.events():
                if "result" in event.message or "error" in event.message:
                    return event.message
        raise AssertionError("the stream ended without an answer")

    async def listen(self, *headers: Header) -> Reply:
        """Open the standing GET stream."""
        return await self.endpoint.send("GET", [ACCEPT_EVENTS, *self.headers, *headers])

    async def delete(self) -> int:
        """End the session and return the status of the answer."""
        async with await self.endpoint.send("DELETE", self.headers) as reply:
            return reply.status
