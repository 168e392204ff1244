"""Links end to end, over a carrier in memory and over real WebSockets, on every event loop."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

from sallyport.tunnel.errors import LinkLost, LinkRefused, StreamReset
from sallyport.tunnel.events import Opening, Refusal
from sallyport.tunnel.frames import GoAwayReason, RefusalCode, ResetCode
from sallyport.tunnel.net import stream as stream_module
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.stream import Stream
from tests.harness.link_pair import CARRIERS, CarrierKind, Owner, Recorder, link_pair

pytestmark = pytest.mark.anyio

OPENING = Opening(
    reference="0123456789abcdef", server_name="x.tunnel.test", address="203.0.113.7:5000", first=b""
)


@pytest.fixture(params=CARRIERS, ids=str)
def carrier(request: pytest.FixtureRequest) -> CarrierKind:
    """Run a test over each carrier."""
    kind: CarrierKind = request.param
    return kind


async def ready(*owners: Owner) -> None:
    """Wait until every owner has heard that its link is up."""
    with anyio.fail_after(5):
        for owner in owners:
            await owner.ready.wait()


@dataclass(frozen=True)
class OneStream:
    """A stream with both its ends, the links below it, and the relay that owns the near one."""

    relay: Owner
    near: Link
    far: Link
    stream: Stream
    caller: Recorder
    far_stream: Stream
    served: Recorder


@asynccontextmanager
async def one_stream(
    carrier: CarrierKind, opening: Opening = OPENING, *, within: float = 5
) -> AsyncIterator[OneStream]:
    """
    Join two links and open a stream from the relay's.

    Args:
        carrier: Of the links.
        opening: Of the stream.
        within: Seconds for all that is done with it.
    """
    relay, gateway = Owner(), Owner()
    async with link_pair(carrier, relay, gateway) as (near, far):
        await ready(relay, gateway)
        caller = Recorder()
        stream = near.open_stream(caller, opening)
        with anyio.fail_after(within):
            far_stream, served = await gateway.opened.get()
            assert isinstance(served, Recorder)
            yield OneStream(relay, near, far, stream, caller, far_stream, served)


async def test_first_bytes_and_both_directions(carrier: CarrierKind) -> None:
    """A stream carries its first bytes, then data both ways, then both ends of file."""
    opening = Opening(OPENING.reference, OPENING.server_name, OPENING.address, first=b"hello ")
    async with one_stream(carrier, opening) as scene:
        stream, far_stream, caller, served = scene.stream, scene.far_stream, scene.caller, scene.served
        stream.write(b"world")
        await served.until(lambda p: p.received == b"hello world")
        assert far_stream.opening.address == OPENING.address
        far_stream.write(b"answer")
        await caller.until(lambda p: p.received == b"answer")
        far_stream.write_eof()
        await caller.until(lambda p: p.eof)
        stream.write_eof()
        await caller.until(lambda p: bool(p.lost))
        await served.until(lambda p: bool(p.lost))
        assert caller.lost == [None]
        assert served.lost == [None]
        assert scene.near.stream_count == 0


async def test_refusal_is_in_words(carrier: CarrierKind) -> None:
    """A gateway that is refused hears the code, the text and when to come back."""
    relay, gateway = Owner(), Owner()
    relay.verdict = Refusal(code=RefusalCode.CERTIFICATE_EXPIRED, text="expired on Sunday", retry_after=30)
    async with link_pair(carrier, relay, gateway):
        with anyio.fail_after(5):
            await gateway.lost.wait()
    assert isinstance(gateway.error, LinkRefused)
    assert gateway.error.text == "expired on Sunday"
    assert gateway.error.retry_after == 30
    assert not gateway.ready.is_set()


async def test_reset_carries_its_code(carrier: CarrierKind) -> None:
    """A reset ends the stream at both ends and tells the other why."""
    async with one_stream(carrier) as scene:
        far_stream, caller, served = scene.far_stream, scene.caller, scene.served
        far_stream.reset(ResetCode.CANCELLED)
        await caller.until(lambda p: bool(p.lost))
        await served.until(lambda p: bool(p.lost))
        (error,) = caller.lost
        assert isinstance(error, StreamReset)
        assert error.code is ResetCode.CANCELLED
        assert served.lost == [None]


async def test_a_lost_link_ends_its_streams(carrier: CarrierKind) -> None:
    """When the carrier fails, every stream of it ends with the reason, and so does the link."""
    async with one_stream(carrier) as scene:
        caller, served = scene.caller, scene.served
        assert scene.far._carrier is not None
        scene.far._carrier.abort()
        await caller.until(lambda p: bool(p.lost))
        await served.until(lambda p: bool(p.lost))
        await scene.near.closed
        assert isinstance(caller.lost[0], LinkLost)
        assert scene.relay.lost.is_set()


@pytest.mark.parametrize("size", [1, 64 * 1024, 3_000_001])
async def test_bulk_is_byte_exact_past_a_reader_that_stops(carrier: CarrierKind, size: int) -> None:
    """Data arrives whole and in order, though its reader pauses and the window fills in between."""
    data = os.urandom(size)
    async with one_stream(carrier, within=20) as scene:
        stream, far_stream, caller, served = scene.stream, scene.far_stream, scene.caller, scene.served
        far_stream.pause_reading()
        for start in range(0, size, 100_000):
            stream.write(data[start : start + 100_000])
        stream.write_eof()
        for _ in range(20):
            await asyncio.sleep(0)  # let the window fill
        assert len(served.received) == 0
        assert caller.is_paused == (size > 300_000)
        far_stream.resume_reading()
        await served.until(lambda p: p.eof)
        assert bytes(served.received) == data
        assert not caller.is_paused


async def test_go_away_lets_streams_finish_and_no_new_ones_in(carrier: CarrierKind) -> None:
    """After GO_AWAY an open stream goes on, and a new one is refused at the side that opens."""
    async with one_stream(carrier) as scene:
        far_stream, caller = scene.far_stream, scene.caller
        scene.far.leave(GoAwayReason.SHUTDOWN)
        await scene.relay.told_to_go.wait()
        with pytest.raises(LinkLost):
            scene.near.open_stream(Recorder(), OPENING)
        far_stream.write(b"still here")
        await caller.until(lambda p: p.received == b"still here")
        assert scene.relay.left == [GoAwayReason.SHUTDOWN]


async def test_close_waits_for_a_slow_reader(carrier: CarrierKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before a close arrives whole, though its reader takes long past the linger time."""
    monkeypatch.setattr(stream_module, "_LINGER", 0.02)
    data = os.urandom(400_000)
    async with one_stream(carrier, within=10) as scene:
        stream, far_stream, caller = scene.stream, scene.far_stream, scene.caller
        stream.pause_reading()
        far_stream.write(data)
        far_stream.close()
        for _ in range(5):
            await anyio.sleep(0.03)  # past the linger, so that it is seen not to cut
        stream.resume_reading()
        await caller.until(lambda p: p.eof)
        assert bytes(caller.received) == data


