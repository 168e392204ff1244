"""Dialling internal servers: real sockets, and what each failure is called."""

import asyncio
import contextlib
import errno
import gc
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import cast

import anyio
import pytest
import trustme

from sallyport.certs.contexts import upstream_context
from sallyport.gateway.errors import UpstreamFailed, UpstreamTimedOut, UpstreamUnreachable, UpstreamUntrusted
from sallyport.gateway.upstream import Upstream
from sallyport.gateway.upstream_url import UpstreamUrl
from sallyport.processes import free_port

pytestmark = pytest.mark.anyio


class Recorder(asyncio.Protocol):
    """Says hello when it is connected, and records what comes back until the end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.ended = anyio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


@contextlib.asynccontextmanager
async def greeter(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, *, port: int = 0
) -> AsyncGenerator[int, None]:
    """Run a server that answers what it reads first and closes; yield its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"you said " + await reader.read(100))
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()  # without waiting: a connection that a failed test left open would hold it up for ever


def upstream(url: str, *, ca: Path | None = None, connect_timeout: float = 5.0) -> Upstream:
    """Describe the server at ``url``."""
    parsed = UpstreamUrl.parse("tickets", url)
    context = upstream_context(ca) if parsed.is_tls else None
    return Upstream("tickets", parsed, context=context, connect_timeout=connect_timeout)


async def conversation(server: Upstream) -> bytes:
    """Dial, and return everything that the server says."""
    recorder = Recorder()
    with anyio.fail_after(10):
        await server.dial(lambda: recorder)
        assert recorder.transport is not None, "connection_made comes before dial returns"
        await recorder.ended.wait()
    return recorder.received


async def failure(server: Upstream) -> UpstreamFailed:
    """Dial a server that cannot be connected to, and return why."""
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    with anyio.fail_after(10), pytest.raises(UpstreamFailed) as raised:
        await server.dial(factory)
    assert not any(recorder.transport for recorder in made), "nothing can have been sent"
    assert server.health.last_error == str(raised.value)
    assert server.health.failures == 1
    return raised.value


@pytest.fixture
def authority() -> trustme.CA:
    """Make the private CA of somebody's company."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Write that CA's certificate to a file."""
    path = tmp_path / "internal-ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Make a server's context with a certificate for ``names``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize(("host", "url_host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_plain_http(host: str, url_host: str) -> None:
    """IPv4 and IPv6 literals are dialled as they are."""
    async with greeter(host) as port:
        assert await conversation(upstream(f"http://{url_host}:{port}/mcp")) == b"you said hello"


@pytest.mark.parametrize(
    ("host", "url_host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.1", "localhost")]
)
async def test_https_with_its_own_ca(authority: trustme.CA, ca_file: Path, host: str, url_host: str) -> None:
    """The certificate is checked for the host of the url, name or address."""
    async with greeter(host, server_tls(authority, url_host.strip("[]"))) as port:
        server = upstream(f"https://{url_host}:{port}/mcp", ca=ca_file)

        assert await conversation(server) == b"you said hello"


async def test_a_name_with_two_addresses_reaches_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that listens on IPv4 only is found behind a name that has IPv6 first."""
    async with greeter("127.0.0.1") as port:
        _resolve(monkeypatch, ["::1", "127.0.0.1"])

        assert await conversation(upstream(f"http://tickets.internal:{port}/mcp")) == b"you said hello"


async def test_an_address_that_hangs_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second address is tried while the first one is still silent."""
    with full_backlog("127.0.0.2") as port:
        async with greeter("127.0.0.1", port=port):
            _resolve(monkeypatch, ["127.0.0.2", "127.0.0.1"])

            assert await conversation(upstream(f"http://tickets.internal:{port}/mcp")) == b"you said hello"


async def test_every_address_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last attempt's reason stands for all of them."""
    port = free_port()
    _resolve(monkeypatch, ["127.0.0.1", "::1", "127.0.0.2"])

    error = await failure(upstream(f"http://tickets.internal:{port}/mcp"))

    assert isinstance(error, UpstreamUnreachable)
    assert error.why == "refused the connection"


