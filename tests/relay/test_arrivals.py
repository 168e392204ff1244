"""The public socket: what is accepted, peeked at, handed on untouched, or let go."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.relay.arrivals import Arrivals
from sallyport.relay.errors import ListenFailed
from sallyport.relay.greeting import Arrived
from sallyport.relay.listener import listen
from sallyport.tunnel.alerts import Alert
from sallyport.tunnel.errors import ProxyRefused
from sallyport.tunnel.sni import ClientHello
from tests.hostile.hellos import client_hello, records
from tests.relay.relay_world import reset, until

HOST = "tickets.example.test"
HELLO = client_hello(HOST)
LOOPBACK = "127.0.0.1"


class Desk:
    """A reception that remembers who came, and can be waited on."""

    def __init__(self) -> None:
        self.said: list[tuple[Arrived, ClientHello]] = []
        self.refused: list[tuple[Arrived, Alert, str]] = []
        self.without_header: list[tuple[Arrived, ProxyRefused]] = []
        self._changed = asyncio.Event()

    def hello_said(self, arrived: Arrived, hello: ClientHello) -> None:
        self.said.append((arrived, hello))
        self._changed.set()

    def hello_refused(self, arrived: Arrived, alert: Alert, why: str) -> None:
        self.refused.append((arrived, alert, why))
        self._changed.set()

    async def until(self, said: int = 0, refused: int = 0) -> None:
        """Wait for so many of either; the caller sets the deadline."""
        while len(self.said) < said or len(self.refused) < refused:
            self._changed.clear()
            await self._changed.wait()

    def header_refused(self, arrived: Arrived, refused: ProxyRefused) -> None:
        self.without_header.append((arrived, refused))
        self._changed.set()

    async def until_header_refused(self) -> None:
        """Wait for a balancer that has not said who calls; the caller sets the deadline."""
        while not self.without_header:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        for arrived, *_ in [*self.said, *self.refused, *self.without_header]:
            arrived.sock.close()


class FlakyListener:
    """A listening socket whose ``accept`` fails as often as it is told to."""

    def __init__(self, real: socket.socket, *failures: int) -> None:
        self._real = real
        self.failures = list(failures)

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, "as told")
        sock, address = self._real.accept()
        return sock, address

    def fileno(self) -> int:
        return self._real.fileno()

    def close(self) -> None:
        self._real.close()


class Place:
    """Arrivals at a port of their own."""

    def __init__(self, arrivals: Arrivals, desk: Desk, address: tuple[str, int]) -> None:
        self.arrivals = arrivals
        self.desk = desk
        self.address = address

    def connect(self) -> socket.socket:
        """Connect without saying anything."""
        return socket.create_connection(self.address, timeout=10)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many connections have not said hello."""
        await until(lambda: len(self.arrivals) == count)


@asynccontextmanager
async def place(
    *,
    host: str = LOOPBACK,
    hello_timeout: float = 10,
    limit: int = 100,
    failures: tuple[int, ...] = (),
    balancers: Sequence[str] = (),
) -> AsyncIterator[Place]:
    """Accept connections."""
    desk = Desk()
    listener = listen(host, 0)
    flaky = FlakyListener(listener, *failures)
    loop = asyncio.get_running_loop()
    arrivals = Arrivals(
        flaky if failures else listener,  # type: ignore[arg-type]
        desk,
        loop=loop,
        balancers=[ip_network(balancer) for balancer in balancers],
        hello_timeout=hello_timeout,
        limit=limit,
    )
    address = listener.getsockname()[:2]
    arrivals.start()
    try:
        with anyio.fail_after(20):
            yield Place(arrivals, desk, address)
    finally:
        arrivals.stop()
        desk.close()


def received(arrived: Arrived, size: int) -> bytes:
    """Read from a socket that was handed over, as its next owner would."""
    arrived.sock.settimeout(10)
    return arrived.sock.recv(size, socket.MSG_WAITALL)


# Hellos


@pytest.mark.anyio
async def test_a_hello_is_read_and_left_where_it_is() -> None:
    """The socket is handed over with every byte unread, and wakes its next owner for a single one."""
    async with place() as at:
        with at.connect() as caller:
            caller.sendall(HELLO)
            await at.desk.until(said=1)
            arrived, hello = at.desk.said[0]
            assert hello.server_name == HOST
            assert arrived.address == LOOPBACK
            assert not arrived.sock.getblocking()
            assert arrived.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
            assert received(arrived, len(HELLO)) == HELLO
            assert len(at.arrivals) == 0


