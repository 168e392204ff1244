"""
Who takes no more, and who goes on: pausing and resuming between a caller's connection and the next hop.

Both are transports in memory that do what a mux stream and TLS do, and TCP does not: what they hold is
delivered before ``resume_reading`` returns, and a write that is too much pauses the protocol at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest

from sallyport.tunnel.errors import TlsFailed
from sallyport.tunnel.http1 import OutgoingHead, RequestHead
from sallyport.tunnel.net.http_client import ClientPool
from sallyport.tunnel.net.http_forward import (
    Answer,
    CallRecord,
    Decision,
    Forward,
    ForwardTimeouts,
)
from sallyport.tunnel.net.http_server import HttpServer
from tests.harness.http_hop import PATIENCE, Caller, explain, hop_to, request, until

pytestmark = pytest.mark.anyio

_HIGH_WATER = 64 * 1024
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Wire(asyncio.Transport):
    """
    One connection in memory, seen from the far end.

    Attributes:
        written: What was written to it.
        is_stuck: Whether it takes nothing, and so pauses its protocol above the high-water mark.
        high_water: That mark, in bytes.
        breaks: Whether the next write finds the connection lost.
        ended: ``close``, ``abort`` or nothing yet.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_stuck = False
        self.high_water = _HIGH_WATER
        self.breaks = False
        self._reading = True
        self.ended = ""
        self._protocol = protocol
        self._held: list[bytes] = []  # an empty one is the end
        self._unsent = 0

    # The far end

    def feed(self, data: bytes) -> None:
        """Send data, or with nothing the end, to the protocol: it comes when the protocol reads."""
        self._held.append(data)
        self._deliver()

    def flow(self) -> None:
        """Take what was written, and what will be."""
        self.is_stuck = False
        was_paused, self._unsent = self._unsent > self.high_water, 0
        if was_paused:
            self._protocol.resume_writing()

    def lose(self, error: Exception) -> None:
        """End the connection with an error."""
        self.ended = "abort"
        self._protocol.connection_lost(error)

    # The protocol's end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.breaks:
            self.lose(TlsFailed(None, "broken"))
            return
        self.written += data
        if self.is_stuck:
            was_paused = self._unsent > self.high_water
            self._unsent += len(data)
            if not was_paused and self._unsent > self.high_water:
                self._protocol.pause_writing()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._deliver()

    def is_reading(self) -> bool:
        return self._reading

    def close(self) -> None:
        self.ended = self.ended or "close"

    def abort(self) -> None:
        self.ended = "abort"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def _deliver(self) -> None:
        while self._held and self._reading and not self.ended:
            data = self._held.pop(0)
            if data:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()


@dataclass
class Talk:
    """
    One caller's connection and what is behind it.

    Attributes:
        caller: The caller's end.
        pool: The way to the next hop.
        upstreams: The next hop's ends of what was dialled.
        decided: The heads that were decided upon.
        records: What was settled, in order.
        decide: Decides; tests replace it.
    """

    pool: ClientPool
    upstreams: list[Wire]
    decided: list[RequestHead] = field(default_factory=list)
    records: list[CallRecord] = field(default_factory=list)
    timeouts: ForwardTimeouts = field(default=ForwardTimeouts(first_byte=30.0, idle=30.0))
    caller: Wire = field(init=False)
    decide: Callable[[RequestHead], Decision] | None = None

    def decision(self, head: RequestHead) -> Decision:
        """Forward, unless the test wants otherwise."""
        self.decided.append(head)
        if self.decide is not None:
            return self.decide(head)
        return Forward(OutgoingHead.of(head), self.pool, self.timeouts, explain)

    async def upstream(self, number: int = 0) -> Wire:
        """Wait for the n-th connection to the next hop."""
        await until(lambda: len(self.upstreams) > number)
        return self.upstreams[number]

    def outcomes(self) -> list[tuple[int | None, str]]:
        """Return how each request ended."""
        return [(record.status, record.outcome) for record in self.records]


@asynccontextmanager
async def talking(*, pool_idle: float = 60.0) -> AsyncIterator[Talk]:
    """Connect a caller to our server, and that to a next hop, in memory."""
    loop = asyncio.get_running_loop()
    upstreams: list[Wire] = []

    async def dial(factory: Callable[[], asyncio.Protocol]) -> None:
        protocol = factory()
        upstreams.append(Wire(protocol))
        protocol.connection_made(upstreams[-1])

    with anyio.fail_after(PATIENCE):
        async with asyncio.TaskGroup() as tasks:
            pool = ClientPool(dial, idle_timeout=pool_idle, loop=loop, spawn=tasks.create_task)
            talk = Talk(pool, upstreams)
            server = HttpServer(
                talk.decision, finished=talk.records.append, loop=loop, idle_timeout=60.0, head_timeout=60.0
            )
            talk.caller = Wire(server)
            server.connection_made(talk.caller)
            yield talk
            server.connection_lost(None)
            pool.close()
    assert len({id(record) for record in talk.records}) == len(talk.records), "a request was settled twice"


# A caller who takes no answers