async def test_a_closed_stream_whose_reader_never_comes_back_ends(
    carrier: CarrierKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that has stopped for good does not keep a closed stream for ever."""
    monkeypatch.setattr(stream_module, "_LINGER", 0.01)
    async with one_stream(carrier, within=10) as scene:
        stream, far_stream, caller, served = scene.stream, scene.far_stream, scene.caller, scene.served
        stream.pause_reading()
        far_stream.write(b"x" * 400_000)
        far_stream.close()
        await served.until(lambda p: bool(p.lost))
        await caller.until(lambda p: bool(p.lost))
        (error,) = caller.lost
        assert isinstance(error, StreamReset)
        assert error.code is ResetCode.TIMED_OUT


async def test_a_protocol_that_raises_ends_its_own_stream_only(carrier: CarrierKind) -> None:
    """An error in one stream's protocol resets that stream; the link and its neighbours go on."""

    class Broken(Recorder):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    broken = [True, False]
    gateway = Owner(serve=lambda _: Broken() if broken.pop(0) else Recorder())
    relay = Owner()
    async with link_pair(carrier, relay, gateway) as (near, _):
        await ready(relay, gateway)
        unlucky, neighbour = Recorder(), Recorder()
        first = near.open_stream(unlucky, OPENING)
        second = near.open_stream(neighbour, OPENING)
        with anyio.fail_after(5):
            await gateway.opened.get()
            far_second, served = await gateway.opened.get()
            assert isinstance(served, Recorder)
            first.write(b"x")
            await unlucky.until(lambda p: bool(p.lost))
            second.write(b"question")
            await served.until(lambda p: p.received == b"question")
            far_second.write(b"answer")
            await neighbour.until(lambda p: p.received == b"answer")
        (error,) = unlucky.lost
        assert isinstance(error, StreamReset)
        assert error.code is ResetCode.INTERNAL
        assert len(reported) == 1


async def test_close_lingers_for_what_the_peer_still_sends(carrier: CarrierKind) -> None:
    """A closed stream delivers what was written, and swallows what the peer had not finished saying."""
    async with one_stream(carrier) as scene:
        stream, far_stream, caller, served = scene.stream, scene.far_stream, scene.caller, scene.served
        far_stream.write(b"413")
        far_stream.close()
        stream.write(b"x" * 500_000)
        await caller.until(lambda p: p.eof)
        stream.write_eof()
        await caller.until(lambda p: bool(p.lost))
        await served.until(lambda p: bool(p.lost))
        assert caller.received == b"413"
        assert caller.lost == [None]
        assert served.lost == [None]


async def test_a_deadline_that_has_passed_is_met_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that was busy for longer than a timer finds it due, and the link goes on."""
    relay, gateway = Owner(), Owner()
    async with link_pair("memory", relay, gateway) as (near, far):
        await ready(relay, gateway)
        monkeypatch.setattr(near._mux, "next_timeout", lambda: near.loop.time() - 1)
        for _ in range(3):
            near._arm_timer()
        monkeypatch.undo()
        near.open_stream(Recorder(), OPENING)
        await gateway.opened.get()
        assert near.is_ready
        assert far.is_ready
