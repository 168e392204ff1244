"""
MCP as the load speaks it: the requests of both eras, and a look at each answer.

*Legacy* is the protocol up to 2025-11-25, *modern* that of 2026-07-28. One caller is one path in one era; any
number of its calls may be under way at once.
"""

import itertools
import json
from collections.abc import Mapping
from typing import Literal

from bench.sdk.http_client import Answer, HttpClient
from bench.sdk.paths import LOOPBACK, CallPath
from tests.harness.mcp_wire import LEGACY, META, MODERN

Era = Literal["legacy", "modern"]
Json = dict[str, object]

_MODERN_META = {
    META + "protocolVersion": MODERN,
    META + "clientCapabilities": {},
    META + "clientInfo": {"name": "bench", "version": "1"},
}


class CallFailed(Exception):
    """An answer is not the one that the server gives."""


class Caller:
    """
    One client of a path.

    Args:
        path: Where it calls.
        era: How.
    """

    def __init__(self, path: CallPath, era: Era) -> None:
        self.name = path.name
        self._era = era
        self._http = HttpClient(LOOPBACK, path.port, tls=path.tls(), server_name=path.server_name)
        self._numbers = itertools.count(1)
        self._head = (
            "POST /mcp HTTP/1.1\r\n"
            f"Host: {path.authority}\r\n"
            "Content-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\n"
        )
        if era == "modern":
            self._head += f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\n"

    async def open(self) -> None:
        """
        Shake hands, where the era wants it.

        Raises:
            CallFailed: The other side refused.
            OSError: It cannot be reached.
        """
        if self._era == "modern":
            return
        client = {"name": "bench", "version": "1"}
        params: Json = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client}
        answer = await self._post(self._request("initialize", params))
        _result(answer)
        session = answer.headers.get(b"mcp-session-id", b"").decode()
        if session:
            self._head += f"Mcp-Session-Id: {session}\r\n"
        self._head += f"MCP-Protocol-Version: {LEGACY}\r\n"
        accepted = await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        if accepted.status != 202:
            raise CallFailed(_shown(accepted))

    def close(self) -> None:
        """Close the idle connections."""
        self._http.close()

    async def call(self, tool: str, **arguments: object) -> Answer:
        """Call a tool and return the answer as it came, for ``text_of``."""
        params: Json = {"name": tool, "arguments": arguments}
        if self._era == "legacy":
            return await self._post(self._request("tools/call", params))
        params["_meta"] = _MODERN_META
        return await self._post(self._request("tools/call", params), f"Mcp-Name: {tool}\r\n")

    def _request(self, method: str, params: Json) -> Json:
        return {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}

    async def _post(self, message: Mapping[str, object], headers: str = "") -> Answer:
        body = json.dumps(message, separators=(",", ":")).encode()
        head = f"{self._head}{headers}Content-Length: {len(body)}\r\n\r\n"
        return await self._http.exchange(head.encode() + body)


def text_of(answer: Answer) -> str:
    """
    Return the text of a tool's result.

    Raises:
        CallFailed: There is none.
    """
    match _result(answer):
        case {"content": [{"text": str(text)}]}:
            return text
    raise CallFailed(_shown(answer))


def _result(answer: Answer) -> Json:
    """Return the result in an answer; of an event stream the last message counts."""
    body = answer.body
    if answer.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        body = body.rpartition(b"data:")[2]
    try:
        message = json.loads(body)
    except ValueError:
        raise CallFailed(_shown(answer)) from None
    match message:
        case {"result": {"isError": True}}:
            raise CallFailed(_shown(answer))
        case {"result": dict(result)} if answer.status == 200:
            return result
    raise CallFailed(_shown(answer))


def _shown(answer: Answer) -> str:
    return f"answered {answer.status} {answer.body[:200].decode(errors='replace')!r}"
