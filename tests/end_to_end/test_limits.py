"""
What the ``limits:`` of a gateway say, at a running one: whoever passes one is told, and others are not hurt.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

from tests.harness.product import LOOPBACK, Product, Tunnel
from tests.harness.raw_http import Header, Reply
from tests.harness.rough_upstream import RoughUpstream

pytestmark = pytest.mark.anyio

_BODY = 8 * 1024
_PER_CALLER = 3
_PER_LINK = 5
_JSON: list[Header] = [("Content-Type", "application/json")]


@dataclass(frozen=True)
class Small:
    """A tunnel whose gateway allows little."""

    tunnel: Tunnel
    upstream: RoughUpstream

    @asynccontextmanager
    async def connection(
        self, caller: str
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """Hold one connection of a caller, its inner handshake done."""
        host = self.tunnel.host("tickets")
        reader, writer = await asyncio.open_connection(
            LOOPBACK,
            self.tunnel.product.relay_port,
            ssl=self.tunnel.only_root_context(caller),
            server_hostname=host,
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def ask(self, caller: str) -> Reply:
        """Make a call of a caller on a connection of its own."""
        return await self.tunnel.tls_endpoint(caller=caller).send("POST", _JSON, b"{}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Run a product with small limits."""
    limits = {"request_body": "8KiB", "streams_per_caller": _PER_CALLER, "streams_per_link": _PER_LINK}
    with RoughUpstream() as upstream, Product(tmp_path_factory.mktemp("small") / "p") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": upstream.url})
        # One worker, or each would have its own share of these limits.
        tunnel.start_gateway(settings={"limits": limits, "workers": 1})
        yield Small(tunnel, upstream)


async def test_a_body_up_to_the_limit_passes(small: Small) -> None:
    """The last byte that is allowed is allowed."""
    with anyio.fail_after(20):
        async with await small.tunnel.tls_endpoint().send("POST", _JSON, b"x" * _BODY) as reply:
            assert reply.status == 200


@pytest.mark.parametrize(
    ("path", "chunked", "executed"), [("/mcp", False, "no"), ("/mcp/hang", True, "unknown")]
)
async def test_a_body_beyond_the_limit_is_answered_413(
    small: Small, path: str, chunked: bool, executed: str
) -> None:
    """One that says its length reaches no server; of one in chunks nobody can know any more."""
    before = len(small.upstream.requests)
    with anyio.fail_after(20):
        endpoint = small.tunnel.tls_endpoint()
        data = b"x" * (_BODY + 1)
        async with await endpoint.send("POST", _JSON, data, path=path, chunked=chunked) as reply:
            body = await reply.json()
    assert (reply.status, reply.header("Connection")) == (413, "close")
    assert body == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": -32000,
            "message": f"the HTTP message was refused: body larger than {_BODY} bytes",
            "data": {"rule": f"body larger than {_BODY} bytes", "executed": executed},
        },
    }
    if not chunked:
        assert len(small.upstream.requests) == before


async def test_a_caller_with_too_many_connections_is_told(small: Small) -> None:
    """503 in words for that caller, nothing for the others, and a place that is given back is free."""
    with anyio.fail_after(40):
        async with AsyncExitStack() as held:
            for _ in range(_PER_CALLER):
                await held.enter_async_context(small.connection("greedy"))
            async with await small.ask("greedy") as reply:
                body = await reply.json()
            assert (reply.status, reply.header("Connection")) == (503, "close")
            assert body["error"] == {
                "code": -32000,
                "message": "gateway gw1: refused by rule streams-per-caller: cert:greedy has 3 connections "
                "open, as many as limits.streams_per_caller allows",
                "data": {
                    "where": "gateway",
                    "call": body["error"]["data"]["call"],  # type: ignore[index]
                    "rule": "streams-per-caller",
                    "executed": "no",
                },
            }
            async with await small.ask("modest") as reply:
                assert reply.status == 200
        while True:
            async with await small.ask("greedy") as reply:
                if reply.status == 200:
                    return


async def test_a_full_link_is_an_alert_at_once(small: Small) -> None:
    """The relay gives a link no more streams than its gateway takes, and says so by the alert for a limit."""
    with anyio.fail_after(40):
        async with AsyncExitStack() as held:
            full: ssl.SSLError | None = None
            for number in range(2 * _PER_LINK):
                try:
                    await held.enter_async_context(small.connection(f"caller-{number % 4}"))
                except ssl.SSLError as error:
                    full = error
                    break
            assert full is not None
            assert "HANDSHAKE_FAILURE" in str(full.reason)
        while True:
            try:
                async with await small.ask("modest") as reply:
                    assert reply.status == 200
                    return
            except ssl.SSLError:
                continue
