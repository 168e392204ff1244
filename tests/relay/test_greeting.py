"""
A kernel that wakes for nothing: half a hello is neither refused for it nor looked at without end.

Linux calls a socket readable as long as it holds a byte, whatever SO_RCVLOWAT says, while the machine is
short of memory for TCP. Here SO_RCVLOWAT is kept from it, which comes to the same.
"""

import asyncio
import socket
from collections.abc import Callable

import pytest

from sallyport.tunnel.alerts import Alert
from tests.relay.relay_world import until
from tests.relay.test_arrivals import HELLO, place, received

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("impatient_kernel")]


@pytest.fixture
def impatient_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call sockets readable as long as they hold a byte."""
    real = socket.socket.setsockopt

    def without_lowat(sock: socket.socket, level: int, option: int, value: int) -> None:
        if (level, option) != (socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            real(sock, level, option, value)

    monkeypatch.setattr(socket.socket, "setsockopt", without_lowat)


def after_each_peek(monkeypatch: pytest.MonkeyPatch, peeked: Callable[[bytes], None]) -> None:
    """Tell what each look at a socket has shown, before the relay acts on it."""
    real = socket.socket.recv

    def recv(sock: socket.socket, size: int, flags: int = 0) -> bytes:
        data = real(sock, size, flags)
        if flags == socket.MSG_PEEK:
            peeked(data)
        return data

    monkeypatch.setattr(socket.socket, "recv", recv)


@pytest.mark.parametrize("cut", [1, 100, len(HELLO) - 1])
async def test_half_a_hello_is_waited_for(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other half may come, and nobody spins until then."""
    looks: list[bytes] = []
    after_each_peek(monkeypatch, looks.append)
    async with place() as at:
        with at.connect() as caller:
            caller.sendall(HELLO[:cut])
            await until(lambda: len(looks) >= 2)
            for _ in range(100):
                await asyncio.sleep(0)
            # The one that brought something, one that brought nothing more, and those after 10, 30 and 70 ms.
            assert len(looks) <= 5
            await until(lambda: len(looks) >= 5)
            assert at.desk.refused == []
            caller.sendall(HELLO[cut:])
            await at.desk.until(said=1)
            assert received(at.desk.said[0][0], len(HELLO)) == HELLO


async def test_a_fin_is_seen_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has closed in the middle is refused, though the wake-up for it looks like the others."""
    looks: list[bytes] = []
    after_each_peek(monkeypatch, looks.append)
    async with place() as at:
        with at.connect() as caller:
            caller.sendall(HELLO[:100])
            await until(lambda: len(looks) >= 2)
            caller.shutdown(socket.SHUT_WR)
            await at.desk.until(refused=1)
            assert at.desk.refused[0][1] is Alert.DECODE_ERROR


async def test_what_comes_with_the_fin_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest and the FIN arrive between a look that brought nothing and the question for the FIN."""
    looks = 0
    with socket.socket() as caller:

        def finish_behind_the_second(_data: bytes) -> None:
            nonlocal looks
            looks += 1
            if looks == 2:
                caller.sendall(HELLO[100:])
                caller.shutdown(socket.SHUT_WR)

        after_each_peek(monkeypatch, finish_behind_the_second)
        async with place() as at:
            caller.connect(at.address)
            caller.sendall(HELLO[:100])
            await at.desk.until(said=1)
    assert at.desk.refused == []