@pytest.mark.anyio
async def test_a_hello_may_come_in_any_pieces() -> None:
    """One byte at a time, in records of one byte each, it is still a hello."""
    data = records(HELLO[5:], [1])
    async with place() as at:
        with at.connect() as caller:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                caller.sendall(bytes([byte]))
                await asyncio.sleep(0)
            await at.desk.until(said=1)
            assert received(at.desk.said[0][0], len(data)) == data


@pytest.mark.anyio
async def test_a_trickled_hello_wakes_the_relay_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked to wait for what the hello takes at least, not for each byte."""
    peeks = 0
    real = socket.socket.recv

    def counted(sock: socket.socket, size: int, flags: int = 0) -> bytes:
        nonlocal peeks
        peeks += flags == socket.MSG_PEEK
        return real(sock, size, flags)

    async with place() as at:
        monkeypatch.setattr(socket.socket, "recv", counted)
        with at.connect() as caller:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in HELLO:
                caller.sendall(bytes([byte]))
                await asyncio.sleep(0)
            await at.desk.until(said=1)
    assert peeks <= 6


@pytest.mark.anyio
async def test_a_half_sent_hello_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing new comes, nobody looks."""
    peeks = 0
    real = socket.socket.recv

    def counted(sock: socket.socket, size: int, flags: int = 0) -> bytes:
        nonlocal peeks
        peeks += flags == socket.MSG_PEEK
        return real(sock, size, flags)

    async with place() as at:
        monkeypatch.setattr(socket.socket, "recv", counted)
        with at.connect() as caller, at.connect() as other:
            caller.sendall(HELLO[:-1])
            await at.until_waiting(2)
            other.sendall(HELLO)
            await at.desk.until(said=1)
            for _ in range(100):
                await asyncio.sleep(0)
            assert peeks <= 4
            caller.sendall(HELLO[-1:])
            await at.desk.until(said=2)


# Those who say something else, or nothing


@pytest.mark.anyio
async def test_rubbish_is_refused_at_its_first_byte() -> None:
    """Nobody waits for the second one."""
    async with place() as at:
        with at.connect() as caller:
            caller.sendall(b"G")
            await at.desk.until(refused=1)
            arrived, alert, _why = at.desk.refused[0]
            assert alert is Alert.UNEXPECTED_MESSAGE
            assert received(arrived, 1) == b"G"


@pytest.mark.anyio
async def test_a_probe_that_connects_and_closes_is_nobodys_error() -> None:
    """Whoever closes without a word is closed too, at once and without a line in the log."""
    async with place() as at:
        with capture_logs() as logs, at.connect() as caller:
            caller.shutdown(socket.SHUT_WR)
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(caller, 100) == b""
            assert len(at.arrivals) == 0
    assert at.desk.refused == []
    assert [entry["log_level"] for entry in logs] == ["debug"]


@pytest.mark.anyio
@pytest.mark.parametrize("data", [HELLO[:1], HELLO[:100], HELLO[:-1]], ids=len)
async def test_half_a_hello_and_a_fin_is_refused(data: bytes) -> None:
    """Whoever closes in the middle will not say the rest, so nobody waits for it."""
    async with place() as at:
        with at.connect() as caller:
            caller.sendall(data)
            caller.shutdown(socket.SHUT_WR)
            await at.desk.until(refused=1)
            assert at.desk.refused[0][1] is Alert.DECODE_ERROR


@pytest.mark.anyio
@pytest.mark.parametrize("data", [b"", HELLO[:100]], ids=len)
async def test_whoever_resets_is_let_go(data: bytes) -> None:
    """A scanner's reset leaves nothing behind."""
    async with place() as at:
        caller = at.connect()
        caller.sendall(data)
        await at.until_waiting(1)
        reset(caller)
        await at.until_waiting(0)
        assert at.desk.refused == []


