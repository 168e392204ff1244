"""Connections by way of a balancer: what it says of its callers, and what is believed of whom."""

import asyncio
import socket
from collections.abc import Iterable

import pytest
from structlog.testing import capture_logs

from sallyport.tunnel.alerts import Alert
from tests.hostile.proxy_headers import (
    AWS_TLV,
    UNSPEC,
    HostileHeader,
    hostile_headers,
    local_header,
    proxy_header,
    raw_header,
)
from tests.relay.relay_world import reset
from tests.relay.test_arrivals import HELLO, HOST, LOOPBACK, Place, place, received

pytestmark = pytest.mark.anyio

BALANCERS = ["127.0.0.0/8", "::1"]
HEADER = proxy_header("192.0.2.7")


async def trickle(sock: socket.socket, pieces: Iterable[bytes]) -> None:
    """Send each piece as a segment of its own."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        sock.sendall(piece)
        await asyncio.sleep(0)


async def ends_in_silence(at: Place, sock: socket.socket) -> None:
    """Check that the peer is closed upon without a byte, and that nobody heard of him."""
    sock.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""
    await at.until_waiting(0)
    assert at.desk.said == at.desk.refused == at.desk.without_header == []


# Balancers


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (HEADER, "192.0.2.7"),
        (proxy_header("2001:db8::7"), "2001:db8::7"),
        (proxy_header("::ffff:192.0.2.7"), "192.0.2.7"),
        (proxy_header("192.0.2.7", tlvs=AWS_TLV), "192.0.2.7"),
        (raw_header(b"", family=UNSPEC, transport=0), LOOPBACK),
        (local_header(), LOOPBACK),
    ],
    ids=["IPv4", "IPv6", "mapped", "TLVs", "no family", "its own"],
)
async def test_the_header_names_the_caller_and_is_gone(header: bytes, address: str) -> None:
    """The socket is handed over as if the caller had come himself."""
    async with place(balancers=BALANCERS) as at:
        with at.connect() as balancer:
            balancer.sendall(header + HELLO + b"more")
            await at.desk.until(said=1)
            arrived, hello = at.desk.said[0]
            assert (arrived.address, hello.server_name) == (address, HOST)
            assert arrived.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
            assert received(arrived, len(HELLO) + 4) == HELLO + b"more"


@pytest.mark.parametrize("size", [1, 7, len(HEADER), len(HEADER) + 1], ids=str)
async def test_header_and_hello_may_come_in_any_pieces(size: int) -> None:
    """Wherever the segments end, the header is read to its last byte and not one further."""
    data = HEADER + HELLO
    async with place(balancers=BALANCERS) as at:
        with at.connect() as balancer:
            await trickle(balancer, (data[start : start + size] for start in range(0, len(data), size)))
            await at.desk.until(said=1)
            arrived, _ = at.desk.said[0]
            assert arrived.address == "192.0.2.7"
            assert received(arrived, len(HELLO)) == HELLO


async def test_a_trickled_header_wakes_the_relay_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked to wait for the rest of it."""
    peeks = 0
    real = socket.socket.recv

    def counted(sock: socket.socket, size: int, flags: int = 0) -> bytes:
        nonlocal peeks
        peeks += flags == socket.MSG_PEEK
        return real(sock, size, flags)

    header = proxy_header(tlvs=bytes(1000))
    async with place(balancers=BALANCERS) as at:
        monkeypatch.setattr(socket.socket, "recv", counted)
        with at.connect() as balancer:
            await trickle(balancer, (bytes([byte]) for byte in header + HELLO))
            await at.desk.until(said=1)
    assert peeks <= 10


async def test_an_ipv6_balancer_may_speak_of_ipv4() -> None:
    """The family of the balancer's own connection says nothing about its callers'."""
    async with place(host="::1", balancers=BALANCERS) as at:
        with at.connect() as balancer:
            balancer.sendall(HEADER + HELLO)
            await at.desk.until(said=1)
            assert at.desk.said[0][0].address == "192.0.2.7"


async def test_an_ipv4_balancer_is_known_on_a_socket_for_both() -> None:
    """A listed IPv4 network covers what the kernel shows as IPv6."""
    async with place(host="::", balancers=["127.0.0.1"]) as at:
        with socket.create_connection((LOOPBACK, at.address[1]), timeout=10) as balancer:
            balancer.sendall(HEADER + HELLO)
            await at.desk.until(said=1)
            assert at.desk.said[0][0].address == "192.0.2.7"


# Who is not believed


async def test_a_header_from_anybody_else_is_rubbish() -> None:
    """An address is believed from listed balancers only; from others it is no ClientHello."""
    async with place(balancers=["192.0.2.0/24"]) as at:
        with at.connect() as liar, at.connect() as caller:
            liar.sendall(HEADER + HELLO)
            await at.desk.until(refused=1)
            arrived, alert, _ = at.desk.refused[0]
            assert (arrived.address, alert) == (LOOPBACK, Alert.UNEXPECTED_MESSAGE)
            caller.sendall(HELLO)
            await at.desk.until(said=1)
            assert at.desk.said[0][0].address == LOOPBACK


async def test_a_second_header_is_rubbish() -> None:
    """A caller behind a balancer who says one himself gains nothing."""
    async with place(balancers=BALANCERS) as at:
        with at.connect() as balancer:
            balancer.sendall(HEADER + proxy_header("198.51.100.66") + HELLO)
            await at.desk.until(refused=1)
            arrived, alert, _ = at.desk.refused[0]
            assert (arrived.address, alert) == ("192.0.2.7", Alert.UNEXPECTED_MESSAGE)


@pytest.mark.parametrize("case", hostile_headers(), ids=lambda case: case.name)
async def test_a_listed_balancer_must_say_who_calls(case: HostileHeader) -> None:
    """Without a header that can be read nobody is served under the balancer's address."""
    async with place(balancers=BALANCERS) as at:
        with at.connect() as balancer:
            balancer.sendall(case.data + HELLO)
            await at.desk.until_header_refused()
        assert at.desk.said == at.desk.refused == []
        assert at.desk.without_header[0][0].address == LOOPBACK


# Probes


@pytest.mark.parametrize("header", [b"", local_header(), HEADER], ids=["nothing", "LOCAL", "a caller"])
@pytest.mark.parametrize("how", ["closes", "resets", "waits"])
async def test_a_probe_is_nobodys_error(header: bytes, how: str) -> None:
    """Whoever says no word of his own is closed upon, and the log is as quiet as he was."""
    with capture_logs() as logs:
        async with place(balancers=BALANCERS, hello_timeout=0.2 if how == "waits" else 10) as at:
            with at.connect() as probe:
                await at.until_waiting(1)
                probe.sendall(header)
                if how == "resets":
                    reset(probe)
                    await at.until_waiting(0)
                else:
                    if how == "closes":
                        probe.shutdown(socket.SHUT_WR)
                    await ends_in_silence(at, probe)
    assert {entry["log_level"] for entry in logs} == {"debug"}


async def test_half_a_header_is_not_waited_for() -> None:
    """Its sender has closed, and will not say the rest."""
    async with place(balancers=BALANCERS) as at:
        with at.connect() as balancer:
            balancer.sendall(HEADER[:20])
            balancer.shutdown(socket.SHUT_WR)
            await at.desk.until(refused=1)
            assert at.desk.refused[0][1] is Alert.DECODE_ERROR
