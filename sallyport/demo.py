"""
``sallyport demo``: a call through all of it, on this machine.

An identity is made, then a relay, a gateway, a connector and an MCP server run as processes of their own on
free loopback ports, in a temporary folder; an unmodified MCP client calls a tool through the whole path. What
is shown is what those processes logged: nothing on the way knows that it is in a demo.

The relay logs a stream when it ends. So the first connector is ended after the call, which completes the
relay's line, and a second one takes its port for as long as the demo stays up.
"""

import importlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import typer
import yaml

from sallyport.config.fields import FieldRefused, server_url
from sallyport.connector.snippets import LocalServer
from sallyport.demo_screen import Answered, Screen
from sallyport.errors import DemoFailed
from sallyport.processes import Part, Parts, free_port

if TYPE_CHECKING:
    from mcp import Client

_DOMAIN = "tunnel.test"  # RFC 6761: resolves nowhere, and need not
_HOST = "127.0.0.1"
_CALL_LIMIT = 30.0  # seconds
_INTERRUPTED = 130


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the call; the exit status says how it went.")
    ] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Tunnel this MCP server instead of the sample.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The connector's port; by default a free one.")
    ] = None,
) -> None:
    """
    Show a call through all of it, on this machine; leaves nothing behind.

    sallyport demo

    sallyport demo --server http://127.0.0.1:9000/mcp
    """
    started = time.monotonic()
    if server is not None:
        try:
            server_url(server)
        except FieldRefused as error:
            raise typer.BadParameter(f"{error.message}; {error.hint}", param_hint="--server") from error
    with TemporaryDirectory(prefix="sallyport-demo-") as folder:
        plan = _Plan(Path(folder), server, port or free_port(), once, started)
        if not anyio.run(_show, plan):
            raise typer.Exit(_INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was asked for; ``started`` is a reading of the monotonic clock."""

    folder: Path
    server: str | None
    port: int
    once: bool
    started: float

    @property
    def server_name(self) -> str:
        return "server" if self.server else "tickets"

    def endpoint(self, upstream: str) -> LocalServer:
        """Return what an agent is given for the server at ``upstream``: the path is the server's own."""
        return LocalServer(self.server_name, self.port, urlsplit(upstream).path or "/")


@dataclass(frozen=True, slots=True)
class _Tunnel:
    """What runs, as far as the call needs to know it."""

    id: str
    upstream: str
    relay: Part
    gateway: Part


async def _show(plan: _Plan) -> bool:
    """Return whether the call was answered before somebody ended the demo."""
    screen = Screen()
    was_answered = False
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_signal, scope)
            async with Parts(plan.folder) as parts:
                tunnel = await _raise_tunnel(plan, parts, screen)
                screen.show_answer(await _call_through(plan, parts, tunnel))
                was_answered = True
                if not plan.once:
                    await _stay_up(plan, parts, tunnel, screen)
            tasks.cancel_scope.cancel()
    return was_answered


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _signal in signals:
            scope.cancel()


# Coming up: what does not wait for anything else comes up side by side.


async def _raise_tunnel(plan: _Plan, parts: Parts, screen: Screen) -> _Tunnel:
    relay_port = free_port()
    upstreams: list[str] = []

    async def find_upstream() -> None:
        upstreams.append(plan.server or await _start_sample(parts))

    with screen.progress("making an identity and a relay"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, _import_client)
            tasks.start_soon(find_upstream)
            tasks.start_soon(_make_identity, parts, relay_port)
            tasks.start_soon(_make_relay, parts, relay_port)
        await _sallyport(parts, "relay", "relay", "tunnel", "add", "identity/root.pem", "--name", "demo")
    with screen.progress("starting the relay and the gateway"):
        relay = await parts.start("relay", "sallyport", "relay", "run", "--config", "relay.yaml")
        await relay.wait_for("listening")
        tunnel_id = _write_gateway_config(plan, relay_port, upstreams[0])
        gateway = await parts.start("gateway", "sallyport", "gateway", "run", "--config", "gateway.yaml")
        await gateway.wait_for("link up")
    return _Tunnel(tunnel_id, upstreams[0], relay, gateway)


async def _start_sample(parts: Parts) -> str:
    server = await parts.start("MCP server", "sallyport.demo_server")
    return f"http://{(await server.wait_for('listening'))['address']}/mcp"


async def _make_identity(parts: Parts, relay_port: int) -> None:
    address = f"{_HOST}:{relay_port}"
    await _sallyport(
        parts, "identity", "certs", "init", "--domain", _DOMAIN, "--relay", address, "--name", "gw1"
    )
    await _sallyport(parts, "identity", "certs", "issue", "caller", "agent")


