"""
An MCP server that refuses, hangs, dies or talks rubbish: the caller learns which, and never a short answer.
"""

import asyncio
import json
from collections.abc import Iterator

import anyio
import pytest

from sallyport.processes import free_port
from tests.harness.product import Connector, Product
from tests.harness.raw_http import Reply
from tests.harness.rough_upstream import RoughUpstream

pytestmark = pytest.mark.anyio

_SOON = 20


@pytest.fixture(scope="module")
def upstream() -> Iterator[RoughUpstream]:
    """Run the server that misbehaves."""
    with RoughUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory, upstream: RoughUpstream) -> Iterator[Connector]:
    """Run a product whose gateway is impatient with it."""
    timeouts = {"connect": "2s", "first_byte": "2s", "idle": "5s"}
    servers = {
        "rough": {"url": upstream.url, "timeouts": timeouts},
        "absent": {"url": f"http://127.0.0.1:{free_port()}/mcp", "timeouts": timeouts},
        "nameless": {"url": "http://no-such-host.invalid/mcp", "timeouts": timeouts},
    }
    with Product(tmp_path_factory.mktemp("rough") / "product") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {})
        tunnel.start_gateway(settings={"servers": servers})
        yield tunnel.start_connector(None)


async def _ask(connector: Connector, path: str) -> Reply:
    return await connector.endpoint().send("POST", [("Content-Type", "application/json")], b"{}", path=path)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/absent/mcp", 503, "server absent refused the connection"),
        ("/nameless/mcp", 503, "server nameless has a host name that does not resolve"),
        ("/rough/mcp/hang", 504, "server rough did not answer in time"),
        ("/rough/mcp/garbage", 502, "server rough answered with something that is not HTTP/1.1"),
        ("/rough/mcp/die-at-once", 502, "server rough broke the connection before its answer was complete"),
        ("/rough/mcp/die-in-head", 502, "server rough broke the connection before its answer was complete"),
    ],
)
async def test_a_failure_before_the_answer_is_a_status_with_a_reason(
    connector: Connector, path: str, status: int, words: str
) -> None:
    """The status says whose fault it is, the JSON-RPC error names the server and whether it may have run."""
    with anyio.fail_after(_SOON):
        async with await _ask(connector, path) as reply:
            body = await reply.json()
    assert reply.status == status
    error = body["error"]
    assert isinstance(error, dict)
    assert error["code"] == -32000
    assert words in error["message"]
    assert error["data"]["server"] == path.split("/")[1]
    assert error["data"]["executed"] == ("no" if status == 503 else "unknown")


@pytest.mark.parametrize("path", ["/rough/mcp/die-in-body", "/rough/mcp/die-in-events"])
async def test_a_failure_within_the_answer_is_a_cut_answer(
    connector: Connector, upstream: RoughUpstream, path: str
) -> None:
    """What came before arrives, and the end is an error: never a short answer taken for a whole one."""
    upstream.may_read.clear()
    with anyio.fail_after(_SOON):
        async with await _ask(connector, path) as reply:
            assert reply.status == 200
            chunks = reply.chunks()
            assert await anext(chunks)
            upstream.may_read.set()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                async for _ in chunks:
                    pass


async def test_a_request_is_never_sent_twice(connector: Connector, upstream: RoughUpstream) -> None:
    """A server that dies with the request in its hands is not asked again."""
    before = upstream.requests.count("/mcp/die-at-once")
    with anyio.fail_after(_SOON):
        async with await _ask(connector, "/rough/mcp/die-at-once") as reply:
            assert json.loads(await reply.body())["error"]["data"]["executed"] == "unknown"
    assert upstream.requests.count("/mcp/die-at-once") == before + 1
