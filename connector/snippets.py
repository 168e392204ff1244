"""
The configuration to paste into an agent: one table, one row for each kind of client (pure).

A row is a template over two values, the name under which the agent will list the server and the URL of
its endpoint. Shapes are those that the clients document; a row whose client runs offline is tested with it.
What is printed is complete: it is pasted, or run, as it is.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Kind(StrEnum):
    """The clients for which there is a snippet; the values are what ``--print`` takes."""

    CLAUDE_CODE = "claude-code"
    MCP_SDK = "mcp-sdk"


@dataclass(frozen=True, slots=True)
class LocalServer:
    """
    One MCP server as an agent on this machine sees it.

    Attributes:
        name: What the agent will call it; letters, digits and hyphens.
        port: The connector's port.
        path: The path of the server's own URL, with its leading slash; the connector serves it at its root.
    """

    name: str
    port: int
    path: str = "/mcp"

    @property
    def url(self) -> str:
        """The URL of the MCP endpoint, on IPv4's loopback address: it is served everywhere."""
        return f"http://127.0.0.1:{self.port}{self.path}"


def snippet(kind: Kind, server: LocalServer) -> str:
    """Return the text to paste, with its final newline."""
    return _TEMPLATES[kind](server)


def _claude_code(server: LocalServer) -> str:
    configuration = {"mcpServers": {server.name: {"type": "http", "url": server.url}}}
    return (
        "# run once:\n"
        f"claude mcp add --transport http {server.name} {shlex.quote(server.url)}\n"
        "\n"
        "# or, for everybody in a project, as its .mcp.json:\n"
        f"{json.dumps(configuration, indent=2)}\n"
    )


def _mcp_sdk(server: LocalServer) -> str:
    return f"""\
import asyncio

from mcp import Client


async def main() -> None:
    async with Client({json.dumps(server.url)}) as client:
        for tool in (await client.list_tools()).tools:
            print(tool.name, "-", tool.description)


asyncio.run(main())
"""


_TEMPLATES: Final[Mapping[Kind, Callable[[LocalServer], str]]] = MappingProxyType(
    {
        Kind.CLAUDE_CODE: _claude_code,
        Kind.MCP_SDK: _mcp_sdk,
    }
)
