"""
The server behind every path: two tools on the official SDK, as anybody would write them.

Over HTTP it says on standard error, as one JSON line, where it listens; ``--stdio`` serves the same tools to
a proxy that starts it as its child. It imports nothing of this checkout, so that it runs from any folder.
"""

import argparse
import asyncio
import json
import socket
import sys

import uvicorn
from mcp.server import MCPServer

LOOPBACK = "127.0.0.1"


def make_server() -> MCPServer:
    """Return the server with its two tools."""
    # What the SDK logs by the call would be counted as time of every path alike, and hide what a path adds.
    server = MCPServer("bench", log_level="WARNING")

    @server.tool(structured_output=False)
    async def echo(text: str) -> str:
        """Say the text again."""
        return text

    @server.tool(structured_output=False)
    async def blob(size: int) -> str:
        """Return a text of that many bytes."""
        return "x" * size

    return server


async def serve_http(server: MCPServer) -> None:
    """Serve both eras at ``/mcp`` on a free port until the process is told to end."""
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: with the 0 of
    # `socket.create_server` every answer of two writes would wait 40 ms for an acknowledgement.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        address = f"{LOOPBACK}:{listener.getsockname()[1]}"
        sys.stderr.write(json.dumps({"event": "listening", "address": address}) + "\n")
        sys.stderr.flush()
        config = uvicorn.Config(server.streamable_http_app(host=LOOPBACK), log_level="warning")
        await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Serve in the way that the command line says."""
    parser = argparse.ArgumentParser(description="an MCP server with the tools echo and blob")
    parser.add_argument("--stdio", action="store_true", help="serve standard input and output, not HTTP")
    server = make_server()
    if parser.parse_args().stdio:
        server.run("stdio")
    else:
        asyncio.run(serve_http(server))


if __name__ == "__main__":
    main()
