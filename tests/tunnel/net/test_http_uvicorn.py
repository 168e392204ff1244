"""A hop in front of a real server, uvicorn: what MCP servers in Python are served by."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import h11
import pytest
import uvicorn

from tests.harness.http_hop import PATIENCE, Address, Caller, hop_to, request

pytestmark = pytest.mark.anyio

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class App:
    """An ASGI application with an echo, an event stream, an early error, and a call that waits."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.waiting = asyncio.Event()
        self.next_event = asyncio.Event()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await getattr(self, scope["path"].strip("/"))(receive, send)

    async def echo(self, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await _start(send, 200, [(b"content-length", b"%d" % len(body))])
        await send({"type": "http.response.body", "body": body})

    async def events(self, _receive: Receive, send: Send) -> None:
        await _start(send, 200, [(b"content-type", b"text/event-stream")])
        for number in range(3):
            await self.next_event.wait()
            self.next_event.clear()
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def refuse(self, _receive: Receive, send: Send) -> None:
        await _start(send, 413, [(b"content-length", b"5"), (b"connection", b"close")])
        await send({"type": "http.response.body", "body": b"large"})

    async def wait(self, receive: Receive, _send: Send) -> None:
        await receive()
        self.waiting.set()
        message = await receive()
        assert message["type"] == "http.disconnect"
        self.disconnected.set()


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


@asynccontextmanager
async def uvicorn_serving(app: App, http: str) -> AsyncIterator[Address]:
    """Serve an application with uvicorn in this loop."""
    config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    async with asyncio.TaskGroup() as tasks:
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        address = server.servers[0].sockets[0].getsockname()[:2]
        task = tasks.create_task(server.main_loop())
        try:
            yield address
        finally:
            server.should_exit = True
            server.force_exit = True
            await task
            await server.shutdown()


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_uvicorn(http: str) -> None:
    """Echo, events as they come, an early error in the middle of an upload, and a disconnect that arrives."""
    app = App()
    with anyio.fail_after(PATIENCE):
        async with uvicorn_serving(app, http) as address, hop_to(address, pool_idle=3.0) as hop:
            async with await Caller.connect(hop.address) as caller:
                for size in (0, 10, 1_000_000):
                    await caller.send(request(b"x" * size, target="/echo"))
                    assert (await caller.reply()).body == b"x" * size

                await caller.send(request(method="GET", target="/events"))
                caller.expect("GET")
                assert isinstance(await caller.event(), h11.Response)
                for number in range(3):
                    app.next_event.set()
                    data = await caller.event()
                    assert isinstance(data, h11.Data)
                    assert bytes(data.data) == b"data: %d\n\n" % number
                assert isinstance(await caller.event(), h11.EndOfMessage)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_push, caller, request(b"y" * 6_000_000, target="/refuse"))
                    reply = await caller.reply()
                assert (reply.status, reply.body) == (413, b"large")

            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(b"x", target="/wait"))
                await app.waiting.wait()
            await app.disconnected.wait()
            outcomes = [(await hop.record(count)).outcome for count in range(1, 7)]
            assert outcomes == ["answered"] * 5 + ["caller-left"]


async def _push(caller: Caller, data: bytes) -> None:
    try:
        await caller.send(data)
    except ConnectionError:
        pass  # the hop has closed, behind its answer
