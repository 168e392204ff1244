"""
MCP proxies that others wrote, each in the setting nearest to what the tunnel does.

All three end the protocol and speak it anew; none encrypts or names anybody.

============ ============================== =====================================================
fastmcp      HTTP → HTTP                    its proxy before the same server
mcp-proxy    HTTP → stdio                   what it is made for: the same program as its own child
             HTTP → stdio → HTTP            two of them in a row, before the same server
supergateway HTTP → stdio                   with sessions, its faster mode
             HTTP → stdio → HTTP            two of them in a row, before the same server
============ ============================== =====================================================

mcp-proxy is the one from PyPI (npm has another of that name). Neither it nor supergateway can go from HTTP to
HTTP in one process. Which eras they carry is not written down here: it is tried, and what fails is shown with
the answer. supergateway listens on all interfaces and has no option for it.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.node_tools import supergateway_command
from bench.python_tools import environment
from bench.sdk.paths import CallPath, plain_path, server_command
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess

_START_LIMIT = 60.0  # seconds; Node or Python, and a child of its own, on a busy machine


@dataclass(frozen=True)
class Proxy:
    """
    One proxy in one setting.

    Attributes:
        name: Of the path.
        about: The transports in a row.
        command: Its command line, for a port to listen on and the server's URL.
            Raises ToolMissing when it cannot be installed.
        is_quick: Whether the short form has it too.
    """

    name: str
    about: str
    command: Callable[[int, str], Sequence[str]]
    is_quick: bool = True


@contextmanager
def running_proxy(proxy: Proxy, folder: Path, upstream: str) -> Iterator[CallPath]:
    """
    Run a proxy, installed first where it is not there, before a server.

    Args:
        proxy: Which.
        folder: For its log.
        upstream: The server's URL.

    Raises:
        ToolMissing: It cannot be installed.
        NotReached: It did not come up.
    """
    port = free_port()
    command = proxy.command(port, upstream)
    with ChildProcess(proxy.name.replace(" ", "-"), command, folder=folder) as process:
        process.wait_for_port(port, within=_START_LIMIT)
        yield plain_path(proxy.name, proxy.about, port)


def _fastmcp(port: int, upstream: str) -> Sequence[str]:
    program = _program("fastmcp")
    return [program, "run", upstream, "--transport", "http", "--port", str(port), "--no-banner"]


def _mcp_proxy(port: int, _upstream: str) -> Sequence[str]:
    return [_program("mcp-proxy"), "--port", str(port), "--", *server_command("--stdio")]


def _mcp_proxy_twice(port: int, upstream: str) -> Sequence[str]:
    program = _program("mcp-proxy")
    return [program, "--port", str(port), "--", program, "--transport", "streamablehttp", upstream]


def _supergateway(port: int, _upstream: str) -> Sequence[str]:
    return _supergateway_before(port, server_command("--stdio"))


def _supergateway_twice(port: int, upstream: str) -> Sequence[str]:
    return _supergateway_before(port, [*supergateway_command(), "--streamableHttp", upstream])


def _supergateway_before(port: int, child: Sequence[str]) -> Sequence[str]:
    output = ("--outputTransport", "streamableHttp", "--stateful", "--port", str(port))
    return [*supergateway_command(), "--stdio", shlex.join(child), *output]


def _program(package: str) -> str:
    """Return the command of a Python proxy, which has the name of its package."""
    return str(environment(package, package).parent / package)


PROXIES = (
    Proxy("fastmcp", "HTTP → HTTP", _fastmcp),
    Proxy("mcp-proxy", "HTTP → stdio", _mcp_proxy),
    Proxy("supergateway", "HTTP → stdio", _supergateway),
    Proxy("mcp-proxy twice", "HTTP → stdio → HTTP", _mcp_proxy_twice, is_quick=False),
    Proxy("supergateway twice", "HTTP → stdio → HTTP", _supergateway_twice, is_quick=False),
)
