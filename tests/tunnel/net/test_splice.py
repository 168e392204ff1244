"""The splice: bytes, half-close, back-pressure and the end, between a TCP connection and a stream."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

from sallyport.tunnel.errors import LimitReached, StreamReset
from sallyport.tunnel.events import Opening
from sallyport.tunnel.frames import ResetCode
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.splice import Splice
from sallyport.tunnel.net.stream import Stream
from tests.harness.link_pair import CARRIERS, CarrierKind, Owner, Recorder, link_pair

pytestmark = pytest.mark.anyio


class Front:
    """The least of a relay: accepts callers and splices each to a stream of one link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changed = asyncio.Event()
        self.ended: list[Exception | None] = []
        self.splice: Splice | None = None

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol for a caller's connection."""
        self.splice = Splice(self._open, ended=self._note, refused=self._refuse)
        return self.splice.near

    def _open(self, far: asyncio.Protocol, first: bytes) -> Stream:
        opening = Opening("00" * 8, "x.tunnel.test", "127.0.0.1:1", first)
        return self._link.open_stream(far, opening)

    def _note(self, splice: Splice, error: Exception | None) -> None:
        self.ended.append(error)
        self._changed.set()

    def _refuse(self, transport: asyncio.Transport) -> None:
        transport.set_protocol(asyncio.Protocol())
        transport.write(b"alert")
        transport.close()

    async def until_ended(self) -> None:
        """Wait for the splice's end."""
        await self._changed.wait()


@dataclass(frozen=True)
class Talk:
    """A caller who has said hello, and the gateway's end of the stream that this opened."""

    link: Link
    front: Front
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stream: Stream
    served: Recorder


@asynccontextmanager
async def talk(
    carrier: CarrierKind = "memory", *, within: float = 5, limit: int = 65536
) -> AsyncIterator[Talk]:
    """
    Connect a caller through a front to a gateway.

    Args:
        carrier: Of the link.
        within: Seconds for the whole talk.
        limit: Bytes that the caller buffers.
    """
    relay, gateway = Owner(), Owner()
    async with link_pair(carrier, relay, gateway) as (near, _):
        front = Front(near)
        with anyio.fail_after(within):
            await relay.ready.wait()
            server = await asyncio.get_running_loop().create_server(front.protocol, "127.0.0.1", 0)
            async with server:
                address = server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*address, limit=limit)
                try:
                    writer.write(b"hello")
                    stream, served = await gateway.opened.get()
                    assert isinstance(served, Recorder)
                    yield Talk(near, front, reader, writer, stream, served)
                finally:
                    writer.close()


async def test_a_talk_in_order() -> None:
    """The first bytes open the stream, answers come back, and both half-closes pass through."""
    async with talk() as scene:
        await scene.served.until(lambda p: p.received == b"hello")
        scene.writer.write_eof()
        await scene.served.until(lambda p: p.eof)
        scene.stream.write(b"answer")
        scene.stream.close()
        assert await scene.reader.read() == b"answer"
        await scene.front.until_ended()
        assert scene.front.ended == [None]
        assert scene.link.stream_count == 0


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_caller_that_goes_is_heard_at_once(how: str) -> None:
    """A caller's reset ends the stream with one; its plain end arrives as an end of file."""
    async with talk() as scene:
        writer, served = scene.writer, scene.served
        if how == "reset":
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await served.until(lambda p: bool(p.lost))
            assert isinstance(served.lost[0], StreamReset)
        else:
            writer.close()
            await served.until(lambda p: p.eof)
            scene.stream.close()
            await served.until(lambda p: bool(p.lost))
            assert served.lost == [None]
        await scene.front.until_ended()


async def test_a_stream_that_is_reset_cuts_the_caller() -> None:
    """When the gateway resets the stream, the caller's connection ends, and the splice says why."""
    async with talk() as scene:
        scene.stream.reset(ResetCode.CANCELLED)
        await scene.front.until_ended()
        # What came before is delivered; that it was cut, the inner TLS sees by the missing close_notify.
        assert await scene.reader.read() == b""
        assert isinstance(scene.front.ended[0], StreamReset)


async def test_a_stream_that_was_never_begun_leaves_the_caller_to_be_told() -> None:
    """When the gateway refuses a stream before it has said a byte, the caller's connection is handed out."""
    async with talk() as scene:
        scene.stream.reset(ResetCode.OVERLOADED)
        await scene.front.until_ended()
        assert await scene.reader.read() == b"alert"
        assert isinstance(scene.front.ended[0], StreamReset)


async def test_what_was_sent_before_a_finish_survives_a_reset_behind_it() -> None:
    """A gateway that has finished and then cancels the other direction has still said what it said."""
    data = os.urandom(3_000_000)
    async with talk(within=20, limit=4096) as scene:
        reader, stream = scene.reader, scene.stream
        stream.write(data)
        stream.write_eof()
        received = await reader.readexactly(1_000_000)
        while stream.get_write_buffer_size():
            received += await reader.read(10_000)
        stream.abort()
        received += await reader.read()
        await scene.front.until_ended()
        assert received == data
        assert scene.front.ended == [None]


async def test_no_stream_to_be_had() -> None:
    """A stream that cannot be opened ends the caller's connection with that reason."""
    ended: list[Exception | None] = []
    done = asyncio.Event()

    def refuse(far: asyncio.Protocol, first: bytes) -> asyncio.Transport:
        raise LimitReached("streams")

    def note(splice: Splice, error: Exception | None) -> None:
        ended.append(error)
        done.set()

    loop = asyncio.get_running_loop()
    splice = Splice(refuse, ended=note, refused=lambda _: None)
    server = await loop.create_server(lambda: splice.near, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        with anyio.fail_after(5):
            await done.wait()
            writer.close()
            await writer.wait_closed()
    assert isinstance(ended[0], LimitReached)


@pytest.mark.parametrize("carrier", CARRIERS, ids=str)
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_bulk_is_byte_exact_with_a_slow_reader(direction: str, carrier: CarrierKind) -> None:
    """Megabytes pass both ways unchanged, though whoever reads takes them in small bites."""
    data = os.urandom(6_000_000)
    async with talk(carrier, within=30, limit=4096) as scene:
        stream, served = scene.stream, scene.served
        if direction == "down":
            stream.write(data)
            stream.close()
            received = b""
            while bite := await scene.reader.read(70_000):
                received += bite
                await asyncio.sleep(0)
        else:
            scene.writer.write(data)
            scene.writer.write_eof()
            while not served.eof:
                stream.pause_reading()
                await asyncio.sleep(0)
                stream.resume_reading()
                await asyncio.sleep(0)
            received = bytes(served.received[5:])
            stream.close()
        scene.writer.close()
        await scene.front.until_ended()
        assert received == data
