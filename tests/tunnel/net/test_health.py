"""The health listener answers supervisors on this machine, and nobody else."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import h11
import pytest

from sallyport.tunnel.net.health import CertificateAge, HealthUnavailable, Readiness, serve_health

pytestmark = pytest.mark.anyio

_READY = Readiness(ready=True, certificates=[CertificateAge("gateway/gw1", "2027-01-01T00:00:00Z", 41)])


async def _never() -> Any:
    raise AssertionError("nobody can ask")


async def _status() -> dict[str, object]:
    return {"links": 2}


@asynccontextmanager
async def _listening(readiness: Readiness = _READY) -> AsyncIterator[tuple[str, int]]:
    async def ready() -> Readiness:
        return readiness

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            address = await tasks.start(
                lambda *, task_status: serve_health(
                    ("127.0.0.1", 0),
                    ready=ready,
                    status=_status,
                    task_status=task_status,
                )
            )
        yield address
        tasks.cancel_scope.cancel()


async def _get(
    address: tuple[str, int], path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method=method,
        target=path,
        headers=[("Host", f"{address[0]}:{address[1]}" if host is None else host), ("Connection", "close")],
    )
    status, body = 0, b""
    with anyio.fail_after(10):
        async with await anyio.connect_tcp(*address) as stream:
            await stream.send(connection.send(request) + connection.send(h11.EndOfMessage()))
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                match event:
                    case h11.Response():
                        status = event.status_code
                    case h11.Data():
                        body += event.data
                    case h11.NEED_DATA:
                        connection.receive_data(await stream.receive())
    return status, body


async def test_it_lives() -> None:
    """/healthz says that the process runs."""
    async with _listening() as address:
        assert await _get(address, "/healthz") == (200, b'{"status":"ok"}')


async def test_it_is_ready() -> None:
    """/readyz names each certificate and its days."""
    async with _listening() as address:
        status, body = await _get(address, "/readyz")
    assert status == 200
    assert json.loads(body) == {
        "ready": True,
        "reasons": [],
        "certificates": [{"name": "gateway/gw1", "not_after": "2027-01-01T00:00:00Z", "days_left": 41}],
    }


async def test_it_is_not_ready() -> None:
    """/readyz says why, with a status that a supervisor understands."""
    async with _listening(Readiness(ready=False, reasons=["no link to the relay"])) as address:
        status, body = await _get(address, "/readyz")
    assert status == 503
    assert json.loads(body)["reasons"] == ["no link to the relay"]


async def test_it_says_its_status() -> None:
    """/status is the owner's own words, and the number of tasks."""
    async with _listening() as address:
        status, body = await _get(address, "/status")
    said = json.loads(body)
    assert status == 200
    assert said.pop("tasks") > 0
    assert said == {"links": 2}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/status", "/nowhere"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "[::2]:80", ""])
async def test_foreign_host_is_misdirected(path: str, host: str) -> None:
    """A name that resolves to loopback is not loopback's name (DNS rebinding), on any route."""
    async with _listening() as address:
        status, _body = await _get(address, path, host)
    assert status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:9"])
async def test_loopback_names_are_taken(host: str) -> None:
    """With or without a port, in any case."""
    async with _listening() as address:
        status, _body = await _get(address, "/healthz", host)
    assert status == 200


async def test_nothing_can_be_changed() -> None:
    """Only reading is offered."""
    async with _listening() as address:
        status, _body = await _get(address, "/status", method="POST")
    assert status == 405


async def test_port_in_use_is_our_error() -> None:
    """It names the port and the key to change; the process is not ended by the library."""
    async with _listening() as address:
        with pytest.raises(HealthUnavailable) as caught:
            await serve_health(address, ready=_never, status=_never)
    assert str(caught.value) == f"cannot listen on 127.0.0.1 port {address[1]} for health: the port is in use"
    assert "health:" in caught.value.hint


async def test_it_leaves_the_port_when_cancelled() -> None:
    """A cancelled listener is gone at once, though a client keeps its connection open."""
    async with _listening() as address:
        stream = await anyio.connect_tcp(*address)
    async with stream:
        socket.create_server(address).close()
