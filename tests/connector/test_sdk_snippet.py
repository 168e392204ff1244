"""The printed Python program, run as it is: SDK client, connector, gateway's TLS, a real MCP server."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import pytest

from sallyport.certs.contexts import door_context
from sallyport.connector.snippets import Kind, LocalServer, snippet
from sallyport.tunnel.http1 import OutgoingHead, RequestHead, without_hop_by_hop
from sallyport.tunnel.net.http_client import ClientPool
from sallyport.tunnel.net.http_forward import Decision, Forward, ForwardTimeouts, json_rpc_error
from sallyport.tunnel.net.http_server import HttpServer
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine
from tests.connector.far_side import FarSide
from tests.connector.local_endpoint import serving
from tests.harness.identity import TestIdentity
from tests.harness.stage import Fixture, start_fixture

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    """Run an MCP server."""
    started = start_fixture(tmp_path_factory.mktemp("fixture"))
    yield started
    started.process.end()


def upstream(port: int, group: anyio.abc.TaskGroup) -> ClientPool:
    """Return connections to the MCP server."""
    loop = asyncio.get_running_loop()

    async def dial(protocol: Callable[[], asyncio.Protocol]) -> None:
        await loop.create_connection(protocol, "127.0.0.1", port)

    return ClientPool(dial, idle_timeout=1, loop=loop, spawn=group.create_task)


def gateway_to(far: FarSide, *, pool: ClientPool, tunnel: TestIdentity, port: int) -> asyncio.Protocol:
    """Make the smallest gateway: takes the server's name out of the path and asks the MCP server."""
    loop = asyncio.get_running_loop()

    def decide(head: RequestHead) -> Decision:
        host = b"127.0.0.1:%d" % port
        headers = [(b"Host", host)]
        headers += [header for header in without_hop_by_hop(head.headers) if header[0].lower() != b"host"]
        target = head.target.removeprefix(b"/tickets")
        return Forward(
            OutgoingHead.of(replace(head, target=target, headers=headers, host=host)),
            pool,
            ForwardTimeouts(30, 30),
            lambda failure: json_rpc_error(502, str(failure.error)),
        )

    calls = HttpServer(decide, finished=lambda record: None, loop=loop, idle_timeout=60, head_timeout=10)
    engine = TlsEngine(door_context(tunnel.directory.gateway("gw"), tunnel.root), server_side=True)
    return TlsTransport(engine, calls, loop=loop, verify=lambda tls: None, handshake_timeout=10)


async def test_the_printed_program_lists_the_tools(
    tunnel: TestIdentity, fixture: Fixture, tmp_path: Path
) -> None:
    """What ``--print mcp-sdk`` gives is a program that works while the connector is up."""
    async with anyio.create_task_group() as group:
        pool = upstream(fixture.port, group)
        far = FarSide(partial(gateway_to, pool=pool, tunnel=tunnel, port=fixture.port))
        async with far, serving(tunnel, far.address, server="tickets") as local:
            program = tmp_path / "program.py"
            program.write_text(snippet(Kind.MCP_SDK, LocalServer("tickets", local.port)).text)
            with anyio.fail_after(50):
                ended = await anyio.run_process(
                    [sys.executable, str(program)], check=False, env={**os.environ, "NO_PROXY": "127.0.0.1"}
                )
            pool.close()
        group.cancel_scope.cancel()
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"echo - " in ended.stdout