async def _make_relay(parts: Parts, relay_port: int) -> None:
    await _sallyport(parts, "relay", "relay", "init", "--domain", _DOMAIN, "--host", _HOST)
    # Its own configuration is replaced: that one has the fixed ports which a real relay of this machine has.
    config = {
        "listen": f"{_HOST}:{relay_port}",
        "domain": _DOMAIN,
        "tls": {"certificate": "relay.pem", "key": "relay.key"},
        "log": {"format": "json"},
    }
    await anyio.Path(parts.folder, "relay.yaml").write_text(yaml.safe_dump(config))


def _write_gateway_config(plan: _Plan, relay_port: int, upstream: str) -> str:
    """Write gateway.yaml and return the tunnel's ID."""
    from sallyport.certs.files import IdentityDirectory

    tunnel_id = str(IdentityDirectory(plan.folder / "identity").tunnel_id())
    config = {
        "tunnel": {"id": tunnel_id, "identity": "identity", "name": "gw1"},
        "relay": {"address": f"{_HOST}:{relay_port}", "ca": "relay-ca.pem"},
        "servers": {plan.server_name: {"url": upstream}},
        "log": {"format": "json"},
    }
    (plan.folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    return tunnel_id


async def _sallyport(parts: Parts, hop: str, *arguments: str) -> None:
    await parts.run(hop, "sallyport", *arguments)


# The call, and after it.


async def _call_through(plan: _Plan, parts: Parts, tunnel: _Tunnel) -> Answered:
    connector = await _start_connector(plan, parts, tunnel)
    answer, seconds = await _call(plan, parts, tunnel)
    from_nothing = time.monotonic() - plan.started
    await parts.end(connector)
    call = await tunnel.gateway.wait_for("call")
    reference = str(call["call"]).partition(".")[0]
    return Answered(
        what="list of tools" if plan.server else "read_ticket(number=7)",
        answer=answer,
        call_seconds=seconds,
        total_seconds=from_nothing,
        tunnel=tunnel.id,
        seen_by_relay=await tunnel.relay.wait_for("stream", call=reference),
        seen_by_gateway=call,
    )


async def _start_connector(plan: _Plan, parts: Parts, tunnel: _Tunnel) -> Part:
    target = f"{tunnel.id}/{plan.server_name}"
    bundle = "identity/callers/agent.bundle.pem"
    connector = await parts.start(
        *("connector", "sallyport", "connect", target, "--bundle", bundle, "--port", str(plan.port)),
        *("--log-format", "json"),
    )
    await connector.wait_for("listening")
    return connector


async def _call(plan: _Plan, parts: Parts, tunnel: _Tunnel) -> tuple[str, float]:
    """
    Call the sample's tool, or list the tools of the user's server; return the answer and the seconds it took.

    Raises:
        DemoFailed: the call was refused, went wrong, or took too long; with the logs of both ends.
    """
    from mcp import Client

    # The endpoint is on this machine: a proxy that the environment names must not be asked for it.
    os.environ["NO_PROXY"] = _HOST
    try:
        with anyio.fail_after(_CALL_LIMIT):
            async with Client(plan.endpoint(tunnel.upstream).url) as client:
                if not plan.server:
                    await client.list_tools()  # an agent looks at the tools before it calls one
                began = time.monotonic()
                answer = await (_list_tools(client) if plan.server else _read_ticket(client))
                return answer, time.monotonic() - began
    except Exception as error:
        # Whatever the client makes of a failure, groups of its own tasks' errors included, ends here.
        log = tuple(line for part in parts for line in part.last_lines(2))
        raise DemoFailed("call", _innermost(error), log) from error


async def _read_ticket(client: "Client") -> str:
    result = await client.call_tool("read_ticket", {"number": 7})
    return "\n".join(block.text for block in result.content if block.type == "text")


async def _list_tools(client: "Client") -> str:
    return ", ".join(tool.name for tool in (await client.list_tools()).tools) or "no tools"


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _stay_up(plan: _Plan, parts: Parts, tunnel: _Tunnel, screen: Screen) -> None:
    await _start_connector(plan, parts, tunnel)
    screen.show_what_to_paste(plan.endpoint(tunnel.upstream))
    async with anyio.create_task_group() as tasks:
        for part in parts:
            tasks.start_soon(part.wait_for_failure)


def _import_client() -> None:
    """Import what the client needs, some of it only at its first call, while the others come up."""
    for module in ("mcp", "jsonschema"):
        importlib.import_module(module)