@pytest.mark.anyio
async def test_a_slow_hello_is_refused() -> None:
    """Whoever has begun and does not finish in time is told so."""
    async with place(hello_timeout=0.1) as at:
        with at.connect() as caller:
            caller.sendall(HELLO[:50])
            await at.desk.until(refused=1)
            assert at.desk.refused[0][1] is Alert.HANDSHAKE_FAILURE


@pytest.mark.anyio
async def test_a_silent_connection_is_closed() -> None:
    """Whoever has said nothing in time is told nothing."""
    async with place(hello_timeout=0.1) as at:
        with at.connect() as caller:
            caller.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(caller, 100) == b""
        assert at.desk.refused == []


# Limits


@pytest.mark.anyio
async def test_beyond_the_limit_the_oldest_goes() -> None:
    """Those who say nothing cannot keep those out who do."""
    async with place(limit=3) as at:
        silent = [at.connect() for _ in range(3)]
        await at.until_waiting(3)
        silent[0].sendall(HELLO[:10])
        with at.connect() as caller:
            caller.sendall(HELLO)
            await at.desk.until(said=1)
            assert len(at.arrivals) == 2
        for sock in silent:
            sock.close()


@pytest.mark.anyio
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
async def test_accepting_survives_running_out(number: int) -> None:
    """Out of descriptors it pauses, says so once however long that lasts, and goes on."""
    with capture_logs() as logs:
        async with place(failures=(number, number)) as at:
            with at.connect() as caller:
                caller.sendall(HELLO)
                await at.desk.until(said=1)
    events = [entry["event"] for entry in logs]
    assert events == ["accepting paused", "accepting again"]


@pytest.mark.anyio
async def test_a_connection_that_failed_in_the_backlog_is_passed_over() -> None:
    """What accept says of one connection does not stop the next."""
    with capture_logs() as logs:
        async with place(failures=(errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH)) as at:
            with at.connect() as caller:
                caller.sendall(HELLO)
                await at.desk.until(said=1)
    assert logs == []


@pytest.mark.anyio
async def test_stopping_lets_go_of_everybody() -> None:
    """Who has not said hello is closed upon, and the port is free."""
    async with place() as at:
        with at.connect() as begun, at.connect() as silent:
            begun.sendall(HELLO[:50])
            await at.until_waiting(2)
            at.arrivals.stop()
            assert len(at.arrivals) == 0
            silent.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(silent, 100) == b""
            with pytest.raises(ConnectionRefusedError):
                at.connect()
        assert at.desk.refused == []


# Listening


def test_a_port_in_use_is_told() -> None:
    """The error names the address, the reason and the remedy."""
    with listen(LOOPBACK, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ListenFailed, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is in use"
        ) as caught:
            listen(LOOPBACK, port)
    assert "ss -ltnp" in caught.value.hint


def test_a_foreign_address_is_told() -> None:
    """An address that is not this machine's is not taken for another reason."""
    with pytest.raises(ListenFailed, match="this machine has no such address"):
        listen("192.0.2.1", 18443)


def test_a_name_that_does_not_resolve_is_told() -> None:
    """A typing error in the host is told with the address."""
    with pytest.raises(ListenFailed, match="no-such-host"):
        listen("no-such-host.invalid", 18443)


def test_low_ports_say_what_they_need() -> None:
    """Whoever may not listen below 1024 is told how he could."""
    failed = ListenFailed("0.0.0.0:443", PermissionError(errno.EACCES, "Permission denied"))
    assert str(failed) == "cannot listen on 0.0.0.0:443: permission denied: ports below 1024 need a privilege"
    assert "CAP_NET_BIND_SERVICE" in failed.hint


@pytest.mark.anyio
async def test_ipv6_takes_ipv4_as_well() -> None:
    """One socket on :: serves both, and an IPv4 caller is shown as one."""
    desk = Desk()
    listener = listen("::", 0)
    arrivals = Arrivals(listener, desk, loop=asyncio.get_running_loop())
    port = listener.getsockname()[1]
    arrivals.start()
    with anyio.fail_after(10):
        for host in (LOOPBACK, "::1"):
            with socket.create_connection((host, port)) as caller:
                caller.sendall(HELLO)
                await desk.until(said=len(desk.said) + 1)
    assert [arrived.address for arrived, _ in desk.said] == [LOOPBACK, "::1"]
    arrivals.stop()
    desk.close()