@pytest.mark.parametrize("bundle", [1, 500])
async def test_answers_wait_for_a_caller_who_takes_none(bundle: int) -> None:
    """Neither answers nor requests pile up; when he takes them, all are answered, in order."""
    async with talking() as talk:
        talk.decide = lambda head: Answer(200, [], head.target * 100)
        talk.caller.is_stuck = True
        sent = 0
        while talk.caller.is_reading():
            numbers = range(sent, sent + bundle)
            talk.caller.feed(b"".join(request(method="GET", target=f"/{number:06}") for number in numbers))
            sent += bundle
            assert sent < 10_000
        assert _HIGH_WATER < len(talk.caller.written) < _HIGH_WATER + 2_000
        assert len(talk.decided) < 100

        talk.caller.flow()

        assert talk.caller.is_reading()
        assert [head.target for head in talk.decided] == [b"/%06d" % number for number in range(sent)]
        assert talk.outcomes() == [(200, "answered")] * sent


async def test_forwarded_answers_wait_for_a_caller_who_takes_none() -> None:
    """The next request goes to the next hop only when the answer to the former was taken."""
    async with talking() as talk:
        talk.caller.is_stuck = True
        talk.caller.feed(request(b"") * 2)
        upstream = await talk.upstream()
        upstream.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        assert (len(talk.decided), len(talk.records)) == (1, 1)

        talk.caller.flow()

        assert len(talk.decided) == 2
        upstream.feed(_OK)
        assert talk.outcomes() == [(200, "answered")] * 2


async def test_a_pipelining_caller_on_a_socket_is_not_answered_ahead() -> None:
    """What the kernel does not take of the answers holds the requests back, and nothing is lost."""
    count, body = 500, b"x" * 256 * 1024
    with anyio.fail_after(PATIENCE):
        async with hop_to(("127.0.0.1", 1)) as hop:
            hop.decide = lambda _head: Answer(200, [], body)
            async with await Caller.connect(hop.address) as caller:
                await caller.send(request(method="GET") * count)
                await until(lambda: bool(hop.decided))
                for _ in range(count):
                    await anyio.lowlevel.checkpoint()
                assert len(hop.decided) < count / 2
                for _ in range(count):
                    assert (await caller.reply("GET")).body == body


# A next hop that takes no more of a request


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"413 Too Large"])
async def test_the_next_request_is_heard_after_an_upload_that_stuck(status: bytes) -> None:
    """An early answer to a request that is wholly in leaves nobody who would resume the caller."""
    async with talking() as talk:
        talk.caller.feed(request(fields=["Content-Length: 200000"]))
        upstream = await talk.upstream()
        upstream.is_stuck = True
        talk.caller.feed(b"x" * 200_000)
        assert not talk.caller.is_reading()

        upstream.feed(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status)

        assert talk.caller.is_reading()
        talk.caller.feed(request(b""))
        (await talk.upstream(1)).feed(_OK)
        assert [record.status for record in talk.records] == [int(status[:3]), 200]


async def test_the_rest_of_a_request_is_read_after_an_upload_that_broke() -> None:
    """A next hop that took nothing and then was lost: the short rest is dropped, the next request heard."""
    async with talking() as talk:
        talk.caller.feed(request(fields=["Content-Length: 10000"]))
        upstream = await talk.upstream()
        upstream.is_stuck, upstream.high_water = True, 1_000
        talk.caller.feed(b"x" * 9_999)
        assert not talk.caller.is_reading()

        upstream.lose(ConnectionResetError())

        assert talk.caller.is_reading()
        assert talk.outcomes() == [(502, "failed")]
        talk.caller.feed(b"x" + request(b""))
        assert len(talk.decided) == 2


# What is delivered while reading resumes


@pytest.mark.parametrize("held", [b"zzz not a chunk\r\n", b"3\r\nabc\r\n0\r\n\r\n" + request(b""), b""])
async def test_what_comes_behind_an_early_answer_is_nobodys(held: bytes) -> None:
    """Rubbish, a further request, the end: there is one answer, and one record, and the end is noticed."""
    async with talking() as talk:
        talk.caller.feed(request(fields=["Transfer-Encoding: chunked"]))
        upstream = await talk.upstream()
        upstream.is_stuck = True
        talk.caller.feed(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
        assert not talk.caller.is_reading()
        talk.caller.feed(held)

        upstream.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")

        assert talk.caller.written.count(b"HTTP/1.1 ") == 1
        assert talk.outcomes() == [(413, "answered")]
        assert talk.caller.is_reading()
        assert talk.caller.ended == ("" if held else "close")


async def test_an_answer_that_ends_while_reading_resumes() -> None:
    """The connection is idle by then, and its deadline that of the pool."""
    async with talking(pool_idle=0.01) as talk:
        talk.caller.is_stuck = True
        talk.caller.feed(request(b""))
        upstream = await talk.upstream()
        upstream.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100_000)
        assert not upstream.is_reading()
        upstream.feed(b"x")

        talk.caller.flow()

        assert talk.outcomes() == [(200, "answered")]
        await until(lambda: upstream.ended == "close")


async def test_a_caller_lost_when_told_to_continue_is_not_dialled_for() -> None:
    """TLS may find out in the middle of a write that the connection is broken."""
    async with talking() as talk:
        talk.caller.breaks = True
        talk.caller.feed(request(fields=["Expect: 100-continue", "Content-Length: 3"]))
        await until(lambda: talk.outcomes() == [(None, "caller-left")])
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
    assert not talk.upstreams