async def test_connection_refused() -> None:
    """The text names server and address; the clause for callers holds no address."""
    port = free_port()

    error = await failure(upstream(f"http://127.0.0.1:{port}/mcp"))

    assert isinstance(error, UpstreamUnreachable)
    assert str(error) == f"server tickets at 127.0.0.1:{port} refused the connection"
    assert "127.0.0.1" not in error.why
    assert error.hint


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's verdict is part of the reason."""
    _resolve(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    error = await failure(upstream("http://nobody.internal/mcp"))

    assert isinstance(error, UpstreamUnreachable)
    assert "does not resolve" in error.why


async def test_no_answer_to_the_connection() -> None:
    """A host that drops packets costs the configured time and no more."""
    with full_backlog() as port:
        error = await failure(upstream(f"http://127.0.0.1:{port}/mcp", connect_timeout=0.2))

    assert isinstance(error, UpstreamTimedOut)
    assert error.why == "did not connect within 0.2 s"


async def test_no_answer_to_the_handshake(ca_file: Path) -> None:
    """The handshake is part of connecting."""
    with listening() as sock:
        port = sock.getsockname()[1]
        error = await failure(upstream(f"https://127.0.0.1:{port}/mcp", ca=ca_file, connect_timeout=0.2))

    assert isinstance(error, UpstreamTimedOut)


async def test_a_certificate_of_another_ca(authority: trustme.CA, tmp_path: Path) -> None:
    """Only the CA of the config can vouch for the server."""
    other = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with greeter(tls=server_tls(authority, "127.0.0.1")) as port:
        error = await failure(upstream(f"https://127.0.0.1:{port}/mcp", ca=other))

    assert isinstance(error, UpstreamUntrusted)
    assert "certificate" in error.why
    assert "`ca:`" in error.hint


async def test_a_private_ca_without_ca_in_the_config(authority: trustme.CA) -> None:
    """The system's store does not know it, and the hint says what to write."""
    async with greeter(tls=server_tls(authority, "127.0.0.1")) as port:
        error = await failure(upstream(f"https://127.0.0.1:{port}/mcp"))

    assert isinstance(error, UpstreamUntrusted)
    assert "`ca:`" in error.hint


@pytest.mark.parametrize("certified", ["localhost", "127.0.0.2"])
async def test_a_certificate_for_another_name(authority: trustme.CA, ca_file: Path, certified: str) -> None:
    """The right CA is not enough."""
    async with greeter(tls=server_tls(authority, certified)) as port:
        error = await failure(upstream(f"https://127.0.0.1:{port}/mcp", ca=ca_file))

    assert isinstance(error, UpstreamUntrusted)
    assert "`url:`" in error.hint


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_the_caller_reads_no_internal_name_in_a_refusal(
    authority: trustme.CA, ca_file: Path, host: str
) -> None:
    """OpenSSL's own words name the host that was dialled: they are for the log."""
    async with greeter(tls=server_tls(authority, "other.internal")) as port:
        error = await failure(upstream(f"https://{host}:{port}/mcp", ca=ca_file))

    assert isinstance(error, UpstreamUntrusted)
    assert error.why.startswith("has a certificate that is for another ")
    assert host not in error.why
    assert host in error.detail
    assert error.detail in str(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EHOSTDOWN, "Connect call failed ('10.0.0.3', 9000)"),
        OSError("Multiple exceptions: Connect call failed ('10.0.0.3', 9000)"),
    ],
)
async def test_the_caller_reads_no_internal_address(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """asyncio's own words name the address that was dialled, and are for the log, too."""

    async def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("sallyport.gateway.upstream.connect_tcp", fail)
    failed = await failure(upstream("http://wiki.internal:9000/mcp"))

    assert failed.why.startswith("cannot be reached")
    assert "10.0.0.3" not in failed.why
    assert "10.0.0.3" in str(failed)


async def test_the_caller_reads_no_words_of_openssl(ca_file: Path) -> None:
    """A handshake that breaks is told as such; in which way, only the log says."""
    async with greeter() as port:
        error = await failure(upstream(f"https://127.0.0.1:{port}/mcp", ca=ca_file))

    assert error.why == "failed in the TLS handshake"
    assert isinstance(error, UpstreamUntrusted)
    assert error.detail


async def test_https_to_a_server_that_speaks_plain_text(ca_file: Path) -> None:
    """The scheme in the url is wrong, and no certificate is blamed."""
    async with greeter() as port:
        error = await failure(upstream(f"https://127.0.0.1:{port}/mcp", ca=ca_file))

    assert isinstance(error, UpstreamUntrusted)
    assert "certificate" not in error.why


async def test_a_server_that_closes_during_the_handshake(ca_file: Path) -> None:
    """An end of file is an error with a reason, too."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error = await failure(upstream(f"https://127.0.0.1:{port}/mcp", ca=ca_file))
    server.close()

    assert isinstance(error, UpstreamUntrusted | UpstreamUnreachable)


async def test_a_cancelled_dial_leaves_no_connection_behind(ca_file: Path) -> None:
    """The caller left while the handshake was under way."""
    with listening() as sock:
        server = upstream(f"https://127.0.0.1:{sock.getsockname()[1]}/mcp", ca=ca_file)
        with anyio.fail_after(10):
            accepted = await _accept_and_cancel(server, sock)
            with accepted:
                accepted.setblocking(False)
                while await _read(accepted):
                    pass


async def test_a_protocol_that_closes_at_once_leaves_no_descriptor_behind() -> None:
    """uvloop would close the same number twice if it had been given a socket of ours."""
    over = anyio.Event()

    class Visit(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            over.set()

    async with greeter() as port:
        with anyio.fail_after(5):
            await upstream(f"http://127.0.0.1:{port}/mcp").dial(Visit)
            await over.wait()
    gc.collect()  # an unclosed socket object would warn here, and warnings are errors


async def test_success_clears_the_last_error() -> None:
    """``gateway status`` shows what is wrong now."""
    async with greeter() as port:
        server = upstream(f"http://127.0.0.1:{port}/mcp")
        server.health.last_error = "something"

        await conversation(server)

    assert not server.health.last_error
    assert (server.health.dials, server.health.failures) == (1, 0)


@pytest.mark.parametrize(
    ("url", "is_tls", "address", "authority", "path"),
    [
        ("http://127.0.0.1:9000/mcp", False, "127.0.0.1:9000", b"127.0.0.1:9000", b"/mcp"),
        ("https://wiki.internal/mcp/", True, "wiki.internal:443", b"wiki.internal", b"/mcp/"),
        ("HTTPS://Wiki.Internal:443", True, "wiki.internal:443", b"wiki.internal", b"/"),
        ("http://wiki.internal:443/", False, "wiki.internal:443", b"wiki.internal:443", b"/"),
        ("http://[::1]/mcp", False, "[::1]:80", b"[::1]", b"/mcp"),
        ("https://[2001:db8::1]:8443/mcp", True, "[2001:db8::1]:8443", b"[2001:db8::1]:8443", b"/mcp"),
        ("http://[fe80::1%eth0]:9000/mcp", False, "[fe80::1%eth0]:9000", b"[fe80::1]:9000", b"/mcp"),
    ],
)
def test_what_a_url_says(url: str, is_tls: bool, address: str, authority: bytes, path: bytes) -> None:
    """Where to dial, what to call it, and which path is its endpoint."""
    parsed = UpstreamUrl.parse("tickets", url)

    assert (parsed.is_tls, parsed.address, parsed.authority, parsed.path) == (
        is_tls,
        address,
        authority,
        path,
    )


def listening() -> socket.socket:
    """Listen on a free port without accepting anybody."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def full_backlog(host: str = "127.0.0.1") -> Generator[int, None, None]:
    """Listen on a port whose queue is full, so that the kernel drops what comes next; yield the port."""
    with contextlib.ExitStack() as sockets:
        sock = sockets.enter_context(socket.socket())
        sock.bind((host, 0))
        sock.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]


def _resolve(monkeypatch: pytest.MonkeyPatch, answer: list[str] | socket.gaierror) -> None:
    """Let the loop resolve names under ``internal`` to these addresses."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **options: int) -> list[tuple[object, ...]]:
        if not host.endswith(".internal"):
            return list(await resolve(host, port, **options))  # the loop itself asks here, too
        if isinstance(answer, socket.gaierror):
            raise answer
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answer
        ]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


async def _accept_and_cancel(server: Upstream, sock: socket.socket) -> socket.socket:
    """Dial until the connection has arrived at the other end, then cancel; return that end."""
    arrived: list[socket.socket] = []
    async with anyio.create_task_group() as group:
        group.start_soon(server.dial, Recorder)
        arrived.append((await asyncio.get_running_loop().sock_accept(sock))[0])
        group.cancel_scope.cancel()
    return arrived[0]


async def _read(sock: socket.socket) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 4096)
    except ConnectionResetError:
        return b""
