"""
The MCP server of the demo: what somebody would have in a private network, in two dozen lines.

Run as ``python -m sallyport.demo_server``. It takes a free loopback port and logs where it listens.
"""

import os
import socket

import structlog
import uvicorn
from mcp.server import MCPServer

from sallyport.config.logs import configure_logging
from sallyport.config.sections import LogConfig

tickets = MCPServer("tickets")

_TICKETS = {7: "the coffee machine on floor 2 is leaking", 8: "please add Ada to the on-call rota"}


@tickets.tool()
def read_ticket(number: int) -> str:
    """Read one ticket of the internal tracker."""
    return f"ticket {number}: {_TICKETS.get(number, 'no such ticket')} (read by process {os.getpid()})"


def main() -> None:
    """Serve until told to stop."""
    configure_logging(LogConfig(format="json"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        structlog.get_logger("sallyport.demo").info("listening", address=f"{host}:{port}")
        config = uvicorn.Config(
            tickets.streamable_http_app(), log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
