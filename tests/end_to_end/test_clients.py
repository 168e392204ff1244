"""
The official SDK's client, unmodified, through everything.
"""

import anyio
import pytest
from mcp import Client
from mcp_types import TextContent

from tests.harness.stage import Stage

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_the_sdk_client_lists_and_calls_through_the_tunnel(stage: Stage, mode: str) -> None:
    """In every mode the client sees the server's tools and gets an answer from one."""
    with anyio.fail_after(30):
        async with Client(stage.connector.url, mode=mode) as client:
            tools = (await client.list_tools()).tools
            result = await client.call_tool("probe_echo", {"text": "through two doors"})
    assert "probe_echo" in {tool.name for tool in tools}
    assert [block.text for block in result.content if isinstance(block, TextContent)] == ["through two doors"]


async def test_many_sdk_clients_call_at_once(stage: Stage) -> None:
    """Twenty clients, each with its own text, get each their own answer."""
    answers: dict[int, str] = {}

    async def call(number: int) -> None:
        async with Client(stage.connector.url, mode="auto") as client:
            result = await client.call_tool("probe_echo", {"text": f"call {number}"})
            block = result.content[0]
            assert isinstance(block, TextContent)
            answers[number] = block.text

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(call, number)
    assert answers == {number: f"call {number}" for number in range(20)}
