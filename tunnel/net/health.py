"""
The health listener of a relay or a gateway: what a supervisor, a balancer or an operator asks.

    GET /healthz    200 while the process runs
    GET /readyz     200 or 503, with the reasons and each certificate's days left
    GET /status     what the process says about itself, and how many tasks it runs

It listens on loopback and answers only requests that were addressed to loopback: the Host check keeps a web
page in this machine's browser from reading it through a name that resolves to 127.0.0.1 (DNS rebinding).
Nothing can be changed through it.

uvicorn serves it inside the owner's task group: the listening socket is made here, so that a port in use is
our error and not uvicorn's exit, and signals stay the owner's.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Final

import anyio
import anyio.abc
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sallyport.tunnel.errors import TunnelError
from sallyport.tunnel.limits import limit

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_GRACE: Final = limit(
    1, "seconds",
    "for answers of the health listener under way when the process stops; they are all short",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CertificateAge:
    """A certificate this process depends on: what it is, its end (ISO 8601, UTC), and the days till then."""

    name: str
    not_after: str
    days_left: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the process can do its work now; ``reasons`` says why not and is empty when it can."""

    ready: bool
    reasons: list[str] = field(default_factory=list)
    certificates: list[CertificateAge] = field(default_factory=list)


class HealthUnavailable(TunnelError):
    """The operator's fault: the health listener's address cannot be used."""

    def __init__(self, address: tuple[str, int], error: OSError) -> None:
        super().__init__(address, error)
        self.address = address
        self.error = error
        in_use = error.errno == errno.EADDRINUSE
        self.hint = "stop what listens there, or change `health:`" if in_use else "change `health:`"

    def __str__(self) -> str:
        host, port = self.address
        reason = "the port is in use" if self.error.errno == errno.EADDRINUSE else self.error.strerror
        return f"cannot listen on {host} port {port} for health: {reason}"


async def serve_health(
    address: tuple[str, int],
    *,
    ready: Callable[[], Awaitable[Readiness]],
    status: Callable[[], Awaitable[Mapping[str, object]]],
    task_status: anyio.abc.TaskStatus[tuple[str, int]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """
    Serve until cancelled; ``await tasks.start(...)`` returns the bound address once it listens.

    Args:
        address: loopback host and port; port 0 takes a free one.
        ready: asked for each /readyz.
        status: asked for each /status; what it returns is sent as JSON.
        task_status: anyio's, for ``TaskGroup.start``.

    Raises:
        HealthUnavailable: the address is in use or is not this machine's.
    """
    listener = _listen(address)
    with contextlib.closing(listener):
        config = uvicorn.Config(
            _application(ready, status),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            ws="none",
        )
        host, port = listener.getsockname()[:2]
        task_status.started((host, port))
        server = _Server(config)
        try:
            await server.serve(sockets=[listener])
        finally:
            if server.started:
                with anyio.CancelScope(shield=True):
                    await server.shutdown()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is decided by whoever owns the task group."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise HealthUnavailable(address, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HealthUnavailable(address, error) from error
    return listener


def _application(
    ready: Callable[[], Awaitable[Readiness]], status: Callable[[], Awaitable[Mapping[str, object]]]
) -> ASGIApp:
    # All are coroutines: Starlette would run plain functions in threads, beside the loop that owns what they
    # read.
    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        readiness = await ready()
        code = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(asdict(readiness), status_code=code)

    async def status_page(_request: Request) -> Response:
        return JSONResponse({"tasks": len(asyncio.all_tasks()), **await status()})

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/status", status_page)]
    return _HostCheck(Starlette(routes=routes))


class _HostCheck:
    """Answers 421 to a request that was not addressed to loopback by name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and _host_of(hosts[0]) in _LOOPBACK_NAMES:
            await self._app(scope, receive, send)
            return
        refusal = PlainTextResponse(
            "this listener answers to loopback names only\n", HTTPStatus.MISDIRECTED_REQUEST
        )
        await refusal(scope, receive, send)


def _host_of(header: str) -> str:
    """Return the name in a Host header, lower-case, without port and brackets (RFC 9112 §3.2)."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
