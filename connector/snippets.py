"""
The configuration to paste into an agent: one table, one row for each kind of client (pure).

A row is a template over two values, the name under which the agent will list the server and the URL of its
endpoint. What is printed is whole: a file that parses, or a program that runs, as it is. Where it goes, and
what has to be installed, is said apart (on standard error), since JSON has no comments and the output is
meant for a file. Shapes are those that the clients document; ``make clients`` runs every client that works
without an account against what is printed here.

Services that call from their own machines need a name that the public can resolve and a certificate that it
trusts. A tunnel has neither, on purpose, so for those there is no snippet but an error that says so.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sallyport.connector.errors import PublicNameNeeded


class Kind(StrEnum):
    """The clients that ``--print`` takes."""

    CLAUDE_CODE = "claude-code"
    CLAUDE_DESKTOP = "claude-desktop"
    CURSOR = "cursor"
    VSCODE = "vscode"
    GEMINI = "gemini"
    CODEX = "codex"
    MCP_SDK = "mcp-sdk"
    OPENAI_AGENTS = "openai-agents"
    LANGCHAIN = "langchain"
    PYDANTIC_AI = "pydantic-ai"
    TYPESCRIPT = "typescript"
    ANTHROPIC_API = "anthropic-api"
    OPENAI_API = "openai-api"


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


@dataclass(frozen=True, slots=True)
class Snippet:
    """
    What to give to one client.

    Attributes:
        text: The file, whole, with its final newline.
        place: Where it goes and what it needs: one line for people.
    """

    text: str
    place: str


def snippet(kind: Kind, server: LocalServer) -> Snippet:
    """
    Return what to give to a client.

    Raises:
        PublicNameNeeded: The client is a service that calls from its own machines.
    """
    template = _TEMPLATES.get(kind)
    if template is None:
        raise PublicNameNeeded(kind)
    return template(server)


# -- files of agents ----------------------------------------------------------------------------------


def _claude_code(server: LocalServer) -> Snippet:
    command = f"claude mcp add --transport http {server.name} {shlex.quote(server.url)}"
    entry = {"type": "http", "url": server.url}
    return Snippet(_json("mcpServers", server, entry), f".mcp.json of a project; or run: {command}")


def _claude_desktop(server: LocalServer) -> Snippet:
    # Its file takes no URL, and the URLs of its settings page are called from Anthropic's machines.
    arguments = ["-y", "mcp-remote", server.url, "--allow-http", "--transport", "http-only"]
    return Snippet(
        _json("mcpServers", server, {"command": "npx", "args": arguments}),
        "claude_desktop_config.json (Settings, Developer, Edit Config); needs Node",
    )


def _cursor(server: LocalServer) -> Snippet:
    text = _json("mcpServers", server, {"url": server.url})
    return Snippet(text, ".cursor/mcp.json of a project, or of your home")


def _vscode(server: LocalServer) -> Snippet:
    return Snippet(
        _json("servers", server, {"type": "http", "url": server.url}), ".vscode/mcp.json of a project"
    )


def _gemini(server: LocalServer) -> Snippet:
    text = _json("mcpServers", server, {"type": "http", "url": server.url})
    return Snippet(text, ".gemini/settings.json of a project, or of your home")


def _codex(server: LocalServer) -> Snippet:
    # A JSON string of printable ASCII is a TOML string, and a server's name is a bare key.
    text = f"[mcp_servers.{server.name}]\nurl = {json.dumps(server.url)}\n"
    return Snippet(text, "~/.codex/config.toml, added at its end")


def _json(key: str, server: LocalServer, entry: Mapping[str, object]) -> str:
    return json.dumps({key: {server.name: entry}}, indent=2) + "\n"


# -- programs that list the server's tools ------------------------------------------------------------


def _mcp_sdk(server: LocalServer) -> Snippet:
    text = f"""\
import asyncio

from mcp import Client


async def main() -> None:
    async with Client({json.dumps(server.url)}) as client:
        for tool in (await client.list_tools()).tools:
            print(tool.name, "-", tool.description)


asyncio.run(main())
"""
    return Snippet(text, 'a Python program; needs: pip install "mcp>=2"')


def _openai_agents(server: LocalServer) -> Snippet:
    text = f"""\
import asyncio

from agents.mcp import MCPServerStreamableHttp


async def main() -> None:
    server = MCPServerStreamableHttp({{"url": {json.dumps(server.url)}}}, name={json.dumps(server.name)})
    async with server:  # and give it to an agent: Agent(..., mcp_servers=[server])
        for tool in await server.list_tools():
            print(tool.name, "-", tool.description)


asyncio.run(main())
"""
    return Snippet(text, "a Python program; needs: pip install openai-agents")


def _langchain(server: LocalServer) -> Snippet:
    text = f"""\
import asyncio

from langchain_mcp_adapters.client import MultiServerMCPClient


async def main() -> None:
    client = MultiServerMCPClient(
        {{{json.dumps(server.name)}: {{"transport": "streamable_http", "url": {json.dumps(server.url)}}}}}
    )
    tools = await client.get_tools()  # and give them to an agent: create_agent(..., tools=tools)
    for tool in tools:
        print(tool.name, "-", tool.description)


asyncio.run(main())
"""
    return Snippet(text, "a Python program; needs: pip install langchain-mcp-adapters")


def _pydantic_ai(server: LocalServer) -> Snippet:
    text = f"""\
import asyncio

from pydantic_ai.mcp import MCPToolset


async def main() -> None:
    toolset = MCPToolset({json.dumps(server.url)})
    async with toolset:  # and give it to an agent: Agent(..., toolsets=[toolset])
        for tool in await toolset.list_tools():
            print(tool.name, "-", tool.description)


asyncio.run(main())
"""
    return Snippet(text, 'a Python program; needs: pip install "pydantic-ai-slim[mcp]"')


def _typescript(server: LocalServer) -> Snippet:
    text = f"""\
import {{ Client, StreamableHTTPClientTransport }} from "@modelcontextprotocol/client";

const client = new Client(
  {{ name: "my-agent", version: "1.0.0" }},
  {{ versionNegotiation: {{ mode: "auto" }} }},
);
await client.connect(new StreamableHTTPClientTransport(new URL({json.dumps(server.url)})));
for (const tool of (await client.listTools()).tools) {{
  console.log(tool.name, "-", tool.description);
}}
await client.close();
"""
    return Snippet(text, "an ES module, .mts or .mjs; needs: npm install @modelcontextprotocol/client")


_TEMPLATES: Final[Mapping[Kind, Callable[[LocalServer], Snippet]]] = MappingProxyType(
    {
        Kind.CLAUDE_CODE: _claude_code,
        Kind.CLAUDE_DESKTOP: _claude_desktop,
        Kind.CURSOR: _cursor,
        Kind.VSCODE: _vscode,
        Kind.GEMINI: _gemini,
        Kind.CODEX: _codex,
        Kind.MCP_SDK: _mcp_sdk,
        Kind.OPENAI_AGENTS: _openai_agents,
        Kind.LANGCHAIN: _langchain,
        Kind.PYDANTIC_AI: _pydantic_ai,
        Kind.TYPESCRIPT: _typescript,
    }
)
